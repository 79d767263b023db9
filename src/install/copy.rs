// SPDX-License-Identifier: BSD-2-Clause
//! Installs one stored image onto one disk: verifies it, copies it, and makes the disk bootable.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::hooks;
use super::job::Job;
use super::progress::{Counted, Origin, ProgressDisplay, Summary, seconds};
use super::seed::Seed;
use super::verify::{Verification, Verified, WrongImage};
use crate::disk::device::{MemoryDisk, ReadAt as _, Sentinel, Target};
use crate::disk::fingerprint::Fingerprint;
use crate::disk::partition::{self, ImageExtent, Incomplete};
use crate::disk::write::{self, DiskWriter, PendingDisk};
use crate::image::disk_size::DiskSize;
use crate::image::format::DeclaredType;
use crate::image::gate::Expected;
use crate::image::reader::{ImageBytes, ImageReader, unpack};
use crate::image::stored::StoredImage;
use crate::node::run::Run;
use crate::node::size::ByteSize;
use crate::store::cache::Cache;

/// The values that every step of an installation needs.
#[derive(Clone, Copy)]
pub(super) struct Installation<'j> {
    pub(super) job: &'j Job,
    pub(super) target: &'j Target,
    pub(super) run: &'j Run,
    pub(super) seed: Option<&'j Seed<'j>>,
}

/// The answer of a worker that has written all of an image except the boot area to the disk, on stable storage.
#[derive(Serialize, Deserialize)]
pub(super) struct InstallAnswer {
    pub(super) boot_area: Vec<u8>,
    pub(super) verified: Verified,
    pub(super) summary: Summary,
}

/// Verifies the image, and writes all of it except the boot area to the disk.
///
/// A new instance's disk can't boot before the image is verified, so the verification reads the image at the same
/// time as the disk is written. A reinstall verifies first. In both cases what the verification read is compared with
/// what was written.
pub(super) fn install_stored(
    image: &StoredImage,
    verification: &Verification,
    installation: &Installation<'_>,
) -> anyhow::Result<InstallAnswer> {
    let Installation { job, target, run, .. } = *installation;
    let passes = if verification.reads(image) { Some(Passes::new()?) } else { None };
    let (checked, written) = passes.as_ref().map(|passes| (&passes.checked, &passes.written)).unzip();
    let verify = || verification.check(image, checked, run);
    let verified = if job.reinstall || passes.is_none() { Some(verify()?) } else { None };
    let reader = image.reader(job.expected, written)?;
    // Only the end of an archive shows that there is no other disk in it, and the old system stays until that is known.
    if job.reinstall && reader.image_type.archive.is_some() {
        image.check_archive()?;
    }
    check_size(&reader, target).with_context(|| installing(image.name()))?;
    // Not every byte of such a file is read. A change of it shows only in its times.
    let compares = !matches!(reader.bytes, ImageBytes::Qcow2(..) | ImageBytes::QemuFile(..));
    let copy = || copy(reader, image.name(), written.map(AsRef::as_ref), installation);
    let (verified, copied) = match verified {
        Some(verified) => (verified, copy()),
        None => thread::scope(|scope| {
            let verifying = scope.spawn(verify);
            let copied = copy();
            let verified = verifying.join().unwrap_or_else(|_panic| Err(died(image)))?;
            anyhow::Ok((verified, copied))
        })?,
    };
    let copied = copied.with_context(|| installing(image.name()))?;
    if passes.is_some_and(|passes| compares && !passes.checked.matches(&passes.written)) {
        return Err(WrongImage::Changed(image.name().to_owned()).into());
    }
    finish(copied, verified, image, installation)
}

/// Fingerprints of an image's file: of the bytes that were verified, and of the bytes that were written.
struct Passes {
    checked: Fingerprint,
    written: Arc<Fingerprint>,
}

impl Passes {
    fn new() -> anyhow::Result<Self> {
        let checked = Fingerprint::new().context("making a key")?;
        Ok(Passes { written: Arc::new(checked.with_same_key()), checked })
    }
}

pub(super) fn installing(name: &str) -> String {
    format!("installing image {name}")
}

fn died(image: &StoredImage) -> WrongImage {
    WrongImage::Read { image: image.name().to_owned(), source: io::Error::other("the checking thread died") }
}

