// SPDX-License-Identifier: BSD-2-Clause
//! What a block says about itself before its symbols.

use super::Fault;
use super::bits::Bits;
use super::huffman::{Code, MAX_LEN, MAX_SYMBOLS};

/// Huffman codes of a block at most.
const MAX_CODES: usize = 6;

/// Groups of 50 symbols that a block can have at most: 900 000 and the end. Older encoders name more, for nothing.
const MAX_SELECTORS: usize = 18_001;

/// A block's header, kept from block to block for its tables.
pub(super) struct Header {
    /// Checksum of the block's decoded bytes.
    pub(super) crc: u32,
    /// Where in the sorted column the block starts.
    pub(super) origin: u32,
    /// The byte values that occur, in order, and their number.
    pub(super) used: [u8; 256],
    pub(super) used_count: u16,
    /// The code of each group of 50 symbols.
    pub(super) selectors: Vec<u8>,
    pub(super) codes: Box<[Code; MAX_CODES]>,
}

impl Header {
    pub(super) fn new() -> Self {
        Header {
            crc: 0,
            origin: 0,
            used: [0; 256],
            used_count: 0,
            selectors: Vec::with_capacity(MAX_SELECTORS),
            codes: Box::new(std::array::from_fn(|_| Code::new())),
        }
    }

    /// The symbol behind the last one.
    pub(super) fn end_symbol(&self) -> u16 {
        self.used_count + 1
    }

    /// Reads a header whose magic is behind `bits`.
    pub(super) fn read(&mut self, bits: &mut Bits<'_>) -> Result<(), Fault> {
        self.crc = bits.take(32);
        if bits.bit() {
            return Err(Fault::Randomised);
        }
        self.origin = bits.take(24);
        self.read_used(bits)?;
        let codes = bits.take(3) as usize;
        if !(2..=MAX_CODES).contains(&codes) {
            return Err(Fault::Corrupt("a block has an impossible number of Huffman codes"));
        }
        self.read_selectors(bits, codes)?;
        let symbols = usize::from(self.end_symbol()) + 1;
        for code in &mut self.codes[..codes] {
            read_code(bits, symbols, code)?;
        }
        Ok(())
    }

    fn read_used(&mut self, bits: &mut Bits<'_>) -> Result<(), Fault> {
        let rows = bits.take(16);
        self.used_count = 0;
        for row in (0..16_u8).filter(|row| rows >> (15 - row) & 1 == 1) {
            let values = bits.take(16);
            for column in (0..16_u8).filter(|column| values >> (15 - column) & 1 == 1) {
                self.used[usize::from(self.used_count)] = row * 16 + column;
                self.used_count += 1;
            }
        }
        if self.used_count == 0 {
            return Err(Fault::Corrupt("a block uses no byte value"));
        }
        Ok(())
    }

    /// Each selector is the place of a code in a list whose used entry moves to the front, as that many ones.
    fn read_selectors(&mut self, bits: &mut Bits<'_>, codes: usize) -> Result<(), Fault> {
        let count = bits.take(15) as usize;
        if count == 0 {
            return Err(Fault::Corrupt("a block has no Huffman selector"));
        }
        let mut list = [0, 1, 2, 3, 4, 5];
        self.selectors.clear();
        for _ in 0..count {
            bits.refill();
            let place = bits.peek().leading_ones();
            if place as usize >= codes {
                return Err(Fault::Corrupt("a Huffman selector names no code"));
            }
            bits.consume(place + 1);
            list[..=place as usize].rotate_right(1);
            if self.selectors.len() < MAX_SELECTORS {
                self.selectors.push(list[0]);
            }
        }
        Ok(())
    }
}

/// The first length is a number, each further one differs from the one before by steps: 0 stays, 10 longer, 11 shorter.
fn read_code(bits: &mut Bits<'_>, symbols: usize, code: &mut Code) -> Result<(), Fault> {
    let mut lengths = [0; MAX_SYMBOLS];
    let mut len = bits.take(5);
    for slot in &mut lengths[..symbols] {
        // Twice the way from the shortest to the longest is further than any encoder goes.
        let mut steps = 0..2 * MAX_LEN;
        loop {
            if !(1..=MAX_LEN).contains(&len) || steps.next().is_none() {
                return Err(Fault::Corrupt("a Huffman code has an impossible length"));
            }
            if !bits.bit() {
                break;
            }
            len = if bits.bit() { len - 1 } else { len + 1 };
        }
        *slot = (len & 31) as u8;
    }
    code.set(&lengths[..symbols]);
    Ok(())
}
