// SPDX-License-Identifier: BSD-2-Clause
//! Canonical Huffman codes of up to 20 bits.

use super::bits::Bits;

/// The longest code that bzip2 allows, in bits.
pub(super) const MAX_LEN: u32 = 20;

/// Symbols at most: two of run lengths, 255 of list positions, the end of the block.
pub(super) const MAX_SYMBOLS: usize = 258;

/// Codes of up to this many bits are looked up: six tables of 2 KiB stay in the first-level cache.
const LOOKUP_BITS: u32 = 10;

/// One code of a block.
pub(super) struct Code {
    /// By the next [`LOOKUP_BITS`]: symbol << 4 | length of its code; 0 where the code is longer.
    lookup: [u16; 1 << LOOKUP_BITS],
    /// By length: the first number, left-justified to [`MAX_LEN`] bits, that is beyond the codes of this length.
    ends: [u32; MAX_LEN as usize + 1],
    /// By length: the number of its first code, right-justified, and that code's place in `symbols`.
    firsts: [(u32, u32); MAX_LEN as usize + 1],
    /// Symbols in the order of their codes.
    symbols: [u16; MAX_SYMBOLS],
}

impl Code {
    pub(super) fn new() -> Self {
        Code {
            lookup: [0; 1 << LOOKUP_BITS],
            ends: [0; MAX_LEN as usize + 1],
            firsts: [(0, 0); MAX_LEN as usize + 1],
            symbols: [0; MAX_SYMBOLS],
        }
    }

    /// Becomes the code in which symbol `n` has `lengths[n]` bits (1 to 20). As in bzip2 itself no set of lengths is
    /// wrong: codes that find no room are never met, and a number without a code is an error when it is met.
    pub(super) fn set(&mut self, lengths: &[u8]) {
        self.lookup.fill(0);
        let mut code = 0;
        let mut place = 0;
        for len in 1..=MAX_LEN {
            self.firsts[len as usize] = (code, place);
            let of_this_len = (0..).zip(lengths).filter(|(_, other)| u32::from(**other) == len);
            for (symbol, _) in of_this_len {
                self.symbols[place as usize] = symbol;
                self.fill(code, len, symbol);
                place += 1;
                code += 1;
            }
            self.ends[len as usize] = code << (MAX_LEN - len);
            code <<= 1;
        }
    }

    fn fill(&mut self, code: u32, len: u32, symbol: u16) {
        let Some(spare) = LOOKUP_BITS.checked_sub(len) else { return };
        let start = (code as usize) << spare;
        if let Some(entries) = self.lookup.get_mut(start..start + (1 << spare)) {
            entries.fill(symbol << 4 | (len & 15) as u16);
        }
    }

    /// The next symbol, for which 20 bits have to be held; none where the bits are no code.
    #[inline(always)]
    pub(super) fn next(&self, bits: &mut Bits<'_>) -> Option<u16> {
        let entry = self.lookup[(bits.peek() >> (64 - LOOKUP_BITS)) as usize];
        if entry == 0 {
            let (symbol, len) = self.long((bits.peek() >> (64 - MAX_LEN)) as u32)?;
            bits.consume(len);
            return Some(symbol);
        }
        bits.consume(u32::from(entry & 15));
        Some(entry >> 4)
    }

    /// The symbol at the start of [`MAX_LEN`] bits, and the length of its code.
    #[cold]
    fn long(&self, bits: u32) -> Option<(u16, u32)> {
        let len = (LOOKUP_BITS + 1..=MAX_LEN).find(|len| bits < self.ends[*len as usize])?;
        let (code, place) = self.firsts[len as usize];
        let place = (bits >> (MAX_LEN - len)).checked_sub(code)? + place;
        Some((*self.symbols.get(place as usize)?, len))
    }
}

#[cfg(test)]
mod tests {
    use super::{Bits, Code};

    fn symbols(lengths: &[u8], bytes: &[u8], count: usize) -> Vec<Option<u16>> {
        let mut code = Code::new();
        code.set(lengths);
        let bytes = [bytes, &[0; 8]].concat();
        let mut bits = Bits::new(&bytes, 0, 0);
        let next = || {
            bits.refill();
            code.next(&mut bits)
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    #[test]
    fn short_codes() {
        // 0: 10, 1: 0, 2: 110, 3: 111
        assert_eq!(symbols(&[2, 1, 3, 3], &[0b1001_1011, 0x80], 4), [Some(0), Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn long_codes() {
        let lengths: Vec<u8> = (1..=19).chain([20, 20]).collect();
        // 19 ones are symbol 19's first 19 bits; 0 comes next.
        assert_eq!(symbols(&lengths, &[0xff, 0xff, 0b1110_0000], 2), [Some(19), Some(0)]);
        assert_eq!(symbols(&lengths, &[0xff, 0xff, 0b1111_0000], 2), [Some(20), Some(0)]);
        assert_eq!(symbols(&lengths, &[0xff, 0b1110_0000], 1), [Some(11)]);
    }

    #[test]
    fn a_number_without_a_code_is_nothing() {
        assert_eq!(symbols(&[2, 2], &[0b0001_1111, 0xff, 0xff], 3), [Some(0), Some(1), None]);
    }

    #[test]
    fn too_many_codes_leave_the_first_ones() {
        assert_eq!(symbols(&[1, 1, 1, 12], &[0b0100_0000], 2), [Some(0), Some(1)]);
    }
}
