// SPDX-License-Identifier: BSD-2-Clause
//! Fits an image's GPT to a larger disk: its backup moves from the image's end to the disk's end.
//!
//! The layout is chapter 5 of the UEFI specification. All numbers are little-endian.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

use std::io;

use flate2::Crc;

use crate::device::Target;

/// Sector sizes a GPT may have been made for, in bytes.
const SECTORS: [usize; 2] = [512, 4096];

/// A header is at least this long, in bytes.
const MIN_HEADER: usize = 92;

/// An entry has its type, its own name, its first and its last sector at least, in bytes.
const MIN_ENTRY: usize = 48;

/// The entries of every GPT in use take 16 KiB; more than this is not believed, in bytes.
const MAX_ENTRIES: u64 = 512 << 10;

/// Bytes that shall be on the disk behind its boot area.
#[derive(Debug)]
pub(super) struct Patch {
    /// Where, in bytes.
    pub(super) offset: u64,
    /// What; zeros where the old backup was.
    pub(super) bytes: Vec<u8>,
}

/// Moves the backup GPT to the end of the disk when the primary one in `boot` (the disk's first bytes) is intact and
/// the disk is larger than the image: changes `boot`, and says what is to be written for the new backup and over the old
/// one. A disk without a GPT, or with a broken one, stays as it is.
pub(super) fn move_backup(boot: &mut [u8], image_len: u64, target: &Target) -> io::Result<Vec<Patch>> {
    let Some(table) = SECTORS.iter().find_map(|sector| Table::parse(boot, *sector)) else { return Ok(Vec::new()) };
    let sector = table.sector as u64;
    let entries_sectors = (table.entries.len() as u64).div_ceil(sector);
    let last = target.size() / sector - 1;
    if image_len >= target.size() || last <= table.alternate || table.alternate >= image_len.div_ceil(sector) {
        return Ok(Vec::new());
    }
    // The last partition may end where the old backup begins, but not reach into the new one; nor may the boot area.
    let first_free = table.last_usable.saturating_add(1).max((boot.len() as u64).div_ceil(sector));
    let Some(entries_at) = last.checked_sub(entries_sectors).filter(|at| *at >= first_free) else {
        return Ok(Vec::new());
    };
    let mut patches = zeros_over_old_backup(&table, entries_sectors, entries_at, target)?;
    let primary = table.header(boot, |header| {
        put(header, 32, last);
        put(header, 48, entries_at - 1);
    });
    let mut backup = primary.clone();
    put(&mut backup, 24, last);
    put(&mut backup, 32, 1);
    put(&mut backup, 72, entries_at);
    seal(&mut backup);
    // Whole sectors: what follows in them must be zero, whatever was on the disk.
    patches.push(Patch { offset: entries_at * sector, bytes: padded(table.entries, table.sector) });
    patches.push(Patch { offset: last * sector, bytes: padded(backup, table.sector) });
    boot[table.sector..table.sector + primary.len()].copy_from_slice(&primary);
    grow_protective_mbr(boot, table.alternate, last);
    Ok(patches)
}

fn padded(mut bytes: Vec<u8>, sector: usize) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(sector), 0);
    bytes
}

/// An intact primary GPT.
struct Table {
    sector: usize,
    header_len: usize,
    alternate: u64,
    last_usable: u64,
    entries: Vec<u8>,
}

impl Table {
    fn parse(boot: &[u8], sector: usize) -> Option<Self> {
        let header = boot.get(sector..2 * sector)?;
        let header_len = usize::try_from(get4(header, 12)).ok()?;
        if !header.starts_with(b"EFI PART") || !(MIN_HEADER..=sector).contains(&header_len) || get(header, 24) != 1 {
            return None;
        }
        let mut copy = header[..header_len].to_vec();
        seal(&mut copy);
        if copy[16..20] != header[16..20] {
            return None;
        }
        let entries_len = u64::from(get4(header, 80)) * u64::from(get4(header, 84));
        let start = get(header, 72).checked_mul(sector as u64)?;
        if entries_len > MAX_ENTRIES {
            return None;
        }
        let start = usize::try_from(start).ok()?;
        let entries = boot.get(start..start.checked_add(usize::try_from(entries_len).ok()?)?)?;
        if crc32(entries) != get4(header, 88) {
            return None;
        }
        let (alternate, last_usable) = (get(header, 32), get(header, 48));
        // A table that contradicts itself: where its backup seems to be, a partition may be.
        if last_usable >= alternate || last_used(entries, get4(header, 84)) > last_usable {
            return None;
        }
        Some(Table { sector, header_len, alternate, last_usable, entries: entries.to_vec() })
    }

    /// The header in `boot` with a change, and the checksum to it.
    fn header(&self, boot: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut header = boot[self.sector..self.sector + self.header_len].to_vec();
        change(&mut header);
        seal(&mut header);
        header
    }
}

/// The last sector of any partition, with `entry_len` bytes for each.
fn last_used(entries: &[u8], entry_len: u32) -> u64 {
    let entries = entries.chunks_exact(usize::try_from(entry_len).unwrap_or(usize::MAX).max(1));
    let used = entries.filter(|entry| entry.len() >= MIN_ENTRY && entry[..16].iter().any(|byte| *byte != 0));
    used.map(|entry| get(entry, 40)).max().unwrap_or(0)
}

/// Over what certainly is the old backup: its header, and the entries before it where no partition may lie. What the new
/// backup will cover is left out.
fn zeros_over_old_backup(
    table: &Table,
    entries_sectors: u64,
    new_start: u64,
    target: &Target,
) -> io::Result<Vec<Patch>> {
    let sector = table.sector as u64;
    let mut magic = [0; 8];
    target.read_at(&mut magic, table.alternate * sector)?;
    if &magic != b"EFI PART" {
        return Ok(Vec::new());
    }
    let start = table.alternate.saturating_sub(entries_sectors).max(table.last_usable + 1).min(table.alternate);
    let sectors = (table.alternate + 1).min(new_start).saturating_sub(start);
    // At most MAX_ENTRIES and a header.
    let len = usize::try_from(sectors * sector).map_err(io::Error::other)?;
    Ok(vec![Patch { offset: start * sector, bytes: vec![0; len] }])
}

/// The protective MBR's entry (type 0xEE) gets the size that table 5.4 of the specification asks for: that of the disk
/// less one sector, or all ones when 32 bits can't hold it. In a hybrid MBR, which has other entries too, it ends where
/// those begin, and then it stays.
fn grow_protective_mbr(boot: &mut [u8], old_last: u64, last: u64) {
    let fits = |sectors: u64| u32::try_from(sectors).unwrap_or(u32::MAX);
    let used = boot[446..510].chunks_exact(16).filter(|entry| entry[4] != 0).count();
    for entry in boot[446..510].chunks_exact_mut(16) {
        let covers_all = used == 1 || get4(entry, 12) >= fits(old_last);
        if entry[4] == 0xee && get4(entry, 8) == 1 && covers_all {
            // The last cylinder, head and sector: no geometry of the disk is known.
            entry[5..8].fill(0xff);
            entry[12..16].copy_from_slice(&fits(last).to_le_bytes());
        }
    }
}

/// Sets the header's own checksum, which is taken with its field zero.
fn seal(header: &mut [u8]) {
    header[16..20].fill(0);
    let crc = crc32(header);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn get(bytes: &[u8], at: usize) -> u64 {
    u64::from(get4(bytes, at)) | u64::from(get4(bytes, at + 4)) << 32
}

fn get4(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
