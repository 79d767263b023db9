// SPDX-License-Identifier: BSD-2-Clause
//! Reads a written disk back and compares it with what was written.
//!
//! Nothing is decoded twice. While the disk is written, every block that is not zero is hashed together with its place,
//! and the hashes are added up by region. A sum does not depend on the order in which threads write. Zero blocks add
//! nothing to it, so a run of zeros costs nothing, and any data in its place changes the sum.
//!
//! The hash is XXH3 with 128 bits and without a secret key, because a faulty disk does not attack. What qemu-img wrote
//! is compared by `qemu-img compare`. The backup GPT is moved after the comparison, because the old one is a part of
//! the image. The few sectors of the new one are compared byte by byte, as the boot area is. The disk is read with
//! O_DIRECT after the page cache was told to drop it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use twox_hash::XxHash3_128;

use super::{THREADS, WriteError, in_threads};
use crate::disk::device::{AlignedBuf, DirectReader, Target};
use crate::disk::fingerprint::{is_zero, sum_of_blocks};

/// The length of a hashed block in bytes. All writes begin on a multiple of it, and only the end of the image is
/// shorter.
const BLOCK: usize = 4096;

/// The length of one read, and of the smallest region that has its own sum, in bytes.
const STEP: usize = 8 << 20;

/// The largest number of sums, whatever the size of the disk is. They take 1 MiB. Up to 512 GiB each region is one
/// step.
const MAX_REGIONS: u64 = 1 << 16;

/// The sums of what a disk should hold, by region.
#[derive(Debug)]
pub(super) struct RegionSums {
    /// The length of a region in bytes, which is a power of two.
    region: u64,
    sums: Mutex<Vec<u128>>,
}

impl RegionSums {
    /// Returns the sums of a disk of `disk_len` bytes that are all zero.
    pub(super) fn new(disk_len: u64) -> Self {
        let region = disk_len.div_ceil(MAX_REGIONS).next_power_of_two().max(STEP as u64);
        let regions = usize::try_from(disk_len.div_ceil(region)).unwrap_or_default();
        RegionSums { region, sums: Mutex::new(vec![0; regions]) }
    }

    /// Adds `data`, which was written at `offset` (bytes, a multiple of the block size). Each place may be written only
    /// once.
    pub(super) fn add(&self, mut data: &[u8], mut offset: u64) {
        while !data.is_empty() {
            let (index, inside) = (offset / self.region, offset % self.region);
            let len = usize::try_from(self.region - inside).unwrap_or(usize::MAX).min(data.len());
            let (part, rest) = data.split_at(len);
            let part_sum = sum(part, offset);
            let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(region_sum) = usize::try_from(index).ok().and_then(|index| sums.get_mut(index)) {
                *region_sum = region_sum.wrapping_add(part_sum);
            }
            (data, offset) = (rest, offset + len as u64);
        }
    }

    /// Reads `range` (bytes) of the disk and compares it with the sums.
    pub(super) fn check(&self, target: &Target, range: Range<u64>) -> Result<(), WriteError> {
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner).clone();
        each_region(target, range, self.region, |reader, region| {
            let mut found = 0_u128;
            let index = region.start / self.region;
            reader.each_step(region.clone(), |data, offset| {
                found = found.wrapping_add(sum(data, offset));
                Ok(())
            })?;
            let expected = usize::try_from(index).ok().and_then(|index| sums.get(index));
            if expected == Some(&found) { Ok(()) } else { Err(differs(target, region, "the image")) }
        })
    }
}

/// Returns the sum of the hashes of all blocks that are not zero. The place is the seed of the hash, so a block that
/// moved changes the sum.
fn sum(data: &[u8], offset: u64) -> u128 {
    sum_of_blocks(data, offset, BLOCK, XxHash3_128::oneshot_with_seed)
}

/// Reads `range` (bytes) of the disk and fails if it is not zero. The error calls the range `what`.
pub(super) fn check_zeros(target: &Target, range: Range<u64>, what: &'static str) -> Result<(), WriteError> {
    each_region(target, range, STEP as u64, |reader, region| {
        reader.each_step(region, |data, at| if is_zero(data) { Ok(()) } else { compare(target, data, |_| 0, at, what) })
    })
}

