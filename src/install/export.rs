// SPDX-License-Identifier: BSD-2-Clause
//! export: the disk, byte for byte, on standard output.

use std::io::{self, Write};

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::confined::confined;
use super::job::ExportJob;
use super::standard::unbuffered;
use crate::disk::device::SourceDisk;
use crate::disk::write;
use crate::node::process::Answer;
use crate::node::run::Run;
use crate::node::sandbox::WorkerAccess;
use crate::node::size::ByteSize;
use crate::node::sys;

/// Writes the disk to standard output, once Ganeti was told its size. Anything less than the whole disk is an error.
pub(crate) fn export(job: &ExportJob, run: &Run) -> anyhow::Result<()> {
    ensure!(sys::standard_output_was_open(), "standard output is closed: there is nowhere to write the dump to");
    // First of all, before any file of ours could get a number that Ganeti did not open.
    let told = job.size_descriptor.map(sys::adopt_descriptor).transpose().context("EXP_SIZE_FD")?;
    let disk = SourceDisk::open(&job.device)?;
    if let Some(mut told) = told {
        // Closed right after: Ganeti reads it up to its end.
        told.write_all(format!("{}\n", disk.size).as_bytes()).context("writing the size of the dump to EXP_SIZE_FD")?;
    }
    let fields = json!({ "disk": disk.path.display().to_string(), "disk_bytes": disk.size });
    let message = format_args!("exporting disk {}, {}", disk.path.display(), ByteSize(disk.size));
    run.report.event("export", fields, message);
    let mut out = unbuffered(io::stdout()).context("opening standard output")?;
    confined(WorkerAccess::default(), run, |_| {
        write::dump(&disk, &mut out).with_context(|| format!("exporting disk {}", disk.path.display()))?;
        Ok(Answer::default())
    })
    .map(drop)
}
