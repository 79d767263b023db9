// SPDX-License-Identifier: BSD-2-Clause
//! Puts the pieces in order and holds them against each other.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, Read};
use std::mem;

use super::block::{Decoded, Decoder};
use super::error;
use super::old::OldBlock;
use super::pool::{Outcome, Pending, Pool};
use super::runs::{Expanded, Unread};
use super::scan::{Mark, Piece, Scanner};
use super::{BLOCK_LEN, BLOCK_MAGIC, END_LEN, END_MAGIC, Fault, HEADER_LEN, MAGIC_LEN};

const NO_END: &str = "its last stream has no end";
const CUT_BLOCK: &str = "its last block is cut";

/// The decoded bytes of an archive. Each piece before the next one to be looked at was found to be what it seems.
pub(super) struct Reader<R> {
    scanner: Scanner<R>,
    pool: Pool,
    /// Pieces that were cut and not looked at yet; an error comes last.
    ahead: VecDeque<Ahead>,
    max_blocks_ahead: usize,
    state: State,
    current: Current,
    /// Decodes what can't be decoded in pieces.
    decoder: Option<Box<Decoder>>,
    spare_bytes: Vec<Vec<u8>>,
    spare_blocks: Vec<Expanded>,
}

enum Ahead {
    Block(Pending),
    Other(Piece),
    Failed(io::Error),
}

/// What came last.
#[derive(Clone, Copy)]
enum State {
    /// Nothing.
    Start,
    /// A header or a block of a stream: its level, and the checksum so far.
    Stream { level: u8, crc: u32 },
    /// Zero padding.
    Padding,
    /// All of it, or an error that was given out.
    Done,
}

/// The block that is given out.
enum Current {
    New(Unread),
    Old(Box<OldBlock>),
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            // An error is the last thing that is said.
            let state = mem::replace(&mut self.state, State::Done);
            let len = match &mut self.current {
                _ if matches!(state, State::Done) => return Ok(0),
                Current::New(block) => block.read(buf),
                Current::Old(block) => block.read(buf).map_err(corrupt)?,
            };
            if len > 0 {
                self.state = state;
                return Ok(len);
            }
            self.state = self.next(state)?;
        }
    }
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R, threads: usize) -> Self {
        Reader {
            scanner: Scanner::new(input),
            pool: Pool::new(threads),
            ahead: VecDeque::new(),
            // One to work on and one to go on with for each thread, and some that wait for slower ones before them.
            max_blocks_ahead: 2 * threads + 2,
            state: State::Start,
            current: Current::New(Unread::default()),
            decoder: None,
            spare_bytes: Vec::new(),
            spare_blocks: Vec::new(),
        }
    }

    /// Looks at the next piece.
    fn next(&mut self, state: State) -> io::Result<State> {
        self.look_ahead()?;
        match (self.ahead.pop_front(), state) {
            (Some(Ahead::Failed(err)), _) => Err(err),
            (Some(Ahead::Block(block)), State::Stream { level, crc }) => {
                let block = self.block(block.wait()?, level)?;
                Ok(State::Stream { level, crc: crc.rotate_left(1) ^ block })
            }
            (Some(Ahead::Block(_)), _) => Err(error::followed_by_data()),
            (Some(Ahead::Other(piece)), state) => {
                let state = other(&piece, state)?;
                self.spare_bytes.push(piece.bytes);
                Ok(state)
            }
            (None, State::Stream { .. }) => Err(truncated(NO_END)),
            (None, _) => Ok(State::Done),
        }
    }

    /// Cuts off pieces and has them decoded, as many as may wait.
    fn look_ahead(&mut self) -> io::Result<()> {
        let blocks = |ahead: &VecDeque<_>| ahead.iter().filter(|ahead| matches!(ahead, Ahead::Block(_))).count();
        while self.ahead.len() < 2 * self.max_blocks_ahead && blocks(&self.ahead) < self.max_blocks_ahead {
            if matches!(self.ahead.back(), Some(Ahead::Failed(_))) {
                break;
            }
            let bytes = self.spare_bytes.pop().unwrap_or_default();
            let ahead = match self.scanner.next(bytes) {
                Ok(None) => break,
                Ok(Some(piece)) if piece.mark == Mark::Block => {
                    let block = self.spare_blocks.pop().unwrap_or_default();
                    Ahead::Block(self.pool.decode(piece, block)?)
                }
                Ok(Some(piece)) => Ahead::Other(piece),
                Err(err) => Ahead::Failed(err),
            };
            self.ahead.push_back(ahead);
        }
        Ok(())
    }

    /// Lets a decoded block be given out; gives its checksum.
    fn block(&mut self, outcome: Outcome, level: u8) -> io::Result<u32> {
        let Outcome { piece, block, result } = outcome;
        let decoded = match result {
            Ok(decoded) => decoded,
            Err(Fault::Corrupt(why)) => return Err(corrupt(why)),
            Err(Fault::Cut) if piece.last => return Err(truncated(CUT_BLOCK)),
            Err(Fault::Cut) => return self.block_with_false_magic(piece, block, level),
            Err(Fault::Randomised) => {
                let block = OldBlock::new(&piece, level);
                let crc = block.crc();
                self.give(Current::Old(Box::new(block)));
                return Ok(crc);
            }
        };
        let end = piece.base() + decoded.end as u64;
        if end != piece.end || piece.last {
            return Err(no_magic(&piece, end));
        }
        self.spare_bytes.push(piece.bytes);
        self.give_block(decoded, block, level)
    }

    /// Decodes a block that goes on behind the end of its piece: the magic there stands in it by chance (once in 40 000
    /// archives of 1 GB), or a block in which bits were flipped seems longer than it is. All that was read ahead is put
    /// back, for it was cut at a wrong place, and cut again from the block's end on.
    fn block_with_false_magic(&mut self, piece: Piece, mut block: Expanded, level: u8) -> io::Result<u32> {
        let mut pieces = vec![piece];
        let mut failure = None;
        for ahead in self.ahead.drain(..) {
            match ahead {
                Ahead::Block(block) => pieces.push(block.wait()?.piece),
                Ahead::Other(piece) => pieces.push(piece),
                Ahead::Failed(err) => failure = Some(err),
            }
        }
        self.scanner.put_back(&pieces, failure);
        let (bits, base) = self.scanner.ahead()?;
        let decoder = self.decoder.get_or_insert_with(|| Box::new(Decoder::new()));
        match decoder.decode(bits, &mut block) {
            Ok(decoded) => {
                self.scanner.resume(base + decoded.end as u64);
                self.give_block(decoded, block, level)
            }
            Err(Fault::Cut) if self.scanner.ends() => Err(truncated(CUT_BLOCK)),
            Err(Fault::Corrupt(why)) => Err(corrupt(why)),
            Err(_) => Err(corrupt("a block is longer than any can be")),
        }
    }

    fn give_block(&mut self, decoded: Decoded, block: Expanded, level: u8) -> io::Result<u32> {
        if decoded.len > usize::from(level) * BLOCK_LEN {
            return Err(corrupt("a block is longer than its stream's level allows"));
        }
        self.give(Current::New(Unread::new(block)));
        Ok(decoded.crc)
    }

    fn give(&mut self, next: Current) {
        if let Current::New(done) = mem::replace(&mut self.current, next) {
            self.spare_blocks.push(done.into_inner());
        }
    }
}

