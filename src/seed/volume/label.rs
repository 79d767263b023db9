// SPDX-License-Identifier: BSD-2-Clause
//! The label of a file system, read without mounting it: FAT and ISO 9660, where cloud-init looks for a seed.
//!
//! FAT: Microsoft's "FAT: General Overview of On-Disk Format". ISO 9660: ECMA-119, chapter 8.

use std::io;

use super::LABEL;
use crate::disk::device::ReadAt;

/// A FAT boot sector in bytes; larger sectors begin with the same.
const BOOT_SECTOR: usize = 512;

/// As much of a root directory is looked at, in bytes: the label comes first in every known one.
const MAX_DIRECTORY: u64 = 64 << 10;

/// Length of a directory entry in bytes.
const ENTRY: usize = 32;

/// ISO 9660's sectors, in bytes, and the first one with a volume descriptor.
const ISO_SECTOR: u64 = 2048;
const ISO_FIRST: u64 = 16;
const ISO_LAST: u64 = 32;

/// A file system that cloud-init takes for a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// FAT.
    Fat {
        /// The OEM name in its boot sector: who made it.
        maker: [u8; 8],
        /// Its serial number.
        serial: u32,
        /// Its length in bytes.
        len: u64,
    },
    /// ISO 9660, which can't be changed.
    Iso,
}

/// What lies at `offset` of the disk, if its label, in any of the places for it, is the seed's.
pub(super) fn seed_at(disk: &dyn ReadAt, offset: u64) -> io::Result<Option<Kind>> {
    if let Some(fat) = Fat::at(disk, offset)?
        && (is_ours(&fat.label) || directory_label(disk, &fat)?.is_some_and(|label| is_ours(&label)))
    {
        return Ok(Some(Kind::Fat { maker: fat.maker, serial: fat.serial, len: fat.len }));
    }
    Ok(iso_is_ours(disk, offset)?.then_some(Kind::Iso))
}

/// cloud-init takes the label in upper and in lower case.
fn is_ours(label: &[u8]) -> bool {
    let end = label.iter().rposition(|byte| !matches!(byte, b' ' | 0)).map_or(0, |last| last + 1);
    label[..end].eq_ignore_ascii_case(LABEL.trim_ascii_end())
}

/// What a FAT boot sector says.
struct Fat {
    maker: [u8; 8],
    serial: u32,
    label: [u8; 11],
    len: u64,
    /// Where on the disk the root directory begins, or its first cluster; and how long that is.
    directory: (u64, u64),
}

impl Fat {
    fn at(disk: &dyn ReadAt, offset: u64) -> io::Result<Option<Self>> {
        let mut boot = [0; BOOT_SECTOR];
        if !has(disk, offset, BOOT_SECTOR as u64) {
            return Ok(None);
        }
        disk.read_at(&mut boot, offset)?;
        Ok(Self::parse(&boot, offset))
    }

    fn parse(boot: &[u8; BOOT_SECTOR], offset: u64) -> Option<Self> {
        let two = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let four = |at: usize| two(at) | two(at + 2) << 16;
        let (sector, cluster, fats) = (two(11), u64::from(boot[13]), u64::from(boot[16]));
        let plausible = matches!(sector, 512 | 1024 | 2048 | 4096) && cluster.is_power_of_two() && fats > 0;
        if !plausible || two(14) == 0 || boot[21] < 0xf0 {
            return None;
        }
        let is_fat32 = two(22) == 0;
        let (fat_len, extension) = if is_fat32 { (four(36), 64) } else { (two(22), 36) };
        let tables_end = (two(14) + fats * fat_len) * sector;
        let directory = if is_fat32 {
            (tables_end + four(44).saturating_sub(2) * cluster * sector, cluster * sector)
        } else {
            (tables_end, two(17) * ENTRY as u64)
        };
        // 0x29 says that serial, label and type follow.
        let signed = boot[extension + 2] == 0x29;
        let label = if signed { boot[extension + 7..extension + 18].try_into().ok()? } else { [0; 11] };
        let sectors = if two(19) == 0 { four(32) } else { two(19) };
        Some(Fat {
            maker: boot[3..11].try_into().ok()?,
            serial: if signed { u32::try_from(four(extension + 3)).ok()? } else { 0 },
            label,
            len: sectors * sector,
            directory: (offset.checked_add(directory.0)?, directory.1.min(MAX_DIRECTORY)),
        })
    }
}

/// The root directory's volume entry.
fn directory_label(disk: &dyn ReadAt, fat: &Fat) -> io::Result<Option<[u8; 11]>> {
    let (start, len) = fat.directory;
    if !has(disk, start, len) {
        return Ok(None);
    }
    let mut directory = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    disk.read_at(&mut directory, start)?;
    let entries = directory.chunks_exact(ENTRY).take_while(|entry| entry[0] != 0);
    // 0x08 is a volume's entry, with 0x10 it would be a folder; all four low bits are part of a long name.
    let mut labels = entries.filter(|entry| entry[0] != 0xe5 && entry[11] & 0x18 == 0x08 && entry[11] & 0x0f != 0x0f);
    Ok(labels.next().and_then(|entry| entry[..11].try_into().ok()))
}

/// Primary and Joliet descriptors.
fn iso_is_ours(disk: &dyn ReadAt, offset: u64) -> io::Result<bool> {
    let mut descriptor = [0; 72];
    for sector in ISO_FIRST..ISO_LAST {
        let Some(at) = offset.checked_add(sector * ISO_SECTOR).filter(|at| has(disk, *at, ISO_SECTOR)) else { break };
        disk.read_at(&mut descriptor, at)?;
        let label = &descriptor[40..72];
        let is_label = match (&descriptor[1..6], descriptor[0]) {
            (b"CD001", 1) => is_ours(label),
            // UCS-2, big-endian.
            (b"CD001", 2) => is_ours(&label.iter().skip(1).step_by(2).copied().collect::<Vec<_>>()),
            (b"CD001", 0 | 3) => false,
            _ => break,
        };
        if is_label {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has(disk: &dyn ReadAt, offset: u64, len: u64) -> bool {
    offset.checked_add(len).is_some_and(|end| end <= disk.len())
}
