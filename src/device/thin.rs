// SPDX-License-Identifier: BSD-2-Clause
//! Thin volumes of the device mapper (LVM): their chunks are handed out by a pool when they are first written, zeros too.
//!
//! So whole chunks are given back to the pool, read, and written only where they are not zero then: an external origin
//! below the volume, or a pool that takes nothing back. What was given back reads as zeros, and stays so: the next chunk
//! that the pool hands out is zeroed by it first. Of a pool that was told not to do that (lvcreate -Zn) a chunk holds
//! whatever it held as soon as one byte of it is written, so nothing is left out there.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

use super::AlignedBuf;
use super::layers;
use crate::size::MIB;
use crate::sys;

/// Sectors of the device mapper, in bytes.
const SECTOR: u64 = 512;

/// What settling does to a volume.
pub(super) trait Volume {
    /// Gives a range back to the pool.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Reads what the volume itself holds.
    fn read(&self, buffer: &mut AlignedBuf, offset: u64, len: usize) -> io::Result<()>;
    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// A thin volume whose pool zeroes what it hands out.
#[derive(Debug)]
pub(super) struct Thin {
    /// What the pool hands out at once, in bytes.
    chunk: u64,
    discards_work: AtomicBool,
}

impl Thin {
    /// What the device mapper says of the device; none if it is nothing of that kind, or nobody can tell.
    pub(super) fn of(device: &File) -> Option<Self> {
        let data = device.metadata().ok().filter(|data| data.file_type().is_block_device())?;
        layers::attribute(data.rdev(), "dm/name")?;
        let volume = sys::mapper_target(data.rdev()).ok().flatten().filter(|target| target.kind == "thin")?;
        let pool = layers::device_number(volume.parameters.split(' ').next()?)?;
        let pool = sys::mapper_target(pool).ok().flatten().filter(|target| target.kind == "thin-pool")?;
        Self::of_pool(&pool.parameters)
    }

    /// Of a pool with these parameters (Documentation/admin-guide/device-mapper/thin-provisioning.rst): devices of the
    /// metadata and of the data, sectors of a chunk, a watermark, number of features, features.
    fn of_pool(parameters: &str) -> Option<Self> {
        let mut fields = parameters.split(' ').skip(2);
        let chunk = fields.next()?.parse::<u64>().ok()?.checked_mul(SECTOR).filter(|chunk| *chunk > 0)?;
        let zeroes = fields.all(|feature| feature != "skip_block_zeroing");
        zeroes.then(|| Thin { chunk, discards_work: AtomicBool::new(true) })
    }

    /// The chunks of which all lies in `range`; what is behind the end of a volume of `size` bytes counts as in it.
    pub(super) fn whole_chunks(&self, range: Range<u64>, size: u64) -> Range<u64> {
        let start = range.start.next_multiple_of(self.chunk).min(range.end);
        let end = if range.end == size { size } else { range.end - range.end % self.chunk };
        start..end.max(start)
    }

    /// At least `step` bytes in whole chunks.
    pub(super) fn step(&self, step: u64) -> u64 {
        step.next_multiple_of(self.chunk)
    }

    /// Makes whole chunks read zero.
    pub(super) fn settle(&self, volume: &impl Volume, range: Range<u64>) -> io::Result<()> {
        if self.discards_work.load(Ordering::Relaxed) {
            match volume.discard(range.start, range.end - range.start) {
                Err(err) if err.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
                    self.discards_work.store(false, Ordering::Relaxed);
                }
                done => done?,
            }
        }
        let mut buffer = AlignedBuf::new(usize::try_from(MIB.min(range.end - range.start)).map_err(io::Error::other)?);
        let mut at = range.start;
        while at < range.end {
            let len = buffer.len().min(usize::try_from(range.end - at).unwrap_or(usize::MAX));
            volume.read(&mut buffer, at, len)?;
            if let Some(first) = buffer[..len].iter().position(|byte| *byte != 0) {
                let last = buffer[..len].iter().rposition(|byte| *byte != 0).unwrap_or(first);
                // Whole sectors, from the first that holds something to the last.
                let start = first as u64 - first as u64 % SECTOR;
                let end = (last as u64 + 1).next_multiple_of(SECTOR).min(len as u64);
                volume.write_zeros(at + start, end - start)?;
            }
            at += len as u64;
        }
        Ok(())
    }
}
