// SPDX-License-Identifier: BSD-2-Clause
//! Whether two passes over a file saw the same bytes, though neither keeps them.
//!
//! An image on the node is read once to be checked and once to be written, by threads that read in any order. Each pass
//! hashes every block that is not zero together with its place, and adds the hashes up: a sum does not depend on the
//! order, and holes cost nothing. The hash is keyed (BLAKE3) with a key that is made for this run and shown to nobody: who
//! changes the file in between can't choose bytes that give the same sum.
//!
//! The read-back's XXH3 would not do here: an attacker may choose the bytes. Nor is the checksum itself made of the
//! written bytes: that would put the reads in order, and hash the holes. Where nothing is checked, nothing is noted.
//!
//! An image of the cache is noted too where it is read for the check. One that is only held against the digest of its
//! download is trusted as it lies: its folder is root's, and a publisher puts a new file there. For a file that
//! qemu-img reads itself, only its size and times tell of a change.

use std::io::{self, Read};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// What is hashed at once, in bytes: BLAKE3 works on many of its chunks at a time. Measured: 4 KiB take 2.4 times as long, and
/// with the place before the bytes, where no chunk is whole, 7 times.
pub(crate) const BLOCK: usize = 64 << 10;

/// So much is handed to the thread that notes what a reader gives, in bytes, and so often before the reader waits for it.
const PIECE: usize = 4 * BLOCK;
const PIECES: usize = 8;

/// The sum over what one pass saw.
pub struct Fingerprint {
    key: [u8; blake3::KEY_LEN],
    sum: Mutex<u128>,
}

impl Fingerprint {
    /// Of nothing yet, with a key of its own.
    pub(crate) fn new() -> io::Result<Self> {
        let mut key = [0; blake3::KEY_LEN];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        Ok(Fingerprint { key, sum: Mutex::default() })
    }

    /// For the other pass: of nothing yet, with the same key.
    #[must_use]
    pub(crate) fn with_same_key(&self) -> Self {
        Fingerprint { key: self.key, sum: Mutex::default() }
    }

    /// `data` was seen at `offset` (bytes), where nothing was noted before. Both are multiples of [`BLOCK`], but for the
    /// file's end: else the sum depends on the pieces.
    pub(crate) fn note(&self, data: &[u8], offset: u64) {
        let sum = sum_of_blocks(data, offset, BLOCK, |place, block| {
            let mut hasher = blake3::Hasher::new_keyed(&self.key);
            let hash = *hasher.update(block).update(&place.to_le_bytes()).finalize().as_bytes();
            let (half, _) = hash.split_first_chunk().unwrap_or((&[0; 16], &[]));
            u128::from_le_bytes(*half)
        });
        let mut all = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        *all = all.wrapping_add(sum);
    }

    /// Whether both passes saw the same bytes, zeros at the end aside.
    pub(crate) fn matches(&self, other: &Self) -> bool {
        let sum = |of: &Self| *of.sum.lock().unwrap_or_else(PoisonError::into_inner);
        sum(self) == sum(other)
    }

    /// Notes all that is read from `inner`, which begins at the file's start, up to its end, in a thread of its own: who
    /// reads it mostly decodes it, and does not wait.
    pub(crate) fn reader<R: Read>(self: &Arc<Self>, inner: R) -> io::Result<FingerprintReader<R>> {
        let (sender, pieces) = sync_channel::<Vec<u8>>(PIECES);
        let fingerprint = Arc::clone(self);
        let thread = thread::Builder::new().spawn(move || {
            let mut offset = 0;
            for piece in pieces {
                fingerprint.note(&piece, offset);
                offset += piece.len() as u64;
            }
        })?;
        Ok(FingerprintReader { inner, pending: Vec::with_capacity(PIECE), noting: Some((sender, thread)) })
    }
}

/// A reader that has noted what it gives when it has given all of it.
pub(crate) struct FingerprintReader<R> {
    inner: R,
    /// What was not handed on yet.
    pending: Vec<u8>,
    /// The thread, until the end. Should it die, the sum is another one, and the run an error.
    noting: Option<(SyncSender<Vec<u8>>, JoinHandle<()>)>,
}

impl<R> FingerprintReader<R> {
    fn hand_on(&mut self, data: &[u8]) {
        self.pending.extend_from_slice(data);
        if self.pending.len() >= PIECE
            && let Some((sender, _)) = &self.noting
        {
            let rest = self.pending.split_off(self.pending.len() - self.pending.len() % BLOCK);
            let _ = sender.send(std::mem::replace(&mut self.pending, rest));
        }
    }

    fn finish(&mut self) {
        if let Some((sender, thread)) = self.noting.take() {
            let _ = sender.send(std::mem::take(&mut self.pending));
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
        self.hand_on(&buf[..len]);
        Ok(len)
    }
}

/// The hashes, by `hash` of place and bytes, of all blocks of `len` bytes in `data`, which lies at `offset` (bytes), that
/// are not zero.
pub(crate) fn sum_of_blocks(data: &[u8], offset: u64, len: usize, hash: impl Fn(u64, &[u8]) -> u128) -> u128 {
    let places = (offset..).step_by(len);
    let blocks = data.chunks(len).zip(places).filter(|(block, _)| !is_zero(block));
    blocks.fold(0, |sum, (block, place)| sum.wrapping_add(hash(place, block)))
}

/// Whether all is zero. Reads every byte once, in pieces that the compiler turns into vector operations, and ends at the
/// first piece with data.
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
        first.note(&before, 0);
        let agrees = |after: &[u8]| {
            let second = first.with_same_key();
            second.note(after, 0);
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
        one.note(&data(20_000), 0);
        other.note(&data(20_000), 0);
        assert!(!one.matches(&other));
    }

    #[test]
    fn the_place_counts_and_zeros_do_not() {
        let hash = |place: u64, block: &[u8]| u128::from(place) + block.len() as u128;
        assert_eq!(sum_of_blocks(&[0; 8192], 0, 4096, hash), 0);
        assert_eq!(sum_of_blocks(&[1; 4097], 8192, 4096, hash), 8192 + 4096 + 12288 + 1);
    }

    proptest! {
        /// However a reader cuts it, and whatever order pieces are noted in.
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
            pieces.iter().rev().for_each(|(at, end)| whole.note(&data[*at..*end], *at as u64));
            let read = Arc::new(whole.with_same_key());
            let mut reader = read.reader(data.as_slice()).unwrap();
            let mut buffer = vec![0; step];
            while reader.read(&mut buffer).unwrap() > 0 {}
            prop_assert!(whole.matches(&read));
        }
    }
}
