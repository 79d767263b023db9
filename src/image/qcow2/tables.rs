// SPDX-License-Identifier: BSD-2-Clause
//! The tables of a qcow2 file, followed down to its data: all of it has to be in the file.
//!
//! qemu-img reads zeros behind a file's end, and would make half an image a disk without a word. It costs little: 8
//! bytes are read for each cluster of 64 KiB, and qemu-img needs them next.
//!
//! No two entries may point to the same table: in a small file that could keep us busy for ever.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{Header, Qcow2Error, Region};
use crate::node::size::ByteSize;

/// Where an entry points (bits 9 to 55 in both tables).
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// An L2 entry: the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// An L2 entry of version 3 without subclusters: the cluster reads zero, whatever it points to.
const ZERO: u64 = 1;

/// Compressed data lies in sectors of this many bytes.
const SECTOR: u64 = 512;

/// An error unless all tables and all data are in the file of `len` bytes.
pub(super) fn check(header: &Header, file: &File, len: u64) -> Result<(), Qcow2Error> {
    let walk = Walk { header, len, l2: l2_tables(header, file, len)? };
    let mut table = vec![0; usize::try_from(header.cluster()).unwrap_or(usize::MAX)];
    for (offset, guest) in &walk.l2 {
        file.read_exact_at(&mut table, *offset).map_err(Qcow2Error::Read)?;
        walk.check_l2(&table, *guest)?;
    }
    Ok(())
}

/// Where the L2 tables are in the file, in that order, and which byte of the disk each begins with.
fn l2_tables(header: &Header, file: &File, len: u64) -> Result<Vec<(u64, u64)>, Qcow2Error> {
    for region in &header.regions[1..] {
        needs(region.end, len)?;
    }
    let mut l1 = vec![0; usize::try_from(header.l2_tables() * 8).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut l1, header.l1.start).map_err(Qcow2Error::Read)?;
    let mut tables = Vec::new();
    for (index, entry) in (0..).zip(l1.as_chunks().0) {
        let start = u64::from_be_bytes(*entry) & OFFSET;
        if start != 0 {
            check_place(header, start, start + header.cluster())?;
            needs(start + header.cluster(), len)?;
            tables.push((start, index * header.l2_reach()));
        }
    }
    tables.sort_unstable();
    // No image that QEMU wrote has that, and a small file could keep us busy for ever.
    match tables.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        true => Err(Qcow2Error::Tables("one L2 table stands for two parts of the disk")),
        false => Ok(tables),
    }
}

/// An error unless a cluster's bytes begin where clusters do, and not in a table that has its place.
fn check_place(header: &Header, start: u64, end: u64) -> Result<(), Qcow2Error> {
    if !start.is_multiple_of(header.cluster()) {
        return Err(Qcow2Error::Tables("an entry points to no cluster's start"));
    }
    match header.regions.iter().any(|region| region.overlaps(Region { start, end })) {
        true => Err(Qcow2Error::Tables("an entry points into its tables")),
        false => Ok(()),
    }
}

/// An error unless the file of `len` bytes reaches up to `end`.
fn needs(end: u64, len: u64) -> Result<(), Qcow2Error> {
    if end > len { Err(Qcow2Error::Cut { len: ByteSize(len), needed: ByteSize(end) }) } else { Ok(()) }
}

struct Walk<'h> {
    header: &'h Header,
    len: u64,
    l2: Vec<(u64, u64)>,
}

impl Walk<'_> {
    /// Checks the entries of a table that stands for the disk from its byte `guest` on.
    fn check_l2(&self, table: &[u8], mut guest: u64) -> Result<(), Qcow2Error> {
        let words = if self.header.extended_l2 { 2 } else { 1 };
        for entry in table.as_chunks::<8>().0.chunks_exact(words) {
            if guest >= self.header.size {
                break;
            }
            let subclusters = entry.get(1).map(|bitmap| u64::from_be_bytes(*bitmap));
            self.check_entry(u64::from_be_bytes(entry[0]), subclusters, guest)?;
            guest += self.header.cluster();
        }
        Ok(())
    }

    fn check_entry(&self, entry: u64, subclusters: Option<u64>, guest: u64) -> Result<(), Qcow2Error> {
        if entry & COMPRESSED != 0 {
            return self.check_compressed(entry);
        }
        let start = entry & OFFSET;
        if start == 0 {
            return Ok(());
        }
        check_place(self.header, start, start + self.header.cluster())?;
        if self.l2.binary_search_by_key(&start, |(table, _)| *table).is_ok() {
            return Err(Qcow2Error::Tables("an entry points into its tables"));
        }
        // The end of the last cluster is behind the disk's, and of no use.
        let useful = self.header.cluster().min(self.header.size - guest);
        needs(start + self.used(entry, subclusters).min(useful), self.len)
    }

    /// How many bytes of a cluster are read at most.
    fn used(&self, entry: u64, subclusters: Option<u64>) -> u64 {
        match subclusters {
            // The low half says which of the 32 subclusters are there.
            Some(bitmap) => {
                u64::from(32 - (bitmap & 0xffff_ffff).leading_zeros().saturating_sub(32)) * self.header.cluster() / 32
            }
            None if entry & ZERO != 0 && self.header.version > 2 => 0,
            None => self.header.cluster(),
        }
    }

    /// Where compressed data is has bits in number as the cluster size leaves them.
    fn check_compressed(&self, entry: u64) -> Result<(), Qcow2Error> {
        let offset_bits = 62 - (self.header.cluster_bits - 8);
        let start = entry & ((1 << offset_bits) - 1);
        let sectors = ((entry & (COMPRESSED - 1)) >> offset_bits) + 1;
        let end = start - start % SECTOR + sectors * SECTOR;
        if self.header.regions.iter().any(|region| region.overlaps(Region { start, end: start + 1 })) {
            return Err(Qcow2Error::Tables("an entry points into its tables"));
        }
        // QEMU reads whole sectors; a file may end within the last one.
        needs(end, self.len.next_multiple_of(SECTOR))
    }
}
