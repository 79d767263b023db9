// SPDX-License-Identifier: BSD-2-Clause
//! Partition tables, GPT and MBR: lists the partitions of a disk, and adds or removes an entry.

mod completeness;
mod gpt;
mod mbr;
mod superblock;

#[cfg(any(test, fuzzing))]
pub(crate) use gpt::{crc32, seal};

pub(crate) use completeness::{ImageExtent, Incomplete, MBR_TOLERANCE, StreamedDisk, check_complete, missing_backup};
pub(crate) use gpt::{Attributes, Gpt, NewEntry};
pub(crate) use mbr::Mbr;

use std::collections::BTreeSet;
use std::fmt;
use std::io;

use crate::disk::device::ReadAt;
use crate::node::size::MIB;

/// The sector size of every disk with an MBR, and of most disks with a GPT, in bytes.
pub(crate) const SECTOR: u64 = SECTOR_LEN as u64;
const SECTOR_LEN: usize = 512;

/// Linux counts logical partitions from this number on.
const FIRST_LOGICAL: u32 = 5;
/// Linux has no partition with this number or a larger one (DISK_MAX_PARTS of include/linux/blkdev.h).
const END_OF_NUMBERS: u32 = 256;
/// The largest number of boot records of logical partitions that are read, with and without a partition.
const MAX_RECORDS: usize = 512;

/// A partition of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Partition {
    /// The number that Linux gives it, from 1 on.
    pub(crate) number: u32,
    /// The first byte.
    pub(crate) start: u64,
    /// The byte after the last one.
    pub(crate) end: u64,
    /// Whether the partition only holds logical partitions of an MBR.
    pub(crate) extended: bool,
    pub(crate) kind: PartitionType,
}

/// The type in the entry of a partition. It is displayed as lsblk(8) does: `0x83`,
/// `0fc63daf-8483-4772-8e79-3d69d8477de4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartitionType {
    /// The byte of an MBR entry.
    Mbr(u8),
    /// The GUID of a GPT entry in the byte order of the disk: its first three fields are little-endian.
    Gpt([u8; 16]),
}

impl fmt::Display for PartitionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartitionType::Mbr(byte) => write!(f, "{byte:#x}"),
            PartitionType::Gpt(guid) => {
                let (first, second, third) = (get4(guid, 0), get2(guid, 4), get2(guid, 6));
                write!(f, "{first:08x}-{second:04x}-{third:04x}-{:02x}{:02x}-", guid[8], guid[9])?;
                guid[10..].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// A disk's partition table.
#[derive(Debug, Clone)]
pub(crate) enum Table {
    Gpt(Gpt),
    Mbr(Mbr),
}

/// Why there is no usable table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TableError {
    /// The disk has neither a GPT nor an MBR.
    #[error("no partition table")]
    None,
    /// The MBR says that there is a GPT, but it is not intact.
    #[error("a damaged GPT")]
    Damaged,
}

impl Table {
    /// Parses the table in `head`, the first bytes of the disk. As in Linux, a GPT counts only with its protective MBR
    /// entry.
    pub(crate) fn parse(head: &[u8]) -> Result<Self, TableError> {
        match Mbr::parse(head) {
            None => Err(TableError::None),
            Some(mbr) if mbr.protects_gpt() => Gpt::parse(head).map(Table::Gpt).ok_or(TableError::Damaged),
            Some(mbr) => Ok(Table::Mbr(mbr)),
        }
    }

    /// Returns the partitions of all entries in use, without logical partitions.
    pub(crate) fn partitions(&self) -> Vec<Partition> {
        match self {
            Table::Gpt(gpt) => gpt.partitions(),
            Table::Mbr(mbr) => mbr.partitions(),
        }
    }

    /// Returns the name of a partition. An MBR has no names.
    pub(crate) fn name(&self, number: u32) -> Option<String> {
        match self {
            Table::Gpt(gpt) => gpt.name(number),
            Table::Mbr(_) => None,
        }
    }

    /// Returns the sector size that the table was made for, in bytes.
    pub(crate) fn sector(&self) -> u64 {
        match self {
            Table::Gpt(gpt) => gpt.sector(),
            Table::Mbr(_) => SECTOR,
        }
    }
}

