// SPDX-License-Identifier: BSD-2-Clause
//! The copy engine: an image's bytes and zero runs onto the target, the boot area last.
//!
//! Its promises: afterwards every byte of the disk is the image's or zero, whatever was there before (less behind the
//! image where a [`Wipe`] says so); until all of it is on stable storage the first MiB reads zero, so that a
//! half-written disk never boots.
//!
//! The first MiB holds every boot sector, partition table and primary GPT. It is zeroed and synced before anything
//! else is written, and it is written when all the rest is on stable storage. Its own first 4 KiB come last: they get
//! there as a whole or not at all. So a run that ends in between, by SIGKILL or a power cut too, leaves a disk that
//! does not boot. When the last step fails, the first MiB is zeroed again.

mod convert;
mod dump;
pub(crate) mod gpt;
mod readback;
mod sparse;
mod stream;
mod wipe;
mod zeros;

pub use convert::{QemuDisk, convert};
pub(crate) use dump::dump;
pub use sparse::raw_file;
pub use stream::stream;
pub use wipe::Wipe;

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::disk::device::{ALIGNMENT, AlignedBuf, HeldDisk, ReadAt, Target, WriteAt};
use crate::disk::partition::Incomplete;
use crate::node::size::ByteSize;

use convert::Converted;
use readback::Sums;

/// The start of the disk, written last: holds every boot sector, partition table and primary GPT there is.
const BOOT_AREA: usize = 1 << 20;

/// Why an image did not get onto the disk.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The disk failed.
    #[error("writing to disk {path}", path = path.display())]
    Disk {
        /// The disk.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The disk can't be read back.
    #[error("reading disk {path} back at byte {offset}", path = path.display())]
    ReadBack {
        /// The disk.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The disk gives other bytes than it was given.
    #[error(
        "disk {path} reads back other data than was written: bytes {first} to {last} ({what}) differ (its storage is at fault: see the kernel's log, and use another disk or node)",
        path = path.display()
    )]
    Differs {
        /// The disk.
        path: PathBuf,
        /// The first byte of the piece that differs.
        first: u64,
        /// Its last byte.
        last: u64,
        /// What the piece belongs to.
        what: &'static str,
    },
    /// The image's bytes could not be read or decoded.
    #[error("{0}")]
    Image(io::Error),
    /// The image, of known size, does not fit.
    #[error("the image needs {image} but disk {path} has {disk} (use a larger disk)", path = path.display())]
    TooSmall {
        /// What the image needs.
        image: ByteSize,
        /// The disk's size.
        disk: ByteSize,
        /// The disk.
        path: PathBuf,
    },
    /// A stream of unknown length went on behind the disk's end.
    #[error("the image is larger than disk {path}, which has {disk} (use a larger disk)", path = path.display())]
    TooLong {
        /// The disk's size.
        disk: ByteSize,
        /// The disk.
        path: PathBuf,
    },
    /// The image's file got shorter.
    #[error("the image became shorter while it was read (is somebody writing a new one there?)")]
    Shrunk,
    /// The image says itself that there is more of it.
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
    /// Not a byte came.
    #[error("the image is empty")]
    Empty,
    /// qemu-img failed.
    #[error("{0}")]
    QemuImg(String),
    /// The last step failed, and could not be undone.
    #[error("the disk may boot though this failed (zero its first MiB)")]
    MayBoot(#[source] Box<WriteError>),
}

/// How careful writing is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// What of the disk behind the image is zeroed.
    pub wipe: Wipe,
    /// Read back and compare all that was written, before the disk can boot.
    pub verify_readback: bool,
}

/// What the disk holds behind its boot area, as far as the image goes.
enum Expected {
    /// What was written here.
    Noted(Sums),
    /// What qemu-img has written.
    Converted(Converted),
}

/// How much of a disk was written, in bytes: an image's data, and zeros, those behind the image too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    /// Data.
    pub(crate) data: u64,
    /// Zeros, mostly written as ranges.
    pub(crate) zeros: u64,
}

/// One image on its way onto one disk. Shared by the threads that write.
pub struct DiskWriter<'t> {
    target: &'t Target,
    wipe: Wipe,
    boot: Mutex<AlignedBuf>,
    /// Only where the disk is read back.
    expected: Option<Expected>,
    data_written: AtomicU64,
    zeros_written: AtomicU64,
    done: Arc<AtomicU64>,
    started: Instant,
    /// Size of the disk in the image, in bytes, once all of it is written.
    image_len: u64,
    /// Whether qemu-img writes, of which nobody knows how much that is.
    by_qemu: bool,
}

