// SPDX-License-Identifier: BSD-2-Clause
//! The master boot record with its four primary entries, and the boot records of logical partitions. Addresses count
//! sectors of 512 bytes.

use super::{Partition, PartitionType, SECTOR, get2, get4};

/// The place of the entries in the first sector, and the length of one, in bytes.
const ENTRIES: std::ops::Range<usize> = 446..510;
const ENTRY: usize = 16;

/// The type of the entry that covers a whole disk with a GPT.
pub(super) const PROTECTIVE: u8 = 0xee;

/// The types of an entry that holds logical partitions.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// All tools of today assume this geometry for the old cylinder, head and sector numbers.
const HEADS: u64 = 255;
const SECTORS_PER_TRACK: u64 = 63;

/// The four entries of a master boot record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mbr(Vec<u8>);

impl Mbr {
    /// Parses the entries in the first sector of `head`. Returns `None` unless the sector has the signature, valid
    /// status bytes, and at least one entry in use, because the boot sector of a file system has the signature too.
    pub(crate) fn parse(head: &[u8]) -> Option<Self> {
        let entries = head.get(ENTRIES).filter(|_| head.get(510..512) == Some(&[0x55, 0xaa]))?;
        let plausible = entries.chunks_exact(ENTRY).all(|entry| entry[0] & 0x7f == 0);
        let mbr = Mbr(entries.to_vec());
        (plausible && !mbr.partitions().is_empty()).then_some(mbr)
    }

    /// Returns whether an entry says that the disk has a GPT.
    pub(super) fn protects_gpt(&self) -> bool {
        self.0.chunks_exact(ENTRY).any(|entry| entry[4] == PROTECTIVE && get4(entry, 8) == 1)
    }

    /// Returns the partitions of all primary entries in use.
    pub(crate) fn partitions(&self) -> Vec<Partition> {
        let used = self.0.chunks_exact(ENTRY).zip(1..).filter(|(entry, _)| is_used(entry));
        used.map(|(entry, number)| {
            let (start, len) = (u64::from(get4(entry, 8)) * SECTOR, u64::from(get4(entry, 12)) * SECTOR);
            let kind = PartitionType::Mbr(entry[4]);
            Partition { number, start, end: start + len, extended: EXTENDED.contains(&entry[4]), kind }
        })
        .collect()
    }

    /// Fills the first free entry with `len` bytes at `start`, both whole sectors, and returns its number. Returns
    /// `None` if all are in use, or if the place is beyond what 32 bits can hold (2 TiB).
    pub(crate) fn add(&mut self, kind: u8, start: u64, len: u64) -> Option<u32> {
        let (first, sectors) = (u32::try_from(start / SECTOR).ok()?, u32::try_from(len / SECTOR).ok()?);
        first.checked_add(sectors)?;
        let (entry, number) = self.0.chunks_exact_mut(ENTRY).zip(1..).find(|(entry, _)| !is_used(entry))?;
        entry.fill(0);
        entry[1..4].copy_from_slice(&old_address(start / SECTOR));
        entry[4] = kind;
        entry[5..8].copy_from_slice(&old_address((start + len) / SECTOR - 1));
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..16].copy_from_slice(&sectors.to_le_bytes());
        Some(number)
    }

    /// Frees the entry with this number, if there is one.
    pub(crate) fn remove(&mut self, number: u32) {
        if let Some((entry, _)) = self.0.chunks_exact_mut(ENTRY).zip(1..).find(|(_, at)| *at == number) {
            entry.fill(0);
        }
    }

    /// Returns the entries, and their place on the disk in bytes.
    pub(crate) fn bytes(&self) -> (&[u8], u64) {
        (&self.0, ENTRIES.start as u64)
    }

    /// Gives the protective entry the size that table 5.4 of the UEFI specification asks for: that of the disk less one
    /// sector, or all ones if 32 bits can't hold it. In a hybrid MBR, which has other entries too, the protective entry
    /// may end where those begin. There it is changed only if it reached to the old end, `old_last`.
    pub(crate) fn grow_protective(&mut self, old_last: u64, last: u64) {
        let sectors = u32::try_from(last).unwrap_or(u32::MAX);
        let alone = self.0.chunks_exact(ENTRY).filter(|entry| is_used(entry)).count() == 1;
        for entry in self.0.chunks_exact_mut(ENTRY) {
            let reached = u64::from(get4(entry, 12)) >= old_last.min(u32::MAX.into());
            if entry[4] == PROTECTIVE && get4(entry, 8) == 1 && (alone || reached) {
                // The entry gets the highest cylinder, head and sector, because the geometry of the disk is not known.
                entry[5..8].fill(0xff);
                entry[12..16].copy_from_slice(&sectors.to_le_bytes());
            }
        }
    }
}

/// Returns whether the entry is in use. An entry without a type or a length is free.
fn is_used(entry: &[u8]) -> bool {
    entry[4] != 0 && get4(entry, 12) != 0
}

/// Returns a sector as head, sector and cylinder, or the highest of each if ten bits can't hold the cylinder.
fn old_address(sector: u64) -> [u8; 3] {
    let cylinder = sector / (HEADS * SECTORS_PER_TRACK);
    let Some(cylinder) = u16::try_from(cylinder).ok().filter(|cylinder| *cylinder < 1024) else {
        return [0xfe, 0xff, 0xff];
    };
    let low = |value: u64| value.to_le_bytes()[0];
    let [cylinder_low, cylinder_high] = cylinder.to_le_bytes();
    let head = low(sector / SECTORS_PER_TRACK % HEADS);
    [head, low(sector % SECTORS_PER_TRACK + 1) | cylinder_high << 6, cylinder_low]
}

/// Reads a boot record at `at` of an extended partition that begins at `base` (bytes). Returns the logical partition in
/// it, and the place of the next boot record.
pub(super) fn extended_record(sector: &[u8], base: u64, at: u64) -> (Option<Partition>, Option<u64>) {
    if get2(sector, 510) != 0xaa55 {
        return (None, None);
    }
    let entries = || sector[ENTRIES].chunks_exact(ENTRY).take(2).filter(|entry| is_used(entry));
    let logical = entries().find(|entry| !EXTENDED.contains(&entry[4])).map(|entry| {
        let start = at + u64::from(get4(entry, 8)) * SECTOR;
        let end = start + u64::from(get4(entry, 12)) * SECTOR;
        Partition { number: 0, start, end, extended: false, kind: PartitionType::Mbr(entry[4]) }
    });
    let next = entries().find(|entry| EXTENDED.contains(&entry[4]));
    (logical, next.map(|entry| base + u64::from(get4(entry, 8)) * SECTOR))
}
