// SPDX-License-Identifier: BSD-2-Clause
//! The compressions that an image file may have. Everything that the program knows about one of them is in this file;
//! CONTRIBUTING.md has the recipe for a new one.

use std::fmt;
use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use xz2::bufread::XzDecoder;
use xz2::stream::MtStreamBuilder;

use super::decode::{Form, Member, Members, Padding};
use crate::node::size::ByteSize;

/// An .xz that needs more memory than this to decode is refused, in bytes. A tenant may name an image whose dictionary
/// has 4 GiB. `xz -9`, the largest preset, needs 65 MiB. The decoder of Zstandard accepts windows up to 128 MiB.
const XZ_MEMORY_LIMIT: u64 = 256 << 20;

/// The blocks of an .xz are decoded in parallel as long as they need less memory than this, in bytes.
const XZ_THREADING_LIMIT: u64 = 192 << 20;

/// The largest window that the decoder of Zstandard takes, in bytes.
const ZSTD_WINDOW_LIMIT: u64 = 128 << 20;

/// The compression of an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip, RFC 1952.
    Gzip,
    /// bzip2.
    Bzip2,
    /// The .xz format.
    Xz,
    /// Zstandard, RFC 8878.
    Zstd,
}

struct Properties {
    /// The part after the `+` of an image type.
    suffix: &'static str,
    /// A second suffix that is accepted.
    alias: Option<&'static str>,
    /// The name of a file with this compression in messages.
    archive: &'static str,
    /// Returns whether a file that begins with these bytes has this compression.
    is_head: fn(&[u8]) -> bool,
}

impl Compression {
    pub(crate) const ALL: [Compression; 4] =
        [Compression::Gzip, Compression::Bzip2, Compression::Xz, Compression::Zstd];

    fn properties(self) -> Properties {
        match self {
            Compression::Gzip => Properties {
                suffix: "gz",
                alias: None,
                archive: "a gzip archive",
                is_head: |head| matches!(head, [0x1f, 0x8b, 8, ..]),
            },
            Compression::Bzip2 => {
                Properties { suffix: "bz2", alias: Some("bzip2"), archive: "a bzip2 archive", is_head: is_bzip2 }
            }
            Compression::Xz => Properties {
                suffix: "xz",
                alias: None,
                archive: "an xz archive",
                is_head: |head| head.starts_with(b"\xfd7zXZ\0"),
            },
            Compression::Zstd => Properties {
                suffix: "zst",
                alias: None,
                archive: "a Zstandard archive",
                // pzstd begins its files with a skippable frame.
                is_head: |head| matches!(head, [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]),
            },
        }
    }

    /// Returns a reader of the decoded bytes of `input`, which has this compression as a whole. A truncated or corrupt
    /// archive, or anything other than the padding that its own tool takes, is an error of kind `InvalidData` or
    /// `UnexpectedEof`.
    pub fn reader<'r>(self, input: impl Read + Send + 'r) -> Box<dyn Read + Send + 'r> {
        let Properties { suffix, is_head, .. } = self.properties();
        let form = |padding| Form { compression: suffix, is_head, padding };
        match self {
            Compression::Gzip => Box::new(Members::<_, GzDecoder<_>>::new(input, form(Padding::AtEnd))),
            Compression::Bzip2 => Box::new(bzip2_parallel::reader(input)),
            Compression::Xz => Box::new(Members::<_, XzDecoder<_>>::new(input, form(Padding::Words))),
            Compression::Zstd => Box::new(Members::<_, zstd::Decoder<'static, _>>::new(input, form(Padding::Never))),
        }
    }

    /// Returns the compression of a file that begins with `head`, or `None` if the file has no supported compression.
    pub(crate) fn detect(head: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|compression| (compression.properties().is_head)(head))
    }

    /// Returns the compression that an image type calls `suffix`.
    pub(super) fn with_suffix(suffix: &str) -> Option<Self> {
        let is_called = |properties: Properties| properties.suffix == suffix || properties.alias == Some(suffix);
        Self::ALL.into_iter().find(|compression| is_called(compression.properties()))
    }

    /// Returns the name of a file with this compression in messages: "a gzip archive".
    pub(super) fn archive(self) -> &'static str {
        self.properties().archive
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.properties().suffix)
    }
}

