// SPDX-License-Identifier: BSD-2-Clause
//! Hooks of any phase, with what they are given and told.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use super::Context;
use super::summary::seconds;
use crate::device::{HeldDisk, HookDevice};
use crate::hooks;
use crate::hooks::variables::{self, Variables};
use crate::request::HookPlan;

/// How long what hooks made is tried to be removed when a signal ends the run, which has to end within a second: the hooks themselves
/// may have taken a half.
const LAST_PATIENCE: Duration = Duration::from_millis(300);

/// Runs the variant's hooks, if it has any and they shall run, and puts what they wrote onto stable storage. They are told of `disk` and
/// its partitions, if there is one, and `told`. No loop device of ours is left, and nothing else that a hook made out of the
/// disk; what can't be removed, as somebody uses it, is an error.
pub(super) fn run_hooks(
    plan: Option<&HookPlan>,
    disk: Option<&HeldDisk>,
    told: Variables,
    context: &Context,
) -> anyhow::Result<()> {
    let Some(plan) = plan else { return Ok(()) };
    if !hooks::present(&plan.folder)? {
        context.report.debug(format_args!("no hooks in {}", plan.folder.display()));
        return Ok(());
    }
    let phase = json!({ "phase": plan.phase });
    context.report.event("hooks", phase, format_args!("running the hooks in {}", plan.folder.display()));
    let started = Instant::now();
    let ran = run_present(plan, disk, told, context);
    // How long a hook took that fails is of interest too.
    let took = started.elapsed();
    let fields = json!({ "phase": plan.phase, "seconds": took.as_secs_f64() });
    context.report.event("hooked", fields, format_args!("the hooks took {}", seconds(took)));
    ran
}

fn run_present(plan: &HookPlan, disk: Option<&HeldDisk>, told: Variables, context: &Context) -> anyhow::Result<()> {
    let mut environment = plan.environment.clone();
    environment.extend(variables::phase(plan.phase).into_iter().chain(told));
    let Some(disk) = disk else {
        return Ok(hooks::run(&plan.folder, &environment, None, &context.children, &context.report)?);
    };
    let reading = || format!("reading the partition table of disk {}", disk.path().display());
    environment.extend(variables::partitions(disk, &context.report).with_context(reading)?);
    let device = HookDevice::open(disk)?;
    environment.extend(variables::device(device.path()));
    let run = || hooks::run(&plan.folder, &environment, Some(device.as_fd()), &context.children, &context.report);
    let (before, own) = (Arc::clone(device.before()), device.attached().map(Path::to_owned));
    let written = device.as_fd().try_clone_to_owned().map(File::from);
    let written = written.with_context(|| format!("sharing {}", device.path().display()))?;
    let ran = context.last_act.during(run, move || {
        let _ = before.remove(own.as_deref(), LAST_PATIENCE);
        // What a loop device keeps would else get onto the disk's file when it is let go: after the disk was made unbootable.
        let _ = written.sync_all();
    });
    let detached = device.finish();
    ran?;
    detached?;
    disk.file().sync_all().with_context(|| format!("syncing disk {} after the hooks", disk.path().display()))
}
