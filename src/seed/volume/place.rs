// SPDX-License-Identifier: BSD-2-Clause
//! Where a seed goes on an instance's first disk: a partition of its own at the very end.
//!
//! It has 4 MiB in the last 5, aligned to 1 MiB, with room behind it for a backup GPT, in an MBR too, which may become
//! a GPT one day. Its entry has Windows' bits for "hidden" and "no drive letter". The file system has 4 MiB on a
//! larger disk of its own too: one form is tested.
//!
//! A run that failed leaves a disk without its first MiB. The next one with `seed_keep` looks for the seed where one
//! would go, by the disk's size alone.

use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::fat::LEN;
use super::{PlaceError, read_boot_area};
use crate::disk::device::{ReadAt, WriteAt};
use crate::disk::partition::{Attributes, Gpt, Mbr, NewEntry, SECTOR, Table, TableError};
use crate::node::size::{ByteSize, MIB};

/// What is kept free behind the seed where there is no GPT, in sectors: as much as one would need for its backup.
const BACKUP_SECTORS: u64 = 33;

/// "Microsoft basic data", EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, as it lies on a disk.
const BASIC_DATA: [u8; 16] =
    [0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7];

/// FAT with sector addresses (LBA).
const FAT_LBA: u8 = 0x0c;

/// A place for the seed, of [`LEN`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    /// First byte.
    pub(crate) start: u64,
    /// Sector size of the disk's table, in bytes.
    pub(crate) sector: u64,
}

/// The place for a seed on a disk of `size` bytes, of which an image begins with `head` (its first MiB, or all of it),
/// once its backup GPT lies at the disk's end. `disk` is for messages.
pub(crate) fn find_space(head: &[u8], size: u64, disk: &Path) -> Result<Space, PlaceError> {
    let table = Table::parse(head).map_err(|reason| PlaceError::Table { disk: disk.to_owned(), reason })?;
    let small = || PlaceError::Small { disk: disk.to_owned(), size: ByteSize(size) };
    let start = match &table {
        Table::Gpt(gpt) => usable_end(gpt, size).and_then(start_before),
        Table::Mbr(_) => start_without_table(size),
    };
    let start = start.ok_or_else(small)?;
    let in_the_way = table.partitions().into_iter().filter(|partition| partition.end > start);
    if let Some(partition) = in_the_way.max_by_key(|partition| partition.end) {
        let needed = ByteSize(partition.end.saturating_add(LEN + 2 * MIB - 1) / MIB * MIB);
        let (number, extended) = (partition.number, partition.extended);
        return Err(PlaceError::Occupied { disk: disk.to_owned(), number, extended, needed });
    }
    with_entry(table.clone(), start, "").map(|_| Space { start, sector: table.sector() })
}

/// Where a seed begins that ends before `end`.
fn start_before(end: u64) -> Option<u64> {
    let start = end.checked_sub(LEN).map(|start| start - start % MIB);
    // The first MiB is the boot area, which has an end of its own.
    start.filter(|start| *start >= MIB)
}

/// Where a seed begins on a disk of `size` bytes whose table has no say in that.
pub(super) fn start_without_table(size: u64) -> Option<u64> {
    size.checked_sub(BACKUP_SECTORS * SECTOR).and_then(start_before)
}

/// The byte behind the last one that a partition may have, when the backup GPT is or will be moved to the disk's end.
fn usable_end(gpt: &Gpt, size: u64) -> Option<u64> {
    let last = (size / gpt.sector()).checked_sub(1)?;
    let sectors = if gpt.alternate() == last {
        gpt.last_usable().saturating_add(1).min(last)
    } else {
        last.checked_sub(gpt.entries_sectors())?
    };
    sectors.checked_mul(gpt.sector())
}

/// The table with one entry more, and that entry's number. `uuid` is the instance's.
fn with_entry(mut table: Table, start: u64, uuid: &str) -> Result<(Table, u32), PlaceError> {
    let added = match &mut table {
        Table::Gpt(gpt) => {
            let (kind, guid, attributes) = (BASIC_DATA, partition_guid(uuid), Attributes::HIDDEN);
            gpt.add(&NewEntry { kind, guid, start, len: LEN, attributes, name: "cidata" })
        }
        Table::Mbr(mbr) => mbr.add(FAT_LBA, start, LEN),
    };
    let (name, why) = match &table {
        Table::Gpt(_) => ("GPT", ""),
        Table::Mbr(_) if start + LEN > u64::from(u32::MAX) * SECTOR => ("MBR", ": it can't reach behind 2 TiB"),
        Table::Mbr(_) => ("MBR", ": all four primary ones are in use"),
    };
    added.map(|number| (table, number)).ok_or(PlaceError::NoEntry { table: name, why })
}

