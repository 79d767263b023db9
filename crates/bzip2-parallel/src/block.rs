// SPDX-License-Identifier: BSD-2-Clause
//! Decodes one block.

use super::bits::Bits;
use super::column::Column;
use super::header::Header;
use super::inverse::Inverse;
use super::runs::{Expanded, Expander};
use super::{BLOCK_MAGIC, Fault};

/// What a block's decoder needs, kept from block to block: about 8 MiB.
pub(super) struct Decoder {
    header: Header,
    column: Column,
    inverse: Inverse,
}

/// What a decoded block was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decoded {
    /// Behind its last bit, in bits from the start of the bytes it was in.
    pub(super) end: usize,
    /// Its length in bytes before runs are spelled out, which the level limits.
    pub(super) len: usize,
    /// The checksum, which holds.
    pub(super) crc: u32,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Decoder { header: Header::new(), column: Column::new(), inverse: Inverse::new() }
    }

    /// Decodes the block at the start of `bits` to `out`. `bits` may reach further than the block.
    pub(super) fn decode(&mut self, mut bits: Bits<'_>, out: &mut Expanded) -> Result<Decoded, Fault> {
        let column = self.read(&mut bits);
        if bits.is_over() && column != Err(Fault::Randomised) {
            return Err(Fault::Cut);
        }
        column?;
        let mut expander = Expander::new(out);
        let (column, origin) = (&self.column, self.header.origin);
        self.inverse.run(column.bytes(), &column.counts, origin, |part| expander.take(part))?;
        let crc = expander.finish()?;
        if crc != self.header.crc {
            return Err(Fault::Corrupt("a block's checksum does not match"));
        }
        Ok(Decoded { end: bits.position(), len: self.column.bytes().len(), crc })
    }

    fn read(&mut self, bits: &mut Bits<'_>) -> Result<(), Fault> {
        if bits.magic() != BLOCK_MAGIC {
            return Err(Fault::Corrupt("there is no block where one should be"));
        }
        self.header.read(bits)?;
        self.column.read(&self.header, bits)
    }
}
