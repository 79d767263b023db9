// SPDX-License-Identifier: BSD-2-Clause
//! The copy engine writes the bytes and zero runs of an image to the target, and the boot area last.
//!
//! It promises two things. Afterwards every byte of the disk is either the image's or zero, whatever was there before,
//! except where [`Wipe`] leaves old bytes after the end of the image. And until all of that is on stable storage, the
//! first MiB reads zero, so that a half-written disk never boots.
//!
//! The first MiB holds every boot sector, partition table and primary GPT. It is zeroed and synced before anything else
//! is written, and it is written when everything else is on stable storage. Its own first 4 KiB come last, because one
//! block gets onto the disk as a whole or not at all. So a run that ends in between, even by SIGKILL or a power cut,
//! leaves a disk that does not boot. If the last step fails, the first MiB is zeroed again.

mod dump;
mod extents;
mod pending;
mod qemu_img;
mod raw_file;
mod readback;
mod stream;
mod wipe;
mod writer;

pub(crate) use dump::dump;
pub(crate) use extents::{Extent, Extents, decoded_extents};
pub use pending::PendingDisk;
pub use qemu_img::{QemuDisk, convert};
pub use raw_file::raw_file;
pub use stream::stream;
pub use wipe::Wipe;
pub use writer::DiskWriter;
pub(crate) use writer::Written;

use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use crate::disk::device::{HeldDisk, Target, write_whole_pages};
use crate::disk::partition::Incomplete;
use crate::node::size::ByteSize;

/// The length in bytes of the start of the disk that is written last. It holds every boot sector, partition table and
/// primary GPT.
const BOOT_AREA: usize = 1 << 20;

/// The number of threads that read, or read and write. Two threads keep a disk busy.
const THREADS: usize = 2;

/// Why an image is not on the disk.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Writing failed.
    #[error("writing to disk {path}", path = path.display())]
    Disk {
        /// The path of the disk.
        path: PathBuf,
        /// The error of the kernel.
        source: io::Error,
    },
    /// The disk can't be read back.
    #[error("reading disk {path} back at byte {offset}", path = path.display())]
    ReadBack {
        /// The path of the disk.
        path: PathBuf,
        /// The place on the disk in bytes.
        offset: u64,
        /// The error of the kernel.
        source: io::Error,
    },
    /// The disk returns other bytes than were written.
    #[error(
        "disk {path} reads back other data than was written: bytes {first} to {last} ({what}) differ (its storage is at fault: see the kernel's log, and use another disk or node)",
        path = path.display()
    )]
    Differs {
        /// The path of the disk.
        path: PathBuf,
        /// The first byte of the piece that differs.
        first: u64,
        /// The last byte of the piece.
        last: u64,
        /// The name of the part of the disk that the piece belongs to.
        what: &'static str,
    },
    /// The image's bytes could not be read or decoded.
    #[error("{0}")]
    Image(io::Error),
    /// The size of the image is known, and the disk is smaller.
    #[error("the image needs {image} but disk {path} has {disk} (use a larger disk)", path = path.display())]
    TooSmall {
        /// The size of the image.
        image: ByteSize,
        /// The size of the disk.
        disk: ByteSize,
        /// The path of the disk.
        path: PathBuf,
    },
    /// A stream of unknown length is longer than the disk.
    #[error("the image is larger than disk {path}, which has {disk} (use a larger disk)", path = path.display())]
    TooLong {
        /// The size of the disk.
        disk: ByteSize,
        /// The path of the disk.
        path: PathBuf,
    },
    /// The file of the image became shorter.
    #[error("the image became shorter while it was read (is somebody writing a new one there?)")]
    Shrunk,
    /// The tables of the image say that it is longer.
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
    /// The image has no bytes.
    #[error("the image is empty")]
    Empty,
    /// qemu-img failed.
    #[error("{0}")]
    QemuImg(String),
    /// The last step failed, and the boot area could not be zeroed again.
    #[error("the disk may boot though this failed (zero its first MiB)")]
    MayBoot(#[source] Box<WriteError>),
}

/// How carefully a disk is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// The part of the disk after the end of the image that is zeroed.
    pub wipe: Wipe,
    /// Whether everything that was written is read back and compared before the disk can boot.
    pub verify_readback: bool,
}

fn disk_error(path: &Path, source: io::Error) -> WriteError {
    WriteError::Disk { path: path.to_owned(), source }
}

/// Returns the length in bytes of the start of the disk that keeps it from booting while it is zero.
pub(crate) fn boot_len(disk: &HeldDisk) -> usize {
    usize::try_from(disk.size()).unwrap_or(BOOT_AREA).min(BOOT_AREA)
}

/// Makes a disk unbootable by zeroing its first MiB, on stable storage.
pub(crate) fn make_unbootable(disk: &HeldDisk) -> Result<(), WriteError> {
    if disk.is_unbootable() {
        return Ok(());
    }
    let zeros = vec![0; boot_len(disk)];
    let wiped = write_whole_pages(disk.file(), &zeros, 0).and_then(|()| disk.file().sync_all());
    wiped.map_err(|err| disk_error(disk.path(), err))?;
    disk.set_unbootable(true);
    Ok(())
}

/// Makes the whole disk read zero, on stable storage, and reads it back if `options` say so.
pub(crate) fn zero_all(target: &Target, options: WriteOptions) -> Result<(), WriteError> {
    let zeroed = target.zero(0, target.size()).and_then(|()| target.sync()).and_then(|()| target.check_size());
    zeroed.map_err(|err| disk_error(target.path(), err))?;
    if options.verify_readback { readback::check_zeros(target, 0..target.size(), "zeros") } else { Ok(()) }
}

/// Fails if an image of `len` bytes does not fit onto the disk.
pub(crate) fn check_fits(len: u64, target: &Target) -> Result<(), WriteError> {
    if len > target.size() {
        let (image, disk) = (ByteSize(len), ByteSize(target.size()));
        return Err(WriteError::TooSmall { image, disk, path: target.path().to_owned() });
    }
    Ok(())
}

/// Does `work` in some threads and returns the first error. `died` describes a thread that panicked.
fn in_threads(threads: usize, died: &str, work: impl Fn() -> Result<(), WriteError> + Sync) -> Result<(), WriteError> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
        let results = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_panic| Err(WriteError::Image(io::Error::other(died)))));
        // All threads are joined before the first error is returned.
        results.collect::<Vec<_>>().into_iter().collect()
    })
}
