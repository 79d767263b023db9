// SPDX-License-Identifier: BSD-2-Clause
//! Blocks of encoders before 0.9.5 (1999), which flipped bits of repetitive ones: left to the bzip2 crate.

use std::io::{self, Cursor, Read};

use bzip2::bufread::BzDecoder;

use super::END_MAGIC;
use super::scan::Piece;

/// Reads one block, given to the crate as a stream of its own.
pub(super) struct OldBlock {
    decoder: BzDecoder<Cursor<Vec<u8>>>,
    crc: u32,
}

impl OldBlock {
    /// The block that is all of `piece`, in a stream of this level.
    pub(super) fn new(piece: &Piece, level: u8) -> Self {
        let mut bits = piece.bits();
        bits.magic();
        let crc = bits.take(32);
        OldBlock { decoder: BzDecoder::new(Cursor::new(stream(piece, level, crc))), crc }
    }

    /// The block's checksum, which the crate verifies.
    pub(super) fn crc(&self) -> u32 {
        self.crc
    }

    /// The next bytes, none behind the last one.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buf)
    }
}

/// The checksum of a stream of one block is the block's.
fn stream(piece: &Piece, level: u8, crc: u32) -> Vec<u8> {
    let mut writer = BitWriter::default();
    for byte in [b'B', b'Z', b'h', b'0' + level] {
        writer.put(u64::from(byte), 8);
    }
    let mut bits = piece.bits();
    for _ in 0..(piece.end - piece.start) {
        writer.put(u64::from(bits.bit()), 1);
    }
    writer.put(END_MAGIC, 48);
    writer.put(u64::from(crc), 32);
    writer.finish()
}

/// Puts bits together, the most significant first.
#[derive(Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    /// Bits of the last byte that are set already.
    used: u32,
}

impl BitWriter {
    /// Appends the lowest `len` bits of `value`.
    pub(super) fn put(&mut self, value: u64, len: u32) {
        for bit in (0..len).rev() {
            if self.used == 0 {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> bit & 1) as u8) << (7 - self.used);
            }
            self.used = (self.used + 1) % 8;
        }
    }

    /// The bytes, the last one filled with zeros.
    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}
