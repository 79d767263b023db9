// SPDX-License-Identifier: BSD-2-Clause
//! The inverse of the Burrows-Wheeler transform.
//!
//! From each row of the sorted rotations a link leads to the row that begins one byte later; following the links gives
//! the block. That is one chain of up to 900 000 dependent reads all over a table of 3.6 MB, whose latency is most of
//! what other decoders spend. Here the chain is cut: many rows are marked, the stretch from each mark to the next one is
//! followed on its own, [`LANES`] of them at the same time, and the stretches are put in order at the end.

use super::{Fault, MAX_BLOCK_LEN};

/// Stretches that are followed at the same time, so that their reads overlap. Measured: with 8 all of the decoding takes
/// 1.08 times as long, with 12 the same.
const LANES: usize = 16;

/// One row in this many is marked. Stretches are this long on average.
const MARK_DISTANCE: usize = 512;

/// Links for any row of 20 bits, so that a masked row needs no check.
const TABLE_LEN: usize = 1 << 20;
const ROW_MASK: u32 = (1 << 20) - 1;

/// Bit of a link that leads to a marked row.
const TO_MARK: u32 = 1 << 31;

/// Room for all stretches: in the lanes, and behind them.
const OUTPUT_LEN: usize = 1 << 21;
/// What a lane may write.
const LANE_LEN: usize = MAX_BLOCK_LEN.div_ceil(LANES) + 1;
/// Where the stretches begin that are followed alone.
const ALONE: usize = LANE_LEN * LANES;

/// Part of the output: offset and length in bytes.
#[derive(Clone, Copy, Default)]
struct Part {
    start: usize,
    len: usize,
}

/// A marked row and the stretch from there to the next mark.
#[derive(Clone, Copy, Default)]
struct Stretch {
    row: u32,
    /// The stretch's bytes: in a lane and, where it was the last one there, alone.
    parts: [Part; 2],
    /// The marked row where it ends.
    end: u32,
}

/// The tables of the transform, kept from block to block.
pub(super) struct Inverse {
    /// By row: its first byte, the row that it leads to << 8, and whether that is marked.
    links: Box<[u32; TABLE_LEN]>,
    output: Box<[u8; OUTPUT_LEN]>,
    /// In the order of their rows.
    stretches: Vec<Stretch>,
}

/// A lane's stretch, the row where it is, and where in the output the stretch began.
#[derive(Clone, Copy)]
struct Lane {
    stretch: usize,
    start: usize,
}

impl Inverse {
    pub(super) fn new() -> Self {
        Inverse {
            links: vec![0; TABLE_LEN].into_boxed_slice().try_into().unwrap_or_else(|_| unreachable!()),
            output: vec![0; OUTPUT_LEN].into_boxed_slice().try_into().unwrap_or_else(|_| unreachable!()),
            stretches: Vec::with_capacity(MAX_BLOCK_LEN / MARK_DISTANCE + 2),
        }
    }

    /// Inverts the transform: `column` holds each row's last byte, `counts` how often each value is in it, and `origin`
    /// is the row that is the block itself. Gives the block's bytes to `take`, part by part.
    pub(super) fn run(
        &mut self,
        column: &[u8],
        counts: &[u32; 256],
        origin: u32,
        take: impl FnMut(&[u8]),
    ) -> Result<(), Fault> {
        if origin as usize >= column.len() {
            return Err(Fault::Corrupt("a block starts outside itself"));
        }
        self.mark(column.len(), origin);
        self.link(column, counts);
        self.follow();
        self.collect(column.len(), origin, take);
        Ok(())
    }

    fn mark(&mut self, len: usize, origin: u32) {
        let rows = (0..).step_by(MARK_DISTANCE).take(len.div_ceil(MARK_DISTANCE));
        self.stretches.clear();
        self.stretches.extend(rows.map(|row| Stretch { row, ..Stretch::default() }));
        let place = origin as usize / MARK_DISTANCE;
        if self.stretches[place].row != origin {
            self.stretches.insert(place + 1, Stretch { row: origin, ..Stretch::default() });
        }
    }

    /// The n-th row that begins with a byte is reached from the n-th row that ends with it.
    fn link(&mut self, column: &[u8], counts: &[u32; 256]) {
        let mut next = [0; 256];
        let mut sum = 0;
        for (next, count) in next.iter_mut().zip(counts) {
            *next = sum;
            sum += count;
        }
        let mut mark = TO_MARK;
        for (index, stretch) in self.stretches.iter().enumerate() {
            let end = self.stretches.get(index + 1).map_or(column.len(), |next| next.row as usize);
            for (row, byte) in (stretch.row..).zip(&column[stretch.row as usize..end]) {
                let slot = &mut next[usize::from(*byte)];
                self.links[(*slot & ROW_MASK) as usize] = mark | row << 8 | u32::from(*byte);
                *slot += 1;
                mark = 0;
            }
            mark = TO_MARK;
        }
    }

