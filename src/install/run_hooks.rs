// SPDX-License-Identifier: BSD-2-Clause
//! Hooks of any phase, with what they are given and told.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::job::HookPlan;
use super::summary::seconds;
use crate::disk::device::{HeldDisk, HookDevice, WithheldDisk};
use crate::install::hooks;
use crate::install::hooks::variables::{self, Variables};
use crate::node::run::Run;

/// How long what hooks made is tried to be removed when a signal ends the run, which has to end within a second: the hooks themselves
/// may have taken a half.
const LAST_PATIENCE: Duration = Duration::from_millis(300);

/// What hooks have to do with the instance's disk.
#[derive(Clone, Copy)]
pub(super) enum HookDisk<'d> {
    /// There is none.
    None,
    /// They are told nothing of it: it is about to be written.
    Unlent(&'d HeldDisk),
    /// They are told its device and its partitions.
    Lent(&'d HeldDisk),
}

/// Runs the variant's hooks, if it has any and they shall run, and puts what they wrote onto stable storage. They are told of
/// the disk that is lent to them, and `told`. No loop device of ours is left, and nothing else that a hook made out of the
/// disk; what can't be removed, as somebody uses it, is an error.
pub(super) fn run_hooks(plan: Option<&HookPlan>, disk: HookDisk<'_>, told: Variables, run: &Run) -> anyhow::Result<()> {
    let Some(plan) = plan else { return Ok(()) };
    if !hooks::present(&plan.folder)? {
        run.report.debug(format_args!("no hooks in {}", plan.folder.display()));
        return Ok(());
    }
    let phase = json!({ "phase": plan.phase });
    run.report.event("hooks", phase, format_args!("running the hooks in {}", plan.folder.display()));
    let started = Instant::now();
    let ran = run_present(plan, disk, told, run);
    // How long a hook took that fails is of interest too.
    let took = started.elapsed();
    let fields = json!({ "phase": plan.phase, "seconds": took.as_secs_f64() });
    run.report.event("hooked", fields, format_args!("the hooks took {}", seconds(took)));
    ran
}

fn run_present(plan: &HookPlan, disk: HookDisk<'_>, told: Variables, run: &Run) -> anyhow::Result<()> {
    let mut environment = plan.environment.clone();
    environment.extend(variables::phase(plan.phase).into_iter().chain(told));
    let without_device = || hooks::run(&plan.folder, &environment, None, &run.children, &run.report);
    match disk {
        HookDisk::None => Ok(without_device()?),
        HookDisk::Unlent(disk) => {
            let unlent = WithheldDisk::before_hooks(disk)?;
            let before = Arc::clone(unlent.snapshot());
            let ran = run.signal_cleanup.during(without_device, move || drop(before.remove_new(None, LAST_PATIENCE)));
            let removed = unlent.finish();
            ran?;
            Ok(removed?)
        }
        HookDisk::Lent(disk) => run_lent(plan, disk, environment, run),
    }
}

fn run_lent(plan: &HookPlan, disk: &HeldDisk, mut environment: Variables, run: &Run) -> anyhow::Result<()> {
    let reading = || format!("reading the partition table of disk {}", disk.path().display());
    environment.extend(variables::partitions(disk, &run.report).with_context(reading)?);
    let device = HookDevice::open(disk)?;
    environment.extend(variables::device(device.path()));
    let run_hooks = || hooks::run(&plan.folder, &environment, Some(device.as_fd()), &run.children, &run.report);
    let (before, own) = (Arc::clone(device.snapshot()), device.attached().map(Path::to_owned));
    let written = device.as_fd().try_clone_to_owned().map(File::from);
    let written = written.with_context(|| format!("sharing {}", device.path().display()))?;
    let ran = run.signal_cleanup.during(run_hooks, move || {
        let _ = before.remove_new(own.as_deref(), LAST_PATIENCE);
        // What a loop device keeps would else get onto the disk's file when it is let go: after the disk was made unbootable.
        let _ = written.sync_all();
    });
    let detached = device.finish();
    ran?;
    detached?;
    let path = disk.path();
    ensure!(disk.is_same_file(path), "disk {} was replaced by another one while hooks ran", path.display());
    disk.file().sync_all().with_context(|| format!("syncing disk {} after the hooks", disk.path().display()))
}
