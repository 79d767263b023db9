// SPDX-License-Identifier: BSD-2-Clause
//! Each trial runs inside the machine.

mod first;
mod held;
mod leftovers;

use crate::Case;

/// Every trial.
pub(crate) fn all() -> impl Iterator<Item = Case> {
    first::ALL.into_iter().chain(held::ALL).chain(leftovers::ALL)
}
