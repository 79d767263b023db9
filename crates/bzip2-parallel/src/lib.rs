// SPDX-License-Identifier: BSD-2-Clause
//! Decodes bzip2 with all processors, without `unsafe`.
//!
//! [`reader()`] is all of it: it reads an archive from any [`Read`] and gives the decoded bytes.
//!
//! # How
//!
//! An archive is one or more streams: `BZh` and a digit, blocks, an end with a checksum over those of the blocks. Blocks
//! depend on nothing before them, but don't say how long they are, and begin at any bit. So the archive is cut wherever
//! the number that begins a block stands (`scan`), and threads decode the pieces (`pool`) while the reader puts them in
//! order (`reader::Reader`). There each block has to end exactly where the next piece begins: a number that stands inside a block by
//! chance is found out, and decoding goes on from the block's true end. Format: <https://github.com/dsnet/compress>,
//! doc/bzip2-format.pdf; what is not said there is as bzip2 1.0.8 does it.

mod bits;
mod block;
mod column;
mod crc;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod header;
mod huffman;
mod inverse;
mod old;
mod pool;
mod reader;
mod runs;
mod scan;
#[cfg(test)]
mod tests;

use std::io::Read;

/// Begins a block.
const BLOCK_MAGIC: u64 = 0x3141_5926_5359;

/// Begins the end of a stream.
const END_MAGIC: u64 = 0x1772_4538_5090;

/// Either of the two, in bits.
const MAGIC_LEN: u64 = 48;

/// A stream's end in bits: its magic and a checksum.
const END_LEN: u64 = MAGIC_LEN + 32;

/// A stream's header in bits: `BZh` and the level.
const HEADER_LEN: u64 = 32;

/// A block's bytes before runs are spelled out, for each level.
const BLOCK_LEN: usize = 100_000;

/// The same, for the highest level.
const MAX_BLOCK_LEN: usize = 9 * BLOCK_LEN;

/// More bytes than any block has in the archive: 900 001 symbols of at most 20 bits, and a header of at most 54 KiB.
const MAX_PACKED_LEN: usize = (MAX_BLOCK_LEN + 1) * 20 / 8 + (54 << 10);

/// Threads at most. Each needs about 8 MiB, and twice 1.5 MiB for blocks that wait for their turn.
const MAX_THREADS: usize = 8;

/// Why a block was not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Its bits go on behind the end of those that were given.
    Cut,
    /// It is not what a block can be.
    Corrupt(&'static str),
    /// It is in a form that encoders before 0.9.5 (1999) made.
    Randomised,
}

/// Reads the decoded bytes of `input`, which holds bzip2 streams one after the other. A truncated or corrupt stream, or
/// anything but zero padding behind the last one, is an error of kind `InvalidData` or `UnexpectedEof`. Reads up to about
/// 20 blocks ahead. The threads end when the reader is dropped.
///
/// # Examples
///
/// ```
/// use std::io::{Read, Write};
///
/// let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
/// encoder.write_all(b"the bytes of an image")?;
/// let archive = encoder.finish()?;
///
/// let mut decoded = String::new();
/// bzip2_parallel::reader(archive.as_slice()).read_to_string(&mut decoded)?;
/// assert_eq!(decoded, "the bytes of an image");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn reader<'r>(input: impl Read + Send + 'r) -> impl Read + Send + 'r {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    reader::Reader::new(input, processors.min(MAX_THREADS))
}