/// The partition's own GUID: the same for the same instance.
fn partition_guid(uuid: &str) -> [u8; 16] {
    let hash = Sha256::digest(format!("simpleimage seed partition {uuid}"));
    let mut guid: [u8; 16] = std::array::from_fn(|at| hash[at]);
    // Version 8 (made by a rule of one's own) and variant of RFC 9562; the version's byte is in a little-endian field.
    guid[7] = guid[7] & 0x0f | 0x80;
    guid[8] = guid[8] & 0x3f | 0x80;
    guid
}

/// Notes the seed of instance `uuid` at `space` in the disk's table, the backup GPT included; gives its number. On a
/// whole disk: its backup GPT has to be at its end.
pub(crate) fn add_partition(
    disk: &mut dyn WriteAt,
    space: Space,
    uuid: &str,
    path: &Path,
) -> Result<u32, crate::seed::volume::Error> {
    let damaged = |reason| PlaceError::Table { disk: path.to_owned(), reason };
    let table = Table::parse(&read_boot_area(disk)?).map_err(damaged)?;
    if let Table::Gpt(gpt) = &table
        && !ends_the_disk(gpt, disk.len())
    {
        return Err(damaged(TableError::Damaged).into());
    }
    let (table, number) = with_entry(table, space.start, uuid)?;
    store(&table, disk)?;
    Ok(number)
}

/// The disk's table, in which partition `number` is one that can be removed.
fn table_of(disk: &dyn ReadAt, number: u32) -> io::Result<Table> {
    let table = Table::parse(&read_boot_area(disk)?).map_err(io::Error::other)?;
    match &table {
        Table::Gpt(gpt) if !ends_the_disk(gpt, disk.len()) => {
            Err(io::Error::other("the backup of its GPT is not at the disk's end (sgdisk -e moves it there)"))
        }
        Table::Mbr(_) if number > 4 => {
            Err(io::Error::other("it is in a logical partition, which simpleimage does not change (use fdisk)"))
        }
        _ => Ok(table),
    }
}

/// An error if partition `number` can't be removed.
pub(crate) fn check_removable(disk: &dyn ReadAt, number: u32) -> io::Result<()> {
    table_of(disk, number).map(drop)
}

/// Frees partition `number`.
pub(crate) fn remove_partition(disk: &mut dyn WriteAt, number: u32) -> io::Result<()> {
    let mut table = table_of(disk, number)?;
    match &mut table {
        Table::Gpt(gpt) => gpt.remove(number),
        Table::Mbr(mbr) => mbr.remove(number),
    }
    store(&table, disk)
}

/// Whether the backup is where we write it: header last, entries before it and behind every partition.
fn ends_the_disk(gpt: &Gpt, size: u64) -> bool {
    Some(gpt.alternate()) == (size / gpt.sector()).checked_sub(1)
        && gpt.alternate().checked_sub(gpt.entries_sectors()).is_some_and(|at| at > gpt.last_usable())
}

/// The backup first: at any moment one of the two is whole.
fn store(table: &Table, disk: &mut dyn WriteAt) -> io::Result<()> {
    match table {
        Table::Gpt(gpt) => {
            gpt.write_backup(disk)?;
            disk.sync()?;
            gpt.write_primary(disk)
        }
        Table::Mbr(mbr) => store_mbr(mbr, disk),
    }
}

fn store_mbr(mbr: &Mbr, disk: &mut dyn WriteAt) -> io::Result<()> {
    let (entries, at) = mbr.bytes();
    disk.write_at(entries, at)
}

#[cfg(test)]
mod tests {
    use super::{add_partition, ends_the_disk, find_space, remove_partition};
    use crate::disk::device::MemoryDisk;
    use crate::disk::partition::{Table, TableError};
    use crate::node::size::MIB;
    use crate::seed::volume::{PlaceError, survey};
    use flate2::Crc;
    use proptest::prelude::{any, prop, proptest};
    use std::path::Path;

    fn crc(bytes: &[u8]) -> [u8; 4] {
        let mut crc = Crc::new();
        crc.update(bytes);
        crc.sum().to_le_bytes()
    }

