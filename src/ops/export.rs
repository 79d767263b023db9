// SPDX-License-Identifier: BSD-2-Clause
//! export: the disk, byte for byte, on standard output.

use std::io::{self, Write};

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::Context;
use super::confined::confined;
use super::standard::unbuffered;
use crate::device::SourceDisk;
use crate::process::Answer;
use crate::request::ExportRequest;
use crate::sandbox::Needs;
use crate::size::ByteSize;
use crate::sys;
use crate::write;

/// Writes the disk to standard output, once Ganeti was told its size. Anything less than the whole disk is an error.
pub fn export(request: &ExportRequest, context: &Context) -> anyhow::Result<()> {
    ensure!(sys::standard_output_was_open(), "standard output is closed: there is nowhere to write the dump to");
    // First of all, before any file of ours could get a number that Ganeti did not open.
    let told = request.size_descriptor.map(sys::adopt_descriptor).transpose().context("EXP_SIZE_FD")?;
    let disk = SourceDisk::open(&request.device)?;
    if let Some(mut told) = told {
        // Closed right after: Ganeti reads it up to its end.
        told.write_all(format!("{}\n", disk.size).as_bytes()).context("writing the size of the dump to EXP_SIZE_FD")?;
    }
    let fields = json!({ "disk": disk.path.display().to_string(), "disk_bytes": disk.size });
    let message = format_args!("exporting disk {}, {}", disk.path.display(), ByteSize(disk.size));
    context.report.event("export", fields, message);
    let mut out = unbuffered(io::stdout()).context("opening standard output")?;
    confined(Needs::default(), context, |_| {
        write::dump(&disk, &mut out).with_context(|| format!("exporting disk {}", disk.path.display()))?;
        Ok(Answer::default())
    })
    .map(drop)
}
