// SPDX-License-Identifier: BSD-2-Clause
//! The OS scripts `export`, which writes a disk byte for byte to standard output, and `import`, which writes standard
//! input to a disk that may be larger. `import` then gives the instance a seed of its own and runs the variant's
//! import hooks.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use serde_json::json;

use super::hooks::{self, HookDisk, HookError, run_hooks};
use super::in_guest_worker;
use super::job::{ExportJob, ImportJob};
use super::old_seed::read;
use super::seed::tell_long_name;
use crate::disk::device::{HeldDisk, SourceDisk, Target, WriteAt};
use crate::disk::partition::{self, ImageExtent, MBR_TOLERANCE};
use crate::disk::write::{self, DiskWriter, PendingDisk, WriteError, WriteOptions};
use crate::node::run::Run;
use crate::node::size::ByteSize;
use crate::node::sys;
use crate::seed;
use crate::seed::volume::{self, Error, Found, Trace};

/// The largest pipe of an unprivileged process, in bytes (/proc/sys/fs/pipe-max-size). With the usual 64 KiB both
/// sides wake each other 16 times as often.
const PIPE_LEN: i32 = 1 << 20;

/// Tells Ganeti the size of the disk, then writes the disk to standard output. Anything less than the whole disk is
/// an error.
pub(crate) fn export(job: &ExportJob, run: &Run) -> anyhow::Result<()> {
    ensure!(sys::standard_output_was_open(), "standard output is closed: there is nowhere to write the dump to");
    // This comes first, because a file that we open could get this number if Ganeti did not open it.
    let told = job.size_descriptor.map(sys::adopt_descriptor).transpose().context("EXP_SIZE_FD")?;
    let disk = SourceDisk::open(&job.device)?;
    if let Some(mut told) = told {
        // The descriptor is closed after this, because Ganeti reads it until its end.
        told.write_all(format!("{}\n", disk.size).as_bytes()).context("writing the size of the dump to EXP_SIZE_FD")?;
    }
    let fields = json!({ "disk": disk.path.display().to_string(), "disk_bytes": disk.size });
    let message = format_args!("exporting disk {}, {}", disk.path.display(), ByteSize(disk.size));
    run.report.event("export", fields, message);
    let mut out = unbuffered(io::stdout()).context("opening standard output")?;
    in_guest_worker(&[], run, |_| {
        write::dump(&disk, &mut out).with_context(|| format!("exporting disk {}", disk.path.display()))
    })
}

/// Restores the dump onto `target`, which can't boot yet. A failed hook does not change the disk, because it is the
/// user's own system.
pub(crate) fn import(job: &ImportJob, target: Target, run: &Run) -> anyhow::Result<()> {
    // This comes before the disk is written. Whatever else is wrong with the hooks does not stop a restore, and is an
    // error after it.
    if let Ok(Some(plan)) = &job.hooks
        && let Err(unsafe_hooks @ HookError::Unsafe { .. }) = hooks::refuse_untrusted(&plan.folder)
    {
        return Err(unsafe_hooks.into());
    }
    let mut input = unbuffered(io::stdin()).context("opening standard input")?;
    let disk = restore(&mut input, job, target, run)?;
    match &job.hooks {
        Ok(plan) => run_hooks(plan.as_ref(), HookDisk::Lent(&disk), Vec::new(), run),
        Err(error) => {
            run.report.warn(format_args!("no import hooks were looked for: {error:#}"));
            Ok(())
        }
    }
}

fn restore(input: &mut File, job: &ImportJob, target: Target, run: &Run) -> anyhow::Result<Arc<HeldDisk>> {
    let fields = json!({ "disk": target.path().display().to_string(), "disk_bytes": target.size() });
    let message = format_args!("importing to disk {}, {}", target.path().display(), ByteSize(target.size()));
    run.report.event("import", fields, message);
    let importing = || format!("importing to disk {}", target.path().display());
    in_guest_worker(&[target.file()], run, |run| {
        let mut pending = write_dump(input, &target, run).map_err(in_terms_of_dumps).with_context(importing)?;
        let len = pending.image_len();
        adopt_seeds(&mut pending, job, run).with_context(importing)?;
        pending.sync().and_then(PendingDisk::commit).with_context(importing)?;
        let message = format_args!("the dump is on the disk: {}", ByteSize(len));
        run.report.event("imported", json!({ "bytes": len }), message);
        Ok(())
    })?;
    Ok(target.release())
}

fn write_dump<'t>(input: &mut File, target: &'t Target, run: &Run) -> Result<PendingDisk<'t>, WriteError> {
    let mut writer = DiskWriter::begin(target, WriteOptions::default())?;
    write::stream(input, &mut writer)?;
    let extent = ImageExtent { image: writer.image_len(), disk: Some(target.size()), mbr_tolerance: MBR_TOLERANCE };
    writer.fill(|disk| {
        // This is only a warning, because the user's own system may have been like this before. But a truncated dump
        // also looks like this.
        if let Err(incomplete) = partition::check_complete(disk, extent) {
            run.report.warn(format_args!("the dump may not be all there: {incomplete}"));
        }
        Ok(())
    })
}

/// Changes the writer's messages, which speak of images.
fn in_terms_of_dumps(err: WriteError) -> anyhow::Error {
    match err {
        WriteError::Empty => anyhow!("the dump is empty: nothing came on standard input"),
        WriteError::TooLong { disk, path } => {
            anyhow!("the dump is larger than disk {}, which has {disk} (use a larger disk)", path.display())
        }
        WriteError::Image(source) => anyhow::Error::new(source).context("reading the dump"),
        other => other.into(),
    }
}

/// Changes every seed of ours on the restored disk for the new instance, so that a clone has a first boot of its own.
/// Only an error of the disk fails the import. Every other reason why a seed can't be changed is a warning, because
/// the dump is more important.
fn adopt_seeds(disk: &mut dyn WriteAt, job: &ImportJob, run: &Run) -> anyhow::Result<()> {
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

/// Changes the trace of a removed seed for the new instance, which also has what the dumped instance copied from its
/// seed into its own system.
fn adopt_trace(disk: &mut dyn WriteAt, job: &ImportJob) -> io::Result<()> {
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

/// Returns the stream without the buffer that `std` adds. A pipe gets a larger buffer.
fn unbuffered(stream: impl AsFd) -> io::Result<File> {
    let file = File::from(stream.as_fd().try_clone_to_owned()?);
    // This fails if the stream is no pipe, or if the user has reached the limit. The stream works all the same.
    let _ = fcntl(&file, FcntlArg::F_SETPIPE_SZ(PIPE_LEN));
    Ok(file)
}
