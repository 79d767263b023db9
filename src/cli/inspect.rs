// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage inspect`.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::output::{printable, write_json};
use crate::image::disk_size::DiskSize;
use crate::ops::{self, Inspected, Judged, Layout, Part};
use crate::report::Report;
use crate::size::ByteSize;

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// The image, a file on this machine.
    image: PathBuf,
    /// Write the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Writes what the image is to `out`. What create refuses is an error here too; as JSON the reason goes to `out` as well.
pub(super) fn inspect(args: &Inspect, report: &Report, out: &mut dyn Write) -> anyhow::Result<()> {
    let Inspect { image, json } = args;
    let context = ops::Context::ended_by_signals(report.clone())?;
    let judged = ops::inspect(image, &context)?;
    if *json {
        write_json(out, &as_json(image, &judged))?;
    }
    match judged {
        Judged::Refused(reason) => bail!(reason),
        Judged::Taken(found) if !json => out.write_all(as_text(image, &found).as_bytes()).context("writing the result"),
        Judged::Taken(_) => Ok(()),
    }
}

fn as_text(image: &Path, found: &Inspected) -> String {
    let Inspected { image_type, size, disk, layout, .. } = found;
    let image = printable(&image.to_string_lossy());
    let size = ByteSize(*size);
    let mut text = format!("image: {image}\ntype:  {image_type}\nsize:  {size}\ndisk:  {disk}\n");
    // Writing to a String can't fail.
    let _ = writeln!(text, "table: {}", table_words(layout));
    for part in partitions(layout) {
        let Part { number, start, size, kind, name } = part;
        let name = name.as_ref().map(|name| format!(", name {}", printable(name))).unwrap_or_default();
        let _ = writeln!(text, "  {number}: {} at {}, type {kind}{name}", ByteSize(*size), ByteSize(*start));
    }
    let _ = writeln!(text, "safe to install: {}", verdict(found));
    text
}

fn table_words(layout: &Layout) -> &str {
    match layout {
        Layout::Table(kind, _) => kind,
        Layout::None => "none",
        Layout::DamagedGpt => "a damaged gpt",
        Layout::Packed => "known only after unpacking",
    }
}

fn partitions(layout: &Layout) -> &[Part] {
    match layout {
        Layout::Table(_, partitions) => partitions,
        Layout::None | Layout::DamagedGpt | Layout::Packed => &[],
    }
}

fn verdict(found: &Inspected) -> String {
    let listed = found.to_be_listed.as_ref().map(|format| format!(", where image_formats lists {format}"));
    let packed = if found.packed { ", as far as its beginning tells (create checks the rest)" } else { "" };
    format!("yes{}{packed}", listed.unwrap_or_default())
}

fn as_json(image: &Path, judged: &Judged) -> Value {
    let image = image.display().to_string();
    let found = match judged {
        Judged::Taken(found) => found,
        Judged::Refused(reason) => return json!({ "image": image, "safe": false, "reason": reason }),
    };
    let (known, disk) = match found.disk {
        DiskSize::Exact(size) => ("exact", Some(size)),
        DiskSize::AtLeast(size) => ("at-least", Some(size)),
        DiskSize::Hint(size) => ("hint", Some(size)),
        DiskSize::Unknown => ("unknown", None),
    };
    let table = match &found.layout {
        Layout::Table(kind, _) => kind,
        Layout::None => "none",
        Layout::DamagedGpt => "damaged",
        Layout::Packed => "unknown",
    };
    json!({
        "image": image,
        "safe": true,
        "checked": if found.packed { "beginning" } else { "all" },
        "to_be_listed": found.to_be_listed,
        "type": found.image_type,
        "size": found.size,
        "disk": disk,
        "disk_known": known,
        "table": table,
        "partitions": partitions(&found.layout),
    })
}