/// Fails if the image does not fit onto the disk, as far as the image's size is known.
pub(super) fn check_size(image: &ImageReader<'_>, target: &Target) -> anyhow::Result<()> {
    match image.size.least() {
        Some(size) => Ok(write::check_fits(size, target)?),
        None => Ok(()),
    }
}

/// Copies all of the image called `name`. The caller has checked that it fits, as far as its size is known.
///
/// What is read of a raw file is added to the fingerprint `seen`. The progress is shown until the [`ProgressDisplay`]
/// is dropped.
pub(super) fn copy<'j>(
    image: ImageReader<'_>,
    name: &str,
    seen: Option<&Fingerprint>,
    installation: &Installation<'j>,
) -> anyhow::Result<(DiskWriter<'j>, ProgressDisplay)> {
    let Installation { job, target, run, seed } = *installation;
    tell_image(&image, installation);
    let unpacked;
    let mut image = match image.bytes {
        ImageBytes::QemuStream(mut packed) => {
            unpacked = unpack_image(&mut *packed, name, installation)?;
            let image_type = Some(DeclaredType::plain(image.image_type.format));
            let image = unpacked.reader(Expected { image_type, ..job.expected }, None)?;
            check_size(&image, target)?;
            image
        }
        _ => image,
    };
    check_whole(&mut image, installation)?;
    if let Some(seed) = seed {
        seed.check(&mut image, target, &run.children)?;
    }
    let mut writer = DiskWriter::begin(target, job.write)?;
    let exact = if let DiskSize::Exact(size) = image.size { Some(size) } else { None };
    let (done, all) = (writer.done(), job.write.wipe.total(exact, target.size()));
    let watch = ProgressDisplay::start(run, "writing", move || (done.load(Ordering::Relaxed), all));
    let driver = image.image_type.format.name();
    tell_decoder(&image.bytes, run);
    match image.bytes {
        ImageBytes::RawFile(file, len) => write::raw_file(file, len, &mut writer, seen)?,
        ImageBytes::RawStream(mut decoded) => write::stream(&mut *decoded, &mut writer)?,
        ImageBytes::Qcow2(disk) => write::decoded_extents(&*disk, disk.len(), &mut writer)?,
        ImageBytes::QemuFile(file, size) => write::convert(file, driver, size, &mut writer, &run.children)?,
        ImageBytes::QemuStream(_) => bail!("image {name} unpacks to another archive"),
    }
    if job.write.verify_readback {
        run.report.event("readback", json!({}), "reading the disk back");
    }
    Ok((writer, watch))
}

fn tell_image(image: &ImageReader<'_>, installation: &Installation<'_>) {
    let (ImageReader { image_type, size, .. }, disk) = (image, installation.target.size());
    let known = size.least().map(|_| format!(", {size}")).unwrap_or_default();
    let fields = json!({ "image_type": image_type.to_string(), "bytes": size.least(), "disk_bytes": disk });
    let message = format_args!("image type {image_type}{known} for a disk of {}", ByteSize(disk));
    installation.run.report.event("image", fields, message);
}

/// Tells which program decodes the image, where that is a question.
fn tell_decoder(bytes: &ImageBytes<'_>, run: &Run) {
    let decoder = match bytes {
        ImageBytes::Qcow2(..) => "simpleimage",
        ImageBytes::QemuFile(..) => "qemu-img",
        ImageBytes::RawFile(..) | ImageBytes::RawStream(..) | ImageBytes::QemuStream(..) => return,
    };
    run.report.event("decoder", json!({ "decoder": decoder }), format_args!("{decoder} decodes the image"));
}

/// Fails if the partition table in the image needs a larger image, as far as that shows before anything is written.
///
/// For a new instance the check of the written disk is enough, because that disk can't boot yet. A reinstall would
/// have overwritten the old system by then.
fn check_whole(image: &mut ImageReader<'_>, installation: &Installation<'_>) -> anyhow::Result<()> {
    let (job, children) = (installation.job, &installation.run.children);
    let DiskSize::Exact(len) = image.size else { return Ok(()) };
    if !job.reinstall && !matches!(image.bytes, ImageBytes::RawFile(..)) {
        return Ok(());
    }
    let extent = extent(len, installation);
    if let Some(disk) = image.disk(children)? {
        return Ok(partition::check_complete(&*disk, extent)?);
    }
    Ok(partition::check_complete(&MemoryDisk(image.beginning(children)?), extent)?)
}

