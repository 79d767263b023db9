// SPDX-License-Identifier: BSD-2-Clause
//! One examined image onto one disk.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::image_disk::ImageDisk;
use super::job::Job;
use super::seed_volume::Seed;
use super::summary::{Origin, Summary, seconds};
use super::verify_image::{Proof, WrongImage};
use super::watch::{Counted, Watch};
use crate::disk::device::{FileBytes, MemoryDisk, Sentinel, Target};
use crate::disk::fingerprint::Fingerprint;
use crate::disk::partition::{self, ImageExtent, Incomplete};
use crate::disk::write::{self, BootArea, DiskWriter, QemuDisk, WriteOptions};
use crate::image::disk_size::DiskSize;
use crate::image::source::{Body, Contents, ImageFile, Packed};
use crate::image::spool;
use crate::install::hooks;
use crate::node::run::Run;
use crate::node::size::ByteSize;
use crate::store::cache::Cache;

/// A SHA-256 in hex.
const SHA256_DIGITS: usize = 64;

/// What every step of an installation needs.
#[derive(Clone, Copy)]
pub(super) struct Work<'j> {
    pub(super) job: &'j Job,
    pub(super) target: &'j Target,
    pub(super) run: &'j Run,
    pub(super) seed: Option<&'j Seed<'j>>,
}

/// An image whose bytes are on the disk, but which can't boot yet.
pub(super) struct Copied<'j> {
    work: Work<'j>,
    writer: DiskWriter<'j>,
    /// Size of the disk in the image, in bytes.
    len: u64,
    by_qemu: bool,
    started: Instant,
    watch: Watch,
}

/// An image of which all but the boot area is on the disk, on stable storage, and which passed every check.
pub(super) struct Installed<'j> {
    boot: BootArea<'j>,
    summary: Summary,
    /// The image's SHA-256 in hex digits, where it is known.
    sha256: Option<String>,
}

/// Examines and checks the image, and makes the disk it but for the boot area. What has to be read for the check is read while a new
/// instance's disk is written, which can't boot before the check has held. A reinstall checks first. Either way what was
/// read for the check is compared with what was read to be written.
pub(super) fn install_checked<'j>(image: &ImageFile, proof: &Proof, work: &Work<'j>) -> anyhow::Result<Installed<'j>> {
    let passes = proof.reads(image).then(Passes::new).transpose()?;
    let (checked, written) = passes.as_ref().map(|passes| (&passes.checked, &passes.written)).unzip();
    let at_once = work.job.reinstall || passes.is_none();
    if at_once {
        proof.check(image, checked, work.run)?;
    }
    let contents = image.contents(work.job.expected, written)?;
    let size = contents.body.disk_size().least();
    size.map_or(Ok(()), |size| write::check_fits(size, work.target)).with_context(|| installing(image))?;
    // qemu-img reads the file itself: of that, the file's times have to tell.
    let compares = !matches!(contents.body, Body::QemuFile(..));
    let copied = if at_once {
        copy(contents, work, written.map(AsRef::as_ref))
    } else {
        thread::scope(|scope| {
            let checking = scope.spawn(|| proof.check(image, checked, work.run));
            let copied = copy(contents, work, written.map(AsRef::as_ref));
            checking.join().unwrap_or_else(|_panic| Err(died(image))).map(|()| copied)
        })?
    };
    let copied = copied.with_context(|| installing(image))?;
    if passes.is_some_and(|passes| compares && !passes.checked.matches(&passes.written)) {
        return Err(WrongImage::Changed(image.name().to_owned()).into());
    }
    copied.finish().with_context(|| installing(image))
}

/// What was seen of an image's file when it was checked, and when it was written.
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

fn installing(image: &ImageFile) -> String {
    format!("installing image {}", image.name())
}

fn died(image: &ImageFile) -> WrongImage {
    WrongImage::Read { image: image.name().to_owned(), source: io::Error::other("the checking thread died") }
}

