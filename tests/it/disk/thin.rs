// SPDX-License-Identifier: BSD-2-Clause
//! Zeros take no room where the disk can do without, and are there where it can't.
//!
//! Thin volumes of LVM need a kernel that has them: `make test-node`.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::disk::holders::{Undo, kernel_name, text};
use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, disk, encode};
use crate::support::world::{World, tool};

const TYPES: [&str; 3] = ["raw", "raw+gz", "qcow2"];
const SIZE: usize = 96 * MIB;

/// How much of the file has room, in bytes.
fn room(file: &Path) -> usize {
    usize::try_from(fs::metadata(file).unwrap().blocks() * 512).unwrap()
}

/// A loop device passes on what it is asked for as NVMe, SAN and RBD do: holes are punched into its file, or room is kept.
#[test]
fn zeros_take_no_room_on_a_device_that_can_do_without() {
    let world = World::new();
    let image = disk(4 * MIB);
    for image_type in TYPES {
        let file = encode(&world, &image, image_type);
        for (kind, stale) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
            let what = format!("{image_type} on {kind:?}, {stale}");
            drop(Disk::stale(&world, "disk0", Kind::File, if stale { SIZE } else { 0 }));
            File::options().write(true).open(world.path("disk0")).unwrap().set_len(SIZE as u64).unwrap();
            let target = Disk::over(world.path("disk0"), kind);
            world.create(target.path(), text(&file), image_type).run().succeeds();
            target.assert_holds(&image, &what);
            let taken = room(&world.path("disk0"));
            assert!(taken <= 5 * MIB, "{what}: {taken} bytes of {SIZE}");
        }
    }
}

/// Other disks that are wiped as well.
#[test]
fn a_wiped_disk_takes_no_room() {
    let world = World::new();
    world.variant_file("config.toml", "wipe_other_disks = true\n");
    let file = encode(&world, &disk(MIB), "raw");
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
        let other = Disk::stale(&world, "disk1", kind, SIZE);
        let script = world.create(target.path(), text(&file), "raw").env("DISK_COUNT", "2");
        script.env("DISK_1_PATH", text(other.path())).run().succeeds();
        other.assert_holds(&[], "wiped");
        let taken = room(&world.path("disk1"));
        assert!(taken <= 2 * MIB, "{kind:?}: {taken} bytes of {SIZE}");
    }
}

/// Neither zeroing by a command nor giving back: as SATA disks are, and logical volumes on them.
#[test]
fn a_device_that_can_only_be_written_is_written() {
    let world = World::new();
    let folder = world.path("ramfs");
    fs::create_dir(&folder).unwrap();
    tool("mount", &["-t", "ramfs", "ramfs", text(&folder)]);
    let _mounted = Undo("umount", vec![text(&folder).to_owned()]);
    let (image, size) = (disk(5 * MIB), 24 * MIB);
    for image_type in TYPES {
        let file = encode(&world, &image, image_type);
        let target = Disk::stale(&world, "ramfs/disk0", Kind::Block, size);
        let limit = |name: &str| {
            let path = format!("/sys/block/{}/queue/{name}_max_bytes", kernel_name(target.path()));
            fs::read_to_string(path).unwrap()
        };
        assert_eq!((limit("write_zeroes"), limit("discard")), ("0\n".to_owned(), "0\n".to_owned()));
        world.create(target.path(), text(&file), image_type).run().succeeds();
        target.assert_holds(&image, image_type);
    }
}