/// The size of an image of `len` bytes together with the size of the job's disk.
fn extent(len: u64, installation: &Installation<'_>) -> ImageExtent {
    let Installation { job, target, .. } = installation;
    ImageExtent { image: len, disk: Some(target.size()), mbr_tolerance: job.expected.mbr_tolerance }
}

/// Unpacks an image in which qemu-img has to seek. This happens before the disk is touched.
fn unpack_image(packed: &mut dyn Read, name: &str, installation: &Installation<'_>) -> anyhow::Result<StoredImage> {
    let cache = Cache::open(&installation.job.cache)?;
    let mut bytes = Counted::new(packed);
    let done = bytes.done();
    let _watch = ProgressDisplay::start(installation.run, "unpacking", move || (done.load(Ordering::Relaxed), None));
    Ok(StoredImage::unpacked(name, unpack(&mut bytes, cache.dir(), installation.target.size())?)?)
}

/// Zeroes the rest of the disk, adds the seed, and puts everything except the boot area onto stable storage.
pub(super) fn finish(
    (writer, watch): (DiskWriter<'_>, ProgressDisplay),
    verified: Verified,
    image: &StoredImage,
    installation: &Installation<'_>,
) -> anyhow::Result<InstallAnswer> {
    let run = installation.run;
    let pending = complete(writer, installation).with_context(|| installing(image.name()))?;
    drop(watch);
    let writing = pending.started().elapsed();
    let fields = json!({ "seconds": writing.as_secs_f64() });
    run.report.event("written", fields, format_args!("written and synced in {}", seconds(writing)));
    let (len, written) = (pending.image_len(), pending.written());
    let summary = Summary { origin: Origin::of(image), len, written, writing };
    Ok(InstallAnswer { boot_area: pending.boot_area().to_vec(), verified, summary })
}

fn complete<'t>(writer: DiskWriter<'t>, installation: &Installation<'_>) -> anyhow::Result<PendingDisk<'t>> {
    let Installation { target, run, seed, .. } = *installation;
    let len = writer.image_len();
    let mut pending = writer.fill(|disk| {
        partition::check_complete(disk, extent(len, installation))?;
        if let Some(doubt) = partition::missing_backup(disk, len).map_err(Incomplete::Read)? {
            run.report.warn(doubt);
        }
        Ok(())
    })?;
    if let Some(seed) = seed {
        seed.write(&mut pending, target, run)?;
    }
    Ok(pending.sync()?)
}

/// Makes the disk with a verified image bootable. A signal makes it unbootable again until the hooks have run.
pub(super) fn commit(pending: PendingDisk<'_>, _: &Verified, installation: &Installation<'_>) -> anyhow::Result<()> {
    let Installation { target, run, .. } = *installation;
    // If another disk took this path, then the instance would start from that one, without the image.
    let path = target.path();
    ensure!(target.is_same_file(path), "disk {} was replaced by another one while it was written", path.display());
    let (disk, report) = (Arc::clone(target.held()), run.report.clone());
    let sentinel = sentinel(installation)?;
    let undo = move || {
        if let Err(err) = write::make_unbootable(&disk) {
            report.warn(format_args!("the disk may boot though its hooks did not run to their end: {err}"));
        }
        drop(sentinel);
    };
    let committed = run.signal_cleanup.after(|| pending.commit(), undo);
    if committed.is_err() {
        run.signal_cleanup.clear();
    }
    Ok(committed?)
}

/// Starts a process that makes the disk unbootable again if SIGKILL ends this process before the hooks have run.
/// Without hooks it is not needed.
fn sentinel(installation: &Installation<'_>) -> anyhow::Result<Option<Sentinel>> {
    let Installation { job, target, .. } = *installation;
    // An unreadable folder counts as one with hooks. Running them will report the error.
    if !job.hooks.as_ref().is_some_and(|plan| hooks::present(&plan.folder).unwrap_or(true)) {
        return Ok(None);
    }
    let started = Sentinel::start(target.held(), write::boot_len(target.held()));
    started.map(Some).context("starting the shell that watches over the hooks")
}
