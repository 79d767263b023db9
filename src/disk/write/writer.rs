// SPDX-License-Identifier: BSD-2-Clause
//! Writes one image to one disk: the data and zeros of the image, and the zeros after its end.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::pending::PendingDisk;
use super::qemu_img::ConvertedImage;
use super::readback::{self, RegionSums};
use super::{BOOT_AREA, Wipe, WriteError, WriteOptions, check_fits, disk_error, make_unbootable};
use crate::disk::device::{AlignedBuf, Target};
use crate::disk::fingerprint::is_zero;

/// Zero runs begin and end on multiples of this number, in bytes, so that the data around them stays aligned for direct
/// I/O.
const BLOCK: usize = 4096;

/// A zero run between data that is shorter than this, in bytes, is written as data, because a request of its own costs
/// more.
const MIN_RUN: usize = 64 << 10;

/// The least length in bytes of a zero run at the edge of a buffer, where it may continue in the next buffer.
const MIN_EDGE_RUN: usize = 16 << 10;

/// The expected content of the disk from the end of the boot area to the end of the image.
pub(super) enum ExpectedContent {
    /// This program wrote the image, and these are the sums of its bytes.
    Written(RegionSums),
    /// qemu-img wrote this image.
    Converted(ConvertedImage),
}

/// How many bytes of a disk were written: the data of the image, and all zeros, including those after the image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) data: u64,
    /// Most of the zeros are written as ranges.
    pub(crate) zeros: u64,
}

/// Writes one image to one disk. Several threads may use it at once.
pub struct DiskWriter<'t> {
    target: &'t Target,
    wipe: Wipe,
    boot: Mutex<AlignedBuf>,
    /// `None` if the disk is not read back.
    pub(super) expected: Option<ExpectedContent>,
    data_written: AtomicU64,
    zeros_written: AtomicU64,
    pub(super) done: Arc<AtomicU64>,
    started: Instant,
    /// The size in bytes of the disk in the image, which is known when all of it is written.
    pub(super) image_len: u64,
    /// Whether qemu-img writes. Then it is not known how much it writes.
    pub(super) by_qemu: bool,
}

impl<'t> DiskWriter<'t> {
    /// Zeroes the boot area and syncs it, before anything else is written.
    pub fn begin(target: &'t Target, options: WriteOptions) -> Result<Self, WriteError> {
        let started = Instant::now();
        let boot = AlignedBuf::new(super::boot_len(target.held()));
        make_unbootable(target.held())?;
        let expected = options.verify_readback.then(|| ExpectedContent::Written(RegionSums::new(target.size())));
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

    /// Returns the number of bytes of the disk that have their final content. It is counted while the disk is written,
    /// to show progress.
    pub(crate) fn done(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.done)
    }

    /// The size in bytes of the disk in the image, which is known when all of it is written.
    pub(crate) fn image_len(&self) -> u64 {
        self.image_len
    }

