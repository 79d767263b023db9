// SPDX-License-Identifier: BSD-2-Clause
//! What has to hold for the partition table of any disk.

use std::path::Path;

use super::disk::{Disk, SECTOR};
use crate::disk::device::ReadAt;
use crate::disk::partition::{Partition, Table, all_partitions, crc32, get4, get8, read_boot_area, seal};
use crate::seed::volume::{self, find_space};

/// No table has more: Linux counts to 255, a GPT is believed up to so many entries.
const MAX_PARTITIONS: usize = 4096;

/// The disk, and if the first byte is odd with checksums that fit what its GPT says.
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

/// One entry more, in a place of its own, and away again: all others are as they were, and so is all that lies elsewhere.
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

/// One entry less: the others are as they were, unless none is left.
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

/// Only the table may have changed, and its backup.
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

/// Makes a GPT of what is in sector 1, of the checksums at least.
pub(super) fn seal_gpt(disk: &mut Disk) {
    use crate::disk::device::WriteAt;
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
