// SPDX-License-Identifier: BSD-2-Clause
//! Zeroes thin volumes of the device mapper (LVM). The pool of a thin volume allocates a chunk when it is first
//! written, even if zeros are written.
//!
//! So whole chunks are given back to the pool and then read. Zeros are written only where a chunk does not read zero
//! afterwards: over an external origin, or where the pool takes nothing back. A chunk that was given back keeps reading
//! zero, because the pool zeroes each chunk that it allocates. The administrator can switch that off (lvcreate -Zn).
//! Then a chunk shows old data as soon as one byte of it is written, so volumes of such a pool are zeroed as other
//! disks are.
//!
//! dm-thin has no WRITE ZEROES, and the kernel writes zeros in its place. Without this module an install would fill the
//! volume. The tables of the device mapper tell what a thin volume is, so nothing is guessed from the limits of a
//! queue.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

use super::AlignedBuf;
use super::layers;
use crate::disk::fingerprint::is_zero;
use crate::node::size::MIB;
use crate::node::sys;

/// The length of a sector of the device mapper, in bytes.
const SECTOR: u64 = 512;

/// The length of one read, in bytes. The request itself costs the most: in an emulated machine, reads of this length
/// took a third of the time of reads of 1 MiB.
const STEP: u64 = 8 * MIB;

/// The length of the smallest possible chunk in bytes. Every chunk is a multiple of it.
const PIECE: usize = 64 << 10;

/// The calls that are needed to zero the chunks of a volume.
pub(super) trait Volume {
    /// Gives a range back to the pool.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Reads from the volume itself, not from the page cache.
    fn read(&self, buffer: &mut AlignedBuf, offset: u64, len: usize) -> io::Result<()>;
    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// A thin volume whose pool zeroes the chunks that it allocates.
#[derive(Debug)]
pub(super) struct ThinVolume {
    /// Length of a chunk in bytes.
    chunk: u64,
    discards_work: AtomicBool,
}

impl ThinVolume {
    /// Returns `None` if the device is no such volume, or if it is not possible to find that out.
    pub(super) fn of(device: &File) -> Option<Self> {
        let data = device.metadata().ok().filter(|data| data.file_type().is_block_device())?;
        layers::attribute(data.rdev(), "dm/name")?;
        let volume = sys::mapper_target(data.rdev()).ok().flatten().filter(|target| target.kind == "thin")?;
        let pool = layers::device_number(volume.parameters.split(' ').next()?)?;
        let pool = sys::mapper_target(pool).ok().flatten().filter(|target| target.kind == "thin-pool")?;
        Self::of_pool(&pool.parameters)
    }

    /// Parses the parameters of the pool (Documentation/admin-guide/device-mapper/thin-provisioning.rst): the devices
    /// of the metadata and of the data, the sectors of a chunk, a watermark, the number of features, and the features.
    fn of_pool(parameters: &str) -> Option<Self> {
        let mut fields = parameters.split(' ').skip(2);
        let chunk = fields.next()?.parse::<u64>().ok()?.checked_mul(SECTOR).filter(|chunk| *chunk > 0)?;
        if fields.any(|feature| feature == "skip_block_zeroing") {
            return None;
        }
        Some(ThinVolume { chunk, discards_work: AtomicBool::new(true) })
    }

    /// Returns the whole chunks in `range`. The volume has `size` bytes, and its last chunk may reach beyond its end.
    pub(super) fn whole_chunks(&self, range: Range<u64>, size: u64) -> Range<u64> {
        let start = range.start.next_multiple_of(self.chunk).min(range.end);
        let end = if range.end == size { size } else { range.end - range.end % self.chunk };
        start..end.max(start)
    }

    /// Returns `len` rounded up to whole chunks, in bytes.
    pub(super) fn round_up(&self, len: u64) -> u64 {
        len.next_multiple_of(self.chunk)
    }

    /// Makes a range of whole chunks read zero.
    pub(super) fn zero_chunks(&self, volume: &impl Volume, range: Range<u64>) -> io::Result<()> {
        if self.discards_work.load(Ordering::Relaxed) {
            match volume.discard(range.start, range.end - range.start) {
                Err(err) if err.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
                    self.discards_work.store(false, Ordering::Relaxed);
                }
                done => done?,
            }
        }
        let mut buffer = AlignedBuf::new(usize::try_from(STEP.min(range.end - range.start)).map_err(io::Error::other)?);
        let mut at = range.start;
        while at < range.end {
            let len = buffer.len().min(usize::try_from(range.end - at).unwrap_or(usize::MAX));
            volume.read(&mut buffer, at, len)?;
            overwrite_data(volume, &buffer[..len], at)?;
            at += len as u64;
        }
        Ok(())
    }
}

