// SPDX-License-Identifier: BSD-2-Clause
//! From a block's symbols to the last column of its sorted rotations: Huffman, run lengths, move to front.

use super::bits::Bits;
use super::header::Header;
use super::huffman::Code;
use super::{Fault, MAX_BLOCK_LEN};

/// Symbols that are coded alike.
const GROUP_LEN: usize = 50;

/// A short run is written as this many bytes, whatever its length.
const SHORT_RUN: usize = 8;

/// Room for a group of short runs behind the longest block.
const SLACK: usize = (GROUP_LEN + 1) * SHORT_RUN;

/// The last column of a block, and how often each byte value is in it.
pub(super) struct Column {
    bytes: Box<[u8]>,
    len: usize,
    pub(super) counts: [u32; 256],
}

impl Column {
    pub(super) fn new() -> Self {
        Column { bytes: vec![0; MAX_BLOCK_LEN + SLACK].into_boxed_slice(), len: 0, counts: [0; 256] }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Reads the symbols behind `header`, up to the block's last bit, or until `bits` are over.
    pub(super) fn read(&mut self, header: &Header, bits: &mut Bits<'_>) -> Result<(), Fault> {
        let end = header.end_symbol();
        let mut front = Front::new(&header.used);
        let mut run_bit = 0;
        let mut group = [0; GROUP_LEN];
        self.len = 0;
        self.counts.fill(0);
        for selector in &header.selectors {
            let count = read_group(&header.codes[usize::from(*selector)], bits, end, &mut group)?;
            self.append(&group[..count], &mut front, &mut run_bit)?;
            if count < GROUP_LEN || bits.is_over() {
                return Ok(());
            }
        }
        Err(Fault::Corrupt("a block has more symbols than Huffman selectors"))
    }

    /// Symbols 0 and 1 are the digits 1 and 2 of a run's length in base 2, least significant first; the others are
    /// places in the list, plus one. Both are treated alike, for which of them comes next can't be predicted.
    fn append(&mut self, group: &[u16], front: &mut Front, run_bit: &mut u32) -> Result<(), Fault> {
        const TOO_LONG: Fault = Fault::Corrupt("a block is longer than 900000 bytes");
        let mut len = self.len;
        for symbol in group {
            let symbol = u32::from(*symbol);
            let is_run = symbol < 2;
            let place = if is_run { 0 } else { symbol - 1 };
            let count = if is_run { (symbol + 1) << *run_bit } else { 1 };
            *run_bit = if is_run { *run_bit + 1 } else { 0 };
            let byte = front.take(place as usize);
            self.bytes[len..len + SHORT_RUN].fill(byte);
            let end = len + count as usize;
            if count as usize > SHORT_RUN {
                if end > MAX_BLOCK_LEN {
                    return Err(TOO_LONG);
                }
                self.bytes[len..end].fill(byte);
            }
            self.counts[usize::from(byte)] += count;
            len = end;
        }
        if len > MAX_BLOCK_LEN {
            return Err(TOO_LONG);
        }
        self.len = len;
        Ok(())
    }
}

/// Decodes up to 50 symbols; fewer at the block's end, whose symbol is not counted.
#[inline(always)]
fn read_group(code: &Code, bits: &mut Bits<'_>, end: u16, group: &mut [u16; GROUP_LEN]) -> Result<usize, Fault> {
    const NO_CODE: Fault = Fault::Corrupt("a symbol has no Huffman code");
    // A copy stays in registers.
    let mut local = bits.clone();
    for (pair, slots) in group.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        // Enough for two codes.
        local.refill();
        for (nth, slot) in slots.iter_mut().enumerate() {
            *slot = code.next(&mut local).ok_or(NO_CODE)?;
            if *slot == end {
                *bits = local;
                return Ok(pair * 2 + nth);
            }
        }
    }
    *bits = local;
    Ok(GROUP_LEN)
}

/// Places of the list that are moved in registers, and those behind them.
const NEAR_LEN: usize = 16;
const FAR_LEN: usize = 256 - NEAR_LEN;

/// A list of the byte values, the last used one first.
struct Front {
    /// Place n is the byte of value 256^n.
    near: u128,
    /// From place 16 on.
    far: [u8; FAR_LEN],
}

impl Front {
    fn new(values: &[u8; 256]) -> Self {
        let mut near = [0; NEAR_LEN];
        let mut far = [0; FAR_LEN];
        near.copy_from_slice(&values[..NEAR_LEN]);
        far.copy_from_slice(&values[NEAR_LEN..]);
        Front { near: u128::from_le_bytes(near), far }
    }

    /// The byte at `place` (0 to 255), which moves to the front.
    #[inline(always)]
    fn take(&mut self, place: usize) -> u8 {
        if place < NEAR_LEN {
            let byte = self.near >> (place * 8) & 0xff;
            let stay = u128::MAX << (place * 8) << 8;
            self.near = self.near & stay | self.near << 8 & !stay | byte;
            byte as u8
        } else {
            let byte = self.far[place - NEAR_LEN];
            self.far.copy_within(..place - NEAR_LEN, 1);
            self.far[0] = (self.near >> 120) as u8;
            self.near = self.near << 8 | u128::from(byte);
            byte
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Front;
    use proptest::prelude::{prop, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn the_list_moves_as_a_list_does(places in prop::collection::vec(0..256_usize, 0..200)) {
            let mut list: Vec<u8> = (0..=255).rev().collect();
            let mut front = Front::new(list.as_slice().try_into().unwrap());
            for place in places {
                list[..=place].rotate_right(1);
                prop_assert_eq!(front.take(place), list[0]);
            }
        }
    }
}
