// SPDX-License-Identifier: BSD-2-Clause
//! The seed of an instance that got another name, or that was made from another one's dump.

use std::fmt::Display;
use std::path::Path;

use anyhow::{Context as _, anyhow};

use super::confined::confined;
use super::job::ImportJob;
use super::seed::tell_long_name;
use crate::disk::device::{ReadAt, SourceDisk, Target, WriteAt};
use crate::node::process::Answer;
use crate::node::run::Run;
use crate::node::sandbox::WorkerAccess;
use crate::seed::volume::{self, Contents, Error, Found, Trace};
use crate::seed::{self, Identity};

/// Writes the instance's name into its own seed, if the disk at `path` holds it. Touches nothing else, and no other disk.
/// What is on the disk is a guest's: a confined process reads it, and gives the volume as it shall be.
pub(super) fn rename_seed(path: &Path, identity: &Identity, run: &Run) -> anyhow::Result<()> {
    let disk = SourceDisk::open(path)?;
    let answer = confined(WorkerAccess::default(), run, |run| {
        let renamed = renamed(&disk, identity, run)?;
        let bytes = renamed.map(|(start, new)| [&start.to_le_bytes()[..], &new].concat());
        Ok(Answer { bytes: bytes.unwrap_or_default(), file: None })
    })?;
    let Some((start, new)) = answer.bytes.split_first_chunk() else { return Ok(()) };
    drop(disk);
    let mut disk = Target::open(path)?;
    let writing = || format!("writing the new name into the seed on disk {}", path.display());
    let (start, mut old) = (u64::from_le_bytes(*start), vec![0; new.len()]);
    disk.read_at(&mut old, start).with_context(writing)?;
    volume::write_changes(&mut disk, start, &old, new).with_context(writing)?;
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

/// The seed of this instance on the disk.
pub(super) fn own_seed(disk: &dyn ReadAt, identity: &Identity) -> std::io::Result<Option<Found>> {
    let found = volume::find_seeds(disk)?;
    Ok(found.into_iter().find(|found| found.our_serial() == Some(identity.volume_serial())))
}

/// Its bytes, and what is in them.
pub(super) fn read(found: &Found, disk: &dyn ReadAt) -> Result<(Vec<u8>, Contents), Error> {
    let bytes = found.load(disk)?;
    let contents = Contents::read(&bytes)?;
    Ok((bytes, contents))
}

/// Makes every seed of ours on the restored disk the new instance's, so that a clone has a first boot of its own. What
/// hinders that is told, but no reason to lose the dump; only an error of the disk is one.
pub(super) fn adopt_seeds(disk: &mut dyn WriteAt, job: &ImportJob, run: &Run) -> anyhow::Result<()> {
    for found in volume::find_seeds(disk)?.iter().filter(|found| found.our_serial().is_some()) {
        match adopt(disk, found, job, run) {
            Err(err) if !matches!(err.downcast_ref(), Some(Error::Disk(_))) => {
                run.report.warn(format_args!("the first-boot seed of the instance in the dump stays as it is: {err:#}"))
            }
            adopted => adopted?,
        }
    }
    adopt_trace(disk, job).map_err(Error::Disk)?;
    Ok(())
}

/// What the dump's instance took into its own system from its seed, the new one has, too.
fn adopt_trace(disk: &mut dyn WriteAt, job: &ImportJob) -> std::io::Result<()> {
    let (Ok(identity), Some(trace)) = (&job.identity, Trace::read(disk)?) else { return Ok(()) };
    let adopted = Trace { serial: identity.volume_serial(), ..trace };
    if adopted != trace {
        adopted.write(disk)?;
    }
    Ok(())
}

fn adopt(disk: &mut dyn WriteAt, found: &Found, job: &ImportJob, run: &Run) -> anyhow::Result<()> {
    let unknown = |err: &dyn Display| anyhow!("Ganeti does not say enough of the new instance: {err}");
    let identity = job.identity.as_ref().map_err(|err| unknown(err))?;
    if found.our_serial() == Some(identity.volume_serial()) {
        return Ok(());
    }
    let nics = job.nics.as_ref().map_err(|err| unknown(err))?;
    tell_long_name(identity, run);
    let (old, contents) = read(found, disk)?;
    let (files, kept) = seed::clone::for_clone(&contents.files, identity, nics);
    let new = volume::rebuild(&old, &contents, identity.volume_serial(), &files)?;
    volume::write_changes(disk, found.start, &old, &new).map_err(Error::Disk)?;
    for kept in kept {
        let name = kept.name();
        run.report
            .warn(format_args!("{name} of the first-boot seed was written by hand, and stays the old instance's"));
    }
    run.report.info(format_args!("the first-boot seed in {found} is the new instance's now"));
    Ok(())
}
