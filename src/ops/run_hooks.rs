// SPDX-License-Identifier: BSD-2-Clause
//! Hooks of any phase, with the block device they are given.

use anyhow::Context as _;

use super::Context;
use crate::device::{HeldDisk, HookDevice};
use crate::hooks;
use crate::request::HookPlan;

/// The variable that names the block device.
const DEVICE_VARIABLE: &str = "TARGET_DISK_DEVICE";

/// Runs the variant's hooks, if it has any, and puts what they wrote onto stable storage. No loop device of ours is
/// left; a hook that leaves one in use is an error.
pub(super) fn run_hooks(plan: &HookPlan, disk: Option<&HeldDisk>, context: &Context) -> anyhow::Result<()> {
    if !hooks::present(&plan.folder)? {
        context.report.debug(format_args!("no hooks in {}", plan.folder.display()));
        return Ok(());
    }
    context.report.info(format_args!("running the hooks in {}", plan.folder.display()));
    let device = disk.map(HookDevice::open).transpose()?;
    let mut environment = plan.environment.clone();
    environment.extend(device.as_ref().map(|device| (DEVICE_VARIABLE.into(), device.path().into())));
    let ran = hooks::run(&plan.folder, &environment, &context.children, &context.report);
    let detached = device.map_or(Ok(()), HookDevice::finish);
    ran?;
    detached?;
    if let Some(disk) = disk {
        disk.file().sync_all().with_context(|| format!("syncing disk {} after the hooks", disk.path().display()))?;
    }
    Ok(())
}