/// Writes zeros where `bytes`, which were read at `at`, are not zero. It writes pieces that lie in one chunk each. A
/// chunk with data is allocated already, and the chunks between them stay unallocated.
fn overwrite_data(volume: &impl Volume, bytes: &[u8], at: u64) -> io::Result<()> {
    let mut data_start = None;
    for (index, piece) in bytes.chunks(PIECE).enumerate() {
        let offset = (index * PIECE) as u64;
        match (is_zero(piece), data_start) {
            (false, None) => data_start = Some(offset),
            (true, Some(start)) => {
                volume.write_zeros(at + start, offset - start)?;
                data_start = None;
            }
            _ => {}
        }
    }
    match data_start {
        Some(start) => volume.write_zeros(at + start, bytes.len() as u64 - start),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{AlignedBuf, Errno, ThinVolume, Volume};
    use std::cell::{Cell, RefCell};
    use std::io;

    const CHUNK: usize = 64 << 10;

    /// A thin volume: the chunks that the pool has allocated, and what the other chunks read as.
    struct Model {
        origin: Vec<u8>,
        chunks: RefCell<Vec<Option<Vec<u8>>>>,
        takes_back: bool,
        reads: Cell<usize>,
        writes: Cell<usize>,
    }

    impl Model {
        fn new(origin: u8, chunks: &[Option<u8>], takes_back: bool) -> Self {
            let chunks: Vec<_> = chunks.iter().map(|chunk| chunk.map(|byte| vec![byte; CHUNK])).collect();
            let origin = vec![origin; chunks.len() * CHUNK];
            Model { origin, chunks: chunks.into(), takes_back, reads: Cell::default(), writes: Cell::default() }
        }

        fn bytes(&self) -> Vec<u8> {
            let chunks = self.chunks.borrow();
            let origin = self.origin.chunks(CHUNK);
            chunks.iter().zip(origin).flat_map(|(own, below)| own.clone().unwrap_or_else(|| below.to_vec())).collect()
        }

        fn handed_out(&self) -> usize {
            self.chunks.borrow().iter().flatten().count()
        }
    }

    impl Volume for Model {
        fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
            if !self.takes_back {
                return Err(Errno::EOPNOTSUPP.into());
            }
            let (start, end) = (usize::try_from(offset).unwrap(), usize::try_from(offset + len).unwrap());
            // A chunk that is only partly in the range stays as it is.
            for index in start.div_ceil(CHUNK)..end / CHUNK {
                self.chunks.borrow_mut()[index] = None;
            }
            Ok(())
        }

        fn read(&self, buffer: &mut AlignedBuf, offset: u64, len: usize) -> io::Result<()> {
            self.reads.set(self.reads.get() + 1);
            let start = usize::try_from(offset).unwrap();
            buffer[..len].copy_from_slice(&self.bytes()[start..start + len]);
            Ok(())
        }

        fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
            self.writes.set(self.writes.get() + 1);
            let all = self.bytes();
            for at in usize::try_from(offset).unwrap()..usize::try_from(offset + len).unwrap() {
                let index = at / CHUNK;
                let chunk = &mut self.chunks.borrow_mut()[index];
                chunk.get_or_insert_with(|| all[index * CHUNK..(index + 1) * CHUNK].to_vec())[at % CHUNK] = 0;
            }
            Ok(())
        }
    }

    fn thin() -> ThinVolume {
        ThinVolume::of_pool("253:2 253:3 128 0 1 no_discard_passdown").unwrap()
    }

    /// Zeroes the volume, and returns the number of chunks that stay allocated and the number of writes.
    fn settled(model: &Model, thin: &ThinVolume) -> (usize, usize) {
        let len = model.origin.len() as u64;
        thin.zero_chunks(model, 0..len).unwrap();
        assert!(model.bytes().iter().all(|byte| *byte == 0));
        (model.handed_out(), model.writes.get())
    }

    #[test]
    fn what_was_never_written_is_not_and_what_was_is_given_back() {
        for chunks in [[None; 40], [Some(7); 40]] {
            assert_eq!(settled(&Model::new(0, &chunks, true), &thin()), (0, 0));
        }
        // A chunk that was given back shows the origin below the volume.
        assert_eq!(settled(&Model::new(3, &[Some(7); 4], true), &thin()), (4, 1));
        // 320 chunks are 20 MiB.
        let model = Model::new(0, &[None; 320], true);
        settled(&model, &thin());
        assert_eq!(model.reads.get(), 3);
    }

    #[test]
    fn a_pool_that_takes_nothing_back_is_asked_once_and_written_where_it_is_not_zero() {
        let thin = thin();
        let chunks: Vec<_> = (0..48).map(|index| (index % 16 == 5).then_some(9)).collect();
        assert_eq!(settled(&Model::new(0, &chunks, false), &thin), (3, 3));
        assert_eq!(settled(&Model::new(0, &chunks, true), &thin), (3, 3), "it was asked again");
    }

    #[test]
    fn only_whole_chunks_are_left_to_the_pool() {
        let (thin, size) = (thin(), 10 * CHUNK as u64 + 512);
        let whole = |start: u64, end: u64| thin.whole_chunks(start..end, size);
        let chunk = CHUNK as u64;
        assert_eq!(whole(chunk, 3 * chunk), chunk..3 * chunk);
        assert_eq!(whole(chunk + 1, 3 * chunk - 1), 2 * chunk..2 * chunk);
        assert_eq!(whole(1, 2 * chunk + 9), chunk..2 * chunk);
        assert_eq!(whole(chunk + 5, chunk + 9), chunk + 9..chunk + 9);
        // The last chunk has no rest that could be written.
        assert_eq!(whole(9 * chunk, size), 9 * chunk..size);
        assert_eq!(thin.round_up(1), chunk);
    }

    #[test]
    fn pools_that_do_not_zero_are_none() {
        for (table, chunk) in [
            ("253:2 253:3 128 0", Some(65536)),
            ("253:2 253:3 1024 0 0", Some(524_288)),
            ("253:2 253:3 128 0 2 ignore_discard error_if_no_space", Some(65536)),
            ("253:2 253:3 128 0 1 skip_block_zeroing", None),
            ("253:2 253:3 128 0 2 ignore_discard skip_block_zeroing", None),
            ("253:2 253:3 0 0 0", None),
            ("253:2 253:3", None),
            ("", None),
        ] {
            assert_eq!(ThinVolume::of_pool(table).map(|thin| thin.chunk), chunk, "{table}");
        }
    }
}
