// SPDX-License-Identifier: BSD-2-Clause
//! The copy engine: an image's bytes and zero runs onto the target, the boot area last.
//!
//! Its promises: afterwards every byte of the disk is the image's or zero, whatever was there before; until all of it
//! is on stable storage the first MiB reads zero, so that a half-written disk never boots.

mod convert;
mod dump;
mod gpt;
mod sparse;
mod stream;
mod zeros;

pub use convert::{head as qcow2_head, qcow2};
pub use dump::{DumpError, dump};
pub use sparse::raw_file;
pub use stream::stream;

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::device::{AlignedBuf, HeldDisk, ReadAt, Target, WriteAt};
use crate::size::ByteSize;

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
    /// Not a byte came.
    #[error("the image is empty")]
    Empty,
    /// qemu-img failed.
    #[error("{0}")]
    QemuImg(String),
}

/// One image on its way onto one disk. Shared by the threads that write.
pub struct DiskWriter<'t> {
    target: &'t Target,
    boot: Mutex<AlignedBuf>,
}

impl<'t> DiskWriter<'t> {
    /// Zeroes the boot area and sees to it that the zeros are on stable storage before anything else is written.
    pub fn begin(target: &'t Target) -> Result<Self, WriteError> {
        let boot = AlignedBuf::new(BOOT_AREA.min(usize::try_from(target.size()).unwrap_or(BOOT_AREA)));
        invalidate(target.held())?;
        Ok(DiskWriter { target, boot: Mutex::new(boot) })
    }

    /// The disk that is written.
    pub fn target(&self) -> &'t Target {
        self.target
    }

    /// The image's bytes at `offset`. Data for the boot area is kept back until [`BootArea::commit`].
    fn data(&self, data: &[u8], offset: u64) -> Result<(), WriteError> {
        let in_boot = usize::try_from(self.boot_len().saturating_sub(offset)).unwrap_or(BOOT_AREA).min(data.len());
        let (boot, rest) = data.split_at(in_boot);
        if !boot.is_empty() {
            // In the boot area, so it fits a usize.
            let at = usize::try_from(offset).unwrap_or(BOOT_AREA);
            self.boot.lock().unwrap_or_else(PoisonError::into_inner)[at..at + in_boot].copy_from_slice(boot);
        }
        if rest.is_empty() {
            return Ok(());
        }
        self.target.write_at(rest, offset + in_boot as u64).map_err(|err| self.disk_error(err))
    }

    /// A run of zeros of the image. The boot area is zero already.
    fn zero(&self, offset: u64, len: u64) -> Result<(), WriteError> {
        let start = offset.max(self.boot_len());
        let end = (offset + len).max(start);
        self.target.zero(start, end - start).map_err(|err| self.disk_error(err))
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

    /// The image has ended after `image_len` bytes: zeroes the rest of the disk, and moves the GPT's backup to the disk's
    /// end.
    pub fn fill(self, image_len: u64) -> Result<Whole<'t>, WriteError> {
        if image_len == 0 {
            return Err(WriteError::Empty);
        }
        check_fits(image_len, self.target)?;
        self.zero(image_len, self.target.size() - image_len)?;
        let boot =
            std::mem::replace(&mut *self.boot.lock().unwrap_or_else(PoisonError::into_inner), AlignedBuf::new(0));
        let mut whole = Whole { target: self.target, boot };
        gpt::move_backup(&mut whole, image_len).map_err(|err| self.disk_error(err))?;
        Ok(whole)
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
pub struct Whole<'t> {
    target: &'t Target,
    boot: AlignedBuf,
}

impl<'t> Whole<'t> {
    /// Puts all of it but the boot area onto stable storage. Then only that is missing.
    pub fn sync(self) -> Result<BootArea<'t>, WriteError> {
        let Whole { target, boot } = self;
        target.sync().map_err(|err| disk_error(target.path(), err))?;
        Ok(BootArea { target, bytes: boot })
    }

    fn zero(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let (at, in_boot) = self.in_boot(usize::try_from(len).map_err(io::Error::other)?, offset);
        self.boot[at..at + in_boot].fill(0);
        self.target.zero(offset + in_boot as u64, len - in_boot as u64)
    }

    /// How many of `len` bytes at `offset` lie in the boot area, and where there.
    fn in_boot(&self, len: usize, offset: u64) -> (usize, usize) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX).min(self.boot.len());
        (at, (self.boot.len() - at).min(len))
    }
}

impl ReadAt for Whole<'_> {
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

impl WriteAt for Whole<'_> {
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        let (at, in_boot) = self.in_boot(data.len(), offset);
        let (boot, rest) = data.split_at(in_boot);
        self.boot[at..at + in_boot].copy_from_slice(boot);
        if rest.is_empty() { Ok(()) } else { self.target.write_at(rest, offset + in_boot as u64) }
    }

    /// The order does not matter: without its boot area the disk is nothing yet.
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The last piece of an image.
#[must_use = "without it the disk can't boot"]
pub struct BootArea<'t> {
    target: &'t Target,
    bytes: AlignedBuf,
}

impl BootArea<'_> {
    /// Writes it. From now on the disk can boot.
    pub fn commit(self) -> Result<(), WriteError> {
        let BootArea { target, bytes } = self;
        target.held().set_unbootable(false);
        let written = target.write_at(&bytes, 0).and_then(|()| target.sync()).and_then(|()| target.check_size());
        written.map_err(|err| disk_error(target.path(), err))
    }
}

fn disk_error(path: &Path, source: io::Error) -> WriteError {
    WriteError::Disk { path: path.to_owned(), source }
}

/// Makes a disk unbootable: its first MiB reads zero, on stable storage.
pub fn invalidate(disk: &HeldDisk) -> Result<(), WriteError> {
    if disk.is_unbootable() {
        return Ok(());
    }
    let zeros = vec![0; usize::try_from(disk.size()).unwrap_or(BOOT_AREA).min(BOOT_AREA)];
    let wiped = disk.file().write_all_at(&zeros, 0).and_then(|()| disk.file().sync_all());
    wiped.map_err(|err| disk_error(disk.path(), err))?;
    disk.set_unbootable(true);
    Ok(())
}

/// An error unless an image of `len` bytes fits onto the disk.
pub fn check_fits(len: u64, target: &Target) -> Result<(), WriteError> {
    if len > target.size() {
        let (image, disk) = (ByteSize(len), ByteSize(target.size()));
        return Err(WriteError::TooSmall { image, disk, path: target.path().to_owned() });
    }
    Ok(())
}
