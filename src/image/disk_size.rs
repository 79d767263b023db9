// SPDX-License-Identifier: BSD-2-Clause
//! The size of the disk in an image, as far as it is known before the whole image was decoded.
//!
//! Only a size that the decoder enforces may lead to a refusal. The indexes of an .xz are enforced, and so is the size
//! that a Zstandard frame declares. With several frames, the first one gives a lower bound, because the others come
//! after all of its blocks. The ISIZE of a gzip archive is the size modulo 4 GiB of its last member, so it is only
//! shown (`inspect`).

use std::fmt;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use flate2::{Crc, CrcReader};
use serde::{Deserialize, Serialize};

use super::compression::Compression;
use super::detect::Fields;
use crate::node::size::ByteSize;

/// The length of the header and of the footer of an .xz stream, in bytes.
const XZ_END_LEN: u64 = 12;

/// The largest number of bytes of the indexes of an .xz that are read. An index of 16 MiB describes a million blocks.
const XZ_MAX_READ: u64 = 16 << 20;

/// The size in bytes of the disk in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DiskSize {
    /// The disk has this size, or the image is corrupt.
    Exact(u64),
    /// The disk has at least this size, or the image is corrupt.
    AtLeast(u64),
    /// The size in the last bytes of a gzip archive. It is right only for one member of less than 4 GiB, so no decision
    /// depends on it.
    Hint(u64),
    /// The size is known only when the whole image was decoded.
    Unknown,
}

impl DiskSize {
    /// Returns the size as far as the first bytes of an archive tell it.
    pub(crate) fn in_head(compression: Compression, head: &[u8]) -> Self {
        match compression {
            Compression::Zstd => first_frame(head).map_or(DiskSize::Unknown, DiskSize::AtLeast),
            _ => DiskSize::Unknown,
        }
    }

    /// Returns the size as far as an archive of `len` bytes in `file` tells it. `head` is its beginning.
    pub(crate) fn in_file(compression: Compression, head: &[u8], file: &dyn FileExt, len: u64) -> Self {
        match compression {
            Compression::Xz => xz_size(file, len).map_or(DiskSize::Unknown, DiskSize::Exact),
            Compression::Gzip => gzip_isize(file, len).map_or(DiskSize::Unknown, DiskSize::Hint),
            _ => Self::in_head(compression, head),
        }
    }

    /// Returns the size as far as an archive of `len` bytes on a server tells it. `head` is its beginning, at least
    /// [`DiskSize::FIRST`] bytes. `rest` reads the bytes after it, and may fail.
    pub(crate) fn at_server(compression: Compression, head: &[u8], rest: &dyn FileExt, len: u64) -> Self {
        Self::in_file(compression, head, &HeadAndRest { head, rest }, len)
    }

    /// Returns whether only the end of such an archive tells its exact size.
    pub(crate) fn is_at_end(compression: Compression) -> bool {
        matches!(compression, Compression::Xz)
    }

    /// How many bytes of the beginning [`DiskSize::at_server`] needs.
    pub(crate) const FIRST: usize = 12;

    /// Returns the size that the target disk must have at least, in bytes.
    pub(crate) fn least(self) -> Option<u64> {
        match self {
            DiskSize::Exact(size) | DiskSize::AtLeast(size) => Some(size),
            DiskSize::Hint(_) | DiskSize::Unknown => None,
        }
    }
}

/// A file whose beginning was read before.
struct HeadAndRest<'p> {
    head: &'p [u8],
    rest: &'p dyn FileExt,
}

impl FileExt for HeadAndRest<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut here = usize::try_from(offset).ok().and_then(|at| self.head.get(at..)).unwrap_or_default();
        if here.is_empty() { self.rest.read_at(buf, offset) } else { here.read(buf) }
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl fmt::Display for DiskSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskSize::Exact(size) => write!(f, "{}", ByteSize(*size)),
            DiskSize::AtLeast(size) => write!(f, "at least {}", ByteSize(*size)),
            DiskSize::Hint(size) => {
                write!(f, "known only after decoding (probably {}, if it is less than 4 GiB)", ByteSize(*size))
            }
            DiskSize::Unknown => f.write_str("known only after decoding"),
        }
    }
}

