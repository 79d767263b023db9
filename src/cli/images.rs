// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage images`: the images that have a name.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::output::{printable, table, write_json};
use crate::config::{self, ImageAlias, Paths, VariantName};
use crate::image::reference::ImageRef;
use crate::install;
use crate::node::report::Report;
use crate::node::run::Run;
use crate::node::size::ByteSize;
use crate::store::cache::Cache;

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct ImagesArgs {
    /// The variant whose names are meant.
    #[arg(long, default_value = "default")]
    variant: VariantName,
    /// Write the result as JSON.
    #[arg(long)]
    json: bool,
}

/// An image with a name.
#[derive(Serialize)]
struct Named {
    name: String,
    note: Option<String>,
    /// As declared, else as its first bytes say.
    #[serde(rename = "type")]
    image_type: Option<String>,
    /// Length of its file in bytes, where that is at hand.
    size: Option<u64>,
    /// Whether the cache has it; none for a file on the node, which is never kept.
    kept: Option<bool>,
    /// Its URL without secrets, or its path.
    image: String,
    /// The file that is at hand.
    path: Option<PathBuf>,
}

/// Writes the list to `out`. No server is asked, and nothing is made.
pub(super) fn images(args: &ImagesArgs, root: &Path, report: &Report, out: &mut dyn Write) -> anyhow::Result<()> {
    let settings = config::load(&Paths::below(root), &args.variant)?;
    let cache = Cache::existing(&settings.cache_settings())?;
    let found = settings.images.into_iter().map(|(name, alias)| named(name, alias, cache.as_ref()));
    let mut images = found.collect::<anyhow::Result<Vec<_>>>()?;
    tell_types(&mut images, report)?;
    if args.json {
        return write_json(out, &images);
    }
    let head = ["NAME", "TYPE", "SIZE", "KEPT", "NOTE"].map(str::to_owned);
    table(out, &std::iter::once(head).chain(images.iter().map(row)).collect::<Vec<_>>())
}

fn named(name: String, alias: ImageAlias, cache: Option<&Cache>) -> anyhow::Result<Named> {
    let ImageAlias { image, image_type, note, .. } = alias;
    let image = ImageRef::parse(&image.0)?;
    let (size, kept, path) = match &image {
        ImageRef::Path(path) => {
            let len = fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|data| data.len());
            (len, None, len.map(|_| path.clone()))
        }
        ImageRef::Url(url) => {
            let kept = cache.map_or(Ok(None), |cache| cache.kept(url))?;
            let there = kept.is_some();
            let (len, path) = kept.map(|kept| (kept.len, kept.path)).unzip();
            (len, Some(there), path)
        }
    };
    let image_type = image_type.filter(|image_type| image_type != "auto");
    Ok(Named { name, note, image_type, size, kept, image: image.to_string(), path })
}

/// The types that are not declared, of the files that are there.
fn tell_types(images: &mut [Named], report: &Report) -> anyhow::Result<()> {
    let mut unknown: Vec<_> = images.iter_mut().filter(|image| image.image_type.is_none()).collect();
    let paths: Vec<_> = unknown.iter().map(|image| image.path.clone().unwrap_or_default()).collect();
    let types = install::likely_types(&paths, &Run::new(report.clone()))?;
    unknown.iter_mut().zip(types).for_each(|(image, image_type)| image.image_type = image_type);
    Ok(())
}

fn row(image: &Named) -> [String; 5] {
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
