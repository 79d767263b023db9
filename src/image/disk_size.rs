// SPDX-License-Identifier: BSD-2-Clause
//! How large the disk in an image is, as far as that shows before all of it was decoded.
//!
//! A size is a reason to refuse only where the decoder holds the image to it. So do xz with its indexes and zstd with
//! a frame's size; of several frames the first is a lower bound, and the others are behind all of its blocks. gzip's
//! ISIZE is a number modulo 4 GiB, of the last member: `inspect` shows it, and nothing else looks at it.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use super::fields::Fields;
use super::format::Compression;
use super::xz_index;
use crate::node::size::ByteSize;

/// The size in bytes of the disk in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DiskSize {
    /// So large, or the image is corrupt.
    Exact(u64),
    /// At least so large, or the image is corrupt.
    AtLeast(u64),
    /// What a gzip archive's last bytes say: right for one member of less than 4 GiB, else anything. Nothing is
    /// decided by it.
    Hint(u64),
    /// Known only at its end.
    Unknown,
}

impl DiskSize {
    /// What an archive's first bytes say about what it unpacks to.
    pub(crate) fn in_head(compression: Compression, head: &[u8]) -> Self {
        match compression {
            Compression::Zstd => first_frame(head).map_or(DiskSize::Unknown, DiskSize::AtLeast),
            Compression::Gzip | Compression::Bzip2 | Compression::Xz => DiskSize::Unknown,
        }
    }

    /// What an archive of `len` bytes says about what it unpacks to, of which `head` was read.
    pub(crate) fn in_file(compression: Compression, head: &[u8], file: &dyn FileExt, len: u64) -> Self {
        match compression {
            Compression::Xz => xz_index::unpacked_size(file, len).map_or(DiskSize::Unknown, DiskSize::Exact),
            Compression::Gzip => last_word(file, len).map_or(DiskSize::Unknown, DiskSize::Hint),
            Compression::Zstd | Compression::Bzip2 => Self::in_head(compression, head),
        }
    }

    /// What an archive of `len` bytes at a server says about what it unpacks to: its beginning is here, at least
    /// [`DiskSize::FIRST`] bytes, and `rest` gives what is behind that, where it can.
    pub(crate) fn at_server(compression: Compression, head: &[u8], rest: &dyn FileExt, len: u64) -> Self {
        Self::in_file(compression, head, &Parts { head, rest }, len)
    }

    /// How much of an archive's beginning [`DiskSize::at_server`] needs, in bytes.
    pub(crate) const FIRST: usize = 12;

    /// No disk that is smaller can hold it.
    pub(crate) fn least(self) -> Option<u64> {
        match self {
            DiskSize::Exact(size) | DiskSize::AtLeast(size) => Some(size),
            DiskSize::Hint(_) | DiskSize::Unknown => None,
        }
    }
}

/// A file of which the beginning is at hand.
struct Parts<'p> {
    head: &'p [u8],
    rest: &'p dyn FileExt,
}

impl FileExt for Parts<'_> {
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

/// The content size of the first Zstandard frame, if it has one (RFC 8878): the decoder holds the frame to it. How many
/// follow shows only on the way through all blocks.
fn first_frame(mut head: &[u8]) -> Option<u64> {
    const SKIPPABLE: u32 = 0x184d_2a50;
    while Fields(head).le_u32(0)? & 0xffff_fff0 == SKIPPABLE {
        let len = usize::try_from(Fields(head).le_u32(4)?).ok()?;
        head = head.get(8..)?.get(len..)?;
    }
    zstd::zstd_safe::get_frame_content_size(head).ok().flatten().filter(|size| *size > 0)
}

/// The ISIZE of the last gzip member (RFC 1952), where it can be right: zeros may be padding, and an image is not smaller
/// than its archive, give or take.
fn last_word(file: &dyn FileExt, len: u64) -> Option<u64> {
    let mut word = [0; 4];
    file.read_exact_at(&mut word, len.checked_sub(4)?).ok()?;
    let size = u64::from(u32::from_le_bytes(word));
    (size > 0 && size >= len / 2).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::{Compression, DiskSize};
    use std::io::Write;

    #[test]
    fn zstd_frames_say_their_size_first() {
        let size = |head: &[u8]| DiskSize::in_head(Compression::Zstd, head);
        let plain = zstd::bulk::compress(&[7; 5000], 1).unwrap();
        assert_eq!(size(&plain), DiskSize::AtLeast(5000));
        let skipped = [b"\x53\x2a\x4d\x18\x03\0\0\0abc", plain.as_slice()].concat();
        assert_eq!(size(&skipped), DiskSize::AtLeast(5000));
        assert_eq!(size(&skipped[..9]), DiskSize::Unknown);
        // A stream's encoder does not know it.
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
}