/// Copies all of the image; what does not fit is refused before the disk is touched, where its size is known.
/// A file that is the disk itself is noted in `seen`.
pub(super) fn copy<'j>(
    contents: Contents<'_>,
    work: &Work<'j>,
    seen: Option<&Fingerprint>,
) -> anyhow::Result<Copied<'j>> {
    let Work { job, target, run, seed } = *work;
    let Contents { image_type, body } = contents;
    let size = body.disk_size();
    let known = size.least().map(|_| format!(", {size}")).unwrap_or_default();
    let fields = json!({ "image_type": image_type.to_string(), "bytes": size.least(), "disk_bytes": target.size() });
    let message = format_args!("image type {image_type}{known} for a disk of {}", ByteSize(target.size()));
    run.report.event("image", fields, message);
    size.least().map_or(Ok(()), |size| write::check_fits(size, target))?;
    let mut unpacked = None;
    let mut disk = ImageDisk::of(body, image_type.format.name(), &mut unpacked, work)?;
    disk.check_complete(size, work)?;
    seed.map_or(Ok(()), |seed| seed.check(&mut disk, target, &run.children))?;
    let (started, by_qemu) = (Instant::now(), matches!(disk, ImageDisk::Qemu(..)));
    let mut writer = DiskWriter::begin(target, job.write)?;
    let exact = if let DiskSize::Exact(size) = size { Some(size) } else { None };
    let (done, all) = (writer.done(), job.write.wipe.total(exact, target.size()));
    let watch = Watch::start(run, "writing", move || (done.load(Ordering::Relaxed), all));
    let len = match disk {
        ImageDisk::RawFile(file, len) => write::raw_file(file, len, &writer, seen).map(|()| len)?,
        ImageDisk::RawStream(mut decoded) => write::stream(&mut *decoded, &writer)?,
        ImageDisk::Qemu(file, driver, size) => {
            write::convert(file, driver, size, &mut writer, &run.children).map(|()| size)?
        }
    };
    if job.write.verify_readback {
        run.report.event("readback", json!({}), "reading the disk back");
    }
    Ok(Copied { work: *work, writer, len, by_qemu, started, watch })
}

impl<'f> ImageDisk<'f> {
    /// What qemu-img has to seek in is unpacked first.
    fn of(
        body: Body<'f>,
        driver: &'static str,
        unpacked: &'f mut Option<File>,
        work: &Work<'_>,
    ) -> anyhow::Result<Self> {
        Ok(match body {
            Body::RawFile(file, len) => ImageDisk::RawFile(file, len),
            Body::RawStream(decoded, _) => ImageDisk::RawStream(decoded),
            Body::QemuFile(file, size) => ImageDisk::Qemu(file, driver, size),
            Body::QemuStream(packed) => {
                let (file, size) = unpack(packed, work)?;
                ImageDisk::Qemu(unpacked.insert(file), driver, size)
            }
        })
    }
}