/// Reads the disk at `offset` (bytes) and fails if it does not hold `bytes`. The error calls them `what`.
pub(super) fn check_bytes(target: &Target, bytes: &[u8], offset: u64, what: &'static str) -> Result<(), WriteError> {
    StepReader::new(target).each_step(offset..offset + bytes.len() as u64, |data, at| {
        // The difference is less than `bytes.len()`, so it fits into a usize.
        let start = usize::try_from(at - offset).unwrap_or_default();
        compare(target, data, |index| bytes[start + index], at, what)
    })
}

/// Compares `data`, which was read at `at`, with the byte that is expected at each index.
fn compare(
    target: &Target,
    data: &[u8],
    expected: impl Fn(usize) -> u8,
    at: u64,
    what: &'static str,
) -> Result<(), WriteError> {
    let differs_at = |index: &usize| data[*index] != expected(*index);
    let Some(first) = (0..data.len()).find(differs_at) else { return Ok(()) };
    let last = (first..data.len()).rfind(differs_at).unwrap_or(first);
    Err(differs(target, at + first as u64..at + last as u64 + 1, what))
}

/// Returns the error that names the bytes in `range`.
pub(super) fn differs(target: &Target, range: Range<u64>, what: &'static str) -> WriteError {
    WriteError::Differs { path: target.path().to_owned(), first: range.start, last: range.end - 1, what }
}

/// Calls `examine` in several threads for all parts of `range`, which is cut at the multiples of `len`. Returns an
/// error of one of them.
fn each_region<'t>(
    target: &'t Target,
    range: Range<u64>,
    len: u64,
    examine: impl Fn(&mut StepReader<'t>, Range<u64>) -> Result<(), WriteError> + Sync,
) -> Result<(), WriteError> {
    let next = AtomicU64::new(range.start / len);
    in_threads(THREADS, "a thread that reads the disk back died", || {
        let mut reader = StepReader::new(target);
        loop {
            let start = next.fetch_add(1, Ordering::Relaxed) * len;
            if start >= range.end {
                return Ok(());
            }
            if let Err(err) = examine(&mut reader, start.max(range.start)..(start + len).min(range.end)) {
                // After this the other threads find nothing left to do.
                next.store(range.end.div_ceil(len), Ordering::Relaxed);
                return Err(err);
            }
        }
    })
}

/// Reads the disk back in steps, in one thread.
struct StepReader<'t> {
    target: &'t Target,
    reader: DirectReader<'t>,
    buffer: AlignedBuf,
}

impl<'t> StepReader<'t> {
    fn new(target: &'t Target) -> Self {
        StepReader { target, reader: target.read_back(), buffer: AlignedBuf::new(STEP) }
    }

    /// Reads `range` (bytes) of the disk, and calls `take` with each piece and its place.
    fn each_step(
        &mut self,
        range: Range<u64>,
        mut take: impl FnMut(&[u8], u64) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let mut at = range.start;
        while at < range.end {
            // Steps end on multiples of their length, so that direct I/O stays aligned.
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
    use super::{RegionSums, STEP, check_bytes, check_zeros, sum};
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
            assert_eq!(RegionSums::new(disk).sums.lock().unwrap().len(), regions, "{disk}");
        }
    }

    #[test]
    fn pieces_in_any_order_and_without_their_zeros_give_the_same_sum() {
        let data = data();
        let sums = RegionSums::new(LEN as u64);
        for (index, piece) in data.chunks(3 * 4096).enumerate().collect::<Vec<_>>().into_iter().rev() {
            if piece.iter().any(|byte| *byte != 0) {
                sums.add(piece, index as u64 * 3 * 4096);
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
        let sums = RegionSums::new(LEN as u64);
        sums.add(&data, 0);
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
        let error = check_zeros(&target, 3..LEN as u64, "zeros after the image").unwrap_err().to_string();
        let place = format!("bytes {} to {} (zeros after the image)", STEP + 7, STEP + 9);
        assert!(error.contains(&place), "{error}");
        check_zeros(&target, 3..STEP as u64 + 7, "zeros").unwrap();
        check_bytes(&target, &content[5..], 5, "all").unwrap();
        content[6] = 1;
        let error = check_bytes(&target, &content[5..], 5, "all").unwrap_err().to_string();
        assert!(error.contains("bytes 6 to 6 (all)"), "{error}");
    }
}
