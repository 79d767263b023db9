// SPDX-License-Identifier: BSD-2-Clause
//! `wipe`: which bytes behind the image are zeroed, and that all others stay.

use std::fs;
use std::ops::Range;

use crate::support::disk::{Disk, KINDS, Kind, OLD};
use crate::support::images::{MIB, disk, encode};
use crate::support::world::{World, tool};

/// What a stale disk holds after `image`, with `zeroed` ranges behind it.
fn expected(image: &[u8], size: usize, zeroed: &[Range<usize>]) -> Vec<u8> {
    let mut bytes = vec![OLD; size];
    bytes[..image.len()].copy_from_slice(image);
    // The first MiB is always the image's or zero.
    bytes[image.len()..MIB.max(image.len())].fill(0);
    for range in zeroed {
        bytes[range.clone()].fill(0);
    }
    bytes
}

fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    if let Some(at) = (0..found.len()).find(|at| found[*at] != expected[*at]) {
        panic!("{what}: byte {at} is {:#x}, not {:#x}", found[at], expected[at]);
    }
}

#[test]
fn each_mode_zeroes_exactly_its_bytes() {
    let world = World::new();
    let (len, size) = (9 * MIB + 1536, 40 * MIB);
    let image = disk(len);
    let modes = [
        ("full", std::iter::once(len..size).collect()),
        ("ends", vec![len..18 * MIB, 32 * MIB..size]),
        ("none", vec![]),
    ];
    for image_type in ["raw", "raw+xz", "qcow2", "qcow2+zst"] {
        let file = encode(&world, &image, image_type);
        for (mode, zeroed) in &modes {
            let bytes = expected(&image, size, zeroed);
            // Each mode with and without a comparison, which must not take old data for a fault.
            for (kind, verify) in [(Kind::File, true), (Kind::File, false), (Kind::Block, true), (Kind::Block, false)] {
                world.variant_file("config.toml", &format!("wipe = '{mode}'\nverify_readback = {verify}\n"));
                let target = Disk::stale(&world, "disk0", kind, size);
                let log = world.create(target.path(), file.to_str().unwrap(), image_type).run().succeeds();
                assert_eq!(log.contains("reading the disk back"), verify, "{log}");
                assert_same(&target.bytes(), &bytes, &format!("{image_type}, {mode}, {kind:?}, {verify}"));
            }
        }
    }
}

#[test]
fn odd_ends_and_images_below_the_boot_area() {
    let world = World::new();
    for (len, size) in [(70_001, MIB), (70_001, 3 * MIB + 512), (MIB + 1, 3 * MIB), (MIB, 20 * MIB), (4096, 65_536)] {
        let image = disk(len);
        let file = encode(&world, &image, "raw");
        for (mode, zeroed) in [("none", len..len), ("ends", len..size.min((len + 8 * MIB).next_multiple_of(MIB)))] {
            world.variant_file("config.toml", &format!("wipe = '{mode}'\nverify_readback = true\n"));
            let last = size.saturating_sub(8 * MIB).max(len)..size;
            let zeroed = if mode == "none" { vec![] } else { vec![zeroed, last] };
            for kind in KINDS {
                let target = Disk::stale(&world, "disk0", kind, size);
                world.create(target.path(), file.to_str().unwrap(), "raw").run().succeeds();
                let bytes = expected(&image, size.max(MIB), &zeroed);
                assert_same(&target.bytes(), &bytes[..size], &format!("{len} of {size}, {mode}, {kind:?}"));
            }
        }
    }
}

#[test]
fn the_ends_hide_what_was_on_the_disk() {
    let world = World::new();
    world.variant_file("config.toml", "wipe = 'ends'\n");
    let image = disk(5 * MIB);
    let file = encode(&world, &image, "raw+zst");
    let target = Disk::stale(&world, "disk0", Kind::Block, 160 * MIB);
    let name = target.path().to_str().unwrap();
    // -K: no discard, so that what it does not write stays.
    tool("mkfs.btrfs", &["-qfK", name]);
    tool("sgdisk", &["-a", "1", "-n", "1:40:0", name]);
    let magic = |at: usize| target.bytes()[at + 64..at + 72].to_vec();
    assert_eq!((magic(65_536), magic(64 * MIB)), (b"_BHRfS_M".to_vec(), b"_BHRfS_M".to_vec()));
    assert!(tool("wipefs", &[name]).contains("PMBR"));
    world.create(target.path(), file.to_str().unwrap(), "").run().succeeds();
    assert_eq!(magic(64 * MIB), [0; 8]);
    let found = tool("wipefs", &[name]);
    // The image's own boot signature.
    assert!(!["gpt", "btrfs", "PMBR"].iter().any(|old| found.contains(old)), "{found}");
    assert_eq!(target.bytes()[30 * MIB], OLD);
}

