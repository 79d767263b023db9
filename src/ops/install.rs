// SPDX-License-Identifier: BSD-2-Clause
//! One examined image onto one disk.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::Context as _;

use super::Context;
use super::seed_volume::Seed;
use super::verify_image::{Proof, WrongImage};
use crate::cache::Cache;
use crate::device::Target;
use crate::image::source::{Body, Contents, ImageFile};
use crate::image::spool;
use crate::request::CreateRequest;
use crate::size::ByteSize;
use crate::write::{self, DiskWriter};

/// What every step of an installation needs.
#[derive(Clone, Copy)]
pub(super) struct Job<'j> {
    pub(super) request: &'j CreateRequest,
    pub(super) target: &'j Target,
    pub(super) context: &'j Context,
    pub(super) seed: Option<&'j Seed<'j>>,
}

/// An image whose bytes are on the disk, but which can't boot yet.
pub(super) struct Copied<'j> {
    job: Job<'j>,
    writer: DiskWriter<'j>,
    /// Size of the disk in the image, in bytes.
    len: u64,
    start: Instant,
}

/// Examines and checks the image, and makes the disk it. What has to be read for the check is read while a new
/// instance's disk is written, which can't boot before the check has held. A reinstall checks first.
pub(super) fn install_checked(image: &ImageFile, proof: &Proof, job: &Job<'_>) -> anyhow::Result<()> {
    let at_once = job.request.reinstall || !proof.reads(image);
    if at_once {
        proof.check(image, job.context)?;
    }
    let contents = image.contents(job.request.expected)?;
    contents
        .body
        .disk_size()
        .map_or(Ok(()), |size| write::check_fits(size, job.target))
        .with_context(|| installing(image))?;
    let copied = if at_once {
        copy(contents, job)
    } else {
        thread::scope(|scope| {
            let checking = scope.spawn(|| proof.check(image, job.context));
            let copied = copy(contents, job);
            checking.join().unwrap_or_else(|_panic| Err(died(image))).map(|()| copied)
        })?
    };
    copied.and_then(Copied::finish).with_context(|| installing(image))
}

fn installing(image: &ImageFile) -> String {
    format!("installing image {}", image.name())
}

fn died(image: &ImageFile) -> WrongImage {
    WrongImage::Read { image: image.name().to_owned(), source: io::Error::other("the checking thread died") }
}

/// Copies all of the image; what does not fit is refused before the disk is touched, where its size is known.
pub(super) fn copy<'j>(contents: Contents<'_>, job: &Job<'j>) -> anyhow::Result<Copied<'j>> {
    let Job { target, context, seed, .. } = *job;
    let start = Instant::now();
    let Contents { image_type, body } = contents;
    let size = body.disk_size();
    let known = size.map(|size| format!(", {}", ByteSize(size))).unwrap_or_default();
    context.report.info(format_args!("image type {image_type}{known} for a disk of {}", ByteSize(target.size())));
    size.map_or(Ok(()), |size| write::check_fits(size, target))?;
    let mut unpacked = None;
    let mut disk = ImageDisk::of(body, &mut unpacked, job)?;
    seed.map_or(Ok(()), |seed| seed.check(&mut disk, target, &context.children))?;
    let writer = DiskWriter::begin(target)?;
    let len = match disk {
        ImageDisk::RawFile(file, len) => write::raw_file(file, len, &writer).map(|()| len)?,
        ImageDisk::RawStream(mut decoded) => write::stream(&mut *decoded, &writer)?,
        ImageDisk::Qcow2(file, size) => write::qcow2(file, size, &writer, &context.children).map(|()| size)?,
    };
    Ok(Copied { job: *job, writer, len, start })
}

/// The disk in an image, in a form that can be copied.
pub(super) enum ImageDisk<'f> {
    /// The file is the disk, with its length in bytes.
    RawFile(&'f File, u64),
    /// The disk's bytes.
    RawStream(Box<dyn Read + Send + 'f>),
    /// A qcow2 file, and the size of the disk in it.
    Qcow2(&'f File, u64),
}

impl<'f> ImageDisk<'f> {
    /// Compressed qcow2 goes to `unpacked`, for qemu-img has to seek in it.
    fn of(body: Body<'f>, unpacked: &'f mut Option<File>, job: &Job<'_>) -> anyhow::Result<Self> {
        Ok(match body {
            Body::RawFile(file, len) => ImageDisk::RawFile(file, len),
            Body::RawStream(decoded, _) => ImageDisk::RawStream(decoded),
            Body::Qcow2File(file, size) => ImageDisk::Qcow2(file, size),
            Body::Qcow2Stream(mut packed, size) => {
                let cache = Cache::open(&job.request.cache)?;
                let file = spool::unpack(&mut *packed, cache.dir(), job.target.size())?;
                ImageDisk::Qcow2(unpacked.insert(file), size)
            }
        })
    }
}

impl Copied<'_> {
    /// Makes the disk bootable. Until the hooks have run, a signal makes it unbootable again.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        let Job { target, context, seed, .. } = self.job;
        let mut whole = self.writer.fill(self.len)?;
        if let Some(seed) = seed {
            seed.write(&mut whole, target, context)?;
        }
        let boot = whole.sync()?;
        let (disk, report) = (Arc::clone(target.held()), context.report.clone());
        let undo = move || {
            if let Err(err) = write::invalidate(&disk) {
                report.warn(format_args!("the disk may boot though its hooks did not run to their end: {err}"));
            }
        };
        context.last_act.after(|| boot.commit(), undo)?;
        let seconds = self.start.elapsed().as_secs_f64();
        context.report.info(format_args!("the image is on the disk: {} in {seconds:.1} s", ByteSize(self.len)));
        Ok(())
    }
}
