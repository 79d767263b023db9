// SPDX-License-Identifier: BSD-2-Clause
//! The outermost layer of a block: four equal bytes are followed by the number of further ones.
//!
//! A block of 900 000 bytes may stand for 46 MB, so that it is kept as what it says: literal bytes and runs.

use super::crc::Crc;
use super::{Fault, MAX_BLOCK_LEN};

/// Equal bytes that are followed by a number.
const RUN_START: u32 = 4;

/// `len` times `byte`, before the literal byte of index `at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    at: u32,
    len: u32,
    byte: u8,
}

/// A block's decoded bytes, with its runs not yet spelled out.
#[derive(Default)]
pub(super) struct Expanded {
    /// Its first `len` bytes count: it stays as long as it may get.
    literals: Vec<u8>,
    len: u32,
    runs: Vec<Run>,
}

/// Takes a block's bytes part by part.
pub(super) struct Expander<'e> {
    into: &'e mut Expanded,
    /// How many equal bytes came last, 0 behind a run.
    same: u32,
    last: u8,
}

impl<'e> Expander<'e> {
    /// Replaces what is in `into`.
    pub(super) fn new(into: &'e mut Expanded) -> Self {
        into.literals.resize(MAX_BLOCK_LEN, 0);
        into.len = 0;
        into.runs.clear();
        Expander { into, same: 0, last: 0 }
    }

    /// Takes the next bytes of the block, which is never longer than [`MAX_BLOCK_LEN`].
    pub(super) fn take(&mut self, part: &[u8]) {
        let (words, rest) = part.as_chunks::<8>();
        for word in words {
            if !self.take_plain(*word) {
                self.take_each(word);
            }
        }
        self.take_each(rest);
    }

    /// Takes eight bytes at once when no run begins or ends among them; tells whether it did.
    #[inline(always)]
    fn take_plain(&mut self, word: [u8; 8]) -> bool {
        const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
        if self.same == RUN_START {
            return false;
        }
        let bytes = u64::from_le_bytes(word);
        let unlike = bytes ^ (bytes << 8 | u64::from(self.last));
        // The top bit of each byte that equals the one before it: the sum carries into it from any other bit.
        let mut like = !(((unlike & LOW) + LOW) | unlike | LOW);
        if self.same == 0 {
            like &= !0xff;
        }
        // The same for the two bytes before, of which `same` knows.
        let before = like << 8 | if self.same >= 2 { 0x80 } else { 0 };
        let before_that = before << 8 | if self.same >= 3 { 0x80 } else { 0 };
        if like & before & before_that != 0 {
            return false;
        }
        let len = self.into.len as usize;
        self.into.literals[len..len + 8].copy_from_slice(&word);
        self.into.len += 8;
        self.last = word[7];
        self.same = (like | LOW).leading_ones() / 8 + 1;
        true
    }

    fn take_each(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.same == RUN_START {
                self.run(*byte);
                continue;
            }
            self.same = if *byte == self.last || self.same == 0 { self.same + 1 } else { 1 };
            self.last = *byte;
            self.into.literals[self.into.len as usize] = *byte;
            self.into.len += 1;
        }
    }

    /// Runs of the same byte without anything between them become one: a block of zeros is a single run.
    fn run(&mut self, count: u8) {
        self.same = 0;
        let start = self.into.len - RUN_START;
        let len = u32::from(count);
        match self.into.runs.last_mut() {
            Some(run) if run.at == start && run.byte == self.last => {
                run.len += len + RUN_START;
                self.into.len -= RUN_START;
            }
            _ if count == 0 => {}
            _ => {
                self.into.len -= RUN_START;
                self.into.runs.push(Run { at: start, len: len + RUN_START, byte: self.last });
            }
        }
    }

    /// Ends the block and gives its checksum.
    pub(super) fn finish(self) -> Result<u32, Fault> {
        if self.same == RUN_START {
            return Err(Fault::Corrupt("a block ends inside a run"));
        }
        Ok(self.into.crc())
    }
}

impl Expanded {
    fn crc(&self) -> u32 {
        let mut crc = Crc::new();
        let mut done = 0;
        for run in &self.runs {
            crc.update(&self.literals[done..run.at as usize]);
            crc.repeat(run.byte, run.len);
            done = run.at as usize;
        }
        crc.update(&self.literals[done..self.len as usize]);
        crc.value()
    }
}

/// Reads a block's bytes.
#[derive(Default)]
pub(super) struct Unread {
    block: Expanded,
    /// Literal bytes given out, runs given out, and bytes of the run that is being given out.
    literals: usize,
    runs: usize,
    of_run: u32,
}

impl Unread {
    pub(super) fn new(block: Expanded) -> Self {
        Unread { block, ..Unread::default() }
    }

    /// The buffers, to be used again.
    pub(super) fn into_inner(self) -> Expanded {
        self.block
    }

    /// Fills the start of `buf`, all of it while the block lasts; gives the number of bytes.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> usize {
        let mut len = 0;
        while len < buf.len() {
            let run = self.block.runs.get(self.runs);
            let until = run.map_or(self.block.len as usize, |run| run.at as usize);
            let free = &mut buf[len..];
            if self.literals < until {
                let count = free.len().min(until - self.literals);
                free[..count].copy_from_slice(&self.block.literals[self.literals..self.literals + count]);
                self.literals += count;
                len += count;
                continue;
            }
            let Some(run) = run else { break };
            let count = u32::try_from(free.len()).unwrap_or(u32::MAX).min(run.len - self.of_run);
            free[..count as usize].fill(run.byte);
            len += count as usize;
            self.of_run += count;
            if self.of_run == run.len {
                self.runs += 1;
                self.of_run = 0;
            }
        }
        len
    }
}
