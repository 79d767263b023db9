// SPDX-License-Identifier: BSD-2-Clause
//! import: a dump from standard input onto a disk, which may be larger than the one it came from, then the variant's
//! import hooks.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;

use super::Context;
use super::confined::confined;
use super::run_hooks::run_hooks;
use super::seed_identity::adopt_seeds;
use super::standard::unbuffered;
use crate::device::{HeldDisk, Target};
use crate::partition::{self, Extent, MBR_TOLERANCE};
use crate::process::Answer;
use crate::request::{ImportCall, ImportRequest};
use crate::sandbox::Needs;
use crate::size::ByteSize;
use crate::write::{self, BootArea, DiskWriter, Whole, WriteError, WriteOptions};

/// Restores the dump. Whatever fails, standard input is read to its end: Ganeti's pipeline would else fail with a
/// broken pipe, and its error would hide ours. Hooks that fail leave the disk as it is: it is the user's own system.
pub fn import(call: &ImportCall<'_>, context: &Context) -> anyhow::Result<()> {
    let begun = begin(call);
    let mut input = unbuffered(io::stdin()).context("opening standard input")?;
    let restored = begun.and_then(|(request, target)| Ok((restore(&mut input, &request, target, context)?, request)));
    if restored.is_err() {
        drain(&mut input);
    }
    let (disk, request) = restored?;
    match &request.hooks {
        Ok(plan) => run_hooks(plan.as_ref(), Some(&disk), Vec::new(), context),
        Err(error) => {
            context.report.warn(format_args!("no import hooks were looked for: {error:#}"));
            Ok(())
        }
    }
}

/// Holds the disk, which is a new one: it can't boot before anything else is looked at.
fn begin(call: &ImportCall<'_>) -> anyhow::Result<(ImportRequest, Target)> {
    let target = Target::open(&call.disk)?;
    write::invalidate(target.held())?;
    Ok((call.request()?, target))
}

fn restore(
    input: &mut File,
    request: &ImportRequest,
    target: Target,
    context: &Context,
) -> anyhow::Result<Arc<HeldDisk>> {
    let fields = json!({ "disk": target.path().display().to_string(), "disk_bytes": target.size() });
    let message = format_args!("importing to disk {}, {}", target.path().display(), ByteSize(target.size()));
    context.report.event("import", fields, message);
    let importing = || format!("importing to disk {}", target.path().display());
    let needs = Needs { disks: &[target.file()], ..Needs::default() };
    confined(needs, context, |context| {
        let (mut whole, len) =
            write_dump(input, &target, context).map_err(in_terms_of_dumps).with_context(importing)?;
        adopt_seeds(&mut whole, request, context).with_context(importing)?;
        whole.sync().and_then(BootArea::commit).with_context(importing)?;
        let message = format_args!("the dump is on the disk: {}", ByteSize(len));
        context.report.event("imported", json!({ "bytes": len }), message);
        Ok(Answer::default())
    })?;
    Ok(target.release())
}

fn write_dump<'t>(input: &mut File, target: &'t Target, context: &Context) -> Result<(Whole<'t>, u64), WriteError> {
    let writer = DiskWriter::begin(target, WriteOptions::default())?;
    let len = write::stream(input, &writer)?;
    let extent = Extent { image: len, disk: Some(target.size()), mbr_tolerance: MBR_TOLERANCE };
    // It is the user's own system, which may have been so; but a dump that was cut looks like that.
    let check = |whole: &Whole<'_>| {
        let told = |incomplete| context.report.warn(format_args!("the dump may not be all there: {incomplete}"));
        partition::check_whole(whole, extent).unwrap_or_else(told);
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

fn drain(input: &mut File) {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return,
            Err(err) if err.kind() != io::ErrorKind::Interrupted => return,
            _ => {}
        }
    }
}
