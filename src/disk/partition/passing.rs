// SPDX-License-Identifier: BSD-2-Clause
//! A disk that comes as a stream, of which only the places are kept where something can begin.

use std::io::{self, Read};
use std::ops::Range;

use super::Table;
use super::superblock::{self, MAX_LOOKS};
use crate::disk::device::ReadAt;
use crate::node::size::MIB;

/// What was kept: the first MiB, and the beginning of each partition of its table and of a GPT's backup. All else reads as zeros.
pub(crate) struct StreamedDisk {
    /// Places and bytes, in order; none lies over another.
    kept: Vec<(u64, Vec<u8>)>,
    len: u64,
}

impl StreamedDisk {
    /// Reads all of `disk`, of which `head` came first: its first MiB, or all of a smaller one.
    pub(crate) fn read(head: Vec<u8>, disk: &mut dyn Read) -> io::Result<Self> {
        let wanted = wanted(&head);
        let mut passing = StreamedDisk { len: head.len() as u64, kept: vec![(0, head)] };
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = match disk.read(&mut buffer) {
                Ok(0) => return Ok(passing),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            let next = passing.len..passing.len + read as u64;
            for range in wanted.iter().filter(|range| range.start < next.end && range.end > next.start) {
                passing.keep(range, &buffer[..read]);
            }
            passing.len = next.end;
        }
    }

    /// Keeps what of `data`, which comes next, lies in `range`.
    fn keep(&mut self, range: &Range<u64>, data: &[u8]) {
        let index = |at: u64| usize::try_from(at.saturating_sub(self.len)).unwrap_or(usize::MAX).min(data.len());
        let part = &data[index(range.start)..index(range.end)];
        match self.kept.last_mut().filter(|(start, bytes)| start + bytes.len() as u64 == self.len.max(range.start)) {
            Some((start, bytes)) if *start == range.start => bytes.extend_from_slice(part),
            _ => self.kept.push((self.len.max(range.start), part.to_vec())),
        }
    }
}

/// Where it is looked behind the head, in order, without what lies over another.
fn wanted(head: &[u8]) -> Vec<Range<u64>> {
    let table = Table::parse(head).ok().filter(|_| head.len() as u64 == MIB);
    let mut starts: Vec<_> =
        table.iter().flat_map(Table::partitions).take(MAX_LOOKS).map(|partition| partition.start).collect();
    if let Some(Table::Gpt(gpt)) = &table {
        starts.push(gpt.alternate().saturating_mul(gpt.sector()));
    }
    starts.sort_unstable();
    let mut behind = MIB;
    let mut ranges = Vec::new();
    for start in starts {
        let range = start.max(behind)..start.saturating_add(superblock::LOOK);
        if !range.is_empty() {
            behind = range.end;
            ranges.push(range);
        }
    }
    ranges
}

impl ReadAt for StreamedDisk {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.fill(0);
        for (start, bytes) in &self.kept {
            let (from, to) = (offset.max(*start), end.min(start + bytes.len() as u64));
            if from < to {
                // In the buffer, or in what is kept, so they fit.
                let index = |at: u64, base: u64| usize::try_from(at - base).unwrap_or(usize::MAX);
                let part = &bytes[index(from, *start)..index(to, *start)];
                buf[index(from, offset)..index(to, offset)].copy_from_slice(part);
            }
        }
        Ok(())
    }
}
