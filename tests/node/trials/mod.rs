// SPDX-License-Identifier: BSD-2-Clause
//! Each trial runs inside the machine.

mod first;

use crate::Case;

/// Every trial.
pub(crate) fn all() -> impl Iterator<Item = Case> {
    first::ALL.into_iter()
}