/// Returns the content size of the first Zstandard frame, if it declares one (RFC 8878).
fn first_frame(mut head: &[u8]) -> Option<u64> {
    const SKIPPABLE: u32 = 0x184d_2a50;
    while Fields(head).le_u32(0)? & 0xffff_fff0 == SKIPPABLE {
        let len = usize::try_from(Fields(head).le_u32(4)?).ok()?;
        head = head.get(8..)?.get(len..)?;
    }
    zstd::zstd_safe::get_frame_content_size(head).ok().flatten().filter(|size| *size > 0)
}

/// Returns the ISIZE of the last gzip member (RFC 1952), if it can be right. Zeros may be padding, and an image is
/// hardly ever smaller than its archive.
fn gzip_isize(file: &dyn FileExt, len: u64) -> Option<u64> {
    let mut word = [0; 4];
    file.read_exact_at(&mut word, len.checked_sub(4)?).ok()?;
    let size = u64::from(u32::from_le_bytes(word));
    (size > 0 && size >= len / 2).then_some(size)
}

/// Returns the number of bytes that an .xz of `len` bytes unpacks to, by the indexes of all its streams. Returns `None`
/// if anything in it is unusual.
///
/// The layout is in "The .xz File Format" 1.2.1: a stream consists of a header, blocks, an index of them and a footer.
/// Zero padding in units of 4 bytes may follow, and another stream. The file is read from its end.
fn xz_size(file: &dyn FileExt, len: u64) -> Option<u64> {
    let mut walk = XzWalk { file, allowed: XZ_MAX_READ };
    let (mut end, mut total) = (len, 0_u64);
    while end > 0 {
        end = walk.skip_padding(end)?;
        let (start, unpacked) = walk.stream(end)?;
        total = total.checked_add(unpacked)?;
        end = start;
    }
    (len > 0).then_some(total)
}

struct XzWalk<'f> {
    file: &'f dyn FileExt,
    /// How many bytes may still be read.
    allowed: u64,
}

impl XzWalk<'_> {
    fn read<const N: usize>(&mut self, at: u64) -> Option<[u8; N]> {
        self.allowed = self.allowed.checked_sub(N as u64)?;
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
    }

    /// Returns where the zeros before `end` begin.
    fn skip_padding(&mut self, mut end: u64) -> Option<u64> {
        while self.read::<4>(end.checked_sub(4)?)? == [0; 4] {
            end -= 4;
        }
        Some(end)
    }

    /// Returns the start of the stream that ends at `end`, and the number of bytes that it unpacks to.
    fn stream(&mut self, end: u64) -> Option<(u64, u64)> {
        let footer: [u8; 12] = self.read(end.checked_sub(XZ_END_LEN)?)?;
        let fields = Fields(&footer);
        let mut crc = Crc::new();
        crc.update(&footer[4..10]);
        if footer[10..] != *b"YZ" || fields.le_u32(0) != Some(crc.sum()) {
            return None;
        }
        let index_len = (u64::from(fields.le_u32(4)?) + 1) * 4;
        self.allowed = self.allowed.checked_sub(index_len)?;
        let index_start = end.checked_sub(XZ_END_LEN + index_len)?;
        let (blocks, unpacked) = xz_index(self.file, index_start, index_len)?;
        let start = index_start.checked_sub(blocks.checked_add(XZ_END_LEN)?)?;
        let header: [u8; 12] = self.read(start)?;
        // The footer repeats the flags of the header.
        if header[..6] == *b"\xfd7zXZ\0" && header[6..8] == footer[8..10] { Some((start, unpacked)) } else { None }
    }
}