/// Returns the window in bytes that a frame needs which begins with `head` (RFC 8878, section 3.1.1.1.2); none for a frame that is
/// skipped, or one without a window of its own.
fn zstd_window(head: &[u8]) -> Option<u64> {
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, window, ..] = head else { return None };
    const SINGLE_SEGMENT: u8 = 1 << 5;
    if descriptor & SINGLE_SEGMENT != 0 {
        return None;
    }
    let base = 1_u64 << (10 + (window >> 3));
    Some(base + base / 8 * u64::from(window & 7))
}

fn is_bzip2(head: &[u8]) -> bool {
    const FIRST_BLOCK: [u8; 6] = [0x31, 0x41, 0x59, 0x26, 0x53, 0x59];
    // A stream without a block has this end instead.
    const END: [u8; 6] = [0x17, 0x72, 0x45, 0x38, 0x50, 0x90];
    match head {
        [b'B', b'Z', b'h', b'1'..=b'9', rest @ ..] => rest.starts_with(&FIRST_BLOCK) || rest.starts_with(&END),
        _ => false,
    }
}

impl<R: BufRead> Member<R> for GzDecoder<R> {
    fn start(input: R, _: &[u8]) -> io::Result<Self> {
        Ok(GzDecoder::new(input))
    }

    fn into_input(self) -> R {
        self.into_inner()
    }
}

impl<R: BufRead> Member<R> for XzDecoder<R> {
    fn start(input: R, _: &[u8]) -> io::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let stream = MtStreamBuilder::new()
            .threads(u32::try_from(threads).unwrap_or(1))
            .memlimit_threading(XZ_THREADING_LIMIT)
            .memlimit_stop(XZ_MEMORY_LIMIT)
            .decoder()?;
        Ok(XzDecoder::new_stream(input, stream))
    }

    fn into_input(self) -> R {
        self.into_inner()
    }
}

