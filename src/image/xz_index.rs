// SPDX-License-Identifier: BSD-2-Clause
//! What an .xz file unpacks to, from its indexes, of all its streams and before anything is decoded.
//!
//! The layout is "The .xz File Format" 1.2.1: a stream is a header, blocks, an index of them and a footer; zero padding
//! in units of 4 bytes may follow, and another stream. It is walked from the end. The decoder holds the blocks to the
//! index; here it is only asked, so whatever is odd gives no size.

use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;

use flate2::{Crc, CrcReader};

use super::fields::Fields;

/// Length of a stream's header, and of its footer, in bytes.
const END_LEN: u64 = 12;

/// How much is read of a file at most, in bytes: 16 MiB of index are a million blocks. More is not worth the time.
const MAX_READ: u64 = 16 << 20;

/// The number of bytes that the `len` bytes of `file` unpack to; none where the file does not tell.
pub(super) fn unpacked_size(file: &dyn FileExt, len: u64) -> Option<u64> {
    let mut walk = Walk { file, allowed: MAX_READ };
    let (mut end, mut total) = (len, 0_u64);
    while end > 0 {
        end = walk.skip_padding(end)?;
        let (start, unpacked) = walk.stream(end)?;
        total = total.checked_add(unpacked)?;
        end = start;
    }
    (len > 0).then_some(total)
}

struct Walk<'f> {
    file: &'f dyn FileExt,
    /// Bytes that may still be read.
    allowed: u64,
}

impl Walk<'_> {
    fn read<const N: usize>(&mut self, at: u64) -> Option<[u8; N]> {
        self.allowed = self.allowed.checked_sub(N as u64)?;
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
    }

    /// Where the zeros before `end` begin.
    fn skip_padding(&mut self, mut end: u64) -> Option<u64> {
        while self.read::<4>(end.checked_sub(4)?)? == [0; 4] {
            end -= 4;
        }
        Some(end)
    }

    /// The start of the stream that ends at `end`, and what it unpacks to.
    fn stream(&mut self, end: u64) -> Option<(u64, u64)> {
        let footer: [u8; 12] = self.read(end.checked_sub(END_LEN)?)?;
        let fields = Fields(&footer);
        let mut crc = Crc::new();
        crc.update(&footer[4..10]);
        if footer[10..] != *b"YZ" || fields.le_u32(0) != Some(crc.sum()) {
            return None;
        }
        let index_len = (u64::from(fields.le_u32(4)?) + 1) * 4;
        self.allowed = self.allowed.checked_sub(index_len)?;
        let index_start = end.checked_sub(END_LEN + index_len)?;
        let (blocks, unpacked) = index(self.file, index_start, index_len)?;
        let start = index_start.checked_sub(blocks.checked_add(END_LEN)?)?;
        let header: [u8; 12] = self.read(start)?;
        // The footer repeats the header's flags.
        (header[..6] == *b"\xfd7zXZ\0" && header[6..8] == footer[8..10]).then_some((start, unpacked))
    }
}

/// What the blocks of an index take in the file, and what they unpack to.
fn index(file: &dyn FileExt, start: u64, len: u64) -> Option<(u64, u64)> {
    let bytes = At { file, at: start }.take(len.checked_sub(4)?);
    let mut bytes = CrcReader::new(BufReader::new(bytes));
    if byte(&mut bytes)? != 0 {
        return None;
    }
    let (mut blocks, mut unpacked) = (0_u64, 0_u64);
    for _ in 0..number(&mut bytes)? {
        blocks = blocks.checked_add(number(&mut bytes)?.checked_next_multiple_of(4)?)?;
        unpacked = unpacked.checked_add(number(&mut bytes)?)?;
    }
    // Padding of up to three zeros, then the checksum.
    let mut padding = Vec::new();
    bytes.read_to_end(&mut padding).ok()?;
    let mut sum = [0; 4];
    file.read_exact_at(&mut sum, start + len - 4).ok()?;
    let intact =
        padding.len() < 4 && padding.iter().all(|byte| *byte == 0) && u32::from_le_bytes(sum) == bytes.crc().sum();
    intact.then_some((blocks, unpacked))
}

fn byte(bytes: &mut impl Read) -> Option<u8> {
    let mut one = [0];
    bytes.read_exact(&mut one).ok().map(|()| one[0])
}

/// A number of up to nine bytes, seven bits each, the lowest first.
fn number(bytes: &mut impl Read) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let next = byte(bytes)?;
        number |= u64::from(next & 0x7f) << shift;
        if next & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// A file read from a place on, whatever its own position is.
struct At<'f> {
    file: &'f dyn FileExt,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let len = self.file.read_at(buf, self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::unpacked_size;
    use std::io::Write;
    use xz2::stream::MtStreamBuilder;
    use xz2::write::XzEncoder;

    fn size(packed: &[u8]) -> Option<u64> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(packed).unwrap();
        unpacked_size(&file, packed.len() as u64)
    }

    fn stream(len: usize) -> Vec<u8> {
        let blocks = MtStreamBuilder::new().threads(1).block_size(10_000).preset(0).encoder().unwrap();
        let mut encoder = XzEncoder::new_stream(Vec::new(), blocks);
        encoder.write_all(&vec![7; len]).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn all_blocks_of_all_streams_count() {
        assert_eq!(size(&stream(0)), Some(0));
        assert_eq!(size(&stream(100_001)), Some(100_001));
        let several = [stream(70_000), vec![0; 8], stream(0), stream(5), vec![0; 512]].concat();
        assert_eq!(size(&several), Some(70_005));
    }

    #[test]
    fn whatever_is_odd_gives_no_size() {
        let good = stream(100_001);
        for cut in 1..good.len() {
            assert_eq!(size(&good[..cut]), None, "cut at {cut}");
        }
        assert_eq!(size(&[0; 64]), None);
        assert_eq!(size(&[&good[..], b"tail"].concat()), None);
        assert_eq!(size(&[b"head".to_vec(), good.clone()].concat()), None);
        // A lie about the last block's size, which the checksum of the index gives away.
        let mut lie = good;
        let place = lie.len() - 12 - 4 - 4;
        lie[place] ^= 1;
        assert_eq!(size(&lie), None);
    }
}
