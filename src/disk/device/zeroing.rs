// SPDX-License-Identifier: BSD-2-Clause
//! Makes ranges of a disk read zero.
//!
//! Ganeti does not wipe new volumes by default, so bytes that are not written may be another tenant's data. So a run of
//! zeros is never skipped in the hope that the disk is already zero there. The first of these ways that works is used:
//! punching a hole, also in devices (WRITE ZEROES, which may give space back); BLKZEROOUT; writing zeros.
//!
//! A device that can discard but has no command for zeros, mostly a cheap SSD, may give old data back after a power
//! cut, so zeros are written to it. They are also written to a disk that can do neither, because reading it first would
//! cost as much.

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::thin::{ThinVolume, Volume};
use super::{AlignedBuf, DirectReader, DiskKind, Target, layers};
use crate::node::size::MIB;
use crate::node::sys;

/// The smallest and the largest number of bytes of one zeroing call.
const STEPS: RangeInclusive<u64> = MIB..=64 * MIB;

/// The number of bytes of the first call. The next ones are longer or shorter, depending on the speed of the disk.
const FIRST_STEP: u64 = 4 * MIB;

/// How long a zeroing call should take at most. Nothing can interrupt it, so a signal has to wait for it. On a disk of
/// 20 MB/s, SIGTERM took 3.2 s with calls of 64 MiB.
const TIME: Duration = Duration::from_millis(100);

/// The ways of zeroing that a disk offers. The first one that works is used, because each costs less time and space
/// than the next.
#[derive(Debug)]
pub(super) struct Zeroing {
    /// Calls have to begin and end on multiples of this number, in bytes.
    sector: u64,
    /// The pool of this thin volume returns zeros for chunks that are not allocated.
    thin: Option<ThinVolume>,
    /// Whether holes can be punched into the file, or into a device that guarantees zeros afterwards.
    holes_work: AtomicBool,
    /// Whether the kernel can zero a range of the device. It writes zeros if the device has no command for that.
    ranges_work: AtomicBool,
    /// The number of bytes of the next call.
    step: AtomicU64,
}

impl Zeroing {
    pub(super) fn of(file: &File, kind: DiskKind) -> io::Result<Self> {
        let is_block = kind == DiskKind::Block;
        Ok(Zeroing {
            sector: if is_block { sys::sector_size(file)? } else { 1 },
            thin: if is_block { ThinVolume::of(file) } else { None },
            holes_work: AtomicBool::new(true),
            ranges_work: AtomicBool::new(is_block),
            step: FIRST_STEP.into(),
        })
    }

    /// Makes `len` bytes at `offset` read zero.
    pub(super) fn zero(&self, target: &Target, offset: u64, len: u64) -> io::Result<()> {
        let range = offset..offset + len;
        let Some(thin) = &self.thin else { return self.zero_sectors(target, range.start, range.end) };
        // A chunk that also holds data is allocated anyway, so zeros are written into it.
        let chunks = thin.whole_chunks(range.clone(), target.size());
        self.write_zeros(target, range.start, chunks.start)?;
        self.in_steps(
            chunks.start,
            chunks.end,
            |step| thin.round_up(step),
            |at, len| thin.zero_chunks(target, at..at + len),
        )?;
        self.write_zeros(target, chunks.end, range.end)
    }

    /// Returns whether zeroing the whole disk costs next to nothing.
    pub(super) fn is_cheap(&self, target: &Target) -> bool {
        if target.kind() == DiskKind::File {
            return self.holes_work.load(Ordering::Relaxed);
        }
        let number = target.file().metadata().map(|data| data.rdev());
        let limit = || layers::attribute(number.ok()?, "queue/write_zeroes_max_bytes")?.parse::<u64>().ok();
        self.thin.is_some() || limit().is_some_and(|bytes| bytes > 0)
    }

