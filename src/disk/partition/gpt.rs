// SPDX-License-Identifier: BSD-2-Clause
//! The GUID partition table. Its layout is chapter 5 of the UEFI specification; all numbers are little-endian.

use std::io;

use flate2::Crc;

use super::{Partition, PartitionType, get2, get4, get8};
use crate::disk::device::WriteAt;

/// Sector sizes a GPT may have been made for, in bytes.
const SECTORS: [usize; 2] = [512, 4096];

/// A header is at least this long, in bytes.
const MIN_HEADER: usize = 92;

/// An entry is at least this long, in bytes.
const MIN_ENTRY: usize = 128;

/// Where the name is in an entry: at most 36 units of UTF-16.
const NAME: std::ops::Range<usize> = 56..128;

/// The entries of every GPT in use take 16 KiB; more than this is not believed, in bytes.
const MAX_ENTRIES: u64 = 512 << 10;

/// An intact primary GPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gpt {
    sector: usize,
    header: Vec<u8>,
    entries: Vec<u8>,
    entry_len: usize,
}

/// Bits of an entry that mean something to Windows only, for the type "basic data".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes(pub(crate) u64);

impl Attributes {
    /// Gets no drive letter (63) and is hidden (62).
    pub(crate) const HIDDEN: Attributes = Attributes(0b11 << 62);
}

/// A partition to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewEntry<'n> {
    /// Type GUID, as it lies on the disk.
    pub(crate) kind: [u8; 16],
    /// The partition's own GUID, likewise.
    pub(crate) guid: [u8; 16],
    /// First byte; on a sector's boundary.
    pub(crate) start: u64,
    /// Length in bytes; whole sectors.
    pub(crate) len: u64,
    /// Attribute bits.
    pub(crate) attributes: Attributes,
    /// Its name, ASCII, at most 36 characters.
    pub(crate) name: &'n str,
}

impl Gpt {
    /// How each of its headers begins.
    pub(crate) const MAGIC: &'static [u8; 8] = b"EFI PART";

    /// The primary table in `head`, the disk's first bytes; none unless it is there as a whole and its checksums hold.
    pub(crate) fn parse(head: &[u8]) -> Option<Self> {
        SECTORS.iter().find_map(|sector| Self::parse_with(head, *sector))
    }

    /// Up to which byte a table reaches whose header is intact, though its entries need not be there: up to the end of
    /// its backup, and of its entries.
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

    /// Where the backup of such a table or its entries seem to be, a partition may be, or the MBR.
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

    /// In bytes.
    pub(crate) fn sector(&self) -> u64 {
        self.sector as u64
    }

    /// The sector of the backup header.
    pub(crate) fn alternate(&self) -> u64 {
        get8(&self.header, 32)
    }

    /// The last sector that a partition may have.
    pub(crate) fn last_usable(&self) -> u64 {
        get8(&self.header, 48)
    }

    /// How many sectors the entries take.
    pub(crate) fn entries_sectors(&self) -> u64 {
        (self.entries.len() as u64).div_ceil(self.sector())
    }

    /// All entries in use.
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

    /// The name of a partition, as its entry has it; none without one. What is no UTF-16 is replaced.
    pub(crate) fn name(&self, number: u32) -> Option<String> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        let entry = self.entries.chunks_exact(self.entry_len).nth(index)?;
        let units = entry[NAME].chunks_exact(2).map(|unit| get2(unit, 0)).take_while(|unit| *unit != 0);
        let name: String = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        Some(name).filter(|name| !name.is_empty())
    }

    /// The backup shall lie at the disk's end: its header in sector `last`, its entries before that.
    pub(crate) fn move_backup(&mut self, last: u64) {
        let last_usable = last - self.entries_sectors() - 1;
        put(&mut self.header, 32, last);
        put(&mut self.header, 48, last_usable);
        seal(&mut self.header);
    }

    /// Takes the first free entry; gives its number, none when all are in use.
    pub(crate) fn add(&mut self, new: &NewEntry<'_>) -> Option<u32> {
        let sector = self.sector();
        let mut entries = self.entries.chunks_exact_mut(self.entry_len).zip(1..);
        let (entry, number) = entries.find(|(entry, _)| !is_used(entry))?;
        entry.fill(0);
        entry[..16].copy_from_slice(&new.kind);
        entry[16..32].copy_from_slice(&new.guid);
        put(entry, 32, new.start / sector);
        put(entry, 40, (new.start + new.len) / sector - 1);
        put(entry, 48, new.attributes.0);
        for (place, unit) in entry[NAME].chunks_exact_mut(2).zip(new.name.encode_utf16()) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
        self.seal_entries();
        Some(number)
    }

    /// Frees an entry. Nothing happens if there is none of that number.
    pub(crate) fn remove(&mut self, number: u32) {
        let entry = self.entries.chunks_exact_mut(self.entry_len).zip(1..).find(|(_, at)| *at == number);
        if let Some((entry, _)) = entry {
            entry.fill(0);
        }
        self.seal_entries();
    }

    /// Writes the backup: entries, then header. Whole sectors: what follows in them must be zero, whatever was on the disk.
    pub(crate) fn write_backup(&self, disk: &mut dyn WriteAt) -> io::Result<()> {
        let (alternate, entries_at) = (self.alternate(), self.alternate() - self.entries_sectors());
        let mut header = self.header.clone();
        put(&mut header, 24, alternate);
        put(&mut header, 32, 1);
        put(&mut header, 72, entries_at);
        seal(&mut header);
        let mut entries = self.entries.clone();
        for bytes in [&mut entries, &mut header] {
            bytes.resize(bytes.len().next_multiple_of(self.sector), 0);
        }
        disk.write_at(&entries, entries_at * self.sector())?;
        disk.write_at(&header, alternate * self.sector())
    }

    /// Writes the primary table: entries, then header.
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

/// The header of a primary table for `sector` bytes a sector, if its checksum holds.
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

/// The length of a header's entries in bytes.
fn entries_len(header: &[u8]) -> u64 {
    u64::from(get4(header, 80)) * u64::from(get4(header, 84))
}

/// An entry of no type is free.
fn is_used(entry: &[u8]) -> bool {
    entry[..16].iter().any(|byte| *byte != 0)
}

/// Sets the header's own checksum, which is taken with its field zero.
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

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
