// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage fetch`.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use super::Said;
use crate::config::{Paths, VariantName};
use crate::ops;
use crate::report::{Progress, Report, Subject};
use crate::request::FetchRequest;
use crate::size::ByteSize;

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Fetch {
    /// The image's http or https URL, or its name in config.toml.
    image: String,
    #[command(flatten)]
    said: Said,
    /// The variant whose settings hold, cache folder included.
    #[arg(long, default_value = "default")]
    variant: VariantName,
}

impl Fetch {
    pub(super) fn subject(&self) -> Subject {
        Subject { instance: None, variant: Some(self.variant.to_string()) }
    }
}

/// Fetches the image, and writes what it is to `out`.
pub(super) fn fetch(args: Fetch, root: &Path, report: &Report, out: &mut dyn Write) -> anyhow::Result<()> {
    let Fetch { image, said: Said { image_type, checksum }, variant } = args;
    let request = FetchRequest::new(image, image_type, checksum, &variant, &Paths::below(root))?;
    let progress = Arc::new(Progress::stderr(report));
    let context = ops::Context::ended_by_signals(progress.report().clone())?;
    let fetched = ops::fetch(&request, &ops::Context { progress: Some(progress), ..context })?;
    let ops::Fetched { image_type, len, sha256, disk_size, .. } = fetched;
    let size = ByteSize(len);
    write!(
        out,
        "image:  {}\ntype:   {image_type}\nsize:   {size}\ndisk:   {disk_size}\nsha256: {sha256}\n",
        request.url
    )
    .context("writing the result")
}
