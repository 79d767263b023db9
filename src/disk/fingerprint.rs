// SPDX-License-Identifier: BSD-2-Clause
//! Tells whether two passes over a file saw the same bytes, although neither pass keeps them.
//!
//! An image on the node is read once to be checked and once to be written, by threads that read in any order. Each pass
//! hashes every block that is not zero together with its offset, and adds the hashes up. The sum does not depend on the
//! order, and holes cost nothing. The hash (BLAKE3) has a secret key that is made for this run, so an attacker who
//! changes the file between the passes can't choose bytes that give the same sum. The XXH3 of the read-back has no key
//! and could not be used here. The checksum of the image can't be computed from the written bytes, because it needs
//! them in order and includes the holes.
//!
//! An image of the cache also gets a fingerprint if the check reads it. If only the digest of its download is compared,
//! the file is trusted, because its folder belongs to root. A file that qemu-img itself reads gets no fingerprint. Only
//! its size and times show a change.

use std::io::{self, Read};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// The length of a hashed block in bytes. BLAKE3 works on many of its chunks at once, so blocks of 4 KiB were measured
/// to take 2.4 times as long. Hashing the offset before the bytes, which leaves no chunk whole, takes 7 times as long.
pub(crate) const BLOCK: usize = 64 << 10;

/// The length in bytes of a piece that a [`FingerprintReader`] sends to its thread, and the number of pieces that may
/// wait.
const PIECE: usize = 4 * BLOCK;
const PIECES: usize = 8;

/// The sum over the blocks that one pass saw.
pub struct Fingerprint {
    key: [u8; blake3::KEY_LEN],
    sum: Mutex<u128>,
}

impl Fingerprint {
    /// Returns an empty sum with a new key.
    pub(crate) fn new() -> io::Result<Self> {
        let mut key = [0; blake3::KEY_LEN];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        Ok(Fingerprint { key, sum: Mutex::default() })
    }

    /// Returns an empty sum with the same key, for the other pass.
    #[must_use]
    pub(crate) fn with_same_key(&self) -> Self {
        Fingerprint { key: self.key, sum: Mutex::default() }
    }

    /// Adds `data`, which was read at `offset` (bytes). Each place may be added only once. Except at the end of the
    /// file, offset and length have to be multiples of [`BLOCK`], because otherwise the sum would depend on how the
    /// reader cuts the file.
    pub(crate) fn add(&self, data: &[u8], offset: u64) {
        let sum = sum_of_blocks(data, offset, BLOCK, |place, block| {
            let mut hasher = blake3::Hasher::new_keyed(&self.key);
            let hash = *hasher.update(block).update(&place.to_le_bytes()).finalize().as_bytes();
            let (half, _) = hash.split_first_chunk().unwrap_or((&[0; 16], &[]));
            u128::from_le_bytes(*half)
        });
        let mut all = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        *all = all.wrapping_add(sum);
    }

    /// Returns whether both passes saw the same bytes. Zeros at the end make no difference.
    pub(crate) fn matches(&self, other: &Self) -> bool {
        let sum = |of: &Self| *of.sum.lock().unwrap_or_else(PoisonError::into_inner);
        sum(self) == sum(other)
    }

    /// Returns a reader that adds everything that is read from `inner`, which has to begin at the start of the file. A
    /// thread does the hashing, so that the caller, which mostly decodes, does not wait for it.
    pub(crate) fn reader<R: Read>(self: &Arc<Self>, inner: R) -> io::Result<FingerprintReader<R>> {
        let (sender, pieces) = sync_channel::<Vec<u8>>(PIECES);
        let fingerprint = Arc::clone(self);
        let thread = thread::Builder::new().spawn(move || {
            let mut offset = 0;
            for piece in pieces {
                fingerprint.add(&piece, offset);
                offset += piece.len() as u64;
            }
        })?;
        Ok(FingerprintReader { inner, waiting: Vec::with_capacity(PIECE), adding: Some((sender, thread)) })
    }
}

/// A reader that adds what it reads to a fingerprint. The fingerprint is complete when the reader has reached the end.
pub(crate) struct FingerprintReader<R> {
    inner: R,
    /// These bytes were not sent to the thread yet.
    waiting: Vec<u8>,
    /// `None` after the end. If the thread dies, the sum differs, and so the run fails.
    adding: Option<(SyncSender<Vec<u8>>, JoinHandle<()>)>,
}