impl<'t> DiskWriter<'t> {
    /// Zeroes the boot area and sees to it that the zeros are on stable storage before anything else is written.
    pub fn begin(target: &'t Target, options: WriteOptions) -> Result<Self, WriteError> {
        let started = Instant::now();
        let boot = AlignedBuf::new(BOOT_AREA.min(usize::try_from(target.size()).unwrap_or(BOOT_AREA)));
        make_unbootable(target.held())?;
        let expected = options.verify_readback.then(|| Expected::Noted(Sums::new(target.size())));
        Ok(DiskWriter {
            target,
            wipe: options.wipe,
            boot: Mutex::new(boot),
            expected,
            data_written: AtomicU64::new(0),
            zeros_written: AtomicU64::new(0),
            done: Arc::default(),
            started,
            image_len: 0,
            by_qemu: false,
        })
    }

    /// Size of the disk in the image, in bytes, once all of it is written.
    pub(crate) fn image_len(&self) -> u64 {
        self.image_len
    }

    /// How many bytes of the disk are what they are going to be, counted on while it is written: for those who watch.
    pub(crate) fn done(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.done)
    }

    /// The disk that is written.
    pub(crate) fn target(&self) -> &'t Target {
        self.target
    }

    /// The image's bytes at `offset`. Data for the boot area is kept back until [`PendingDisk::commit`].
    fn data(&self, data: &[u8], offset: u64) -> Result<(), WriteError> {
        self.data_written.fetch_add(data.len() as u64, Ordering::Relaxed);
        let in_boot = usize::try_from(self.boot_len().saturating_sub(offset)).unwrap_or(BOOT_AREA).min(data.len());
        let (boot, rest) = data.split_at(in_boot);
        if !boot.is_empty() {
            // In the boot area, so it fits a usize.
            let at = usize::try_from(offset).unwrap_or(BOOT_AREA);
            self.boot.lock().unwrap_or_else(PoisonError::into_inner)[at..at + in_boot].copy_from_slice(boot);
        }
        if !rest.is_empty() {
            let offset = offset + in_boot as u64;
            if let Some(Expected::Noted(sums)) = &self.expected {
                sums.note(rest, offset);
            }
            self.target.write_at(rest, offset).map_err(|err| self.disk_error(err))?;
        }
        self.done.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// A run of zeros of the image. The boot area is zero already.
    fn zero(&self, offset: u64, len: u64) -> Result<(), WriteError> {
        self.zeros_written.fetch_add(len, Ordering::Relaxed);
        let start = offset.max(self.boot_len());
        let end = (offset + len).max(start);
        self.target.zero(start, end - start).map_err(|err| self.disk_error(err))?;
        self.done.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    /// Data and zeros as they come in `data`, each zero run as a range.
    fn data_with_zeros(&self, data: &[u8], offset: u64) -> Result<(), WriteError> {
        for piece in zeros::split(data) {
            let at = offset + piece.range.start as u64;
            if piece.zero {
                self.zero(at, piece.range.len() as u64)?;
            } else {
                self.data(&data[piece.range], at)?;
            }
        }
        Ok(())
    }

    /// The image is written: zeroes what has to be of the rest of the disk, reads all that back where that was asked for,
    /// and moves the GPT's backup to the disk's end. Before that, `check` looks at the disk as the image has it.
    pub fn fill(
        self,
        check: impl FnOnce(&PendingDisk<'t>) -> Result<(), WriteError>,
    ) -> Result<PendingDisk<'t>, WriteError> {
        let DiskWriter { image_len, started, .. } = self;
        if image_len == 0 {
            return Err(WriteError::Empty);
        }
        check_fits(image_len, self.target)?;
        let wiped = self.wipe.ranges(image_len, self.target.size());
        wiped.iter().try_for_each(|range| self.zero(range.start, range.end - range.start))?;
        if let Some(expected) = &self.expected {
            self.read_back(expected, image_len, &wiped)?;
        }
        let boot =
            std::mem::replace(&mut *self.boot.lock().unwrap_or_else(PoisonError::into_inner), AlignedBuf::new(0));
        let count = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed);
        let written = Written { data: count(&self.data_written), zeros: count(&self.zeros_written) };
        let written = (!self.by_qemu).then_some(written);
        let noted = self.expected.as_ref().map(|_| Vec::new());
        let mut pending = PendingDisk { target: self.target, boot, noted, image_len, written, started };
        check(&pending)?;
        // Only now: the old backup is a part of the image, which was just compared.
        gpt::move_backup(&mut pending, image_len).map_err(|err| self.disk_error(err))?;
        Ok(pending)
    }

    /// Compares all behind the boot area that was written so far.
    fn read_back(&self, expected: &Expected, image_len: u64, wiped: &[Range<u64>]) -> Result<(), WriteError> {
        self.target.sync().map_err(|err| self.disk_error(err))?;
        let boot_len = self.boot_len();
        match expected {
            Expected::Noted(sums) => sums.check(self.target, boot_len..image_len)?,
            Expected::Converted(image) => image.check(self.target)?,
        }
        let zeros = |range: &Range<u64>| range.start.max(boot_len)..range.end;
        wiped.iter().try_for_each(|range| readback::check_zeros(self.target, zeros(range), "zeros behind the image"))
    }

    fn boot_len(&self) -> u64 {
        self.target.size().min(BOOT_AREA as u64)
    }

    fn disk_error(&self, source: io::Error) -> WriteError {
        disk_error(self.target.path(), source)
    }
}

