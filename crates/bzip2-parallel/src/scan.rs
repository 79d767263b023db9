// SPDX-License-Identifier: BSD-2-Clause
//! Cuts an archive into pieces where a block or the end of a stream seems to begin.
//!
//! Both begin with a number of 48 bits, at any bit. A number may be there by chance: what a piece really is, and that
//! the next one begins where it ends, is for the caller to find out.

use std::io::{self, Read};

use super::bits::{Bits, PADDING};
use super::{BLOCK_MAGIC, END_LEN, END_MAGIC, HEADER_LEN, MAGIC_LEN, MAX_PACKED_LEN};

/// Input is read in pieces of this many bytes.
const INPUT_LEN: usize = 256 << 10;

/// Zero bytes behind the input's end, so that a number can be looked for up to there.
const SLACK: usize = 16;

/// Wherever a number of 48 bits begins, four pairs of whole bytes lie in it, one byte apart from each other. So it is
/// enough to look at the pair in every fourth place, and closely where that is in this set: bit n % 64 of word n / 64.
static PAIRS: [u64; 1024] = pairs();

const PAIR_STEP: usize = 4;

/// What a piece begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mark {
    /// The number of a block.
    Block,
    /// The number of a stream's end.
    End,
    /// Neither: the archive's start, or the rest of a piece that grew too long.
    #[default]
    None,
}

impl Mark {
    fn of(magic: u64) -> Self {
        match magic {
            BLOCK_MAGIC => Mark::Block,
            END_MAGIC => Mark::End,
            _ => Mark::None,
        }
    }

    /// Before which position, in bits, the piece that begins at `start` with this mark can't end.
    fn least_end(self, start: u64) -> u64 {
        match self {
            Mark::None => start,
            Mark::Block => start + MAGIC_LEN,
            // Another stream's header may follow, on the next whole byte.
            Mark::End => (start + END_LEN).next_multiple_of(8) + HEADER_LEN,
        }
    }
}

/// A part of an archive. Positions are in bits from the archive's start.
#[derive(Default)]
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) mark: Mark,
    /// Nothing follows it.
    pub(super) last: bool,
    /// From the byte of `start` to that of `end`, and [`PADDING`].
    pub(super) bytes: Vec<u8>,
}

impl Piece {
    /// The position in bits of the first byte.
    pub(super) fn base(&self) -> u64 {
        self.start & !7
    }

    /// Its bits.
    pub(super) fn bits(&self) -> Bits<'_> {
        self.bits_from(self.start)
    }

    /// Its bits from `position` on. A position counts from there to the byte before.
    pub(super) fn bits_from(&self, position: u64) -> Bits<'_> {
        let bytes = &self.bytes[to_usize((position - self.base()) / 8)..];
        Bits::new(bytes, (position % 8) as u32, to_usize(self.end - (position & !7)))
    }

    /// Its bytes from that of `position` on.
    pub(super) fn bytes_from(&self, position: u64) -> &[u8] {
        &self.bytes[to_usize((position - self.base()) / 8)..self.bytes.len() - PADDING]
    }
}

/// An archive that is cut into pieces.
pub(super) struct Scanner<R> {
    input: R,
    /// Why reading goes no further.
    failure: Option<io::Error>,
    input_ended: bool,
    /// What was read and is not given out yet, from `head` to `tail`; [`SLACK`] follows.
    window: Vec<u8>,
    head: usize,
    tail: usize,
    /// Position of the window's first byte, in bytes.
    base: u64,
    /// Where the next piece begins, in bits, and what with.
    start: u64,
    mark: Mark,
    done: bool,
}

impl<R: Read> Scanner<R> {
    pub(super) fn new(input: R) -> Self {
        Scanner {
            input,
            failure: None,
            input_ended: false,
            window: vec![0; SLACK],
            head: 0,
            tail: 0,
            base: 0,
            start: 0,
            mark: Mark::None,
            done: false,
        }
    }

    /// The next piece, none behind the last one. Its bytes replace those in `bytes`.
    pub(super) fn next(&mut self, mut bytes: Vec<u8>) -> io::Result<Option<Piece>> {
        if self.done {
            return Ok(None);
        }
        let (end, mark) = self.find_end()?;
        self.done = self.input_ended && end == self.position(self.tail);
        bytes.clear();
        bytes.extend_from_slice(&self.window[self.head..self.index(end.next_multiple_of(8))]);
        bytes.extend([0; PADDING]);
        let piece = Piece { start: self.start, end, mark: self.mark, last: self.done, bytes };
        self.go_to(end, mark);
        Ok(Some(piece))
    }