impl<R> FingerprintReader<R> {
    fn add(&mut self, data: &[u8]) {
        self.waiting.extend_from_slice(data);
        if self.waiting.len() >= PIECE
            && let Some((sender, _)) = &self.adding
        {
            let rest = self.waiting.split_off(self.waiting.len() - self.waiting.len() % BLOCK);
            let _ = sender.send(std::mem::replace(&mut self.waiting, rest));
        }
    }

    fn finish(&mut self) {
        if let Some((sender, thread)) = self.adding.take() {
            let _ = sender.send(std::mem::take(&mut self.waiting));
            drop(sender);
            let _ = thread.join();
        }
    }
}

impl<R: Read> Read for FingerprintReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buf)?;
        if len == 0 && !buf.is_empty() {
            self.finish();
        }
        self.add(&buf[..len]);
        Ok(len)
    }
}

/// Returns the sum of the hashes of all blocks of `len` bytes in `data` that are not zero. `data` begins at `offset`
/// (bytes), and `hash` is called with the offset and the bytes of each block.
pub(crate) fn sum_of_blocks(data: &[u8], offset: u64, len: usize, hash: impl Fn(u64, &[u8]) -> u128) -> u128 {
    let places = (offset..).step_by(len);
    let blocks = data.chunks(len).zip(places).filter(|(block, _)| !is_zero(block));
    blocks.fold(0, |sum, (block, place)| sum.wrapping_add(hash(place, block)))
}

/// Returns whether all bytes are zero. The compiler turns the comparison of a piece into vector operations. The first
/// piece with data ends the search.
pub(crate) fn is_zero(block: &[u8]) -> bool {
    let (pieces, rest) = block.as_chunks::<256>();
    pieces.iter().all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Fingerprint, sum_of_blocks};
    use proptest::prelude::{any, prop, prop_assert, proptest};
    use std::io::Read;
    use std::sync::Arc;

    fn data(len: usize) -> Vec<u8> {
        (0..len).map(|index| if index % 50_000 < 9000 { 0 } else { u8::try_from(index % 251).unwrap() }).collect()
    }

    #[test]
    fn a_changed_moved_or_swapped_block_is_seen() {
        let before = data(10 * BLOCK + 5);
        let first = Fingerprint::new().unwrap();
        first.add(&before, 0);
        let agrees = |after: &[u8]| {
            let second = first.with_same_key();
            second.add(after, 0);
            first.matches(&second)
        };
        assert!(agrees(&before));
        for at in [0, 9000, BLOCK * 4 - 1, BLOCK * 4, before.len() - 1] {
            let mut after = before.clone();
            after[at] ^= 1;
            assert!(!agrees(&after), "{at}");
        }
        let mut swapped = before.clone();
        swapped.copy_within(4 * BLOCK..5 * BLOCK, 3 * BLOCK);
        swapped[4 * BLOCK..5 * BLOCK].copy_from_slice(&before[3 * BLOCK..4 * BLOCK]);
        assert!(!agrees(&swapped));
    }

    #[test]
    fn two_keys_give_two_sums() {
        let (one, other) = (Fingerprint::new().unwrap(), Fingerprint::new().unwrap());
        one.add(&data(20_000), 0);
        other.add(&data(20_000), 0);
        assert!(!one.matches(&other));
    }

    #[test]
    fn the_place_counts_and_zeros_do_not() {
        let hash = |place: u64, block: &[u8]| u128::from(place) + block.len() as u128;
        assert_eq!(sum_of_blocks(&[0; 8192], 0, 4096, hash), 0);
        assert_eq!(sum_of_blocks(&[1; 4097], 8192, 4096, hash), 8192 + 4096 + 12288 + 1);
    }

    proptest! {
        /// The sum must not depend on how a reader cuts the file, nor on the order of the pieces.
        #[test]
        fn pieces_in_any_form_agree(len in 0..900_000_usize, step in 1..150_000_usize, fill in any::<u8>(), cuts in prop::collection::vec(1..4_usize, 1..5)) {
            let mut data = data(len);
            data.extend(vec![fill; len % 150_000]);
            let whole = Fingerprint::new().unwrap();
            let mut pieces = Vec::new();
            let (mut at, mut cut) = (0, cuts.iter().cycle());
            while at < data.len() {
                let end = (at + cut.next().unwrap() * BLOCK).min(data.len());
                pieces.push((at, end));
                at = end;
            }
            pieces.iter().rev().for_each(|(at, end)| whole.add(&data[*at..*end], *at as u64));
            let read = Arc::new(whole.with_same_key());
            let mut reader = read.reader(data.as_slice()).unwrap();
            let mut buffer = vec![0; step];
            while reader.read(&mut buffer).unwrap() > 0 {}
            prop_assert!(whole.matches(&read));
        }
    }
}