/// A disk with all of an image, of which the boot area is still in memory. It reads and changes as the one disk that it
/// is going to be.
#[must_use = "without it the disk can't boot"]
pub struct PendingDisk<'t> {
    target: &'t Target,
    boot: AlignedBuf,
    /// What was written behind the boot area since the image was there; only where the disk is read back.
    noted: Option<Vec<Noted>>,
    image_len: u64,
    written: Option<Written>,
    started: Instant,
}

/// Bytes that shall be on the disk.
struct Noted {
    /// Where, in bytes.
    offset: u64,
    bytes: Vec<u8>,
}

impl<'t> PendingDisk<'t> {
    /// Size of the disk in the image, in bytes.
    pub(crate) fn image_len(&self) -> u64 {
        self.image_len
    }

    /// How much was written; none where qemu-img wrote it.
    pub(crate) fn written(&self) -> Option<Written> {
        self.written
    }

    /// When the first byte was written.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The bytes of the boot area, for the process that commits the disk.
    pub(crate) fn boot_area(&self) -> &[u8] {
        &self.boot
    }

    /// A disk of which another process wrote all but the boot area, and put it onto stable storage.
    pub(crate) fn from_boot_area(target: &'t Target, bytes: &[u8], image_len: u64, options: WriteOptions) -> Self {
        let mut boot = AlignedBuf::new(bytes.len());
        boot.copy_from_slice(bytes);
        let noted = options.verify_readback.then(Vec::new);
        PendingDisk { target, boot, noted, image_len, written: None, started: Instant::now() }
    }

    /// Puts all of it but the boot area onto stable storage.
    pub fn sync(mut self) -> Result<Self, WriteError> {
        let target = self.target;
        target.sync().map_err(|err| disk_error(target.path(), err))?;
        // What was written over later has to be there now.
        let mut noted = self.noted.as_mut().map(std::mem::take).unwrap_or_default();
        for at in 0..noted.len() {
            let (earlier, later) = noted.split_at_mut(at + 1);
            let Noted { offset, bytes } = &mut earlier[at];
            later.iter().for_each(|over| overlay(bytes, *offset, over));
            readback::check_bytes(target, bytes, *offset, "what was added to the image")?;
        }
        Ok(self)
    }

    /// Writes the boot area of a disk that was synced, its first block last: that block alone makes a boot sector or a
    /// partition table, and it gets onto the disk as a whole or not at all. From now on the disk can boot. After an error
    /// it can't.
    pub fn commit(self) -> Result<(), WriteError> {
        self.write_boot_area().and_then(|()| self.check_boot_area()).map_err(|err| {
            match make_unbootable(self.target.held()) {
                Ok(()) => err,
                Err(_) => WriteError::MayBoot(Box::new(err)),
            }
        })
    }

    fn write_boot_area(&self) -> Result<(), WriteError> {
        let target = self.target;
        let (first, rest) = self.boot.split_at(ALIGNMENT.min(self.boot.len()));
        target.held().set_unbootable(false);
        let write = |data, offset| target.write_at(data, offset).and_then(|()| target.sync());
        let written = target.check_size().and_then(|()| write(rest, first.len() as u64)).and_then(|()| write(first, 0));
        written.map_err(|err| disk_error(target.path(), err))
    }

