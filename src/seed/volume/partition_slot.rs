// SPDX-License-Identifier: BSD-2-Clause
//! The partition for a seed at the end of an instance's first disk.
//!
//! It has 4 MiB in the last 5 MiB of the disk, and is aligned to 1 MiB. There is room after it for a backup GPT, on a
//! disk with an MBR too, as that may be converted to GPT later. Its entry has the bits of Windows for "hidden" and "no
//! drive letter". The file system has the same 4 MiB on a disk of its own, so that only one form has to be tested.
//!
//! A failed run leaves a disk without its first MiB. The next run with `seed_keep` looks for the seed in the place that
//! follows from the size of the disk.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::fat::LEN;
use crate::disk::device::{ReadAt, WriteAt};
use crate::disk::partition::{Attributes, Gpt, NewEntry, SECTOR, Table, TableError, read_boot_area};
use crate::node::size::{ByteSize, MIB};

/// The number of sectors that stay free after the seed on a disk without a GPT. The backup of a GPT needs as many.
const BACKUP_SECTORS: u64 = 33;

/// The type "Microsoft basic data", EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, in the byte order of the disk.
const BASIC_DATA: [u8; 16] =
    [0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7];

/// The type of a FAT partition with sector addresses (LBA) in an MBR.
const FAT_LBA: u8 = 0x0c;

/// A place for a seed of [`LEN`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    /// The first byte.
    pub(crate) start: u64,
    /// The sector size of the partition table, in bytes.
    pub(crate) sector: u64,
}

/// Why a seed can't be written to a disk. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error(
        "the image has {reason}, so there is no place for the seed on disk {disk} (give the instance a disk for it: --disk 1:size=16M,name=cidata; or use cloud_init=off)",
        disk = disk.display()
    )]
    Table { disk: PathBuf, reason: TableError },
    #[error(
        "{what} {number} of the image reaches into the last 5 MiB of disk {disk}, where the seed goes (use a disk of at least {needed}, or one more disk: --disk 1:size=16M,name=cidata; or cloud_init=off)",
        what = if *extended { "extended partition" } else { "partition" },
        disk = disk.display()
    )]
    Occupied { disk: PathBuf, number: u32, extended: bool, needed: ByteSize },
    #[error("disk {disk} has {size}, too small for a seed of 4 MiB at its end (use a larger disk, or cloud_init=off)", disk = disk.display())]
    Small { disk: PathBuf, size: ByteSize },
    #[error(
        "the {table} of the image has no free entry for the seed's partition{why} (give the instance a disk for it: --disk 1:size=16M,name=cidata; or use cloud_init=off)"
    )]
    NoEntry { table: &'static str, why: &'static str },
    #[error(
        "the image already holds a volume labelled CIDATA, {at} (remove it with `simpleimage seed remove`, or use cloud_init=off)"
    )]
    Present { at: String },
    #[error("disk {disk}, which is named cidata, has {size}: a seed needs 1 MiB (use a larger one)", disk = disk.display())]
    SmallDisk { disk: PathBuf, size: ByteSize },
}

/// Finds the place for a seed on a disk of `size` bytes whose image begins with `head` (its first MiB, or all of it).
/// The backup GPT of the image will be at the end of the disk. `disk` is for messages.
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

/// Returns the first byte of a seed that ends before `end`.
fn start_before(end: u64) -> Option<u64> {
    let start = end.checked_sub(LEN).map(|start| start - start % MIB);
    // The first MiB is the boot area.
    start.filter(|start| *start >= MIB)
}

/// Returns the first byte of a seed on a disk of `size` bytes without a GPT.
pub(super) fn start_without_table(size: u64) -> Option<u64> {
    size.checked_sub(BACKUP_SECTORS * SECTOR).and_then(start_before)
}

/// Returns the end of the last possible partition, in bytes, if the backup GPT is at the end of the disk or will be
/// moved there.
fn usable_end(gpt: &Gpt, size: u64) -> Option<u64> {
    let last = (size / gpt.sector()).checked_sub(1)?;
    let sectors = if gpt.alternate() == last {
        gpt.last_usable().saturating_add(1).min(last)
    } else {
        last.checked_sub(gpt.entries_sectors())?
    };
    sectors.checked_mul(gpt.sector())
}

/// Adds an entry for the seed to the table. Returns the new table, and the number of the entry. `uuid` is that of the
/// instance.
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

/// Returns the GUID of the partition, which follows from the UUID of the instance.
fn partition_guid(uuid: &str) -> [u8; 16] {
    let hash = Sha256::digest(format!("simpleimage seed partition {uuid}"));
    let mut guid: [u8; 16] = std::array::from_fn(|at| hash[at]);
    // Version 8 (custom) and variant of RFC 9562. The byte of the version is in a little-endian field.
    guid[7] = guid[7] & 0x0f | 0x80;
    guid[8] = guid[8] & 0x3f | 0x80;
    guid
}

/// Adds a partition at `space` for the seed of instance `uuid` to the table of the disk, and to the backup GPT, which
/// has to be at the end of the disk. Returns the number of the partition.
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

/// Returns the table of the disk. Fails if its partition `number` can't be removed.
fn removable_table(disk: &dyn ReadAt, number: u32) -> io::Result<Table> {
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

/// Fails if partition `number` can't be removed.
pub(crate) fn check_removable(disk: &dyn ReadAt, number: u32) -> io::Result<()> {
    removable_table(disk, number).map(drop)
}

/// Removes partition `number`.
pub(crate) fn remove_partition(disk: &mut dyn WriteAt, number: u32) -> io::Result<()> {
    let mut table = removable_table(disk, number)?;
    match &mut table {
        Table::Gpt(gpt) => gpt.remove(number),
        Table::Mbr(mbr) => mbr.remove(number),
    }
    store(&table, disk)
}

/// Returns whether the backup GPT is in its normal place: the header is last, and the entries are before it and after
/// every partition.
fn ends_the_disk(gpt: &Gpt, size: u64) -> bool {
    Some(gpt.alternate()) == (size / gpt.sector()).checked_sub(1)
        && gpt.alternate().checked_sub(gpt.entries_sectors()).is_some_and(|at| at > gpt.last_usable())
}

/// Writes the table. The backup is written first, so that one of the two is complete at any moment.
fn store(table: &Table, disk: &mut dyn WriteAt) -> io::Result<()> {
    match table {
        Table::Gpt(gpt) => {
            gpt.write_backup(disk)?;
            disk.sync()?;
            gpt.write_primary(disk)
        }
        Table::Mbr(mbr) => {
            let (entries, at) = mbr.bytes();
            disk.write_at(entries, at)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PlaceError, add_partition, ends_the_disk, find_space, remove_partition};
    use crate::disk::device::MemoryDisk;
    use crate::disk::partition::{Table, TableError};
    use crate::node::size::MIB;
    use crate::seed::volume::find_seeds;
    use flate2::Crc;
    use proptest::prelude::{any, prop, proptest};
    use std::path::Path;

    fn crc(bytes: &[u8]) -> [u8; 4] {
        let mut crc = Crc::new();
        crc.update(bytes);
        crc.sum().to_le_bytes()
    }

    /// Returns a disk whose GPT has right checksums and any numbers: alternate and last usable sector, and one
    /// partition.
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
            let _ = find_seeds(&disk);
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
            let _ = find_seeds(&disk);
            let _ = find_space(&disk.0[..1 << 20], 8 << 20, Path::new("/disk"));
            let _ = remove_partition(&mut disk, 1);
        }
    }
}
