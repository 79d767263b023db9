// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage images`, which lists the named images, and `simpleimage fetch`, which fetches one image into the
//! cache.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::json;

use super::output::{disk_json, printable, table, write_json};
use super::{ImageArgs, absolute_place, not_empty};
use crate::config::{self, ImageAlias, Paths, VariantName};
use crate::ganeti::request;
use crate::image::reference::ImageRef;
use crate::install::{self, Fetched};
use crate::node::report::{Progress, Report, Subject};
use crate::node::run::Run;
use crate::node::size::ByteSize;
use crate::store::cache::Cache;

#[derive(Debug, clap::Args)]
pub(super) struct ImagesArgs {
    /// The variant whose named images are listed.
    #[arg(long, default_value = "default")]
    variant: VariantName,
    /// Write the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct NamedImage {
    name: String,
    note: Option<String>,
    /// The declared image type, or else the type that the first bytes show.
    #[serde(rename = "type")]
    image_type: Option<String>,
    /// The size of the image's file in bytes, if it is on this node.
    size: Option<u64>,
    /// Whether the image is in the cache. `None` is for a file on the node, which is never copied into the cache.
    kept: Option<bool>,
    /// The image's URL without secrets, or its path.
    image: String,
    /// The path of the image's file, if it is on this node.
    path: Option<PathBuf>,
}

/// Writes the list to `out`. Asks no server, and creates nothing.
pub(super) fn images(args: &ImagesArgs, root: &Path, report: &Report, out: &mut dyn Write) -> anyhow::Result<()> {
    let settings = config::load(&Paths::below(root), &args.variant)?;
    let cache = Cache::existing(&settings.cache_settings())?;
    let found = settings.images.into_iter().map(|(name, alias)| named(name, alias, cache.as_ref()));
    let mut images = found.collect::<anyhow::Result<Vec<_>>>()?;
    detect_types(&mut images, report)?;
    if args.json {
        return write_json(out, &images);
    }
    let head = ["NAME", "TYPE", "SIZE", "KEPT", "NOTE"].map(str::to_owned);
    table(out, &std::iter::once(head).chain(images.iter().map(row)).collect::<Vec<_>>())
}

fn named(name: String, alias: ImageAlias, cache: Option<&Cache>) -> anyhow::Result<NamedImage> {
    let ImageAlias { image, image_type, note, .. } = alias;
    let image = ImageRef::parse(&image.0)?;
    let (size, kept, path) = match &image {
        ImageRef::Path(path) => {
            let len = fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|data| data.len());
            (len, None, len.map(|_| path.clone()))
        }
        ImageRef::Url(url) => {
            let kept = match cache {
                Some(cache) => cache.info(url)?,
                None => None,
            };
            match kept {
                Some(kept) => (Some(kept.len), Some(true), Some(kept.path)),
                None => (None, Some(false), None),
            }
        }
    };
    let image_type = image_type.filter(|image_type| image_type != "auto");
    Ok(NamedImage { name, note, image_type, size, kept, image: image.to_string(), path })
}

/// Detects the image types that are not declared, of images that have a file on this node.
fn detect_types(images: &mut [NamedImage], report: &Report) -> anyhow::Result<()> {
    let mut unknown: Vec<_> = images.iter_mut().filter(|image| image.image_type.is_none()).collect();
    let paths: Vec<_> = unknown.iter().map(|image| image.path.clone().unwrap_or_default()).collect();
    let types = install::likely_types(&paths, &Run::new(report.clone()))?;
    unknown.iter_mut().zip(types).for_each(|(image, image_type)| image.image_type = image_type);
    Ok(())
}

fn row(image: &NamedImage) -> [String; 5] {
    let kept = match (image.kept, &image.path) {
        (Some(true), _) => "yes",
        (Some(false), _) => "no",
        (None, Some(_)) => "file",
        (None, None) => "missing",
    };
    let size = image.size.map_or_else(|| "-".to_owned(), |size| ByteSize(size).rounded());
    let image_type = image.image_type.clone().unwrap_or_else(|| "auto".to_owned());
    let note = image.note.as_deref().map(printable).unwrap_or_default();
    [image.name.clone(), image_type, size, kept.to_owned(), note]
}

#[derive(Debug, clap::Args)]
pub(super) struct FetchArgs {
    /// The image's http or https URL, or its name in config.toml.
    #[arg(value_parser = not_empty)]
    image: String,
    #[command(flatten)]
    image_args: ImageArgs,
    /// The variant whose settings are used, including its cache folder.
    #[arg(long, default_value = "default")]
    variant: VariantName,
    /// Write the result as JSON.
    #[arg(long)]
    json: bool,
}

impl FetchArgs {
    pub(super) fn subject(&self) -> Subject {
        Subject { instance: None, variant: Some(self.variant.to_string()) }
    }
}

/// Fetches the image into the cache. Writes its type, size and path to `out`.
pub(super) fn fetch(args: FetchArgs, root: &Path, report: &Report, out: &mut dyn Write) -> anyhow::Result<()> {
    let FetchArgs { image, image_args, variant, json } = args;
    let job = request::fetch(&image_args.into_params(absolute_place(&image)?)?, &variant, &Paths::below(root))?;
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
