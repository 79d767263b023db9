// SPDX-License-Identifier: BSD-2-Clause
//! The GUID partition table. Its layout is in chapter 5 of the UEFI specification; all numbers are little-endian.

use std::io;

use flate2::Crc;

use super::{Partition, PartitionType, get2, get4, get8};
use crate::disk::device::WriteAt;

/// The sector sizes for which a GPT may have been made, in bytes.
const SECTORS: [usize; 2] = [512, 4096];

/// The least length of a header in bytes.
const MIN_HEADER: usize = 92;

/// The least length of an entry in bytes.
const MIN_ENTRY: usize = 128;

/// The place of the name in an entry, which has at most 36 units of UTF-16.
const NAME: std::ops::Range<usize> = 56..128;

/// The largest accepted length of all entries in bytes. Every GPT in use has 16 KiB.
const MAX_ENTRIES: u64 = 512 << 10;

/// An intact primary GPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gpt {
    sector: usize,
    header: Vec<u8>,
    entries: Vec<u8>,
    entry_len: usize,
}

/// The bits of an entry of the type "basic data" that only Windows uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes(pub(crate) u64);

impl Attributes {
    /// The partition gets no drive letter (63) and is hidden (62).
    pub(crate) const HIDDEN: Attributes = Attributes(0b11 << 62);
}

/// A partition that is to be added.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewEntry<'n> {
    /// The type GUID in the byte order of the disk.
    pub(crate) kind: [u8; 16],
    /// The GUID of the partition in the byte order of the disk.
    pub(crate) guid: [u8; 16],
    /// The first byte, which is on a sector boundary.
    pub(crate) start: u64,
    /// The length in bytes, a number of whole sectors.
    pub(crate) len: u64,
    pub(crate) attributes: Attributes,
    /// At most 36 characters of ASCII.
    pub(crate) name: &'n str,
}

impl Gpt {
    /// The first bytes of a header.
    pub(crate) const MAGIC: &'static [u8; 8] = b"EFI PART";

    /// Parses the primary table in `head`, the first bytes of the disk. Returns `None` unless the table is complete and
    /// its checksums are right.
    pub(crate) fn parse(head: &[u8]) -> Option<Self> {
        SECTORS.iter().find_map(|sector| Self::parse_with(head, *sector))
    }

    /// Returns the byte up to which a table with an intact header reaches: the end of its backup, or of its entries.
    /// The entries themselves may be missing.
    pub(super) fn reach(head: &[u8]) -> Option<u64> {
        SECTORS.iter().find_map(|sector| {
            let header = header(head, *sector)?;
            let sector = *sector as u64;
            let entries = get8(&header, 72).saturating_mul(sector).saturating_add(entries_len(&header));
            Some(get8(&header, 32).saturating_add(1).saturating_mul(sector).max(entries))
        })
    }

    fn parse_with(head: &[u8], sector: usize) -> Option<Self> {
        let header = header(head, sector)?;
        let entry_len = usize::try_from(get4(&header, 84)).ok()?;
        let entries_len = entries_len(&header);
        let start = usize::try_from(get8(&header, 72).checked_mul(sector as u64)?).ok()?;
        if entries_len > MAX_ENTRIES || entry_len < MIN_ENTRY {
            return None;
        }
        let entries = head.get(start..start.checked_add(usize::try_from(entries_len).ok()?)?)?;
        if crc32(entries) != get4(&header, 88) {
            return None;
        }
        let table = Gpt { sector, header, entries: entries.to_vec(), entry_len };
        (!table.contradicts_itself()).then_some(table)
    }

    /// Returns whether the MBR or a partition overlaps the place of the entries or of the backup.
    fn contradicts_itself(&self) -> bool {
        let entries_at = get8(&self.header, 72);
        let entries = entries_at..entries_at.saturating_add(self.entries_sectors());
        if entries.start < 2 || entries.end > get8(&self.header, 40) {
            return true;
        }
        let used = self.entries.chunks_exact(self.entry_len).filter(|entry| is_used(entry));
        let last_used = used.map(|entry| get8(entry, 40)).max().unwrap_or(0);
        self.last_usable() >= self.alternate() || last_used > self.last_usable()
    }

    /// Returns the length of a sector in bytes.
    pub(crate) fn sector(&self) -> u64 {
        self.sector as u64
    }

    /// Returns the sector of the backup header.
    pub(crate) fn alternate(&self) -> u64 {
        get8(&self.header, 32)
    }

    /// Returns the last sector that a partition may have.
    pub(crate) fn last_usable(&self) -> u64 {
        get8(&self.header, 48)
    }

    /// Returns the number of sectors that the entries take.
    pub(crate) fn entries_sectors(&self) -> u64 {
        (self.entries.len() as u64).div_ceil(self.sector())
    }

