// SPDX-License-Identifier: BSD-2-Clause
//! Partition tables, GPT and MBR: what lies where on a disk, and one entry more or less.

mod gpt;
mod mbr;

#[cfg(any(test, fuzzing))]
pub(crate) use gpt::{crc32, seal};

pub use gpt::{Attributes, Gpt, NewEntry};
pub use mbr::Mbr;

use std::fmt;
use std::io;

use crate::device::ReadAt;
use crate::size::MIB;

/// Sector size of every disk with an MBR, and of most with a GPT, in bytes.
pub const SECTOR: u64 = SECTOR_LEN as u64;
const SECTOR_LEN: usize = 512;

/// Linux counts logical partitions from here on, and never as many as this: a chain may be a circle.
const FIRST_LOGICAL: u32 = 5;
const MAX_LOGICAL: u32 = 256;

/// A part of the disk that a table gives to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// As Linux counts them, from 1.
    pub number: u32,
    /// Its first byte.
    pub start: u64,
    /// The byte behind its last one.
    pub end: u64,
    /// Whether it only holds logical partitions of an MBR.
    pub extended: bool,
    /// What its table says it is for.
    pub kind: PartitionType,
}

/// What a partition is for. Its text is that of lsblk(8): `0x83`, `0fc63daf-8483-4772-8e79-3d69d8477de4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionType {
    /// The byte of an MBR entry.
    Mbr(u8),
    /// The GUID of a GPT entry, as it lies on the disk: its first three fields are little-endian.
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
pub enum Table {
    /// A GUID partition table.
    Gpt(Gpt),
    /// The four primary entries of a master boot record.
    Mbr(Mbr),
}

/// Why there is no table to work with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Neither a GPT nor an MBR.
    #[error("no partition table")]
    None,
    /// The MBR says that there is a GPT, but it is not intact.
    #[error("a damaged GPT")]
    Damaged,
}

impl Table {
    /// The table in `head`, the disk's first bytes. As Linux does it, a GPT counts only with its protective MBR entry.
    pub fn parse(head: &[u8]) -> Result<Self, TableError> {
        match Mbr::parse(head) {
            None => Err(TableError::None),
            Some(mbr) if mbr.protects_gpt() => Gpt::parse(head).map(Table::Gpt).ok_or(TableError::Damaged),
            Some(mbr) => Ok(Table::Mbr(mbr)),
        }
    }

    /// All entries in use, without logical partitions.
    pub fn partitions(&self) -> Vec<Partition> {
        match self {
            Table::Gpt(gpt) => gpt.partitions(),
            Table::Mbr(mbr) => mbr.partitions(),
        }
    }

    /// The sector size that it was made for, in bytes.
    pub fn sector(&self) -> u64 {
        match self {
            Table::Gpt(gpt) => gpt.sector(),
            Table::Mbr(_) => SECTOR,
        }
    }
}

/// All entries in use and all logical partitions of the table of `disk`.
pub fn everywhere(disk: &dyn ReadAt, table: &Table) -> io::Result<Vec<Partition>> {
    let mut all = table.partitions();
    let mut number = FIRST_LOGICAL;
    for extended in all.clone().iter().filter(|partition| partition.extended) {
        let (mut at, mut sector) = (extended.start, [0; SECTOR_LEN]);
        while number < MAX_LOGICAL && at.saturating_add(SECTOR) <= disk.len() {
            disk.read_at(&mut sector, at)?;
            let (logical, next) = mbr::extended_record(&sector, extended.start, at);
            all.extend(logical.map(|logical| Partition { number, ..logical }));
            number += 1;
            let Some(next) = next else { break };
            at = next;
        }
    }
    Ok(all)
}

/// The disk's first MiB, or all of a smaller one.
pub fn boot_area<D: ReadAt + ?Sized>(disk: &D) -> io::Result<Vec<u8>> {
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
