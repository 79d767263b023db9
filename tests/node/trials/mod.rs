// SPDX-License-Identifier: BSD-2-Clause
//! Each trial runs inside the machine.

mod first;
mod held;
mod in_use;
mod leftovers;
mod no_use;
mod thin;

use crate::Case;

/// Every trial.
pub(crate) fn all() -> impl Iterator<Item = Case> {
    first::ALL.into_iter().chain(held::ALL).chain(in_use::ALL).chain(leftovers::ALL).chain(no_use::ALL).chain(thin::ALL)
}
