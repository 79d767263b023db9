// SPDX-License-Identifier: BSD-2-Clause
//! rename: the new name into the instance's own seed, then the variant's rename hooks.

use super::job::RenameJob;
use super::run_hooks::{HookDisk, run_hooks};
use super::seed_identity::rename_seed;
use crate::disk::device::{DeviceError, Target};
use crate::install::hooks;
use crate::node::run::Run;

/// Changes the name in the seed that `create` gave the instance, if it did. Then runs `hooks.rename`, if the variant has
/// it. A disk in use is refused where it would be written or hooks would get it. One that can't be looked at is an error
/// for hooks only: without any, it may even be missing.
pub(crate) fn rename(job: RenameJob, run: &Run) -> anyhow::Result<()> {
    let plan = job.hooks.unwrap_or_else(|error| {
        run.report.warn(format_args!("no rename hooks were looked for: {error}"));
        None
    });
    // Before the seed is changed: a hooks folder that can't be read, and a disk in use.
    let present = plan.as_ref().map_or(Ok(false), |plan| hooks::present(&plan.folder))?;
    if let (true, Ok(Some(path))) = (present, &job.disk) {
        drop(Target::open(path)?);
    }
    for path in [&job.disk, &job.seed_disk].into_iter().flatten().flatten() {
        let renamed = job.identity.as_ref().map(|identity| rename_seed(path, identity, run));
        if let Ok(Err(err)) = renamed {
            if matches!(err.downcast_ref(), Some(DeviceError::Busy { .. })) {
                return Err(err);
            }
            run.report.warn(format_args!("the name in a first-boot seed was not changed: {err:#}"));
        }
    }
    let Some(plan) = plan.filter(|_| present) else { return Ok(()) };
    let disk = job.disk?.map(|path| Target::open(&path).map(Target::release)).transpose()?;
    run_hooks(Some(&plan), disk.as_deref().map_or(HookDisk::None, HookDisk::Lent), Vec::new(), run)
}
