// SPDX-License-Identifier: BSD-2-Clause
//! Thin volumes of the device mapper (LVM): their chunks are handed out by a pool when they are first written, zeros too.
//!
//! So whole chunks are given back to the pool, read, and written only where they are not zero then: an external origin
//! below the volume, or a pool that takes nothing back. What was given back reads as zeros, and stays so: the next chunk
//! that the pool hands out is zeroed by it first. Of a pool that was told not to do that (lvcreate -Zn) a chunk holds
//! whatever it held as soon as one byte of it is written, so nothing is left out there.
//!
//! dm-thin has no WRITE ZEROES, and what the kernel does in its place is to write: a volume was full after each
//! install. The device mapper's own tables say what a thin volume is, so that nothing is guessed from limits.

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

/// Sectors of the device mapper, in bytes.
const SECTOR: u64 = 512;

/// One read, in bytes: most of its cost is the request's. Measured, in an emulated machine: a third of the time of 1 MiB.
const STEP: u64 = 8 * MIB;

/// The smallest chunk; all are multiples of it, in bytes.
const PIECE: usize = 64 << 10;

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
        let mut buffer = AlignedBuf::new(usize::try_from(STEP.min(range.end - range.start)).map_err(io::Error::other)?);
        let mut at = range.start;
        while at < range.end {
            let len = buffer.len().min(usize::try_from(range.end - at).unwrap_or(usize::MAX));
            volume.read(&mut buffer, at, len)?;
            write_over(volume, &buffer[..len], at)?;
            at += len as u64;
        }
        Ok(())
    }
}

/// Writes zeros where the bytes at `at` are none: over pieces that lie in one chunk each, which has been handed out, so that the chunks
/// between them are not.
fn write_over(volume: &impl Volume, bytes: &[u8], at: u64) -> io::Result<()> {
    let mut start = None;
    for (index, piece) in bytes.chunks(PIECE).enumerate() {
        let offset = (index * PIECE) as u64;
        match (is_zero(piece), start) {
            (false, None) => start = Some(offset),
            (true, Some(from)) => {
                volume.write_zeros(at + from, offset - from)?;
                start = None;
            }
            _ => {}
        }
    }
    start.map_or(Ok(()), |from| volume.write_zeros(at + from, bytes.len() as u64 - from))
}

#[cfg(test)]
mod tests {
    use super::{AlignedBuf, Errno, Thin, Volume};
    use std::cell::{Cell, RefCell};
    use std::io;

    const CHUNK: usize = 64 << 10;

    /// A thin volume: chunks that the pool handed out, above what reads otherwise.
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
            // Parts of chunks are left as they are.
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

    fn thin() -> Thin {
        Thin::of_pool("253:2 253:3 128 0 1 no_discard_passdown").unwrap()
    }

    /// What settling does: chunks that stay handed out, and writes.
    fn settled(model: &Model, thin: &Thin) -> (usize, usize) {
        let len = model.origin.len() as u64;
        thin.settle(model, 0..len).unwrap();
        assert!(model.bytes().iter().all(|byte| *byte == 0));
        (model.handed_out(), model.writes.get())
    }

    #[test]
    fn what_was_never_written_is_not_and_what_was_is_given_back() {
        for chunks in [[None; 40], [Some(7); 40]] {
            assert_eq!(settled(&Model::new(0, &chunks, true), &thin()), (0, 0));
        }
        // An origin below the volume shows through what was given back.
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
        assert_eq!(thin.step(1), chunk);
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
            assert_eq!(Thin::of_pool(table).map(|thin| thin.chunk), chunk, "{table}");
        }
    }
}
