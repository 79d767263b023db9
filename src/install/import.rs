// SPDX-License-Identifier: BSD-2-Clause
//! import: a dump from standard input onto a disk, which may be larger than the one it came from, then the variant's
//! import hooks.

use std::fs::File;
use std::io;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;

use super::confined::confined;
use super::job::ImportJob;
use super::run_hooks::{HookDisk, run_hooks};
use super::seed_identity::adopt_seeds;
use super::standard::unbuffered;
use crate::disk::device::{HeldDisk, Target};
use crate::disk::partition::{self, ImageExtent, MBR_TOLERANCE};
use crate::disk::write::{self, BootArea, DiskWriter, PendingDisk, WriteError, WriteOptions};
use crate::node::process::Answer;
use crate::node::run::Run;
use crate::node::sandbox::WorkerAccess;
use crate::node::size::ByteSize;

/// Restores the dump onto `target`, which can't boot yet. Hooks that fail leave the disk as it is: it is the user's own system.
pub(crate) fn import(job: &ImportJob, target: Target, run: &Run) -> anyhow::Result<()> {
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
    let needs = WorkerAccess { disks: &[target.file()], ..WorkerAccess::default() };
    confined(needs, run, |run| {
        let (mut whole, len) = write_dump(input, &target, run).map_err(in_terms_of_dumps).with_context(importing)?;
        adopt_seeds(&mut whole, job, run).with_context(importing)?;
        whole.sync().and_then(BootArea::commit).with_context(importing)?;
        let message = format_args!("the dump is on the disk: {}", ByteSize(len));
        run.report.event("imported", json!({ "bytes": len }), message);
        Ok(Answer::default())
    })?;
    Ok(target.release())
}

fn write_dump<'t>(input: &mut File, target: &'t Target, run: &Run) -> Result<(PendingDisk<'t>, u64), WriteError> {
    let writer = DiskWriter::begin(target, WriteOptions::default())?;
    let len = write::stream(input, &writer)?;
    let extent = ImageExtent { image: len, disk: Some(target.size()), mbr_tolerance: MBR_TOLERANCE };
    // It is the user's own system, which may have been so; but a dump that was cut looks like that.
    let check = |whole: &PendingDisk<'_>| {
        let told = |incomplete| run.report.warn(format_args!("the dump may not be all there: {incomplete}"));
        partition::check_complete(whole, extent).unwrap_or_else(told);
        Ok(())
    };
    Ok((writer.fill(len, check)?, len))
}

/// The writer speaks of images.
fn in_terms_of_dumps(err: WriteError) -> anyhow::Error {
    match err {
        WriteError::Empty => anyhow::anyhow!("the dump is empty: nothing came on standard input"),
        WriteError::TooLong { disk, path } => {
            anyhow::anyhow!("the dump is larger than disk {}, which has {disk} (use a larger disk)", path.display())
        }
        WriteError::Image(source) => anyhow::Error::new(source).context("reading the dump"),
        other => other.into(),
    }
}
