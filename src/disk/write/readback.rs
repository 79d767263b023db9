// SPDX-License-Identifier: BSD-2-Clause
//! Reads a written disk back and compares it with what was written.
//!
//! Nothing is decoded twice: while the disk is written, every block that is not zero is hashed together with its place,
//! and the hashes are added up by region. A sum does not depend on the order in which threads write, and zero blocks
//! add nothing to it, so that a run of zeros costs nothing to note, and whatever is found in its place changes the sum.
//!
//! The hash is XXH3 with 128 bits and without a secret key: the faults of a disk have no intent. What qemu-img wrote,
//! `qemu-img compare` compares. The backup GPT moves after the comparison, for the old one is a part of the image; the
//! new one's few sectors are compared byte by byte, as the boot area is. The disk is read by O_DIRECT, and without
//! what the page cache held of it.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use twox_hash::XxHash3_128;

use super::WriteError;
use crate::disk::device::{AlignedBuf, DirectReader, Target};
use crate::disk::fingerprint::{is_zero, sum_of_blocks};

/// What is hashed at once, in bytes. Whatever is written starts on a multiple of it, and only the image's end is shorter.
const BLOCK: usize = 4096;

/// One read, and the smallest region that has a sum of its own, in bytes.
const STEP: usize = 8 << 20;

/// More sums are not kept, whatever the disk's size: 1 MiB of them. Up to 512 GiB each region is one step.
const MAX_REGIONS: u64 = 1 << 16;

/// Threads that read: two keep a disk busy.
const READERS: usize = 2;

/// What a disk holds, noted while it is written.
#[derive(Debug)]
pub(super) struct Sums {
    /// Length of a region in bytes: a power of two.
    region: u64,
    sums: Mutex<Vec<u128>>,
}

impl Sums {
    /// Of a disk of `disk_len` zero bytes.
    pub(super) fn new(disk_len: u64) -> Self {
        let region = disk_len.div_ceil(MAX_REGIONS).next_power_of_two().max(STEP as u64);
        let regions = usize::try_from(disk_len.div_ceil(region)).unwrap_or_default();
        Sums { region, sums: Mutex::new(vec![0; regions]) }
    }

    /// Notes that `data` was written at `offset` (bytes, a multiple of the block size), where nothing was noted before.
    pub(super) fn note(&self, mut data: &[u8], mut offset: u64) {
        while !data.is_empty() {
            let (index, inside) = (offset / self.region, offset % self.region);
            let len = usize::try_from(self.region - inside).unwrap_or(usize::MAX).min(data.len());
            let (part, rest) = data.split_at(len);
            let sum = sum(part, offset);
            let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(noted) = usize::try_from(index).ok().and_then(|index| sums.get_mut(index)) {
                *noted = noted.wrapping_add(sum);
            }
            (data, offset) = (rest, offset + len as u64);
        }
    }

    /// Reads `range` (bytes) of the disk, in which nothing else was written than what was noted.
    pub(super) fn check(&self, target: &Target, range: Range<u64>) -> Result<(), WriteError> {
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner).clone();
        each_region(target, range, self.region, |reading, region| {
            let mut found = 0_u128;
            let index = region.start / self.region;
            reading.each_step(region.clone(), |data, offset| {
                found = found.wrapping_add(sum(data, offset));
                Ok(())
            })?;
            let noted = usize::try_from(index).ok().and_then(|index| sums.get(index));
            if noted == Some(&found) { Ok(()) } else { Err(differs(target, region, "the image")) }
        })
    }
}

/// The hashes of all blocks that are not zero, each with its place as the seed: the same block elsewhere counts as another.
fn sum(data: &[u8], offset: u64) -> u128 {
    sum_of_blocks(data, offset, BLOCK, XxHash3_128::oneshot_with_seed)
}

/// Reads `range` (bytes) of the disk, which has to be zero and is called `what`.
pub(super) fn check_zeros(target: &Target, range: Range<u64>, what: &'static str) -> Result<(), WriteError> {
    each_region(target, range, STEP as u64, |reading, region| {
        reading.each_step(region, |data, at| {
            let place = if is_zero(data) { None } else { difference(data, |_| 0) };
            agree(target, place, at, what)
        })
    })
}

/// Reads the disk at `offset` (bytes), where it has to hold `bytes`, which are called `what`.
pub(super) fn check_bytes(target: &Target, bytes: &[u8], offset: u64, what: &'static str) -> Result<(), WriteError> {
    let mut reading = Reading { target, reader: target.read_back(), buffer: AlignedBuf::new(STEP) };
    reading.each_step(offset..offset + bytes.len() as u64, |data, at| {
        // Less than `bytes.len()`, so it fits a usize.
        let start = usize::try_from(at - offset).unwrap_or_default();
        agree(target, difference(data, |index| bytes[start + index]), at, what)
    })
}

/// From the first to behind the last byte that is not the expected one.
fn difference(data: &[u8], expected: impl Fn(usize) -> u8) -> Option<Range<u64>> {
    let first = (0..data.len()).find(|index| data[*index] != expected(*index))?;
    let last = (first..data.len()).rfind(|index| data[*index] != expected(*index))?;
    Some(first as u64..last as u64 + 1)
}

/// An error when there is a difference in the piece of the disk at `at`.
fn agree(target: &Target, place: Option<Range<u64>>, at: u64, what: &'static str) -> Result<(), WriteError> {
    place.map_or(Ok(()), |place| Err(differs(target, at + place.start..at + place.end, what)))
}

/// The error that names bytes of the disk.
pub(super) fn differs(target: &Target, range: Range<u64>, what: &'static str) -> WriteError {
    WriteError::Differs { path: target.path().to_owned(), first: range.start, last: range.end - 1, what }
}

