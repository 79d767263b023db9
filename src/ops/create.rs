// SPDX-License-Identifier: BSD-2-Clause
//! create: the image onto the instance's first disk, then the variant's hooks.

use std::time::Instant;

use anyhow::{Context as _, bail};

use super::Context;
use super::run_hooks::run_hooks;
use crate::cache::Cache;
use crate::device::Target;
use crate::http::Client;
use crate::image::reference::ImageRef;
use crate::image::source::{Body, Contents, ImageFile};
use crate::image::spool;
use crate::request::CreateRequest;
use crate::size::ByteSize;
use crate::write::{self, DiskWriter};

/// Installs the image, then runs the hooks. Whatever fails after the disk was touched leaves it unbootable: its first
/// MiB reads zero. A new instance's disk is made so at once, for it may hold another tenant's system; a reinstall
/// touches the old system only when the new image is at hand and has passed every check.
pub fn create(request: &CreateRequest, context: &Context) -> anyhow::Result<()> {
    let report = &context.report;
    report.info(format_args!(
        "version {}: installing instance {} (variant {}) from image {} onto disk {}",
        env!("CARGO_PKG_VERSION"),
        request.instance,
        request.variant,
        request.image,
        request.disk.display()
    ));
    let target = Target::open(&request.disk)?;
    if !request.reinstall {
        write::invalidate(target.held())?;
    }
    let image = open(request, context)?;
    if target.is_same_file(image.file()).context("comparing image and disk")? {
        bail!("image {} is the instance's disk itself", image.name());
    }
    install(&image, request, &target, context)?;
    let disk = target.release();
    let hooked = run_hooks(&request.hooks, Some(&disk), context);
    if hooked.is_err() {
        write::invalidate(&disk).context("making the disk unbootable after its hooks failed")?;
    }
    hooked
}

/// The image as an open file: the one that was named, or the cache's copy of what the URL names.
fn open(request: &CreateRequest, context: &Context) -> anyhow::Result<ImageFile> {
    let url = match &request.image {
        ImageRef::Path(path) => return Ok(ImageFile::open(path)?),
        ImageRef::Url(url) => url,
    };
    let client = Client::new(&request.http)?;
    let cache = Cache::open(&request.cache)?;
    let cached = cache.fetch(url, &client, context.now, &context.report)?;
    Ok(ImageFile::cached(url, cached))
}

fn install(image: &ImageFile, request: &CreateRequest, target: &Target, context: &Context) -> anyhow::Result<()> {
    let start = Instant::now();
    let Contents { image_type, body } = image.contents(request.image_type, request.allow_unknown_content)?;
    let size = body.disk_size();
    let disk = ByteSize(target.size());
    match size {
        Some(size) => {
            context.report.info(format_args!("image type {image_type}, {} for a disk of {disk}", ByteSize(size)))
        }
        None => context.report.info(format_args!("image type {image_type} for a disk of {disk}")),
    }
    let installing = || format!("installing image {}", image.name());
    size.map_or(Ok(()), |size| write::check_fits(size, target)).with_context(installing)?;
    let len = copy(body, request, target, context).with_context(installing)?;
    let seconds = start.elapsed().as_secs_f64();
    context.report.info(format_args!("the image is on the disk: {} in {seconds:.1} s", ByteSize(len)));
    Ok(())
}

/// Gives the size of the disk in the image, in bytes.
fn copy(body: Body<'_>, request: &CreateRequest, target: &Target, context: &Context) -> anyhow::Result<u64> {
    let writer = DiskWriter::begin(target)?;
    let len = match body {
        Body::RawFile(file, len) => write::raw_file(file, len, &writer).map(|()| len)?,
        Body::RawStream(mut decoded) => write::stream(&mut *decoded, &writer)?,
        Body::Qcow2File(file, size) => write::qcow2(file, size, &writer, &context.children).map(|()| size)?,
        Body::Qcow2Stream(mut packed, size) => {
            // qemu-img needs to seek in it.
            let cache = Cache::open(&request.cache)?;
            let file = spool::unpack(&mut *packed, cache.dir(), target.size())?;
            write::qcow2(&file, size, &writer, &context.children).map(|()| size)?
        }
    };
    writer.finish(len)?;
    Ok(len)
}
