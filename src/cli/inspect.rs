// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage inspect`: shows what an image is, and whether `create` would take it.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::output::{disk_json, printable, write_json};
use crate::config::{Paths, VariantName, Variants};
use crate::ganeti::request;
use crate::image::reference::ImageRef;
use crate::install::job::InspectJob;
use crate::install::{self, Inspected, Judged, Layout, Part};
use crate::node::report::Report;
use crate::node::run::Run;
use crate::node::size::ByteSize;
use crate::store::http::ImageUrl;

#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// The image: a file on this machine, an http or https URL, or its name in config.toml.
    image: PathBuf,
    /// The variant whose image names, policy and credentials are used.
    #[arg(long, default_value = "default")]
    variant: VariantName,
    /// Write the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Writes the description of the image to `out`. An image that `create` would refuse is an error. With JSON the
/// reason is also in the output.
pub(super) fn inspect(args: InspectArgs, root: &Path, report: &Report, out: &mut dyn Write) -> anyhow::Result<()> {
    let InspectArgs { image, variant, json } = args;
    let job = inspect_job(image, &variant, &Paths::below(root))?;
    let run = Run::ended_by_signals(report.clone())?;
    let judged = install::inspect(&job, &run)?;
    let image = job.image.to_string();
    if json {
        write_json(out, &as_json(&image, &judged))?;
    }
    match judged {
        Judged::Refused(reason) => bail!(reason),
        Judged::Taken(found) if !json => {
            out.write_all(as_text(&image, &found).as_bytes()).context("writing the result")
        }
        Judged::Taken(_) => Ok(()),
    }
}

/// Interprets the argument: a URL, the name of an image if the variant has that name, or else a file.
fn inspect_job(image: PathBuf, variant: &VariantName, paths: &Paths) -> anyhow::Result<InspectJob> {
    let text = image.to_str().unwrap_or_default();
    let named =
        ImageUrl::looks_like_url(text) || (ImageRef::is_name(text) && request::has_image(text, variant, paths)?);
    if named || (ImageRef::is_name(text) && !image.exists()) {
        return request::inspect_named(text.to_owned(), variant, paths);
    }
    Variants::of(paths)?.check(variant, paths)?;
    Ok(request::inspect_file(image))
}

fn as_text(image: &str, found: &Inspected) -> String {
    let Inspected { image_type, size, disk, layout, kept, .. } = found;
    let image = printable(image);
    let kept = if *kept == Some(true) { " (kept in the cache)" } else { "" };
    let size =
        size.map_or_else(|| "unknown (the server does not say it)".to_owned(), |size| ByteSize(size).to_string());
    let mut text = format!("image: {image}{kept}\ntype:  {image_type}\nsize:  {size}\ndisk:  {disk}\n");
    // Writing to a `String` can't fail.
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
        Layout::Remote => "known only once it is fetched",
    }
}

fn partitions(layout: &Layout) -> &[Part] {
    match layout {
        Layout::Table(_, partitions) => partitions,
        Layout::None | Layout::DamagedGpt | Layout::Packed | Layout::Remote => &[],
    }
}

fn verdict(found: &Inspected) -> String {
    let listed = found.to_be_listed.as_ref().map(|format| format!(", where image_formats lists {format}"));
    let partly = if found.partly { ", as far as its beginning tells (create checks the rest)" } else { "" };
    format!("yes{}{partly}", listed.unwrap_or_default())
}

fn as_json(image: &str, judged: &Judged) -> Value {
    let found = match judged {
        Judged::Taken(found) => found,
        Judged::Refused(reason) => return json!({ "image": image, "safe": false, "reason": reason }),
    };
    let (known, disk) = disk_json(found.disk);
    let table = match &found.layout {
        Layout::Table(kind, _) => kind,
        Layout::None => "none",
        Layout::DamagedGpt => "damaged",
        Layout::Packed | Layout::Remote => "unknown",
    };
    json!({
        "image": image,
        "safe": true,
        "checked": if found.partly { "beginning" } else { "all" },
        "kept": found.kept,
        "to_be_listed": found.to_be_listed,
        "type": found.image_type,
        "size": found.size,
        "disk": disk,
        "disk_known": known,
        "table": table,
        "partitions": partitions(&found.layout),
    })
}