    /// A disk whose GPT has right checksums and any numbers: alternate and last usable sector, and one partition.
    fn with_gpt(len: usize, alternate: u64, last_usable: u64, first: u64, last: u64) -> MemoryDisk {
        let mut disk = vec![0; len];
        disk[450] = 0xee;
        disk[454] = 1;
        disk[458..462].fill(0xff);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        let entries = &mut disk[1024..1024 + 16384];
        entries[..16].fill(1);
        entries[32..40].copy_from_slice(&first.to_le_bytes());
        entries[40..48].copy_from_slice(&last.to_le_bytes());
        let entries_crc = crc(entries);
        let header = &mut disk[512..512 + 92];
        header[..16].copy_from_slice(b"EFI PART\0\0\x01\0\x5c\0\0\0");
        for (at, value) in [(24, 1), (32, alternate), (40, 34), (48, last_usable), (72, 2)] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&entries_crc);
        let header_crc = crc(header);
        header[16..20].copy_from_slice(&header_crc);
        MemoryDisk(disk)
    }

    const LEN: usize = 12 << 20;
    const LAST: u64 = (LEN / 512) as u64 - 1;

    #[test]
    fn a_partition_is_added_and_removed_again() {
        let mut disk = with_gpt(LEN, LAST, LAST - 33, 2048, 4095);
        let before = disk.0.clone();
        let path = Path::new("/disk");
        let space = find_space(&disk.0[..1 << 20], LEN as u64, path).unwrap();
        assert_eq!((space.start, space.sector), (7 * MIB, 512));
        assert_eq!(add_partition(&mut disk, space, "uuid", path).unwrap(), 2);
        let Ok(Table::Gpt(gpt)) = Table::parse(&disk.0) else { panic!("no GPT") };
        assert!(ends_the_disk(&gpt, LEN as u64));
        assert_eq!(gpt.partitions()[1].start..gpt.partitions()[1].end, 7 * MIB..11 * MIB);
        remove_partition(&mut disk, 2).unwrap();
        // The backup was not there before.
        let backup = LEN - 33 * 512;
        assert!(disk.0[..backup] == before[..backup]);
    }

    #[test]
    fn a_gpt_that_does_not_end_the_disk_is_not_changed() {
        let mut disk = with_gpt(LEN, LAST - 100, LAST - 133, 2048, 4095);
        let before = disk.0.clone();
        let space = find_space(&disk.0, LEN as u64, Path::new("/disk")).unwrap();
        let error = add_partition(&mut disk, space, "uuid", Path::new("/disk")).unwrap_err();
        let damaged =
            matches!(error, crate::seed::volume::Error::Place(PlaceError::Table { reason: TableError::Damaged, .. }));
        assert!(damaged && disk.0 == before);
    }

    proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        /// Dumps and images hold any numbers.
        #[test]
        fn no_gpt_panics(alternate in any::<u64>(), last_usable in any::<u64>(), first in any::<u64>(), last in any::<u64>(), at_end in 0..4_u8) {
            let alternate = if at_end & 1 == 1 { LAST } else { alternate };
            let last_usable = if at_end & 2 == 2 { LAST - 33 } else { last_usable };
            let mut disk = with_gpt(LEN, alternate, last_usable, first, last);
            let _ = survey(&disk);
            let path = Path::new("/disk");
            if let Ok(space) = find_space(&disk.0[..1 << 20], LEN as u64, path) {
                let _ = add_partition(&mut disk, space, "uuid", path);
            }
            let _ = remove_partition(&mut disk, 1);
        }

        #[test]
        fn no_mbr_panics(entries in prop::collection::vec(any::<u8>(), 64), extended in 0..4_usize) {
            let mut disk = vec![0; 8 << 20];
            disk[446..510].copy_from_slice(&entries);
            for (index, status) in [446, 462, 478, 494].into_iter().enumerate() {
                disk[status] &= 0x80;
                disk[status + 4] = if index == extended { 5 } else { disk[status + 4] };
            }
            // A small start, so that the chain of logical partitions is on the disk.
            disk[446 + 16 * extended + 9..446 + 16 * extended + 12].fill(0);
            disk[510..512].copy_from_slice(&[0x55, 0xaa]);
            let mut disk = MemoryDisk(disk);
            let _ = survey(&disk);
            let _ = find_space(&disk.0[..1 << 20], 8 << 20, Path::new("/disk"));
            let _ = remove_partition(&mut disk, 1);
        }
    }
}
