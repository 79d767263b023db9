// SPDX-License-Identifier: BSD-2-Clause
//! Properties of the room `disk`: partition tables, truncated images, and a backup GPT that moves.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::sparse_disk::{Disk, SECTOR};
use crate::disk::device::{ReadAt, Target, WriteAt};
use crate::disk::partition::{
    ImageExtent, Incomplete, MBR_TOLERANCE, Partition, StreamedDisk, Table, all_partitions, check_complete, crc32,
    get4, get8, read_boot_area, seal,
};
use crate::disk::write::{PendingDisk, WriteOptions};
use crate::node::size::MIB;
use crate::seed::volume::{self, find_space};

/// Linux has no more partitions on a disk.
const MAX_PARTITIONS: usize = 255;

/// Parses the input as a disk. If the first byte is odd, its GPT gets correct checksums.
pub(super) fn partitions(data: &[u8]) {
    let Some((flags, Some(mut disk))) = data.split_first().map(|(flags, rest)| (flags, Disk::parse(rest))) else {
        return;
    };
    if flags & 1 == 1 {
        seal_gpt(&mut disk);
    }
    let Ok(table) = Table::parse(&read_boot_area(&disk).expect("memory does not fail")) else { return };
    let all = all_partitions(&disk, &table).expect("memory does not fail");
    check_partitions(&table, &all);
    add_and_remove(&disk, &table);
    for partition in table.partitions() {
        remove(&disk, &all, partition.number);
    }
}