    /// Takes back `pieces`, which were the last ones given out, and the error behind them.
    pub(super) fn put_back(&mut self, pieces: &[Piece], failure: Option<io::Error>) {
        let Some(first) = pieces.first() else { return };
        let base = first.base();
        let mut window = Vec::new();
        for piece in pieces {
            window.truncate(to_usize((piece.base() - base) / 8));
            window.extend_from_slice(&piece.bytes[..piece.bytes.len() - PADDING]);
        }
        window.truncate(to_usize((self.start - base) / 8));
        window.extend_from_slice(&self.window[self.head..self.tail]);
        (self.head, self.tail, self.base) = (0, window.len(), base / 8);
        window.extend([0; SLACK]);
        self.window = window;
        (self.start, self.mark, self.done) = (first.start, first.mark, false);
        self.failure = failure;
    }

    /// The bits from the next piece on, at least as many as a block and what follows it can have where the input does
    /// not end before; and the position of the first byte.
    pub(super) fn ahead(&mut self) -> io::Result<(Bits<'_>, u64)> {
        while self.tail - self.head < MAX_PACKED_LEN + SLACK && self.fill()? {}
        let bytes = &self.window[self.head..self.tail + SLACK];
        Ok((Bits::new(bytes, (self.start % 8) as u32, (self.tail - self.head) * 8), self.start & !7))
    }

    /// Lets the next piece begin at `position`, which is within what [`Scanner::ahead`] gave.
    pub(super) fn resume(&mut self, position: u64) {
        let head = self.index(position);
        let bits = Bits::new(&self.window[head..], (position % 8) as u32, 0).magic();
        self.go_to(position, Mark::of(bits));
    }

    /// Whether the input ends within what [`Scanner::ahead`] gave.
    pub(super) fn ends(&self) -> bool {
        self.input_ended
    }

    fn go_to(&mut self, position: u64, mark: Mark) {
        self.head = self.index(position);
        (self.start, self.mark) = (position, mark);
    }

    /// Where the piece ends that begins at `start`, and what the next one begins with.
    fn find_end(&mut self) -> io::Result<(u64, Mark)> {
        let from = self.mark.least_end(self.start);
        let mut searched = self.start / 8;
        loop {
            let limit = self.tail + if self.input_ended { SLACK } else { 0 };
            let first = to_usize(searched.max(from / 8) - self.base);
            let (found, stop) = search(&self.window[..limit], first, |at| self.base * 8 + at >= from);
            if let Some((at, mark)) = found {
                return Ok((self.base * 8 + at, mark));
            }
            if self.input_ended {
                return Ok((self.position(self.tail), Mark::None));
            }
            searched = self.base + stop as u64;
            if stop > self.head + MAX_PACKED_LEN {
                return Ok((searched * 8, Mark::None));
            }
            self.fill()?;
        }
    }

    /// Reads on; tells whether there was more.
    fn fill(&mut self) -> io::Result<bool> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.window.copy_within(self.head..self.tail, 0);
        self.base += self.head as u64;
        (self.head, self.tail) = (0, self.tail - self.head);
        self.window.resize(self.tail + INPUT_LEN + SLACK, 0);
        let read = loop {
            match self.input.read(&mut self.window[self.tail..self.tail + INPUT_LEN]) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.tail += read;
        self.input_ended = read == 0;
        if self.input_ended {
            self.window[self.tail..self.tail + SLACK].fill(0);
        }
        Ok(read > 0)
    }

    /// The index in the window of a position in bits.
    fn index(&self, position: u64) -> usize {
        to_usize(position / 8 - self.base)
    }

    /// The position in bits of an index in the window.
    fn position(&self, index: usize) -> u64 {
        (self.base + index as u64) * 8
    }
}

/// Looks in `window`, from the byte `first` on, for the first number that begins at a bit that is `wanted`. Gives its
/// position in bits, and otherwise the byte from which on none was looked for.
fn search(window: &[u8], first: usize, wanted: impl Fn(u64) -> bool) -> (Option<(u64, Mark)>, usize) {
    let places = window.get(first + PAIR_STEP..).unwrap_or_default().as_chunks::<PAIR_STEP>().0;
    for (nth, place) in places.iter().enumerate() {
        let pair = usize::from(u16::from_be_bytes([place[0], place[1]]));
        if PAIRS[pair / 64] >> (pair % 64) & 1 == 1 {
            let start = first + nth * PAIR_STEP;
            let Some(near) = window.get(start..start + NEAR_LEN) else { return (None, start) };
            if let Some(found) = search_near(near, start as u64 * 8, &wanted) {
                return (Some(found), start);
            }
        }
    }
    (None, first + places.len() * PAIR_STEP)
}