/// Looks at a piece that is no block.
fn other(piece: &Piece, state: State) -> io::Result<State> {
    match (state, piece.mark) {
        (State::Stream { crc, .. }, Mark::End) => end(piece, crc),
        (State::Stream { .. }, _) => Err(no_magic(piece, piece.start)),
        (State::Start, Mark::None) => between_streams(piece, piece.start),
        (_, Mark::None) => padding(piece, piece.start),
        (_, _) => Err(error::followed_by_data()),
    }
}

/// A stream's end, whose checksum has to be that of its blocks.
fn end(piece: &Piece, crc: u32) -> io::Result<State> {
    if piece.end - piece.start < END_LEN {
        return Err(truncated("its last stream has no checksum"));
    }
    let mut bits = piece.bits();
    bits.magic();
    if bits.take(32) != crc {
        return Err(corrupt("a stream's checksum does not match"));
    }
    between_streams(piece, (piece.start + END_LEN).next_multiple_of(8))
}

/// What stands in `piece` from `position` on: the header of the stream that the next piece begins, or padding.
fn between_streams(piece: &Piece, position: u64) -> io::Result<State> {
    match piece.bytes_from(position) {
        [b'B', b'Z', b'h', level @ b'1'..=b'9'] if !piece.last && position + HEADER_LEN == piece.end => {
            Ok(State::Stream { level: level - b'0', crc: 0 })
        }
        _ => padding(piece, position),
    }
}

fn padding(piece: &Piece, position: u64) -> io::Result<State> {
    if piece.bytes_from(position).iter().all(|byte| *byte == 0) {
        Ok(State::Padding)
    } else {
        Err(error::followed_by_data())
    }
}

/// The error about a place in `piece` where neither a block nor the end of a stream begins.
fn no_magic(piece: &Piece, position: u64) -> io::Error {
    let missing = MAGIC_LEN.saturating_sub(piece.end - position);
    let start = piece.bits_from(position).magic() >> missing;
    if piece.last && missing > 0 && [BLOCK_MAGIC, END_MAGIC].iter().any(|magic| magic >> missing == start) {
        truncated(NO_END)
    } else {
        corrupt("what follows a block is neither a block nor the end of the stream")
    }
}

fn truncated(why: &str) -> io::Error {
    error::broken(io::ErrorKind::UnexpectedEof, why)
}

fn corrupt(why: impl Display) -> io::Error {
    error::broken(io::ErrorKind::InvalidData, why)
}
