// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage seed show` of a disk whose guest made as much work as a partition table can say.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use serde_json::Value;

use super::seeded;
use crate::support::disk::{Disk, Kind};
use crate::support::images::MIB;
use crate::support::world::World;

const SIZE: usize = 40 * MIB;
const START: usize = 35 * MIB;
const SECTOR: usize = 512;

/// As many entries of 128 bytes as a table may have.
const ENTRIES: usize = 4090;

fn crc(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}

/// The beginning of a disk with a GPT, all of whose partitions lie at `start`.
fn table(start: usize) -> Vec<u8> {
    let mut head = vec![0; MIB];
    head[450] = 0xee;
    head[454] = 1;
    head[458..462].fill(0xff);
    head[510..512].copy_from_slice(&[0x55, 0xaa]);
    let entries_at = 2 * SECTOR;
    let first = (start / SECTOR) as u64;
    for entry in head[entries_at..entries_at + ENTRIES * 128].chunks_exact_mut(128) {
        entry[..32].fill(1);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&(first + 8191).to_le_bytes());
    }
    let entries = crc(&head[entries_at..entries_at + ENTRIES * 128]);
    let last = (SIZE / SECTOR) as u64 - 1;
    let header = &mut head[SECTOR..SECTOR + 92];
    header[..16].copy_from_slice(b"EFI PART\0\0\x01\0\x5c\0\0\0");
    for (at, value) in [(24, 1), (32, last), (40, 1100), (48, last - 1100), (72, 2)] {
        header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    header[80..84].copy_from_slice(&u32::try_from(ENTRIES).unwrap().to_le_bytes());
    header[84..88].copy_from_slice(&128_u32.to_le_bytes());
    header[88..92].copy_from_slice(&entries);
    let sum = crc(&head[SECTOR..SECTOR + 92]);
    head[SECTOR + 16..SECTOR + 20].copy_from_slice(&sum);
    head
}

/// An image with one partition.
fn mbr() -> Vec<u8> {
    let mut image = vec![0; 16 * MIB];
    image[450] = 0x83;
    image[454..458].copy_from_slice(&2048_u32.to_le_bytes());
    image[458..462].copy_from_slice(&16384_u32.to_le_bytes());
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image
}

#[test]
fn no_table_makes_seed_show_read_for_ever() {
    let world = World::new();
    let disk = Disk::stale(&world, "disk0", Kind::File, SIZE);
    let image = world.path("mbr.raw");
    fs::write(&image, mbr()).unwrap();
    seeded(&world, disk.path(), &image, "raw").run().succeeds();
    File::options().write(true).open(disk.path()).unwrap().write_all_at(&table(START), 0).unwrap();
    let before = fs::read(disk.path()).unwrap();
    let path = disk.path().to_str().unwrap();
    let shown = world.tool(&["seed", "show", path, "--json", "--secrets"]).run();
    assert_eq!(shown.succeeds(), "");
    let shown: Value = serde_json::from_str(&shown.output()).unwrap();
    let seeds = shown["seeds"].as_array().unwrap();
    assert_eq!(seeds.len(), 255, "Linux has no partition with a larger number");
    for (index, seed) in seeds.iter().enumerate() {
        assert_eq!((&seed["partition"], &seed["start"]), (&(index + 1).into(), &START.into()));
        if index < 8 {
            assert_eq!((&seed["files"][0]["name"], &seed["error"]), (&"meta-data".into(), &Value::Null));
        } else {
            let why = "not read: 8 seeds come before it on the disk";
            assert_eq!((&seed["files"], &seed["error"]), (&Value::Null, &why.into()));
        }
    }
    let text = world.tool(&["seed", "show", path]).run().output();
    assert_eq!(text.matches("contents: not read: 8 seeds come before it on the disk\n").count(), 247, "{text}");
    assert!(fs::read(disk.path()).unwrap() == before, "the disk was written to");
}