impl ImageDisk<'_> {
    /// An error if the image says itself that it is larger, as far as that shows before anything is written. All of it
    /// is looked at when it is on the disk, which can't boot then; but the system of a reinstalled one is gone.
    fn check_complete(&mut self, size: DiskSize, work: &Work<'_>) -> anyhow::Result<()> {
        match (&*self, size) {
            (ImageDisk::RawFile(file, len), _) => {
                partition::check_complete(&FileBytes::new(file, *len), extent(*len, work))?;
            }
            (ImageDisk::Qemu(file, driver, len), _) if work.job.reinstall => {
                let disk = QemuDisk::open(file, driver, *len, &work.run.children)?;
                partition::check_complete(&disk, extent(*len, work))?;
            }
            (ImageDisk::RawStream(_), DiskSize::Exact(len)) if work.job.reinstall => {
                partition::check_complete(&MemoryDisk(self.beginning(&work.run.children)?), extent(len, work))?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// What has room: an image of `len` bytes on the job's disk.
fn extent(len: u64, work: &Work<'_>) -> ImageExtent {
    ImageExtent { image: len, disk: Some(work.target.size()), mbr_tolerance: work.job.expected.mbr_tolerance }
}

/// Unpacks and checks an image in which qemu-img has to seek; gives it, and the size in bytes of the disk in it. The
/// disk has not been touched for it yet.
fn unpack(mut packed: Packed<'_>, work: &Work<'_>) -> anyhow::Result<(File, u64)> {
    let cache = Cache::open(&work.job.cache)?;
    let mut bytes = Counted::new(&mut *packed.bytes);
    let done = bytes.done();
    let watch = Watch::start(work.run, "unpacking", move || (done.load(Ordering::Relaxed), None));
    let file = spool::unpack(&mut bytes, cache.dir(), work.target.size())?;
    drop(watch);
    let size = packed.check(&file)?;
    write::check_fits(size, work.target)?;
    Ok((file, size))
}

impl<'j> Copied<'j> {
    /// Adds the seed, and puts all of it onto stable storage but the boot area.
    pub(super) fn finish(self) -> anyhow::Result<Installed<'j>> {
        let Work { target, run, seed, .. } = self.work;
        let extent = extent(self.len, &self.work);
        let mut whole = self.writer.fill(self.len, |whole| {
            partition::check_complete(whole, extent)?;
            let doubt = partition::missing_backup(whole, self.len).map_err(Incomplete::Read)?;
            doubt.iter().for_each(|doubt| run.report.warn(doubt));
            Ok(())
        })?;
        let written = (!self.by_qemu).then(|| whole.written());
        if let Some(seed) = seed {
            seed.write(&mut whole, target, run)?;
        }
        let boot = whole.sync()?;
        drop(self.watch);
        let writing = self.started.elapsed();
        let fields = json!({ "seconds": writing.as_secs_f64() });
        run.report.event("written", fields, format_args!("written and synced in {}", seconds(writing)));
        let summary = Summary { origin: Origin::Node, len: self.len, written, writing };
        Ok(Installed { boot, summary, sha256: None })
    }
}

impl<'j> Installed<'j> {
    /// For the process that commits it.
    /// `sha256` is the image's, in hex digits, where it is known.
    pub(super) fn to_bytes(&self, sha256: Option<&str>) -> Vec<u8> {
        let sha256 = format!("{:1$}", sha256.unwrap_or_default(), SHA256_DIGITS);
        [&self.summary.to_bytes(), sha256.as_bytes(), self.boot.bytes()].concat()
    }

    /// What another process made of the disk.
    pub(super) fn from_bytes(bytes: &[u8], target: &'j Target, options: WriteOptions) -> anyhow::Result<Self> {
        let (summary, rest) = Summary::split_from(bytes)?;
        let (sha256, boot) = rest.split_first_chunk::<SHA256_DIGITS>().context("the working process gave no answer")?;
        let sha256 = String::from_utf8_lossy(sha256).trim_end().to_owned();
        let boot = BootArea::from_bytes(target, boot, options);
        Ok(Installed { boot, summary, sha256: Some(sha256).filter(|digits| !digits.is_empty()) })
    }

    /// What the cache had to do with it.
    pub(super) fn with_cache(mut self, hit: bool) -> Self {
        self.summary.origin = if hit { Origin::Cache } else { Origin::Download };
        self
    }

    /// What was done.
    pub(super) fn summary(&self) -> Summary {
        self.summary
    }

    /// The image's, in hex digits, where it is known.
    pub(super) fn sha256(&self) -> Option<&str> {
        self.sha256.as_deref()
    }

    /// Makes the disk bootable. Until the hooks have run, a signal makes it unbootable again.
    pub(super) fn commit(self, work: &Work<'_>) -> anyhow::Result<()> {
        let Work { target, run, .. } = *work;
        // All of it would go to one that nobody starts.
        let path = target.path();
        ensure!(target.is_same_file(path), "disk {} was replaced by another one while it was written", path.display());
        let boot = self.boot;
        let (disk, report) = (Arc::clone(target.held()), run.report.clone());
        let sentinel = sentinel(work)?;
        let undo = move || {
            if let Err(err) = write::make_unbootable(&disk) {
                report.warn(format_args!("the disk may boot though its hooks did not run to their end: {err}"));
            }
            drop(sentinel);
        };
        let committed = run.signal_cleanup.after(|| boot.commit(), undo);
        if committed.is_err() {
            run.signal_cleanup.clear();
        }
        committed?;
        let len = self.summary.len;
        let message = format_args!("the image is on the disk: {}", ByteSize(len));
        run.report.event("installed", json!({ "bytes": len }), message);
        Ok(())
    }
}

/// Undoes the last step should SIGKILL end this process before the hooks have run; without hooks nothing is missing.
fn sentinel(work: &Work<'_>) -> anyhow::Result<Option<Sentinel>> {
    let Work { job, target, .. } = *work;
    // A folder that can't be looked at is an error soon.
    if !job.hooks.as_ref().is_some_and(|plan| hooks::present(&plan.folder).unwrap_or(true)) {
        return Ok(None);
    }
    let started = Sentinel::start(target.held(), write::boot_len(target.held()));
    started.map(Some).context("starting the shell that watches over the hooks")
}