    pub(crate) fn target(&self) -> &'t Target {
        self.target
    }

    /// Writes bytes of the image at `offset` (bytes). The bytes of the boot area stay in memory until
    /// [`PendingDisk::commit`].
    pub(super) fn data(&self, data: &[u8], offset: u64) -> Result<(), WriteError> {
        self.data_written.fetch_add(data.len() as u64, Ordering::Relaxed);
        let in_boot = usize::try_from(self.boot_len().saturating_sub(offset)).unwrap_or(BOOT_AREA).min(data.len());
        let (boot, rest) = data.split_at(in_boot);
        if !boot.is_empty() {
            // The offset is in the boot area, so it fits into a usize.
            let at = usize::try_from(offset).unwrap_or(BOOT_AREA);
            self.boot.lock().unwrap_or_else(PoisonError::into_inner)[at..at + in_boot].copy_from_slice(boot);
        }
        if !rest.is_empty() {
            let offset = offset + in_boot as u64;
            if let Some(ExpectedContent::Written(sums)) = &self.expected {
                sums.add(rest, offset);
            }
            self.target.write_at(rest, offset).map_err(|err| self.disk_error(err))?;
        }
        self.done.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Writes a run of zeros. The boot area is zero already.
    pub(super) fn zero(&self, offset: u64, len: u64) -> Result<(), WriteError> {
        self.zeros_written.fetch_add(len, Ordering::Relaxed);
        let start = offset.max(self.boot_len());
        let end = (offset + len).max(start);
        self.target.zero(start, end - start).map_err(|err| self.disk_error(err))?;
        self.done.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    /// Writes bytes of the image, each long zero run in them as a range.
    pub(super) fn data_with_zeros(&self, data: &[u8], offset: u64) -> Result<(), WriteError> {
        for piece in split(data) {
            let at = offset + piece.range.start as u64;
            if piece.zero {
                self.zero(at, piece.range.len() as u64)?;
            } else {
                self.data(&data[piece.range], at)?;
            }
        }
        Ok(())
    }

    /// Finishes the disk after the image was written: zeroes the rest of the disk as far as [`Wipe`] says, reads
    /// everything back if that is configured, calls `check` with the disk as the image has it, and moves the backup GPT
    /// to the end of the disk.
    pub fn fill(
        self,
        check: impl FnOnce(&PendingDisk<'t>) -> Result<(), WriteError>,
    ) -> Result<PendingDisk<'t>, WriteError> {
        let image_len = self.image_len;
        if image_len == 0 {
            return Err(WriteError::Empty);
        }
        check_fits(image_len, self.target)?;
        let wiped = self.wipe.ranges(image_len, self.target.size());
        wiped.iter().try_for_each(|range| self.zero(range.start, range.end - range.start))?;
        if let Some(expected) = &self.expected {
            self.read_back(expected, image_len, &wiped)?;
        }
        let DiskWriter { target, boot, expected, data_written, zeros_written, by_qemu, started, .. } = self;
        let boot = boot.into_inner().unwrap_or_else(PoisonError::into_inner);
        let written = Written { data: data_written.into_inner(), zeros: zeros_written.into_inner() };
        let written = (!by_qemu).then_some(written);
        let mut pending = PendingDisk::new(target, boot, expected.is_some(), image_len, written, started);
        check(&pending)?;
        // This comes after the comparison, because the old backup is a part of the image.
        pending.move_backup_gpt(image_len).map_err(|err| disk_error(target.path(), err))?;
        Ok(pending)
    }

    /// Compares everything after the boot area that was written so far.
    fn read_back(&self, expected: &ExpectedContent, image_len: u64, wiped: &[Range<u64>]) -> Result<(), WriteError> {
        self.target.sync().map_err(|err| self.disk_error(err))?;
        let boot_len = self.boot_len();
        match expected {
            ExpectedContent::Written(sums) => sums.check(self.target, boot_len..image_len)?,
            ExpectedContent::Converted(image) => image.check(self.target)?,
        }
        wiped.iter().try_for_each(|range| {
            readback::check_zeros(self.target, range.start.max(boot_len)..range.end, "zeros after the image")
        })
    }

    pub(super) fn boot_len(&self) -> u64 {
        self.target.size().min(BOOT_AREA as u64)
    }

    fn disk_error(&self, source: io::Error) -> WriteError {
        disk_error(self.target.path(), source)
    }
}

/// A piece of a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    /// The place of the piece in the buffer, in bytes.
    range: Range<usize>,
    /// Whether the whole piece is zero.
    zero: bool,
}

/// Splits `buffer` into alternating pieces of data and zeros that cover all of it.
fn split(buffer: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut data_start = 0;
    let mut at = 0;
    while at < buffer.len() {
        let run_end = at + zero_run(&buffer[at..]);
        let at_edge = at == 0 || run_end == buffer.len();
        let min = if at_edge { MIN_EDGE_RUN } else { MIN_RUN };
        // A small buffer that is all zero is also a run.
        if run_end - at >= min.min(buffer.len()) {
            if data_start < at {
                pieces.push(Piece { range: data_start..at, zero: false });
            }
            pieces.push(Piece { range: at..run_end, zero: true });
            data_start = run_end;
        }
        at = if run_end > at { run_end } else { at + BLOCK };
    }
    if data_start < buffer.len() {
        pieces.push(Piece { range: data_start..buffer.len(), zero: false });
    }
    pieces
}

/// Returns the length of the run of zero blocks at the beginning of `buffer`, in bytes.
fn zero_run(buffer: &[u8]) -> usize {
    buffer.chunks(BLOCK).take_while(|block| is_zero(block)).map(<[u8]>::len).sum()
}

#[cfg(test)]
mod tests {
    use super::{Piece, split};
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};

    fn piece(range: std::ops::Range<usize>, zero: bool) -> Piece {
        Piece { range, zero }
    }

    #[test]
    fn long_runs_are_found_and_short_ones_left() {
        let mut buffer = vec![1; 1 << 20];
        buffer[8192..12288].fill(0);
        buffer[(512 << 10)..(640 << 10)].fill(0);
        buffer[(1 << 20) - 20000..].fill(0);
        let tail = ((1 << 20) - 20000_usize).next_multiple_of(4096);
        let expected = [
            piece(0..512 << 10, false),
            piece(512 << 10..640 << 10, true),
            piece(640 << 10..tail, false),
            piece(tail..1 << 20, true),
        ];
        assert_eq!(split(&buffer), expected);
    }

    #[test]
    fn small_buffers() {
        assert_eq!(split(&[]), []);
        assert_eq!(split(&[0; 5]), [piece(0..5, true)]);
        assert_eq!(split(&[0, 1]), [piece(0..2, false)]);
    }

    proptest! {
        #[test]
        fn pieces_cover_the_buffer_and_zeros_are_zero(runs in prop::collection::vec((0..200_000_usize, 0..2_u8), 0..8)) {
            let buffer: Vec<u8> = runs.iter().flat_map(|(len, value)| vec![*value; *len]).collect();
            let mut end = 0;
            for piece in split(&buffer) {
                prop_assert_eq!(piece.range.start, end);
                end = piece.range.end;
                prop_assert!(!piece.zero || buffer[piece.range].iter().all(|byte| *byte == 0));
            }
            prop_assert_eq!(end, buffer.len());
        }
    }
}
