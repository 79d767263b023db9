// SPDX-License-Identifier: BSD-2-Clause
//! The decoded bytes of a compressed image: all of its members, or an error.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use xz2::bufread::XzDecoder;
use xz2::stream::MtStreamBuilder;

use super::broken;
use super::detect;
use super::format::Compression;

/// Input is read in pieces of this many bytes.
const INPUT_LEN: usize = 256 << 10;

/// A member's first bytes that are looked at to tell it from trailing garbage; xz needs six.
const MAGIC_LEN: usize = 16;

/// Memory beyond which an .xz is refused, in bytes: `xz -9` needs 65 MiB, the largest dictionary 1.5 GiB.
const XZ_MEMORY_LIMIT: u64 = 1 << 30;

/// Memory within which the blocks of an .xz are decoded at the same time, in bytes.
const XZ_THREADING_LIMIT: u64 = 192 << 20;

/// Reads the decoded bytes of `input`, which is all in `compression`. A truncated or corrupt member, or anything but
/// zero padding behind the last one, is an error of kind `InvalidData` or `UnexpectedEof`.
pub fn reader<'r>(input: impl Read + Send + 'r, compression: Compression) -> Box<dyn Read + Send + 'r> {
    match compression {
        Compression::Gzip => Box::new(Members::<_, GzDecoder<_>>::new(input, compression)),
        Compression::Bzip2 => Box::new(bzip2_parallel::reader(input)),
        Compression::Xz => Box::new(Members::<_, XzDecoder<_>>::new(input, compression)),
        Compression::Zstd => Box::new(Members::<_, zstd::Decoder<'static, _>>::new(input, compression)),
    }
}

/// A decoder of one member (gzip), stream (xz) or frame (zstd), which stops right behind it.
trait Member<R>: Read + Sized {
    fn start(input: R) -> io::Result<Self>;
    fn into_input(self) -> R;
}

impl<R: BufRead> Member<R> for GzDecoder<R> {
    fn start(input: R) -> io::Result<Self> {
        Ok(GzDecoder::new(input))
    }

    fn into_input(self) -> R {
        self.into_inner()
    }
}

impl<R: BufRead> Member<R> for XzDecoder<R> {
    fn start(input: R) -> io::Result<Self> {
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
    fn start(input: R) -> io::Result<Self> {
        Ok(zstd::Decoder::with_buffer(input)?.single_frame())
    }

    fn into_input(self) -> R {
        self.finish()
    }
}

/// Members one after the other, as the command line tools decode them.
struct Members<R, M> {
    compression: Compression,
    state: State<R, M>,
}

enum State<R, M> {
    Between(Input<R>),
    Inside(M),
    /// The end, or an error that was given out.
    Done,
}

impl<R: Read, M: Member<Input<R>>> Members<R, M> {
    fn new(input: R, compression: Compression) -> Self {
        Members { compression, state: State::Between(Input::new(input)) }
    }

    /// What follows between members: another member, or the end after zero padding.
    fn next(&self, mut input: Input<R>) -> io::Result<State<R, M>> {
        let head = input.peek(MAGIC_LEN)?;
        if detect::compression(head) == Some(self.compression) {
            return Ok(State::Inside(M::start(input)?));
        }
        loop {
            let rest = input.fill_buf()?;
            if rest.is_empty() {
                return Ok(State::Done);
            }
            if rest.iter().any(|byte| *byte != 0) {
                return Err(broken::followed_by_data(self.compression));
            }
            let len = rest.len();
            input.consume(len);
        }
    }
}

impl<R: Read, M: Member<Input<R>>> Read for Members<R, M> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Done) {
                State::Done => return Ok(0),
                State::Between(input) => self.next(input)?,
                State::Inside(mut member) => match member.read(buf) {
                    Ok(0) => State::Between(member.into_input()),
                    Err(err) if err.kind() == io::ErrorKind::Interrupted => State::Inside(member),
                    Err(err) => return Err(self.named(&err)),
                    Ok(len) => {
                        self.state = State::Inside(member);
                        return Ok(len);
                    }
                },
            }
        }
    }
}

