// SPDX-License-Identifier: BSD-2-Clause
//! Finds the zero runs in a buffer.

use std::ops::Range;

use crate::disk::fingerprint::is_zero;

/// Granularity in bytes: runs begin and end on multiples of it, so that data around them stays aligned for direct I/O.
const BLOCK: usize = 4096;

/// A shorter run amid data is not worth a request of its own, in bytes.
const MIN_RUN: usize = 64 << 10;

/// At a buffer's edge the run may go on in the neighbour, so that a shorter one is taken, in bytes.
const MIN_EDGE_RUN: usize = 16 << 10;

/// A piece of a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where in the buffer, in bytes.
    pub(super) range: Range<usize>,
    /// Whether all of it is zero.
    pub(super) zero: bool,
}

/// Splits `buffer` into alternating pieces of data and zeros that cover all of it.
pub(super) fn split(buffer: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut data_start = 0;
    let mut at = 0;
    while at < buffer.len() {
        let run_end = at + zero_run(&buffer[at..]);
        let at_edge = at == 0 || run_end == buffer.len();
        let min = if at_edge { MIN_EDGE_RUN } else { MIN_RUN };
        // A whole small buffer of zeros is a run too.
        if run_end - at >= min.min(buffer.len()) {
            if data_start < at {
                pieces.push(Piece { range: data_start..at, zero: false });
            }
            pieces.push(Piece { range: at..run_end, zero: true });
            data_start = run_end;
        }
        at = if run_end > at { run_end } else { at + BLOCK };
    }
    if data_start < buffer.len() {
        pieces.push(Piece { range: data_start..buffer.len(), zero: false });
    }
    pieces
}

/// Length of the run of zero blocks that `buffer` begins with, in bytes.
fn zero_run(buffer: &[u8]) -> usize {
    buffer.chunks(BLOCK).take_while(|block| is_zero(block)).map(<[u8]>::len).sum()
}

#[cfg(test)]
mod tests {
    use super::{Piece, split};
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};

    fn piece(range: std::ops::Range<usize>, zero: bool) -> Piece {
        Piece { range, zero }
    }

    #[test]
    fn long_runs_are_found_and_short_ones_left() {
        let mut buffer = vec![1; 1 << 20];
        buffer[8192..12288].fill(0);
        buffer[(512 << 10)..(640 << 10)].fill(0);
        buffer[(1 << 20) - 20000..].fill(0);
        let tail = ((1 << 20) - 20000_usize).next_multiple_of(4096);
        let expected = [
            piece(0..512 << 10, false),
            piece(512 << 10..640 << 10, true),
            piece(640 << 10..tail, false),
            piece(tail..1 << 20, true),
        ];
        assert_eq!(split(&buffer), expected);
    }

    #[test]
    fn small_buffers() {
        assert_eq!(split(&[]), []);
        assert_eq!(split(&[0; 5]), [piece(0..5, true)]);
        assert_eq!(split(&[0, 1]), [piece(0..2, false)]);
    }

    proptest! {
        #[test]
        fn pieces_cover_the_buffer_and_zeros_are_zero(runs in prop::collection::vec((0..200_000_usize, 0..2_u8), 0..8)) {
            let buffer: Vec<u8> = runs.iter().flat_map(|(len, value)| vec![*value; *len]).collect();
            let mut end = 0;
            for piece in split(&buffer) {
                prop_assert_eq!(piece.range.start, end);
                end = piece.range.end;
                prop_assert!(!piece.zero || buffer[piece.range].iter().all(|byte| *byte == 0));
            }
            prop_assert_eq!(end, buffer.len());
        }
    }
}
