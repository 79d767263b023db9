// SPDX-License-Identifier: BSD-2-Clause
//! Each trial runs inside the machine.

mod faults;
mod first;
mod held;
mod in_use;
mod leftovers;
mod no_use;
mod thin;

use crate::Case;

/// Every trial.
pub(crate) fn all() -> impl Iterator<Item = Case> {
    let installs = first::ALL.into_iter().chain(thin::ALL).chain(faults::ALL);
    installs.chain(in_use::ALL).chain(no_use::ALL).chain(leftovers::ALL).chain(held::ALL)
}
