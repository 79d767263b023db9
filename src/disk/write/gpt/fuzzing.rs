// SPDX-License-Identifier: BSD-2-Clause
//! What has to hold for any image whose backup GPT may have to be moved.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::move_backup;
use crate::disk::device::{ReadAt as _, Target};
use crate::disk::partition::{crc32, get4, get8, seal};
use crate::disk::write::{PendingDisk, WriteOptions};

/// Sectors of the image, and of what the disk has more, at most.
const MAX_SECTORS: usize = 128;

/// The start of the disk that is written last, in sectors: some have room for all of the GPT there, some do not.
const BOOT_SECTORS: [usize; 2] = [40, 8];

/// The bits of the first byte.
const LARGE_SECTORS: u8 = 1;
const SMALL_BOOT: u8 = 2;
const SEALED: u8 = 4;
const WITH_BACKUP: u8 = 8;
const FILLED: u8 = 16;

/// An image on a larger disk.
struct Case {
    sector: usize,
    boot_len: usize,
    image_len: usize,
    disk: Vec<u8>,
}

/// Moves the backup in an image made of `data`, and looks at every byte of the disk.
pub(crate) fn gpt(data: &[u8]) {
    let Some(case) = Case::new(data) else { return };
    let file = File::from(memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC).expect("memory for a disk"));
    // As when the rest of the image is written: the boot area is zero until the end.
    let boot_zeros = vec![0; case.boot_len];
    file.write_all_at(&boot_zeros, 0).expect("writing to memory");
    file.write_all_at(&case.disk[case.boot_len..], case.boot_len as u64).expect("writing to memory");
    let target = Target::in_memory(&file).expect("memory is a disk");
    let boot = &case.disk[..case.boot_len];
    let mut pending = PendingDisk::from_boot_area(&target, boot, case.image_len as u64, WriteOptions::default());
    move_backup(&mut pending, case.image_len as u64).expect("memory does not fail");
    let mut after = vec![0; case.disk.len()];
    target.read_at(&mut after, 0).expect("reading memory");
    assert!(after[..case.boot_len] == boot_zeros, "the boot area was written too early");
    pending.read_at(&mut after, 0).expect("reading memory");
    if after != case.disk {
        case.check_moved(&after);
    }
}

impl Case {
    fn new(data: &[u8]) -> Option<Self> {
        let (&[flags, image_low, image_high, more_low, more_high], image) = data.split_first_chunk()?;
        let sector = if flags & LARGE_SECTORS > 0 { 4096 } else { 512 };
        let sectors = |low, high| usize::from(u16::from_le_bytes([low, high])) % MAX_SECTORS + 1;
        let image_len = sectors(image_low, image_high) * sector;
        let fill = if flags & FILLED > 0 { 0xa5 } else { 0 };
        let mut disk = vec![fill; image_len];
        let len = image.len().min(image_len);
        disk[..len].copy_from_slice(&image[..len]);
        if flags & SEALED > 0 {
            seal_table(&mut disk, sector);
        }
        if flags & WITH_BACKUP > 0 {
            write_backup(&mut disk, sector);
        }
        // An image may end inside a sector.
        let image_len = image_len - usize::from(more_high) % 3;
        disk.truncate(image_len);
        disk.resize(image_len + sectors(more_low, more_high) * sector + usize::from(more_low) % 5, 0);
        let boot_len = (BOOT_SECTORS[usize::from(flags & SMALL_BOOT > 0)] * sector).min(disk.len());
        Some(Case { sector, boot_len, image_len, disk })
    }

