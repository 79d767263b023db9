// SPDX-License-Identifier: BSD-2-Clause
//! rename: the variant's rename hooks. The image itself knows no name that we could change.

use super::Context;
use super::run_hooks::run_hooks;
use crate::device::HeldDisk;
use crate::hooks;
use crate::request::RenameRequest;

/// Runs `hooks.rename`, if the variant has it; only then the disk is looked at.
pub fn rename(request: RenameRequest, context: &Context) -> anyhow::Result<()> {
    let Some(plan) = request.hooks else { return Ok(()) };
    if !hooks::present(&plan.folder)? {
        return Ok(());
    }
    let disk = request.disk?.map(|path| HeldDisk::open(&path)).transpose()?;
    run_hooks(&plan, disk.as_ref(), Vec::new(), context)
}
