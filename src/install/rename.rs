// SPDX-License-Identifier: BSD-2-Clause
//! The OS script `rename`: it writes the new name into the instance's own seed, then runs the variant's rename hooks.

use std::path::Path;

use anyhow::Context as _;

use super::hooks::{self, HookDisk, run_hooks};
use super::in_guest_worker;
use super::job::RenameJob;
use super::old_seed::{own_seed, read};
use super::seed::tell_long_name;
use crate::disk::device::{DeviceError, ReadAt, SourceDisk, Target};
use crate::node::run::Run;
use crate::seed::volume;
use crate::seed::{self, Identity};

/// Changes the name in the seed that `create` gave the instance, if there is one. Then runs the hooks of
/// `hooks.rename`, if the variant has any.
///
/// # Errors
/// A disk that is in use, if it would be written or if hooks would get it. Any other error of a disk counts only if
/// there are hooks: without them the disk may even be missing.
pub(crate) fn rename(job: RenameJob, run: &Run) -> anyhow::Result<()> {
    let plan = job.hooks.unwrap_or_else(|error| {
        run.report.warn(format_args!("no rename hooks were looked for: {error}"));
        None
    });
    // A hooks folder that can't be read, and a disk that is in use, are found before the seed is changed.
    let present = match &plan {
        Some(plan) => hooks::present(&plan.folder)?,
        None => false,
    };
    if let (true, Ok(Some(path))) = (present, &job.disk) {
        drop(Target::open(path)?);
    }
    for path in [&job.disk, &job.seed_disk].into_iter().flatten().flatten() {
        let Ok(identity) = &job.identity else { break };
        if let Err(err) = rename_seed(path, identity, run) {
            if matches!(err.downcast_ref(), Some(DeviceError::Busy { .. })) {
                return Err(err);
            }
            run.report.warn(format_args!("the name in a first-boot seed was not changed: {err:#}"));
        }
    }
    if !present {
        return Ok(());
    }
    let disk = match job.disk? {
        Some(path) => Some(Target::open(&path)?.release()),
        None => None,
    };
    let lent = match &disk {
        Some(disk) => HookDisk::Lent(disk),
        None => HookDisk::None,
    };
    run_hooks(plan.as_ref(), lent, Vec::new(), run)
}

/// Writes the instance's name into its own seed, if the disk at `path` contains that seed. Changes nothing else on
/// the disk, and no other disk. A guest may have written the disk, so a worker reads it and returns the new volume.
fn rename_seed(path: &Path, identity: &Identity, run: &Run) -> anyhow::Result<()> {
    let disk = SourceDisk::open(path)?;
    let Some((start, new)) = in_guest_worker(&[], run, |run| renamed(&disk, identity, run))? else {
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

/// Returns the offset of the instance's own seed on the disk in bytes, and the bytes of its volume with the new name.
/// Returns `None` if there is nothing to change.
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
