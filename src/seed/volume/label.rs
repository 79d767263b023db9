// SPDX-License-Identifier: BSD-2-Clause
//! Reads the label of a file system without mounting it. cloud-init looks for a seed in FAT and ISO 9660.
//!
//! FAT: Microsoft's "FAT: General Overview of On-Disk Format". ISO 9660: ECMA-119, chapter 8.

use std::io;

use serde::{Deserialize, Serialize};

use super::LABEL;
use crate::disk::device::ReadAt;

/// The length of a FAT boot sector in bytes. A larger sector begins with the same fields.
pub(super) const BOOT_SECTOR: usize = 512;

/// The number of bytes of a root directory that are read. Every known program writes the label first.
const MAX_DIRECTORY: u64 = 64 << 10;

/// The length of a directory entry in bytes.
pub(super) const ENTRY: usize = 32;

/// The length of a sector of ISO 9660, in bytes.
const ISO_SECTOR: u64 = 2048;
/// The sectors that may have a volume descriptor.
const ISO_FIRST: u64 = 16;
const ISO_LAST: u64 = 32;

/// A file system that cloud-init takes for a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// `maker` is the OEM name in the boot sector, `len` the length in bytes.
    Fat { maker: [u8; 8], serial: u32, len: u64 },
    /// ISO 9660, which can't be changed.
    Iso,
}

/// Returns the file system at `offset` of the disk, if it has the label of a seed, in any of the places for a label.
pub(super) fn seed_at(disk: &dyn ReadAt, offset: u64) -> io::Result<Option<Kind>> {
    if let Some(fat) = BootSector::read(disk, offset)?
        && (is_seed_label(&fat.label)
            || directory_label(disk, offset, &fat)?.is_some_and(|label| is_seed_label(&label)))
    {
        return Ok(Some(Kind::Fat { maker: fat.maker, serial: fat.serial, len: fat.len() }));
    }
    Ok(iso_has_seed_label(disk, offset)?.then_some(Kind::Iso))
}

/// cloud-init accepts the label in upper and in lower case.
fn is_seed_label(label: &[u8]) -> bool {
    let end = label.iter().rposition(|byte| !matches!(byte, b' ' | 0)).map_or(0, |last| last + 1);
    label[..end].eq_ignore_ascii_case(LABEL.trim_ascii_end())
}

/// The boot sector of a FAT. Lengths and offsets are in bytes, offsets from its beginning.
pub(super) struct BootSector {
    maker: [u8; 8],
    serial: u32,
    label: [u8; 11],
    pub(super) sector: u64,
    pub(super) cluster: u64,
    pub(super) tables_start: u64,
    pub(super) table_len: u64,
    tables: u64,
    /// The first cluster of the root directory, in FAT32 only.
    root_cluster: Option<u64>,
    root_entries: u64,
    sectors: u64,
}

impl BootSector {
    fn read(disk: &dyn ReadAt, offset: u64) -> io::Result<Option<Self>> {
        let mut boot = [0; BOOT_SECTOR];
        if !has(disk, offset, BOOT_SECTOR as u64) {
            return Ok(None);
        }
        disk.read_at(&mut boot, offset)?;
        Ok(Self::parse(&boot))
    }

    pub(super) fn parse(boot: &[u8; BOOT_SECTOR]) -> Option<Self> {
        let two = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let four = |at: usize| two(at) | two(at + 2) << 16;
        let (sector, per_cluster, tables) = (two(11), u64::from(boot[13]), u64::from(boot[16]));
        let plausible = matches!(sector, 512 | 1024 | 2048 | 4096) && per_cluster.is_power_of_two() && tables > 0;
        if !plausible || two(14) == 0 || boot[21] < 0xf0 {
            return None;
        }
        let is_fat32 = two(22) == 0;
        let (table_sectors, extension) = if is_fat32 { (four(36), 64) } else { (two(22), 36) };
        // 0x29 says that serial number, label and type follow.
        let has_label = boot[extension + 2] == 0x29;
        Some(BootSector {
            maker: boot[3..11].try_into().ok()?,
            serial: if has_label { u32::try_from(four(extension + 3)).ok()? } else { 0 },
            label: if has_label { boot[extension + 7..extension + 18].try_into().ok()? } else { [0; 11] },
            sector,
            cluster: per_cluster * sector,
            tables_start: two(14) * sector,
            table_len: table_sectors * sector,
            tables,
            root_cluster: is_fat32.then(|| four(44)),
            root_entries: two(17),
            sectors: if two(19) == 0 { four(32) } else { two(19) },
        })
    }

    /// Returns the length of the file system.
    pub(super) fn len(&self) -> u64 {
        self.sectors * self.sector
    }

    /// Returns where the root directory begins.
    pub(super) fn directory_start(&self) -> u64 {
        let first = self.root_cluster.map_or(0, |cluster| cluster.saturating_sub(2));
        self.tables_start + self.tables * self.table_len + first * self.cluster
    }

    /// Returns the length of the root directory, or of its first cluster in FAT32.
    pub(super) fn directory_len(&self) -> u64 {
        if self.root_cluster.is_some() { self.cluster } else { self.root_entries * ENTRY as u64 }
    }
}

/// Returns the label in the root directory.
fn directory_label(disk: &dyn ReadAt, offset: u64, fat: &BootSector) -> io::Result<Option<[u8; 11]>> {
    let Some(start) = offset.checked_add(fat.directory_start()) else { return Ok(None) };
    let len = fat.directory_len().min(MAX_DIRECTORY);
    if !has(disk, start, len) {
        return Ok(None);
    }
    let mut directory = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    disk.read_at(&mut directory, start)?;
    let entries = directory.chunks_exact(ENTRY).take_while(|entry| entry[0] != 0);
    // 0x08 marks the label, 0x10 a folder, and all four low bits a piece of a long name.
    let mut labels = entries.filter(|entry| entry[0] != 0xe5 && entry[11] & 0x18 == 0x08 && entry[11] & 0x0f != 0x0f);
    Ok(labels.next().and_then(|entry| entry[..11].try_into().ok()))
}

/// Returns whether the primary or the Joliet descriptor has the label of a seed.
fn iso_has_seed_label(disk: &dyn ReadAt, offset: u64) -> io::Result<bool> {
    let mut descriptor = [0; 72];
    for sector in ISO_FIRST..ISO_LAST {
        let Some(at) = offset.checked_add(sector * ISO_SECTOR).filter(|at| has(disk, *at, ISO_SECTOR)) else { break };
        disk.read_at(&mut descriptor, at)?;
        let label = &descriptor[40..72];
        let is_label = match (&descriptor[1..6], descriptor[0]) {
            (b"CD001", 1) => is_seed_label(label),
            // A Joliet label is big-endian UCS-2.
            (b"CD001", 2) => is_seed_label(&label.iter().skip(1).step_by(2).copied().collect::<Vec<_>>()),
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