fn check_partitions(table: &Table, all: &[Partition]) {
    assert!(all.len() <= MAX_PARTITIONS && all.iter().all(|partition| partition.start <= partition.end));
    let mut numbers: Vec<_> = all.iter().map(|partition| partition.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert!(numbers.len() == all.len() && !numbers.contains(&0), "a number twice");
    let Table::Mbr(_) = table else { return };
    let (primary, logical): (Vec<_>, Vec<_>) = all.iter().partition(|partition| partition.number < 5);
    assert_eq!(primary.into_iter().copied().collect::<Vec<_>>(), table.partitions());
    for (index, one) in logical.iter().enumerate() {
        let apart = |other: &&Partition| one.end <= other.start || other.end <= one.start;
        assert!(!one.extended && one.start < one.end && one.number < 256);
        assert!(logical[..index].iter().all(apart), "{one:?} lies over another");
    }
}

/// Adds an entry in a free place and removes it again. All other entries stay as they were, and so does the rest of the
/// disk.
fn add_and_remove(before: &Disk, table: &Table) {
    let path = Path::new("/disk");
    let mut disk = before.clone();
    let Ok(space) = find_space(&read_boot_area(&disk).expect("memory does not fail"), disk.len(), path) else { return };
    let (start, end) = (space.start, space.start + volume::LEN);
    assert!(start >= 1 << 20 && end <= disk.len() && start.is_multiple_of(1 << 20));
    let old = table.partitions();
    assert!(old.iter().all(|partition| partition.end <= start), "the new one lies over another");
    let Ok(number) = volume::add_partition(&mut disk, space, "uuid", path) else {
        assert!(disk == *before, "a failure that left something");
        return;
    };
    let table = Table::parse(&read_boot_area(&disk).expect("memory does not fail")).expect("a table, as before");
    let (new, others): (Vec<_>, Vec<_>) =
        table.partitions().into_iter().partition(|partition| partition.number == number);
    assert_eq!(others, old);
    assert!(matches!(new[..], [partition] if (partition.start, partition.end) == (start, end)), "{new:?}");
    check_changes(before, &disk, &table);
    volume::remove_partition(&mut disk, number).expect("what was added can be removed");
    let table = Table::parse(&read_boot_area(&disk).expect("memory does not fail")).expect("a table, as before");
    assert_eq!(table.partitions(), old);
    check_changes(before, &disk, &table);
}

/// Removes an entry. The others stay as they were, unless none is left.
fn remove(before: &Disk, all: &[Partition], number: u32) {
    let mut disk = before.clone();
    if volume::remove_partition(&mut disk, number).is_err() {
        assert!(disk == *before, "a failure that left something");
        return;
    }
    let Ok(table) = Table::parse(&read_boot_area(&disk).expect("memory does not fail")) else { return };
    let others: Vec<_> = all.iter().filter(|partition| partition.number != number && partition.number < 5).collect();
    if let Table::Mbr(_) = table {
        assert_eq!(table.partitions().iter().collect::<Vec<_>>(), others);
    }
    check_changes(before, &disk, &table);
}

/// Checks that only the table and its backup have changed.
fn check_changes(before: &Disk, after: &Disk, table: &Table) {
    let sector = table.sector();
    let (first, backup) = match table {
        Table::Mbr(_) => (vec![0..1, 0..0], 0..0),
        Table::Gpt(gpt) => {
            let header = after.head(2 * sector);
            let entries = get8(&header[usize::try_from(sector).unwrap_or(0)..], 72);
            let last = gpt.alternate();
            (vec![1..2, entries..entries + gpt.entries_sectors()], last - gpt.entries_sectors()..last + 1)
        }
    };
    for at in before.differences(after) {
        let at = at * SECTOR as u64 / sector;
        assert!(first.iter().chain([&backup]).any(|range| range.contains(&at)), "sector {at} changed");
    }
}

/// Makes a valid GPT of the bytes in sector 1, at least with correct checksums.
fn seal_gpt(disk: &mut Disk) {
    let mut head = disk.head(1 << 20);
    let Some(header) = head.get(SECTOR..2 * SECTOR) else { return };
    let (len, start) = (get4(header, 12) as usize, get8(header, 72).saturating_mul(SECTOR as u64));
    let entries = u64::from(get4(header, 80)).saturating_mul(get4(header, 84).into());
    let Some((start, entries)) = usize::try_from(start).ok().zip(usize::try_from(entries).ok()) else { return };
    let Some(entries) = head.get(start..start.saturating_add(entries)) else { return };
    let crc = crc32(entries).to_le_bytes();
    let header = &mut head[SECTOR..2 * SECTOR];
    header[88..92].copy_from_slice(&crc);
    if (20..=SECTOR).contains(&len) {
        seal(&mut header[..len]);
    }
    disk.write_at(header, SECTOR as u64).expect("memory does not fail");
}

/// A disk longer than this, in bytes, is not read as a stream.
const MAX_STREAM: u64 = 4 * MIB;

/// Parses the input as a disk. If the first byte is odd, its GPT gets correct checksums.
pub(super) fn truncated(data: &[u8]) {
    let Some((flags, Some(mut disk))) = data.split_first().map(|(flags, rest)| (flags, Disk::parse(rest))) else {
        return;
    };
    if flags & 1 == 1 {
        seal_gpt(&mut disk);
    }
    let len = disk.len();
    for (image, room, mbr_tolerance) in
        [(len, None, MBR_TOLERANCE), (len, Some(len), 0), (len / 2, Some(len), u64::MAX), (len + 1, None, 0)]
    {
        let extent = ImageExtent { image, disk: room, mbr_tolerance };
        let judged = check_complete(&disk, extent);
        match &judged {
            Ok(()) | Err(Incomplete::Read(_)) => {}
            Err(Incomplete::Cut { needed, end, .. }) => assert!(needed.0 > image && end.0 == image, "{judged:?}"),
            Err(Incomplete::BeyondDisk { needed, disk, .. }) => assert!(needed.0 > disk.0, "{judged:?}"),
        }
        // A disk in memory can always be read.
        assert!(!matches!(judged, Err(Incomplete::Read(_))), "{judged:?}");
        if image == len && len <= MAX_STREAM {
            same_as_a_stream(&disk, extent, judged.is_ok());
        }
    }
}

/// Checks that a stream is judged like the disk itself. Only logical partitions may be missed.
fn same_as_a_stream(disk: &Disk, extent: ImageExtent, taken: bool) {
    let all = disk.head(disk.len());
    let (head, rest) = all.split_at(all.len().min(usize::try_from(MIB).unwrap_or(usize::MAX)));
    let passing = StreamedDisk::read(head.to_vec(), &mut &*rest).expect("memory does not fail");
    assert_eq!(passing.len(), disk.len());
    let table = Table::parse(&read_boot_area(disk).expect("memory does not fail"));
    let logical = table.is_ok_and(|table| table.partitions().iter().any(|partition| partition.extended));
    let passed = check_complete(&passing, extent).is_ok();
    assert!(passed == taken || (logical && passed), "a stream is judged otherwise");
}

/// The largest number of sectors of the image, and of the rest of the disk.
const MAX_SECTORS: usize = 128;

/// The length of the start of the disk that is written last, in sectors. The whole GPT fits into the first of these,
/// but not always into the second.
const BOOT_SECTORS: [usize; 2] = [40, 8];

/// The bits of the first byte.
const LARGE_SECTORS: u8 = 1;
const SMALL_BOOT: u8 = 2;
const SEALED: u8 = 4;
const WITH_BACKUP: u8 = 8;
const FILLED: u8 = 16;

struct Case {
    sector: usize,
    boot_len: usize,
    image_len: usize,
    disk: Vec<u8>,
}

/// Moves the backup GPT to the end of a larger disk, and checks that no other byte changes. The first five bytes of the
/// input give the sizes of the image and the disk.
pub(super) fn gpt(data: &[u8]) {
    let Some(case) = Case::new(data) else { return };
    let file = File::from(memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC).expect("memory for a disk"));
    // The boot area is zero until the end, as it is while the rest of the image is written.
    let boot_zeros = vec![0; case.boot_len];
    file.write_all_at(&boot_zeros, 0).expect("writing to memory");
    file.write_all_at(&case.disk[case.boot_len..], case.boot_len as u64).expect("writing to memory");
    let target = Target::in_memory(&file).expect("memory is a disk");
    let (boot, len) = (&case.disk[..case.boot_len], case.image_len as u64);
    let mut whole = PendingDisk::from_boot_area(&target, boot, len, WriteOptions::default());
    whole.move_backup_gpt(case.image_len as u64).expect("memory does not fail");
    let mut after = vec![0; case.disk.len()];
    target.read_at(&mut after, 0).expect("reading memory");
    assert!(after[..case.boot_len] == boot_zeros, "the boot area was written too early");
    whole.read_at(&mut after, 0).expect("reading memory");
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

    /// Checks that the image had an intact GPT, and that the disk has one now.
    fn check_moved(&self, after: &[u8]) {
        let (sector, before) = (self.sector, &self.disk);
        let last = (self.disk.len() / sector - 1) as u64;
        let (old, new) = (Header::at(before, sector, 1), Header::at(after, sector, 1));
        assert_eq!((new.alternate, new.entries, new.first_usable), (last, old.entries.clone(), old.first_usable));
        assert!(old.alternate < last && self.image_len < self.disk.len());
        let backup = Header::at(after, sector, last);
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

/// The fields of an intact header. Lengths and positions are in bytes, and the others in sectors.
struct Header {
    sector: usize,
    alternate: u64,
    first_usable: u64,
    last_usable: u64,
    entries: Range<usize>,
    entry_len: usize,
}

impl Header {
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
        Header { sector, alternate, first_usable, last_usable, entries, entry_len }
    }

    /// Returns the places of the partitions that are on the disk.
    fn partitions(&self, disk: &[u8]) -> Vec<Range<usize>> {
        let entries = disk[self.entries.clone()].chunks_exact(self.entry_len.max(1));
        let used = entries.filter(|entry| entry.len() >= 128 && entry[..16].iter().any(|byte| *byte != 0));
        let in_disk = |sectors: u64| to_usize(sectors.saturating_mul(self.sector as u64)).min(disk.len());
        let ranges = used.map(|entry| in_disk(get8(entry, 32))..in_disk(get8(entry, 40).saturating_add(1)));
        // A range that holds the table itself is no partition.
        ranges.filter(|range| range.start < range.end && range.start >= 2 * self.sector).collect()
    }
}

/// Sets the checksums of the header in sector 1, as far as it points into the disk.
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

/// Copies the header and the entries to the place of the backup that the header gives.
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