    /// Zeroes whole sectors by range, and writes zeros to the parts of sectors at both ends.
    fn zero_sectors(&self, target: &Target, start: u64, end: u64) -> io::Result<()> {
        let first = start.next_multiple_of(self.sector).min(end);
        let last = (end - end % self.sector).max(first);
        self.write_zeros(target, start, first)?;
        let zero = |at, len| {
            if self.zero_range(target, at, len)? { Ok(()) } else { self.write_zeros(target, at, at + len) }
        };
        self.in_steps(first, last, |step| step, zero)?;
        self.write_zeros(target, last, end)
    }

    /// Covers the range from `at` to `end` with calls that each take only a moment.
    fn in_steps(
        &self,
        mut at: u64,
        end: u64,
        round: impl Fn(u64) -> u64,
        call: impl Fn(u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        while at < end {
            let step = round(self.step.load(Ordering::Relaxed)).min(end - at);
            let start = Instant::now();
            call(at, step)?;
            self.step.store(next_step(step, start.elapsed()), Ordering::Relaxed);
            at += step;
        }
        Ok(())
    }

    /// Zeroes whole sectors by range. Returns false if the disk does not offer that.
    fn zero_range(&self, target: &Target, offset: u64, len: u64) -> io::Result<bool> {
        let punch_hole = || {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let (start, len) =
                (offset.try_into().map_err(io::Error::other)?, len.try_into().map_err(io::Error::other)?);
            fallocate(target.file(), flags, start, len).map_err(io::Error::from)
        };
        Ok(try_once(&self.holes_work, punch_hole)?
            || try_once(&self.ranges_work, || sys::zero_out(target.file(), offset, len))?)
    }

    fn write_zeros(&self, target: &Target, start: u64, end: u64) -> io::Result<()> {
        if start == end {
            return Ok(());
        }
        let zeros = AlignedBuf::new(usize::try_from((end - start).min(MIB)).map_err(io::Error::other)?);
        let mut at = start;
        while at < end {
            let step = zeros.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            target.write_at(&zeros[..step], at)?;
            at += step as u64;
        }
        Ok(())
    }
}

/// Returns whether the call succeeded. A call that this file system or device does not offer is not made again.
fn try_once(works: &AtomicBool, call: impl Fn() -> io::Result<()>) -> io::Result<bool> {
    if !works.load(Ordering::Relaxed) {
        return Ok(false);
    }
    let done = call();
    match done.as_ref().err().and_then(io::Error::raw_os_error).map(Errno::from_raw) {
        Some(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENOTTY | Errno::EINVAL | Errno::ENODEV) => {
            works.store(false, Ordering::Relaxed);
            Ok(false)
        }
        _ => done.map(|()| true),
    }
}

impl Volume for Target {
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        sys::discard(self.file(), offset, len)
    }

    fn read(&self, buffer: &mut AlignedBuf, offset: u64, len: usize) -> io::Result<()> {
        DirectReader::new(self.file()).read(buffer, offset, len)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        self.zeroing().write_zeros(self, offset, offset + len)
    }
}

/// Returns the length of the next zeroing call, in bytes, after one of `step` bytes took `time`.
fn next_step(step: u64, time: Duration) -> u64 {
    let next = if time > TIME { step / 2 } else { step.max(FIRST_STEP / 2) * 2 };
    // The length is a number of whole MiB, so that calls begin on a sector of any disk.
    next.clamp(*STEPS.start(), *STEPS.end()) / MIB * MIB
}

#[cfg(test)]
mod tests {
    use super::next_step;
    use crate::node::size::MIB;
    use std::time::Duration;

    #[test]
    fn zeroing_calls_are_as_long_as_the_disk_is_fast() {
        let (fast, slow) = (Duration::from_millis(1), Duration::from_secs(3));
        let steps = |time, count| (0..count).fold(4 * MIB, |step, _| next_step(step, time));
        assert_eq!([steps(fast, 1), steps(fast, 9)], [8 * MIB, 64 * MIB]);
        assert_eq!([steps(slow, 1), steps(slow, 9)], [2 * MIB, MIB]);
        // The last call of a range can have any length, so its time says little about the disk.
        assert_eq!(next_step(512, fast), 4 * MIB);
        assert_eq!(next_step(5 * MIB - 512, slow), 2 * MIB);
    }
}
