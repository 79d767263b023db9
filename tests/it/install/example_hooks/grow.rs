// SPDX-License-Identifier: BSD-2-Clause
//! grow-root.

use std::fs::File;
use std::path::Path;

use super::{Layout, guest, install_hook, read};
use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::MIB;
use crate::support::world::{World, tool};

/// What partx says of partition 1: its start and its length, in bytes.
fn first_partition(disk: &Path) -> (usize, usize) {
    let listing =
        tool("partx", &["--bytes", "--raw", "--noheadings", "--nr", "1", "-o", "START,SIZE", disk.to_str().unwrap()]);
    let (start, size) = listing.trim().split_once(' ').unwrap();
    (start.parse::<usize>().unwrap() * 512, size.parse().unwrap())
}

#[test]
fn the_last_partition_and_its_ext4_take_the_rest_of_the_disk() {
    for layout in [Layout::WholeDisk, Layout::Mbr, Layout::Gpt] {
        for kind in KINDS {
            let world = World::new();
            install_hook(&world, "grow-root");
            let image = guest(&world, layout, |_| {});
            let target = Disk::stale(&world, "disk0", kind, 48 * MIB);
            let log = world.create(target.path(), &image, "raw").run().succeeds();
            let disk = world.path("disk0");
            let (start, size) = if layout == Layout::WholeDisk { (0, 48 * MIB) } else { first_partition(&disk) };
            assert_eq!(start, layout.offset());
            // The backup GPT takes 33 sectors, and sfdisk keeps to whole MiB.
            assert!(start + size >= 47 * MIB, "{layout:?} on {kind:?}: the partition has {size} bytes; {log}");
            assert!(log.contains(&format!("grow-root: ext4 has {size} bytes now")), "{log}");
            let place = format!("{}?offset={start}", disk.display());
            assert_eq!(ext4_len(&place) / MIB, size / MIB, "{layout:?} on {kind:?}");
            tool("e2fsck", &["-fn", &place]);
            assert_eq!(read(&disk, layout, "precious/data"), "all of it");
        }
    }
}

fn ext4_len(place: &str) -> usize {
    let header = tool("dumpe2fs", &["-h", place]);
    let number = |name: &str| {
        let line = header.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse::<usize>().unwrap()
    };
    number("Block count:") * number("Block size:")
}

#[test]
fn it_grows_up_to_the_seed() {
    let world = World::new();
    install_hook(&world, "grow-root");
    let image = guest(&world, Layout::Gpt, |_| {});
    let target = Disk::stale(&world, "disk0", Kind::File, 48 * MIB);
    let script = world.create(target.path(), &image, "raw").env("OSP_CLOUD_INIT", "partition");
    script.env("INSTANCE_UUID", "5ae2a4f5-8d24-4a2e-9f6b-0a7b1c2d3e4f").env("NIC_COUNT", "0").run().succeeds();
    let disk = world.path("disk0");
    let seed = tool("partx", &["--raw", "--noheadings", "--nr", "2", "-o", "START", disk.to_str().unwrap()]);
    let (start, size) = first_partition(&disk);
    assert_eq!(start + size, seed.trim().parse::<usize>().unwrap() * 512);
    tool("sgdisk", &["--verify", disk.to_str().unwrap()]);
    tool("e2fsck", &["-fn", &format!("{}?offset={start}", disk.display())]);
}

/// They can only be grown mounted. mkfs.xfs makes none below 300 MiB.
#[test]
fn xfs_and_btrfs_grow_too() {
    for (mkfs, size) in [("mkfs.xfs", 320), ("mkfs.btrfs", 128)] {
        let world = World::new();
        install_hook(&world, "grow-root");
        let (plain, image) = (world.path("fs"), world.path("image.raw"));
        File::create(&plain).unwrap().set_len((size * MIB) as u64).unwrap();
        tool(mkfs, &["-q", plain.to_str().unwrap()]);
        File::create(&image).unwrap().set_len(((size + 2) * MIB) as u64).unwrap();
        tool("sgdisk", &["-n", &format!("1:2048:{}", (size + 1) * 2048 - 1), image.to_str().unwrap()]);
        let (from, to) = (format!("if={}", plain.display()), format!("of={}", image.display()));
        tool("dd", &[&from, &to, "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"]);
        let file = world.path("disk0");
        File::create(&file).unwrap().set_len(((size + 200) * MIB) as u64).unwrap();
        let target = Disk::over(file.clone(), Kind::Block);
        let log = world.create(target.path(), image.to_str().unwrap(), "raw").run().succeeds();
        let (start, len) = first_partition(&file);
        assert!(start + len >= (size + 199) * MIB, "{mkfs}: the partition has {len} bytes");
        assert_eq!(start, MIB);
        assert!((len - file_system_len(&file, mkfs)) < MIB, "{mkfs}: {log}");
    }
}

/// The length in bytes of the file system at 1 MiB, as its superblock has it: xfs big-endian with the block size at 4 and
/// the number of blocks at 8; btrfs little-endian with its length at 0x70 of the superblock, which lies at 64 KiB.
fn file_system_len(disk: &Path, mkfs: &str) -> usize {
    use std::os::unix::fs::FileExt;
    let disk = File::open(disk).unwrap();
    let mut number = [0; 8];
    if mkfs == "mkfs.btrfs" {
        disk.read_exact_at(&mut number, (MIB + 0x10070) as u64).unwrap();
        return usize::try_from(u64::from_le_bytes(number)).unwrap();
    }
    disk.read_exact_at(&mut number, (MIB + 8) as u64).unwrap();
    let mut block = [0; 4];
    disk.read_exact_at(&mut block, (MIB + 4) as u64).unwrap();
    usize::try_from(u64::from_be_bytes(number) * u64::from(u32::from_be_bytes(block))).unwrap()
}

#[test]
fn a_disk_without_a_file_system_is_an_error() {
    let world = World::new();
    install_hook(&world, "grow-root");
    let image = world.path("image.raw");
    File::create(&image).unwrap().set_len(8 * MIB as u64).unwrap();
    tool("sgdisk", &["-n", "1:2048:4095", image.to_str().unwrap()]);
    let target = Disk::stale(&world, "disk0", Kind::File, 8 * MIB);
    let log = world.create(target.path(), image.to_str().unwrap(), "raw").run().fails(&["50-grow-root exited"]);
    assert!(log.contains("grow-root: no partition has a known file system"), "{log}");
}