impl<R: BufRead> Member<R> for zstd::Decoder<'static, R> {
    fn start(input: R, head: &[u8]) -> io::Result<Self> {
        if let Some(window) = zstd_window(head).filter(|window| *window > ZSTD_WINDOW_LIMIT) {
            let (window, limit) = (ByteSize(window), ByteSize(ZSTD_WINDOW_LIMIT));
            let message =
                format!("it needs a window of {window}, the limit is {limit}: pack it with --long=27 at most");
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        Ok(zstd::Decoder::with_buffer(input)?.single_frame())
    }

    fn into_input(self) -> R {
        self.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::Compression;
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};
    use std::io::{self, Read, Write};

    fn encode(data: &[u8], compression: Compression) -> Vec<u8> {
        let mut out = Vec::new();
        match compression {
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(&mut out, flate2::Compression::fast());
                encoder.write_all(data).and_then(|()| encoder.finish().map(drop)).unwrap();
            }
            Compression::Bzip2 => {
                let mut encoder = bzip2::write::BzEncoder::new(&mut out, bzip2::Compression::fast());
                encoder.write_all(data).and_then(|()| encoder.finish().map(drop)).unwrap();
            }
            Compression::Xz => {
                let mut encoder = xz2::write::XzEncoder::new(&mut out, 1);
                encoder.write_all(data).and_then(|()| encoder.finish().map(drop)).unwrap();
            }
            Compression::Zstd => out = zstd::encode_all(data, 1).unwrap(),
        }
        out
    }

    fn decode(encoded: &[u8], compression: Compression) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        compression.reader(Trickle(encoded)).read_to_end(&mut out).map(|_| out)
    }

    /// The header of a block has the size of its dictionary, which the decoder allocates before it decodes a byte.
    #[test]
    fn an_xz_gets_as_much_memory_as_the_largest_preset_needs_and_more_but_not_all_of_the_node() {
        let packed = encode(b"content", Compression::Xz);
        let with_dictionary = |code: u8| {
            let mut packed = packed.clone();
            packed[16] = code;
            let mut sum = flate2::Crc::new();
            sum.update(&packed[12..20]);
            packed[20..24].copy_from_slice(&sum.sum().to_le_bytes());
            decode(&packed, Compression::Xz)
        };
        // 64 MiB, of xz -9, and 192 MiB.
        for code in [28, 31] {
            assert_eq!(with_dictionary(code).unwrap(), b"content", "{code}");
        }
        // 256 MiB, 1 GiB and 4 GiB.
        for code in [32, 36, 40] {
            let message = with_dictionary(code).unwrap_err().to_string();
            assert!(
                message.starts_with("the xz archive is corrupt (") && message.contains("memory"),
                "{code}: {message}"
            );
        }
    }

    /// A reader that returns a few bytes at a time, so that members meet the edges of every buffer.
    struct Trickle<'d>(&'d [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let len = buf.len().min(7);
            self.0.read(&mut buf[..len])
        }
    }

    /// A reader that alternates between a few bytes and an interruption, and at the end returns the error of the disk,
    /// if there is one.
    struct Interrupting<'d>(&'d [u8], bool, Option<i32>);

    impl Read for Interrupting<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            match self.2 {
                _ if self.1 => Err(io::ErrorKind::Interrupted.into()),
                Some(code) if self.0.is_empty() => Err(io::Error::from_raw_os_error(code)),
                _ => {
                    let len = buf.len().min(777);
                    self.0.read(&mut buf[..len])
                }
            }
        }
    }

    #[test]
    fn interruptions_are_not_seen() {
        for compression in Compression::ALL {
            let zeros = if compression == Compression::Zstd { Vec::new() } else { vec![0; 5000] };
            let padded = [encode(&sample(), compression), zeros].concat();
            let encoded = [&*padded, b"x"].concat();
            let read = |data: &[u8]| {
                let mut out = Vec::new();
                compression.reader(Interrupting(data, false, None)).read_to_end(&mut out).map(|_| out)
            };
            assert!(read(&padded).unwrap() == sample(), "{compression}");
            assert!(read(&encoded).is_err(), "{compression}");
        }
    }

    #[test]
    fn a_disk_that_fails_is_not_taken_for_a_broken_archive() {
        for compression in Compression::ALL {
            let encoded = encode(&sample(), compression);
            let mut failing = compression.reader(Interrupting(&encoded[..encoded.len() / 2], false, Some(libc::EIO)));
            let error = failing.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{compression}: {error}");
        }
    }

    fn sample() -> Vec<u8> {
        (0..100_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
    }

    proptest! {
        #[test]
        fn any_split_into_members_decodes_to_the_whole(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..6),
            padding in 0..3_usize,
        ) {
            for compression in Compression::ALL {
                let mut encoded: Vec<u8> = parts.iter().flat_map(|part| encode(part, compression)).collect();
                if compression != Compression::Zstd {
                    encoded.extend(vec![0; padding * 512]);
                }
                prop_assert_eq!(decode(&encoded, compression).unwrap(), parts.concat());
            }
        }
    }

    /// The predecessor installed half an image and exited with 0 (its defect 1).
    #[test]
    fn a_cut_anywhere_is_an_error() {
        let data = &sample()[..9000];
        for compression in Compression::ALL {
            let encoded = encode(data, compression);
            for len in (1..encoded.len()).step_by(37).chain(encoded.len() - 12..encoded.len()) {
                let error = decode(&encoded[..len], compression).expect_err(&format!("{compression} cut at {len}"));
                let message = error.to_string();
                let reasons = ["is truncated", "is corrupt", "trailing data"];
                assert!(reasons.iter().any(|reason| message.contains(reason)), "{compression} cut at {len}: {message}");
            }
        }
    }

    #[test]
    fn a_second_member_that_is_cut_is_an_error() {
        for compression in Compression::ALL {
            let one = encode(&sample(), compression);
            let two = [one.as_slice(), &one[..one.len() / 2]].concat();
            let message = decode(&two, compression).unwrap_err().to_string();
            assert!(message.contains("is truncated"), "{compression}: {message}");
        }
    }

    #[test]
    fn trailing_garbage_is_an_error() {
        for compression in Compression::ALL {
            let encoded = [encode(&sample(), compression), b"garbage".to_vec()].concat();
            let message = decode(&encoded, compression).unwrap_err().to_string();
            assert!(message.contains("trailing data"), "{compression}: {message}");
        }
    }

    /// As gzip(1), xz(1), bzip2(1) and zstd(1) do it.
    #[test]
    fn padding_is_what_the_tool_of_the_compression_takes() {
        for (compression, between, zeros, expected) in [
            (Compression::Gzip, 0, 511, true),
            (Compression::Gzip, 512, 0, false),
            (Compression::Xz, 8, 4, true),
            (Compression::Xz, 6, 0, false),
            (Compression::Xz, 0, 3, false),
            (Compression::Bzip2, 0, 100, true),
            (Compression::Zstd, 0, 16, false),
            (Compression::Zstd, 0, 0, true),
        ] {
            let [first, second] = [sample(), b"more".to_vec()].map(|data| encode(&data, compression));
            let end = if between > 0 { first.len() } else { first.len() + second.len() };
            let archive = [first, vec![0; between], second, vec![0; zeros]].concat();
            let what = format!("{compression} {between} {zeros}");
            match decode(&archive, compression) {
                Ok(decoded) => assert!(expected && decoded == [&*sample(), b"more"].concat(), "{what}"),
                Err(error) => {
                    let message = format!("trailing data after the end of the {compression} archive, at byte {end}");
                    assert_eq!((error.to_string(), expected), (message, false), "{what}");
                }
            }
        }
    }

    #[test]
    fn frames_that_are_skipped_may_be_anywhere_and_a_large_window_is_named() {
        let skipped = b"\x5a\x2a\x4d\x18\x05\0\0\0hello";
        let frame = encode(b"data", Compression::Zstd);
        let archive = [skipped, &*frame, skipped, &*frame, skipped].concat();
        assert_eq!(decode(&archive, Compression::Zstd).unwrap(), b"datadata");
        // A frame with a window of 256 MiB and one block of one byte.
        let large = b"\x28\xb5\x2f\xfd\x00\x90\x09\x00\x00x";
        let message = decode(large, Compression::Zstd).unwrap_err().to_string();
        let expected = "the zst archive can't be decoded (it needs a window of 256 MiB, the limit is 128 MiB: pack it with \
                        --long=27 at most)";
        assert_eq!(message, expected);
    }

    #[test]
    fn a_flipped_bit_is_an_error() {
        for compression in Compression::ALL {
            let mut encoded = encode(&sample(), compression);
            let middle = encoded.len() / 2;
            encoded[middle] ^= 0x10;
            // A zstd frame has a checksum only if the encoder is told to write one.
            if compression != Compression::Zstd {
                let message = decode(&encoded, compression).unwrap_err().to_string();
                assert!(message.contains("is corrupt"), "{compression}: {message}");
            }
        }
    }

    #[test]
    fn a_cut_magic_is_no_magic() {
        assert_eq!(Compression::detect(b"BZh9"), None);
        assert_eq!(Compression::detect(b"BZh91AY&SY"), Some(Compression::Bzip2));
        assert_eq!(Compression::detect(b"\x28\xb5\x2f"), None);
        assert_eq!(Compression::detect(b"\x52\x2a\x4d\x18"), Some(Compression::Zstd));
    }
}