/// Returns all partitions of the table of `disk`, including logical ones. These are numbered as in Linux
/// (block/partitions/msdos.c): a boot record without a partition, which stays when the first one is deleted, does not
/// count. A chain of boot records ends where it comes back to itself. A logical partition that overlaps an earlier one
/// is left out, and so is a partition of a GPT whose number Linux does not have, because a GPT may have thousands.
pub(crate) fn all_partitions(disk: &dyn ReadAt, table: &Table) -> io::Result<Vec<Partition>> {
    let mut all = table.partitions();
    all.retain(|partition| partition.number < END_OF_NUMBERS);
    let (mut logical, mut seen) = (Vec::<Partition>::new(), BTreeSet::new());
    let mut number = FIRST_LOGICAL;
    for extended in all.iter().filter(|partition| partition.extended) {
        let (mut at, mut sector) = (extended.start, [0; SECTOR_LEN]);
        while number < END_OF_NUMBERS && seen.len() < MAX_RECORDS && seen.insert(at) && has_sector(disk, at) {
            disk.read_at(&mut sector, at)?;
            let (found, next) = mbr::extended_record(&sector, extended.start, at);
            if let Some(found) = found {
                if logical.iter().all(|other| found.end <= other.start || other.end <= found.start) {
                    logical.push(Partition { number, ..found });
                }
                number += 1;
            }
            let Some(next) = next else { break };
            at = next;
        }
    }
    all.append(&mut logical);
    Ok(all)
}

/// Returns whether the sector at `at` (bytes) is on the disk.
fn has_sector(disk: &dyn ReadAt, at: u64) -> bool {
    at.checked_add(SECTOR).is_some_and(|end| end <= disk.len())
}

/// Returns the disk's first MiB, or all of a smaller disk.
pub(crate) fn read_boot_area<D: ReadAt + ?Sized>(disk: &D) -> io::Result<Vec<u8>> {
    let mut head = vec![0; usize::try_from(disk.len().min(MIB)).map_err(io::Error::other)?];
    disk.read_at(&mut head, 0)?;
    Ok(head)
}

fn get2(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn get4(bytes: &[u8], at: usize) -> u32 {
    u32::from(get2(bytes, at)) | u32::from(get2(bytes, at + 2)) << 16
}

pub(crate) fn get8(bytes: &[u8], at: usize) -> u64 {
    u64::from(get4(bytes, at)) | u64::from(get4(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::{SECTOR_LEN, Table, all_partitions};
    use crate::disk::device::MemoryDisk;

    /// The sector where a boot record lies, and its entries: type, start and length.
    type Record<'r> = (usize, &'r [(u8, u8, u8)]);

    /// Returns a disk of 100 sectors.
    fn disk(records: &[Record<'_>]) -> MemoryDisk {
        let mut bytes = vec![0; 100 * SECTOR_LEN];
        for (at, entries) in records {
            let record = &mut bytes[at * SECTOR_LEN..][..SECTOR_LEN];
            record[510..].copy_from_slice(&[0x55, 0xaa]);
            for (entry, (kind, start, len)) in record[446..510].chunks_exact_mut(16).zip(*entries) {
                (entry[4], entry[8], entry[12]) = (*kind, *start, *len);
            }
        }
        MemoryDisk(bytes)
    }

    /// Numbers and first sectors of all partitions but the extended one.
    fn found(disk: &MemoryDisk) -> Vec<(u32, u64)> {
        let table = Table::parse(&disk.0[..SECTOR_LEN]).unwrap();
        let all = all_partitions(disk, &table).unwrap();
        all.iter().filter(|one| !one.extended).map(|one| (one.number, one.start / SECTOR_LEN as u64)).collect()
    }

    #[test]
    fn logical_partitions_count_as_linux_counts_them() {
        let first: Record<'_> = (0, &[(0x83, 1, 9), (5, 10, 90)]);
        let whole = disk(&[first, (10, &[(0x83, 1, 9), (5, 20, 10)]), (30, &[(0x83, 1, 9)])]);
        assert_eq!(found(&whole), [(1, 1), (5, 11), (6, 31)]);
        let first_deleted = disk(&[first, (10, &[(0, 0, 0), (5, 20, 10)]), (30, &[(0x83, 1, 9)])]);
        assert_eq!(found(&first_deleted), [(1, 1), (5, 31)]);
    }

    #[test]
    fn a_chain_that_is_a_circle_ends_and_nothing_counts_twice() {
        let first: Record<'_> = (0, &[(5, 10, 90)]);
        let circle = disk(&[first, (10, &[(0x83, 1, 9), (5, 20, 10)]), (30, &[(0x83, 1, 9), (5, 0, 10)])]);
        assert_eq!(found(&circle), [(5, 11), (6, 31)]);
        let overlap = disk(&[
            first,
            (10, &[(0x83, 1, 40), (5, 20, 9)]),
            (30, &[(0x83, 1, 9), (5, 50, 9)]),
            (60, &[(0x83, 1, 9)]),
        ]);
        assert_eq!(found(&overlap), [(5, 11), (7, 61)]);
    }
}