/// A GPT image of 16 MiB.
fn gpt(world: &World, hybrid: bool) -> Vec<u8> {
    let source = world.path("gpt.raw");
    fs::write(&source, vec![0; 16 * MIB]).unwrap();
    let name = source.to_str().unwrap();
    tool("sgdisk", &["-n", "1:2048:30000", "-n", "2:30001:0", name]);
    if hybrid {
        tool("sgdisk", &["-h", "1:EE", name]);
    }
    fs::read(source).unwrap()
}

#[test]
fn the_backup_gpt_moves_in_every_mode() {
    let world = World::new();
    let image = gpt(&world, false);
    for (mode, behind) in [("full", 0), ("ends", 0), ("none", OLD)] {
        world.variant_file("config.toml", &format!("wipe = '{mode}'\nverify_readback = true\n"));
        for (image_type, kind) in [("raw", Kind::File), ("raw+gz", Kind::Block), ("qcow2", Kind::Block)] {
            // In the smallest of them the new backup covers a part of the old one's place.
            for size in [16 * MIB + 4096, 40 * MIB, 64 * MIB] {
                let what = format!("{mode}, {image_type}, {kind:?}, {size}");
                let file = encode(&world, &image, image_type);
                let target = Disk::stale(&world, "disk0", kind, size);
                world.create(target.path(), file.to_str().unwrap(), image_type).run().succeeds();
                let bytes = target.bytes();
                let verdict = tool("sgdisk", &["-v", world.path("disk0").to_str().unwrap()]);
                assert!(verdict.contains("No problems found"), "{what}: {verdict}");
                assert!(!verdict.contains("arning") && !verdict.contains("roblem:"), "{what}: {verdict}");
                assert!(bytes[size - 512 + 92..].iter().all(|byte| *byte == 0), "{what}: behind the header");
                let gap = (16 * MIB).min(size - 33 * 512)..size - 33 * 512;
                assert!(bytes[gap].iter().take(4 * MIB).all(|byte| *byte == behind), "{what}: behind the image");
                assert_same(&bytes[..446], &image[..446], &what);
                // Type, first sector, and all sectors but one.
                assert_eq!(bytes[450], 0xee);
                assert_eq!(bytes[454..458], [1, 0, 0, 0]);
                assert_eq!(u32::from_le_bytes(bytes[458..462].try_into().unwrap()) as usize, size / 512 - 1, "{what}");
            }
        }
    }
}

#[test]
fn a_moved_gpt_is_the_one_that_sgdisk_would_write() {
    let world = World::new();
    let image = gpt(&world, false);
    let file = encode(&world, &image, "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, 40 * MIB);
    world.create(target.path(), file.to_str().unwrap(), "raw").run().succeeds();
    let theirs = world.path("theirs");
    fs::write(&theirs, [image, vec![0; 24 * MIB]].concat()).unwrap();
    tool("sgdisk", &["-e", theirs.to_str().unwrap()]);
    let (ours, theirs) = (target.bytes(), fs::read(theirs).unwrap());
    // The entry's last cylinder, head and sector are up to the geometry that is made up.
    assert_same(&ours[..451], &theirs[..451], "the protective MBR");
    assert_same(&ours[454..34 * 512], &theirs[454..34 * 512], "the primary GPT");
    assert_same(&ours[40 * MIB - 33 * 512..], &theirs[40 * MIB - 33 * 512..], "the backup GPT");
}

#[test]
fn a_hybrid_mbr_stays_as_it_is() {
    let world = World::new();
    let image = gpt(&world, true);
    assert_ne!(image[466], 0, "sgdisk made no hybrid MBR");
    let file = encode(&world, &image, "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, 40 * MIB);
    world.create(target.path(), file.to_str().unwrap(), "raw").run().succeeds();
    assert_same(&target.bytes()[..512], &image[..512], "the hybrid MBR");
    let verdict = tool("sgdisk", &["-v", target.path().to_str().unwrap()]);
    assert!(verdict.contains("No problems found"), "{verdict}");
}
