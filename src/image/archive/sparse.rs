// SPDX-License-Identifier: BSD-2-Clause
//! The maps of sparse files in tar archives (GNU tar manual, "Storing Sparse Files"): in the header of the old GNU format, in
//! the records of a pax header (0.0 and 0.1), and before the data (1.0).

use std::io::{self, Read};

use tar::{GnuExtSparseHeader, GnuHeader, GnuSparseHeader};

use super::pax::number;
use super::tar::{BLOCK, cut, invalid};

/// A map has at most this many extents: 16 MiB of memory. A disk of 1 TiB has them if every 2 MiB begin with data.
const MAX_EXTENTS: usize = 1 << 20;

/// A part of a file that is stored in the archive, in bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Extent {
    /// The first byte after it. [`check`] makes sure that there is one.
    pub(super) fn end(self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// Fails unless the extents lie in ascending order in a file of `size` bytes and have `stored` bytes together.
pub(super) fn check(extents: &[Extent], size: u64, stored: u64) -> io::Result<()> {
    let mut end = 0;
    let mut total = 0_u64;
    for extent in extents {
        let extent_end = extent.start.checked_add(extent.len).filter(|end| *end <= size);
        match extent_end {
            Some(extent_end) if extent.start >= end => end = extent_end,
            _ => return Err(corrupt()),
        }
        // The extents do not overlap, so that the sum is at most the size.
        total += extent.len;
    }
    if total == stored { Ok(()) } else { Err(corrupt()) }
}

fn corrupt() -> io::Error {
    invalid("the map of a sparse file in the tar archive is corrupt".into())
}

/// The size and the extents of a sparse file in the old GNU format. Further headers of its map are read from `input`.
pub(super) fn of_gnu_header(header: &GnuHeader, input: &mut impl Read) -> io::Result<(u64, Vec<Extent>)> {
    let mut extents = Vec::new();
    add_all(&mut extents, &header.sparse)?;
    let mut continued = header.is_extended();
    while continued {
        let mut more = GnuExtSparseHeader::new();
        input.read_exact(more.as_mut_bytes()).map_err(if_cut)?;
        add_all(&mut extents, more.sparse())?;
        continued = more.is_extended();
    }
    Ok((header.real_size()?, extents))
}

fn add_all(extents: &mut Vec<Extent>, entries: &[GnuSparseHeader]) -> io::Result<()> {
    for entry in entries.iter().filter(|entry| !entry.is_empty()) {
        add(extents, Extent { start: entry.offset()?, len: entry.length()? })?;
    }
    Ok(())
}

fn add(extents: &mut Vec<Extent>, extent: Extent) -> io::Result<()> {
    if extents.len() == MAX_EXTENTS {
        return Err(invalid(format!("a sparse file in the tar archive has more than {MAX_EXTENTS} extents")));
    }
    extents.push(extent);
    Ok(())
}

fn if_cut(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { cut("in the map of a sparse file") } else { error }
}

/// The `GNU.sparse` records of a pax header.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    /// The size of the file, by `size` (0.0 and 0.1) or `realsize` (1.0).
    size: Option<u64>,
    /// Whether the map stands before the data: format 1.0.
    map_in_data: bool,
    /// The map of the formats 0.0 and 0.1, as starts and lengths in turn.
    numbers: Vec<u64>,
}

impl PaxSparse {
    /// Takes the record `GNU.sparse.KEY=value`.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        match key {
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"major" => self.map_in_data = number(value)? >= 1,
            b"offset" | b"numbytes" => self.numbers.push(number(value)?),
            // A file that is one hole has an empty map.
            b"map" if value.is_empty() => self.numbers.clear(),
            b"map" => self.numbers = value.split(|byte| *byte == b',').map(number).collect::<Result<_, _>>()?,
            _ => {}
        }
        Ok(())
    }

    /// The size of the file, its extents, and how many bytes of its `stored` ones the map took, which was read from `input`.
    pub(super) fn extents(&self, input: &mut impl Read, stored: u64) -> io::Result<(u64, Vec<Extent>, u64)> {
        let size = self.size.ok_or_else(corrupt)?;
        let mut map = MapReader { input, left: stored, block: [0; BLOCK], at: BLOCK };
        let numbers = if self.map_in_data { map.numbers()? } else { self.numbers.clone() };
        let read = stored - map.left;
        let (pairs, []) = numbers.as_chunks::<2>() else { return Err(corrupt()) };
        let mut extents = Vec::new();
        for [start, len] in pairs {
            add(&mut extents, Extent { start: *start, len: *len })?;
        }
        Ok((size, extents, read))
    }
}

/// Reads the map of the format 1.0: decimal numbers, each with a line feed after it, in whole blocks. The first one is the number
/// of extents.
struct MapReader<'i, R> {
    input: &'i mut R,
    /// How many bytes of the member follow.
    left: u64,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: Read> MapReader<'_, R> {
    fn numbers(&mut self) -> io::Result<Vec<u64>> {
        let count = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if count > MAX_EXTENTS {
            return Err(invalid(format!("a sparse file in the tar archive has more than {MAX_EXTENTS} extents")));
        }
        let mut numbers = Vec::new();
        for _ in 0..2 * count {
            numbers.push(self.number()?);
        }
        Ok(numbers)
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut digits = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return number(&digits),
                // A number of 64 bits has at most 20 digits.
                _ if digits.len() == 20 => return Err(corrupt()),
                digit => digits.push(digit),
            }
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        if self.at == BLOCK {
            self.left = self.left.checked_sub(BLOCK as u64).ok_or_else(corrupt)?;
            self.input.read_exact(&mut self.block).map_err(if_cut)?;
            self.at = 0;
        }
        self.at += 1;
        Ok(self.block[self.at - 1])
    }
}
