// SPDX-License-Identifier: BSD-2-Clause
//! rename: the new name into the instance's own seed, then the variant's rename hooks.

use std::path::Path;

use anyhow::Context as _;

use super::hooks::{self, HookDisk, run_hooks};
use super::in_worker;
use super::job::RenameJob;
use super::old_seed::{own_seed, read};
use super::seed::tell_long_name;
use crate::disk::device::{DeviceError, ReadAt, SourceDisk, Target};
use crate::node::run::Run;
use crate::node::sandbox::WorkerAccess;
use crate::seed::volume;
use crate::seed::{self, Identity};

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

/// Writes the instance's name into its own seed, if the disk at `path` holds it. Touches nothing else, and no other disk.
/// What is on the disk is a guest's: a confined process reads it, and gives the volume as it shall be.
fn rename_seed(path: &Path, identity: &Identity, run: &Run) -> anyhow::Result<()> {
    let disk = SourceDisk::open(path)?;
    let Some((start, new)) = in_worker(WorkerAccess::default(), run, |run| renamed(&disk, identity, run))? else {
        return Ok(());
    };
    drop(disk);
    let mut disk = Target::open(path)?;
    let writing = || format!("writing the new name into the seed on disk {}", path.display());
    let mut old = vec![0; new.len()];
    disk.read_at(&mut old, start).with_context(writing)?;
    volume::write_changes(&mut disk, start, &old, &new).with_context(writing)?;
    disk.sync().with_context(writing)?;
    run.report.info(format_args!("the first-boot seed on disk {} has the new name", path.display()));
    Ok(())
}

/// Where the instance's own seed is on the disk, and its bytes with the new name; none if there is nothing to change.
fn renamed(disk: &SourceDisk, identity: &Identity, run: &Run) -> anyhow::Result<Option<(u64, Vec<u8>)>> {
    let Some(found) = own_seed(disk, identity)? else {
        run.report.debug(format_args!("disk {} holds no seed of this instance", disk.path.display()));
        return Ok(None);
    };
    let (old, contents) = read(&found, disk)?;
    let meta_data = contents.file("meta-data").and_then(|old| Some((old, seed::renamed(old, identity)?)));
    let Some((_, new)) = meta_data.filter(|(old, new)| old != new) else { return Ok(None) };
    tell_long_name(identity, run);
    let mut files = contents.files.clone();
    for (_, content) in files.iter_mut().filter(|(name, _)| name == "meta-data") {
        content.clone_from(&new);
    }
    Ok(Some((found.start, volume::rebuild(&old, &contents, identity.volume_serial(), &files)?)))
}