    /// Returns the partitions of all entries in use.
    pub(crate) fn partitions(&self) -> Vec<Partition> {
        let used = self.entries.chunks_exact(self.entry_len).zip(1..).filter(|(entry, _)| is_used(entry));
        used.map(|(entry, number)| {
            let (first, last) = (get8(entry, 32), get8(entry, 40));
            let start = first.saturating_mul(self.sector());
            let end = last.saturating_add(1).saturating_mul(self.sector()).max(start);
            let mut guid = [0; 16];
            guid.copy_from_slice(&entry[..16]);
            Partition { number, start, end, extended: false, kind: PartitionType::Gpt(guid) }
        })
        .collect()
    }

    /// Returns the name in the entry of a partition, if it has one. Units that are not valid UTF-16 are replaced.
    pub(crate) fn name(&self, number: u32) -> Option<String> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        let entry = self.entries.chunks_exact(self.entry_len).nth(index)?;
        let units = entry[NAME].chunks_exact(2).map(|unit| get2(unit, 0)).take_while(|unit| *unit != 0);
        let name: String = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        Some(name).filter(|name| !name.is_empty())
    }

    /// Moves the backup to the end of the disk: its header to the sector `last`, and its entries before that.
    pub(crate) fn move_backup(&mut self, last: u64) {
        let last_usable = last - self.entries_sectors() - 1;
        put8(&mut self.header, 32, last);
        put8(&mut self.header, 48, last_usable);
        seal(&mut self.header);
    }

    /// Fills the first free entry and returns its number, or `None` if all are in use.
    pub(crate) fn add(&mut self, new: &NewEntry<'_>) -> Option<u32> {
        let sector = self.sector();
        let mut entries = self.entries.chunks_exact_mut(self.entry_len).zip(1..);
        let (entry, number) = entries.find(|(entry, _)| !is_used(entry))?;
        entry.fill(0);
        entry[..16].copy_from_slice(&new.kind);
        entry[16..32].copy_from_slice(&new.guid);
        put8(entry, 32, new.start / sector);
        put8(entry, 40, (new.start + new.len) / sector - 1);
        put8(entry, 48, new.attributes.0);
        for (place, unit) in entry[NAME].chunks_exact_mut(2).zip(new.name.encode_utf16()) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
        self.seal_entries();
        Some(number)
    }

    /// Frees the entry with this number, if there is one.
    pub(crate) fn remove(&mut self, number: u32) {
        let entry = self.entries.chunks_exact_mut(self.entry_len).zip(1..).find(|(_, at)| *at == number);
        if let Some((entry, _)) = entry {
            entry.fill(0);
        }
        self.seal_entries();
    }

    /// Writes the backup, the entries before the header. Both fill whole sectors with zeros, so that no old bytes are
    /// left.
    pub(crate) fn write_backup(&self, disk: &mut dyn WriteAt) -> io::Result<()> {
        let (alternate, entries_at) = (self.alternate(), self.alternate() - self.entries_sectors());
        let mut header = self.header.clone();
        put8(&mut header, 24, alternate);
        put8(&mut header, 32, 1);
        put8(&mut header, 72, entries_at);
        seal(&mut header);
        let mut entries = self.entries.clone();
        for bytes in [&mut entries, &mut header] {
            bytes.resize(bytes.len().next_multiple_of(self.sector), 0);
        }
        disk.write_at(&entries, entries_at * self.sector())?;
        disk.write_at(&header, alternate * self.sector())
    }

    /// Writes the primary table, the entries before the header.
    pub(crate) fn write_primary(&self, disk: &mut dyn WriteAt) -> io::Result<()> {
        disk.write_at(&self.entries, get8(&self.header, 72) * self.sector())?;
        disk.write_at(&self.header, self.sector())
    }

    fn seal_entries(&mut self) {
        let crc = crc32(&self.entries);
        self.header[88..92].copy_from_slice(&crc.to_le_bytes());
        seal(&mut self.header);
    }
}

/// Returns the header of a primary table with sectors of `sector` bytes, if its checksum is right.
fn header(head: &[u8], sector: usize) -> Option<Vec<u8>> {
    let header = head.get(sector..2 * sector)?;
    let len = usize::try_from(get4(header, 12)).ok()?;
    if !header.starts_with(Gpt::MAGIC) || !(MIN_HEADER..=sector).contains(&len) || get8(header, 24) != 1 {
        return None;
    }
    let mut copy = header[..len].to_vec();
    seal(&mut copy);
    (copy[16..20] == header[16..20]).then_some(copy)
}

/// Returns the length of the entries in bytes, as the header has it.
fn entries_len(header: &[u8]) -> u64 {
    u64::from(get4(header, 80)) * u64::from(get4(header, 84))
}

/// Returns whether the entry is in use. An entry without a type is free.
fn is_used(entry: &[u8]) -> bool {
    entry[..16].iter().any(|byte| *byte != 0)
}

/// Sets the checksum of the header, which is computed while its own field is zero.
pub(crate) fn seal(header: &mut [u8]) {
    header[16..20].fill(0);
    let crc = crc32(header);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
}

pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn put8(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