    /// Follows all stretches: in lanes while there is one for each lane, and what is left of the last ones alone.
    fn follow(&mut self) {
        let mut waiting = 0..self.stretches.len();
        let mut alone = ALONE;
        if waiting.len() > LANES {
            let mut rows = [0; LANES];
            let mut lanes = [Lane { stretch: 0, start: 0 }; LANES];
            for (index, (row, lane)) in rows.iter_mut().zip(&mut lanes).enumerate() {
                waiting.next();
                *row = self.stretches[index].row;
                *lane = Lane { stretch: index, start: index * LANE_LEN };
            }
            self.follow_lanes(&mut rows, &mut lanes, &mut waiting, &mut alone);
        }
        for index in waiting {
            self.follow_alone(index, self.stretches[index].row, &mut alone);
        }
    }

    fn follow_lanes(
        &mut self,
        rows: &mut [u32; LANES],
        lanes: &mut [Lane; LANES],
        waiting: &mut std::ops::Range<usize>,
        alone: &mut usize,
    ) {
        let mut step = 0;
        loop {
            let ended = self.steps(rows, &mut step);
            for index in 0..LANES {
                if ended >> index & 1 == 0 {
                    continue;
                }
                let lane = lanes[index];
                let here = index * LANE_LEN + step;
                let stretch = &mut self.stretches[lane.stretch];
                stretch.parts[0] = Part { start: lane.start, len: here - lane.start };
                stretch.end = rows[index];
                let Some(next) = waiting.next() else {
                    self.leave_lanes(rows, lanes, ended >> index << index, step, alone);
                    return;
                };
                lanes[index] = Lane { stretch: next, start: here };
                rows[index] = self.stretches[next].row;
            }
        }
    }

    /// Ends the lanes: those of the mask `ended` have reached a mark, the others go on alone.
    fn leave_lanes(&mut self, rows: &[u32; LANES], lanes: &[Lane; LANES], ended: u32, step: usize, alone: &mut usize) {
        for (index, (row, lane)) in rows.iter().zip(lanes).enumerate() {
            let len = index * LANE_LEN + step - lane.start;
            let stretch = &mut self.stretches[lane.stretch];
            if len > 0 {
                stretch.parts[0] = Part { start: lane.start, len };
            }
            if ended >> index & 1 == 1 {
                stretch.end = *row;
            } else {
                self.follow_alone(lane.stretch, *row, alone);
            }
        }
    }

    /// Follows all lanes until some of them come to a mark; gives the set of those, as bits.
    fn steps(&mut self, rows: &mut [u32; LANES], step: &mut usize) -> u32 {
        let mut here = *rows;
        let mut at = *step;
        let ended = loop {
            let links: [u32; LANES] = std::array::from_fn(|lane| self.links[(here[lane] & ROW_MASK) as usize]);
            for (lane, link) in links.iter().enumerate() {
                self.output[(lane * LANE_LEN + at) & (OUTPUT_LEN - 1)] = (link & 0xff) as u8;
            }
            at += 1;
            here = links.map(|link| link >> 8 & ROW_MASK);
            if links.iter().fold(0, |any, link| any | link) & TO_MARK != 0 {
                break (0..LANES).fold(0, |set, lane| set | (links[lane] >> 31) << lane);
            }
        };
        *rows = here;
        *step = at;
        ended
    }

    /// Follows the rest of a stretch from `row` on.
    fn follow_alone(&mut self, stretch: usize, mut row: u32, alone: &mut usize) {
        let start = *alone;
        loop {
            let link = self.links[(row & ROW_MASK) as usize];
            self.output[*alone & (OUTPUT_LEN - 1)] = (link & 0xff) as u8;
            *alone += 1;
            row = link >> 8 & ROW_MASK;
            if link & TO_MARK != 0 {
                break;
            }
        }
        let stretch = &mut self.stretches[stretch];
        stretch.parts[1] = Part { start, len: *alone - start };
        stretch.end = row;
    }

    /// Puts the stretches in order. A block that repeats itself has a chain that is shorter than the block and is gone
    /// through more than once.
    fn collect(&self, len: usize, origin: u32, mut take: impl FnMut(&[u8])) {
        let mut rest = len;
        let mut row = origin;
        while rest > 0 {
            let Ok(index) = self.stretches.binary_search_by_key(&row, |stretch| stretch.row) else { return };
            let stretch = &self.stretches[index];
            for part in stretch.parts {
                let len = part.len.min(rest);
                take(&self.output[part.start..part.start + len]);
                rest -= len;
            }
            row = stretch.end;
        }
    }
}