/// What [`search_near`] looks at: numbers that begin in the first four bytes.
const NEAR_LEN: usize = PAIR_STEP + 7;

fn search_near(near: &[u8], base: u64, wanted: &impl Fn(u64) -> bool) -> Option<(u64, Mark)> {
    for (place, word) in (base..).step_by(8).zip(near.array_windows::<8>()) {
        let word = u64::from_be_bytes(*word);
        for shift in 0..8 {
            let mark = Mark::of(word << shift >> 16);
            if mark != Mark::None && wanted(place + shift) {
                return Some((place + shift, mark));
            }
        }
    }
    None
}

const fn pairs() -> [u64; 1024] {
    let mut set = [0; 1024];
    let mut case = 0;
    // Two numbers, eight bits to begin at, four pairs.
    while case < 64 {
        let magic = if case < 32 { BLOCK_MAGIC } else { END_MAGIC };
        let pair = (magic << 8 >> (case % 8) >> (8 * (case / 8 % 4 + 1)) & 0xffff) as usize;
        set[pair / 64] |= 1 << (pair % 64);
        case += 1;
    }
    set
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_MAGIC, END_MAGIC, Mark, Piece, Scanner};
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    fn pieces(archive: &[u8]) -> Vec<Piece> {
        let mut scanner = Scanner::new(archive);
        std::iter::from_fn(|| scanner.next(Vec::new()).unwrap()).collect()
    }

    /// `magic` from bit `shift` on, among ones.
    fn planted(magic: u64, shift: usize, before: usize, behind: usize) -> Vec<u8> {
        let mut bytes = vec![0xff; before + 7 + behind];
        let word = u64::MAX ^ ((!magic << 16) >> shift);
        bytes.splice(before..before + 7, word.to_be_bytes()[..7].iter().copied());
        bytes
    }

    proptest! {
        #[test]
        fn a_number_is_found_at_any_bit(block: bool, shift in 0..8_usize, before in 0..40_usize, behind in 0..40_usize) {
            let (magic, mark) = if block { (BLOCK_MAGIC, Mark::Block) } else { (END_MAGIC, Mark::End) };
            let archive = planted(magic, shift, before, behind);
            let pieces = pieces(&archive);
            prop_assert_eq!(pieces.len(), 2);
            let start = (before * 8 + shift) as u64;
            prop_assert_eq!((pieces[0].start, pieces[0].end, pieces[0].mark), (0, start, Mark::None));
            let end = archive.len() as u64 * 8;
            prop_assert_eq!((pieces[1].start, pieces[1].end, pieces[1].mark), (start, end, mark));
            prop_assert_eq!(pieces[1].bits().magic(), magic);
        }

        #[test]
        fn pieces_that_are_put_back_come_again(
            gaps in prop::collection::vec((any::<bool>(), 0..8_usize, 0..30_usize), 1..6),
            kept in 0..6_usize,
        ) {
            let planted = |(block, shift, len): &(bool, usize, usize)| {
                planted(if *block { BLOCK_MAGIC } else { END_MAGIC }, *shift, *len, 14)
            };
            let archive: Vec<u8> = gaps.iter().flat_map(planted).collect();
            let expected: Vec<_> = pieces(&archive).into_iter().map(|piece| (piece.start, piece.end)).collect();
            let mut scanner = Scanner::new(archive.as_slice());
            let mut given: Vec<Piece> = std::iter::from_fn(|| scanner.next(Vec::new()).unwrap()).collect();
            let back = given.split_off(kept.min(given.len() - 1));
            scanner.put_back(&back, None);
            given.extend(std::iter::from_fn(|| scanner.next(Vec::new()).unwrap()));
            prop_assert_eq!(given.iter().map(|piece| (piece.start, piece.end)).collect::<Vec<_>>(), expected);
            for (piece, back) in given[given.len() - back.len()..].iter().zip(&back) {
                prop_assert_eq!(&piece.bytes, &back.bytes);
            }
        }
    }
}
