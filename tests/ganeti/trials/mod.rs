// SPDX-License-Identifier: BSD-2-Clause
//! What has to hold on a real Ganeti.

mod backup;
mod change;
mod hooks;
mod install;
mod refuse;
mod reinstall;

use crate::{Case, documents};

/// All trials, in the order in which they run.
pub(crate) fn all() -> impl Iterator<Item = Case> {
    let groups =
        [install::CASES, change::CASES, backup::CASES, hooks::CASES, refuse::CASES, reinstall::CASES, documents::CASES];
    groups.into_iter().flatten().copied()
}

/// Panics unless what an operator was told contains `part`.
fn assert_says(said: &str, part: &str) {
    assert!(said.contains(part), "no {part:?} in:\n{said}");
}