/// Returns the number of bytes of all blocks of an index, in the file and unpacked.
fn xz_index(file: &dyn FileExt, start: u64, len: u64) -> Option<(u64, u64)> {
    let bytes = ReadFrom { file, at: start }.take(len.checked_sub(4)?);
    let mut bytes = CrcReader::new(BufReader::new(bytes));
    if byte(&mut bytes)? != 0 {
        return None;
    }
    let (mut blocks, mut unpacked) = (0_u64, 0_u64);
    for _ in 0..number(&mut bytes)? {
        blocks = blocks.checked_add(number(&mut bytes)?.checked_next_multiple_of(4)?)?;
        unpacked = unpacked.checked_add(number(&mut bytes)?)?;
    }
    // Up to three zeros of padding come before the checksum.
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

/// Reads a number of up to nine bytes with seven bits each, the lowest first.
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

/// Reads a file from an offset on. The position of the file does not matter and does not move.
pub(super) struct ReadFrom<'f, F: ?Sized> {
    pub(super) file: &'f F,
    pub(super) at: u64,
}

impl<F: FileExt + ?Sized> Read for ReadFrom<'_, F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(buf, self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::{Compression, DiskSize, xz_size};
    use std::io::Write;
    use xz2::stream::MtStreamBuilder;
    use xz2::write::XzEncoder;

    #[test]
    fn zstd_frames_say_their_size_first() {
        let size = |head: &[u8]| DiskSize::in_head(Compression::Zstd, head);
        let plain = zstd::bulk::compress(&[7; 5000], 1).unwrap();
        assert_eq!(size(&plain), DiskSize::AtLeast(5000));
        let skipped = [b"\x53\x2a\x4d\x18\x03\0\0\0abc", plain.as_slice()].concat();
        assert_eq!(size(&skipped), DiskSize::AtLeast(5000));
        assert_eq!(size(&skipped[..9]), DiskSize::Unknown);
        // The encoder of a stream does not know the size.
        assert_eq!(size(&zstd::encode_all(&[7; 5000][..], 1).unwrap()), DiskSize::Unknown);
        assert_eq!(size(b"\x28\xb5\x2f\xfd"), DiskSize::Unknown);
    }

    #[test]
    fn gzip_gives_no_more_than_a_hint() {
        let mut file = tempfile::tempfile().unwrap();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&[7; 5000]).unwrap();
        let packed = encoder.finish().unwrap();
        file.write_all(&packed).unwrap();
        let size = DiskSize::in_file(Compression::Gzip, &packed, &file, packed.len() as u64);
        assert_eq!(size, DiskSize::Hint(5000));
        assert_eq!(size.least(), None);
    }

    fn size_of_xz(packed: &[u8]) -> Option<u64> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(packed).unwrap();
        xz_size(&file, packed.len() as u64)
    }

    fn xz_stream(len: usize) -> Vec<u8> {
        let blocks = MtStreamBuilder::new().threads(1).block_size(10_000).preset(0).encoder().unwrap();
        let mut encoder = XzEncoder::new_stream(Vec::new(), blocks);
        encoder.write_all(&vec![7; len]).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn all_blocks_of_all_xz_streams_count() {
        assert_eq!(size_of_xz(&xz_stream(0)), Some(0));
        assert_eq!(size_of_xz(&xz_stream(100_001)), Some(100_001));
        let several = [xz_stream(70_000), vec![0; 8], xz_stream(0), xz_stream(5), vec![0; 512]].concat();
        assert_eq!(size_of_xz(&several), Some(70_005));
    }

    #[test]
    fn an_odd_xz_gives_no_size() {
        let good = xz_stream(100_001);
        for cut in 1..good.len() {
            assert_eq!(size_of_xz(&good[..cut]), None, "cut at {cut}");
        }
        assert_eq!(size_of_xz(&[0; 64]), None);
        assert_eq!(size_of_xz(&[&good[..], b"tail"].concat()), None);
        assert_eq!(size_of_xz(&[b"head".to_vec(), good.clone()].concat()), None);
        // The size of the last block is wrong, and the checksum of the index shows that.
        let mut lie = good;
        let place = lie.len() - 12 - 4 - 4;
        lie[place] ^= 1;
        assert_eq!(size_of_xz(&lie), None);
    }
}