    fn check_boot_area(&self) -> Result<(), WriteError> {
        match self.noted {
            Some(_) => readback::check_bytes(self.target, &self.boot, 0, "the boot area"),
            None => Ok(()),
        }
    }

    fn zero(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let (at, in_boot) = self.in_boot(len, offset);
        self.boot[at..at + in_boot].fill(0);
        let (offset, len) = (offset + in_boot as u64, len - in_boot);
        if let Some(noted) = &mut self.noted {
            noted.push(Noted { offset, bytes: vec![0; len] });
        }
        self.target.zero(offset, len as u64)
    }

    /// How many of `len` bytes at `offset` lie in the boot area, and where there.
    fn in_boot(&self, len: usize, offset: u64) -> (usize, usize) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX).min(self.boot.len());
        (at, (self.boot.len() - at).min(len))
    }
}

impl ReadAt for PendingDisk<'_> {
    fn len(&self) -> u64 {
        self.target.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let (at, in_boot) = self.in_boot(buf.len(), offset);
        let (boot, rest) = buf.split_at_mut(in_boot);
        boot.copy_from_slice(&self.boot[at..at + in_boot]);
        if rest.is_empty() { Ok(()) } else { self.target.read_at(rest, offset + in_boot as u64) }
    }
}

impl WriteAt for PendingDisk<'_> {
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        let (at, in_boot) = self.in_boot(data.len(), offset);
        let (boot, rest) = data.split_at(in_boot);
        self.boot[at..at + in_boot].copy_from_slice(boot);
        if rest.is_empty() {
            return Ok(());
        }
        let offset = offset + in_boot as u64;
        if let Some(noted) = &mut self.noted {
            noted.push(Noted { offset, bytes: rest.to_vec() });
        }
        self.target.write_at(rest, offset)
    }

    /// The order does not matter: without its boot area the disk is nothing yet.
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Puts what `over` says of them onto `bytes`, which lie at `offset`.
fn overlay(bytes: &mut [u8], offset: u64, over: &Noted) {
    let (end, over_end) = (offset + bytes.len() as u64, over.offset + over.bytes.len() as u64);
    let (start, end) = (offset.max(over.offset), end.min(over_end));
    if start < end {
        // Both lie in their slices, so they fit a usize.
        let index = |at: u64, base: u64| usize::try_from(at - base).unwrap_or(usize::MAX);
        let from = &over.bytes[index(start, over.offset)..index(end, over.offset)];
        bytes[index(start, offset)..index(end, offset)].copy_from_slice(from);
    }
}

fn disk_error(path: &Path, source: io::Error) -> WriteError {
    WriteError::Disk { path: path.to_owned(), source }
}

/// Bytes of the disk that keep it from booting while they are zero.
pub(crate) fn boot_len(disk: &HeldDisk) -> usize {
    usize::try_from(disk.size()).unwrap_or(BOOT_AREA).min(BOOT_AREA)
}

/// Makes a disk unbootable: its first MiB reads zero, on stable storage.
pub(crate) fn make_unbootable(disk: &HeldDisk) -> Result<(), WriteError> {
    if disk.is_unbootable() {
        return Ok(());
    }
    let zeros = vec![0; boot_len(disk)];
    let wiped = disk.file().write_all_at(&zeros, 0).and_then(|()| disk.file().sync_all());
    wiped.map_err(|err| disk_error(disk.path(), err))?;
    disk.set_unbootable(true);
    Ok(())
}

/// Makes all of a disk read zero, on stable storage; it is read back where that is asked for.
pub(crate) fn zero_all(target: &Target, options: WriteOptions) -> Result<(), WriteError> {
    let zeroed = target.zero(0, target.size()).and_then(|()| target.sync()).and_then(|()| target.check_size());
    zeroed.map_err(|err| disk_error(target.path(), err))?;
    if options.verify_readback { readback::check_zeros(target, 0..target.size(), "zeros") } else { Ok(()) }
}

/// An error unless an image of `len` bytes fits onto the disk.
pub(crate) fn check_fits(len: u64, target: &Target) -> Result<(), WriteError> {
    if len > target.size() {
        let (image, disk) = (ByteSize(len), ByteSize(target.size()));
        return Err(WriteError::TooSmall { image, disk, path: target.path().to_owned() });
    }
    Ok(())
}