    /// The image had an intact GPT, and now it has one for the disk.
    fn check_moved(&self, after: &[u8]) {
        let (sector, before) = (self.sector, &self.disk);
        let last = (self.disk.len() / sector - 1) as u64;
        let (old, new) = (Table::at(before, sector, 1), Table::at(after, sector, 1));
        assert_eq!((new.alternate, new.entries, new.first_usable), (last, old.entries.clone(), old.first_usable));
        assert!(old.alternate < last && self.image_len < self.disk.len());
        let backup = Table::at(after, sector, last);
        assert_eq!((backup.alternate, backup.last_usable), (1, new.last_usable));
        let (entries, backup_entries) = (&before[old.entries.clone()], &after[backup.entries.clone()]);
        assert!(entries == backup_entries && new.last_usable < (backup.entries.start / sector) as u64);
        assert!(backup.entries.end <= to_usize(last) * sector);
        // Only the header, the protective MBR and the two backups may differ.
        let header = sector..2 * sector;
        let old_header = to_usize(old.alternate) * sector;
        let old_entries = old_header.saturating_sub(entries.len().next_multiple_of(sector));
        let old_backup = old_entries..old_header + sector;
        let allowed = [446..510, header, old_backup, backup.entries.start..self.disk.len()];
        for at in (0..before.len()).filter(|at| before[*at] != after[*at]) {
            assert!(allowed.iter().any(|range| range.contains(&at)), "byte {at} of {} changed", self.disk.len());
        }
        for used in old.partitions(before) {
            assert!(before[used.clone()] == after[used.clone()], "a partition in {used:?} changed");
        }
    }
}

/// What an intact header says; lengths and positions in bytes, others in sectors.
struct Table {
    sector: usize,
    alternate: u64,
    first_usable: u64,
    last_usable: u64,
    entries: Range<usize>,
    entry_len: usize,
}

impl Table {
    fn at(disk: &[u8], sector: usize, place: u64) -> Self {
        let start = to_usize(place) * sector;
        let header = &disk[start..start + sector];
        assert!(header.starts_with(b"EFI PART") && get8(header, 24) == place, "no header in sector {place}");
        let mut copy = header[..get4(header, 12) as usize].to_vec();
        seal(&mut copy);
        assert_eq!(copy[16..20], header[16..20], "the checksum of the header in sector {place}");
        let entries = to_usize(get8(header, 72)) * sector;
        let entry_len = get4(header, 84) as usize;
        let entries = entries..entries + get4(header, 80) as usize * entry_len;
        assert_eq!(crc32(&disk[entries.clone()]), get4(header, 88), "the checksum of the entries");
        let (alternate, first_usable, last_usable) = (get8(header, 32), get8(header, 40), get8(header, 48));
        Table { sector, alternate, first_usable, last_usable, entries, entry_len }
    }

    /// Where partitions are, as far as the disk goes.
    fn partitions(&self, disk: &[u8]) -> Vec<Range<usize>> {
        let entries = disk[self.entries.clone()].chunks_exact(self.entry_len.max(1));
        let used = entries.filter(|entry| entry.len() >= 128 && entry[..16].iter().any(|byte| *byte != 0));
        let in_disk = |sectors: u64| to_usize(sectors.saturating_mul(self.sector as u64)).min(disk.len());
        let ranges = used.map(|entry| in_disk(get8(entry, 32))..in_disk(get8(entry, 40).saturating_add(1)));
        // One that holds the table itself is none.
        ranges.filter(|range| range.start < range.end && range.start >= 2 * self.sector).collect()
    }
}

/// Gives the header in sector 1 the checksums to what it says, as far as it points into the disk.
fn seal_table(disk: &mut [u8], sector: usize) {
    let Some(header) = disk.get(sector..2 * sector) else { return };
    let (len, start) = (get4(header, 12) as usize, to_usize(get8(header, 72)).saturating_mul(sector));
    let entries_len = to_usize(u64::from(get4(header, 80)).saturating_mul(get4(header, 84).into()));
    let Some(entries) = disk.get(start..start.saturating_add(entries_len)) else { return };
    let crc = crc32(entries);
    let header = &mut disk[sector..2 * sector];
    header[..8].copy_from_slice(b"EFI PART");
    header[88..92].copy_from_slice(&crc.to_le_bytes());
    if (20..=sector).contains(&len) {
        seal(&mut header[..len]);
    }
}

/// Puts a copy of header and entries where the header says that the backup is.
fn write_backup(disk: &mut [u8], sector: usize) {
    let Some(header) = disk.get(sector..2 * sector).map(<[u8]>::to_vec) else { return };
    let at = to_usize(get8(&header, 32)).saturating_mul(sector);
    if let Some(place) = disk.get_mut(at..at.saturating_add(sector)) {
        place.copy_from_slice(&header);
    }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