impl<R, M> Members<R, M> {
    /// The decoders' own messages say little ("corrupt xz stream", "premature eof"). What the system said of the file is
    /// no fault of the archive.
    fn named(&self, err: &io::Error) -> io::Error {
        match err.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => broken::error(self.compression, err.kind(), err),
        }
    }
}

/// A buffered reader that can look ahead over the edge of its buffer.
struct Input<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<R: Read> Input<R> {
    fn new(inner: R) -> Self {
        Input { inner, buffer: vec![0; INPUT_LEN], start: 0, end: 0 }
    }

    /// The next `len` bytes, fewer at the end.
    fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        if self.end - self.start < len {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            while self.end < len {
                match self.read_behind()? {
                    0 => break,
                    read => self.end += read,
                }
            }
        }
        Ok(&self.buffer[self.start..self.end.min(self.start + len)])
    }

    /// Reads into the buffer's free end. Decoders need not know of interruptions.
    fn read_behind(&mut self) -> io::Result<usize> {
        loop {
            match self.inner.read(&mut self.buffer[self.end..]) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(buf)?;
        self.consume(len);
        Ok(len)
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.end = self.read_behind()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, len: usize) {
        self.start += len;
    }
}

#[cfg(test)]
mod tests {
    use super::reader;
    use crate::image::format::Compression;
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
        reader(Trickle(encoded), compression).read_to_end(&mut out).map(|_| out)
    }

    /// Gives a few bytes at a time, so that members meet the edges of every buffer.
    struct Trickle<'d>(&'d [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let len = buf.len().min(7);
            self.0.read(&mut buf[..len])
        }
    }

    /// Gives a few bytes, an interruption, a few bytes, ..., and at the end what the disk said.
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
            let encoded = [encode(&sample(), compression), vec![0; 5000], encode(b"more", compression)].concat();
            // Padding that another member follows is none.
            let padded = [encode(&sample(), compression), vec![0; 5000]].concat();
            let read = |data: &[u8]| {
                let mut out = Vec::new();
                reader(Interrupting(data, false, None), compression).read_to_end(&mut out).map(|_| out)
            };
            assert!(read(&padded).unwrap() == sample(), "{compression}");
            assert!(read(&encoded).is_err(), "{compression}");
        }
    }

    #[test]
    fn a_disk_that_fails_is_not_taken_for_a_broken_archive() {
        for compression in Compression::ALL {
            let encoded = encode(&sample(), compression);
            let mut failing = reader(Interrupting(&encoded[..encoded.len() / 2], false, Some(libc::EIO)), compression);
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
                encoded.extend(vec![0; padding * 512]);
                prop_assert_eq!(decode(&encoded, compression).unwrap(), parts.concat());
            }
        }
    }

    /// Defect 1 of the predecessor: half an image, exit 0.
    #[test]
    fn a_cut_anywhere_is_an_error() {
        let data = &sample()[..9000];
        for compression in Compression::ALL {
            let encoded = encode(data, compression);
            for len in (1..encoded.len()).step_by(37).chain(encoded.len() - 12..encoded.len()) {
                let error = decode(&encoded[..len], compression).expect_err(&format!("{compression} cut at {len}"));
                let message = error.to_string();
                let reasons = ["is truncated", "is corrupt", "belongs to no member"];
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
            assert!(message.contains("belongs to no member"), "{compression}: {message}");
        }
    }

    #[test]
    fn a_flipped_bit_is_an_error() {
        for compression in Compression::ALL {
            let mut encoded = encode(&sample(), compression);
            let middle = encoded.len() / 2;
            encoded[middle] ^= 0x10;
            // A zstd frame has no checksum unless asked for one.
            if compression != Compression::Zstd {
                let message = decode(&encoded, compression).unwrap_err().to_string();
                assert!(message.contains("is corrupt"), "{compression}: {message}");
            }
        }
    }
}