/// Lets two threads `examine` all of `range`, cut at the multiples of `len`. Ends with an error that one of them met.
fn each_region<'t>(
    target: &'t Target,
    range: Range<u64>,
    len: u64,
    examine: impl Fn(&mut Reading<'t>, Range<u64>) -> Result<(), WriteError> + Sync,
) -> Result<(), WriteError> {
    let next = AtomicU64::new(range.start / len);
    let work = || {
        let mut reading = Reading { target, reader: target.read_back(), buffer: AlignedBuf::new(STEP) };
        loop {
            let start = next.fetch_add(1, Ordering::Relaxed) * len;
            if start >= range.end {
                return Ok(());
            }
            if let Err(err) = examine(&mut reading, start.max(range.start)..(start + len).min(range.end)) {
                // Nothing is left for the other one.
                next.store(range.end.div_ceil(len), Ordering::Relaxed);
                return Err(err);
            }
        }
    };
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(work)).collect();
        let died = |_panic| Err(WriteError::Image(io::Error::other("a thread that reads the disk back died")));
        readers.into_iter().map(|reader| reader.join().unwrap_or_else(died)).collect::<Result<Vec<()>, _>>().map(drop)
    })
}

/// What one thread reads with.
struct Reading<'t> {
    target: &'t Target,
    reader: DirectReader<'t>,
    buffer: AlignedBuf,
}

impl Reading<'_> {
    /// Reads `range` (bytes) of the disk, and hands over each piece with its place.
    fn each_step(
        &mut self,
        range: Range<u64>,
        mut take: impl FnMut(&[u8], u64) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let mut at = range.start;
        while at < range.end {
            // Steps end on multiples of their length: direct I/O stays aligned.
            let end = ((at / STEP as u64 + 1) * STEP as u64).min(range.end);
            let len = usize::try_from(end - at).unwrap_or(STEP);
            self.reader.read(&mut self.buffer, at, len).map_err(|source| WriteError::ReadBack {
                path: self.target.path().to_owned(),
                offset: at,
                source,
            })?;
            take(&self.buffer[..len], at)?;
            at = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{STEP, Sums, check_bytes, check_zeros, sum};
    use crate::disk::device::Target;
    use std::os::unix::fs::FileExt;

    const LEN: usize = 2 * STEP + 5000;

    fn data() -> Vec<u8> {
        (0..LEN).map(|index| if index % 50_000 < 9000 { 0 } else { u8::try_from(index % 251).unwrap() }).collect()
    }

    fn disk(content: &[u8]) -> (tempfile::NamedTempFile, Target) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all_at(content, 0).unwrap();
        let target = Target::open(file.path()).unwrap();
        (file, target)
    }

    #[test]
    fn memory_is_bounded() {
        for (disk, regions) in [(1, 1), (1 << 40, 1 << 16), (64 << 40, 1 << 16), ((64 << 40) + 1, (1 << 15) + 1)] {
            assert_eq!(Sums::new(disk).sums.lock().unwrap().len(), regions, "{disk}");
        }
    }

    #[test]
    fn pieces_in_any_order_and_without_their_zeros_give_the_same_sum() {
        let data = data();
        let sums = Sums::new(LEN as u64);
        for (index, piece) in data.chunks(3 * 4096).enumerate().collect::<Vec<_>>().into_iter().rev() {
            if piece.iter().any(|byte| *byte != 0) {
                sums.note(piece, index as u64 * 3 * 4096);
            }
        }
        let (_file, target) = disk(&data);
        sums.check(&target, 0..LEN as u64).unwrap();
    }

    #[test]
    fn a_moved_block_is_another_one() {
        let (mut block, mut other) = (vec![1; 8192], vec![1; 8192]);
        block[0] = 2;
        other[4096] = 2;
        assert_ne!(sum(&block, 0), sum(&other, 0));
        assert_ne!(sum(&block, 0), sum(&block, 8192));
        assert_eq!(sum(&[0; 8192], 4096), 0);
    }

    #[test]
    fn every_kind_of_difference_is_found_and_placed() {
        let data = data();
        let sums = Sums::new(LEN as u64);
        sums.note(&data, 0);
        for (at, region) in
            [(0, (0, STEP)), (STEP, (STEP, 2 * STEP)), (STEP - 1, (0, STEP)), (LEN - 1, (2 * STEP, LEN))]
        {
            let mut found = data.clone();
            found[at] ^= 0x10;
            let (_file, target) = disk(&found);
            let error = sums.check(&target, 0..LEN as u64).unwrap_err().to_string();
            assert!(error.contains(&format!("bytes {} to {} (the image)", region.0, region.1 - 1)), "{at}: {error}");
        }
    }

    #[test]
    fn bytes_and_zeros_are_placed_exactly() {
        let mut content = vec![0; LEN];
        content[STEP + 7] = 1;
        content[STEP + 9] = 1;
        let (_file, target) = disk(&content);
        let error = check_zeros(&target, 3..LEN as u64, "zeros behind the image").unwrap_err().to_string();
        let place = format!("bytes {} to {} (zeros behind the image)", STEP + 7, STEP + 9);
        assert!(error.contains(&place), "{error}");
        check_zeros(&target, 3..STEP as u64 + 7, "zeros").unwrap();
        check_bytes(&target, &content[5..], 5, "all").unwrap();
        content[6] = 1;
        let error = check_bytes(&target, &content[5..], 5, "all").unwrap_err().to_string();
        assert!(error.contains("bytes 6 to 6 (all)"), "{error}");
    }
}
