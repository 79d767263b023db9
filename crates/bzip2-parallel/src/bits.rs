// SPDX-License-Identifier: BSD-2-Clause
//! Bits in bzip2's order: the most significant one of each byte comes first.

/// Zero bytes that have to follow the real ones, so that the last word can be loaded whole.
pub(super) const PADDING: usize = 8;

/// A position in bytes, read bit by bit. Behind the end it reads anything: ask `is_over` afterwards.
#[derive(Clone)]
pub(super) struct Bits<'d> {
    bytes: &'d [u8],
    /// Index of the next byte to load.
    next: usize,
    /// Loaded bits, left-justified. Below the first `count` it may hold further ones, but only those that come next.
    held: u64,
    count: u32,
    /// Bits in all.
    end: usize,
}

impl<'d> Bits<'d> {
    /// From `skip` bits (0 to 7) behind the start of `bytes` to `end` bits behind it; [`PADDING`] bytes are left then.
    pub(super) fn new(bytes: &'d [u8], skip: u32, end: usize) -> Self {
        let mut bits = Bits { bytes, next: 0, held: 0, count: 0, end };
        bits.refill();
        bits.consume(skip);
        bits
    }

    /// Holds at least 56 bits afterwards.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        let chunk = self.bytes.get(self.next..).and_then(|rest| rest.first_chunk());
        self.held |= chunk.map_or(0, |chunk| u64::from_be_bytes(*chunk)) >> self.count;
        self.next += ((63 - self.count) >> 3) as usize;
        self.count |= 56;
    }

    /// What is held, left-justified: 56 bits right after `refill`, fewer by each `consume`.
    #[inline(always)]
    pub(super) fn peek(&self) -> u64 {
        self.held
    }

    /// Goes forward by `len` bits that are held.
    #[inline(always)]
    pub(super) fn consume(&mut self, len: u32) {
        self.held <<= len;
        self.count -= len;
    }

    /// The next `len` bits as a number; 1 to 32.
    pub(super) fn take(&mut self, len: u32) -> u32 {
        self.refill();
        let value = self.held >> (64 - len);
        self.consume(len);
        (value & 0xffff_ffff) as u32
    }

    /// The next bit.
    pub(super) fn bit(&mut self) -> bool {
        self.take(1) == 1
    }

    /// The next 48 bits as a number.
    pub(super) fn magic(&mut self) -> u64 {
        u64::from(self.take(24)) << 24 | u64::from(self.take(24))
    }

    /// Bits from the start of the bytes to here.
    pub(super) fn position(&self) -> usize {
        self.next * 8 - self.count as usize
    }

    /// Whether bits behind the end were consumed.
    pub(super) fn is_over(&self) -> bool {
        self.position() > self.end
    }
}

#[cfg(test)]
mod tests {
    use super::{Bits, PADDING};

    #[test]
    fn bits_come_in_order_and_zeros_behind_the_end() {
        let mut bytes = vec![0b1010_0111, 0xff, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
        bytes.extend([0; PADDING]);
        let mut bits = Bits::new(&bytes, 3, 80);
        assert_eq!(bits.take(5), 0b0_0111);
        assert_eq!(bits.take(8), 0xff);
        assert_eq!(bits.magic(), 0x0123_4567_89ab);
        assert_eq!(bits.position(), 64);
        assert!(bits.bit());
        assert_eq!(bits.take(15), 0xcdef & 0x7fff);
        assert_eq!(bits.position(), 80);
        assert!(!bits.is_over());
        for _ in 0..10 {
            assert_eq!(bits.take(32), 0);
        }
        assert_eq!(bits.position(), 80 + 320);
        assert!(bits.is_over());
    }
}
