// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage fetch`.

use std::io::Write;
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

use super::output::{disk_json, write_json};
use super::{Said, from_here, said};
use crate::config::{Paths, VariantName};
use crate::ganeti::request;
use crate::install::{self, Fetched};
use crate::node::report::{Progress, Report, Subject};
use crate::node::run::Run;
use crate::node::size::ByteSize;

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Fetch {
    /// The image's http or https URL, or its name in config.toml.
    #[arg(value_parser = said)]
    image: String,
    #[command(flatten)]
    said: Said,
    /// The variant whose settings hold, cache folder included.
    #[arg(long, default_value = "default")]
    variant: VariantName,
    /// Write the result as JSON.
    #[arg(long)]
    json: bool,
}

impl Fetch {
    pub(super) fn subject(&self) -> Subject {
        Subject { instance: None, variant: Some(self.variant.to_string()) }
    }
}

/// Fetches the image, and writes what it is and where it is kept to `out`.
pub(super) fn fetch(args: Fetch, root: &Path, report: &Report, out: &mut dyn Write) -> anyhow::Result<()> {
    let Fetch { image, said, variant, json } = args;
    let job = request::fetch(&said.params(from_here(&image)?)?, &variant, &Paths::below(root))?;
    let fetched = install::fetch(&job, &Run::with_progress(Progress::stderr(report))?)?;
    let Fetched { hit, image_type, len, sha256, disk_size, path } = fetched;
    let url = job.url;
    if json {
        let ((known, disk), cache) = (disk_json(disk_size), if hit { "hit" } else { "miss" });
        let all = json!({
            "image": url.to_string(), "type": image_type.to_string(), "size": len, "disk": disk, "disk_known": known,
            "sha256": sha256, "path": path.display().to_string(), "cache": cache,
        });
        return write_json(out, &all);
    }
    let (size, path) = (ByteSize(len), path.display());
    write!(
        out,
        "image:  {url}\ntype:   {image_type}\nsize:   {size}\ndisk:   {disk_size}\nsha256: {sha256}\npath:   {path}\n"
    )
    .context("writing the result")
}
