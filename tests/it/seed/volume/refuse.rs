// SPDX-License-Identifier: BSD-2-Clause
//! Where there is no place for a seed: a reason, a way out, and a disk that does not boot.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{gpt_image, image, mbr_image, seeded};
use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, compress, to_qcow2};
use crate::support::world::{World, tool};

/// A new instance's disk is left unbootable; that of a reinstall as it was, for all that can be known in advance.
fn assert_refused(world: &World, image: &Path, size: usize, reasons: &[&str]) {
    for (image_type, file) in
        [("raw", image.to_owned()), ("raw+zst", compress(image, "zst")), ("qcow2", to_qcow2(image, &[]))]
    {
        let disk = Disk::stale(world, "disk0", Kind::File, size);
        seeded(world, disk.path(), &file, image_type).run().fails(reasons);
        disk.assert_unbootable(image_type);
        let disk = Disk::stale(world, "disk0", Kind::Block, size);
        seeded(world, disk.path(), &file, image_type).env("INSTANCE_REINSTALL", "1").run().fails(reasons);
        disk.assert_untouched(image_type);
    }
}

#[test]
fn no_room_on_the_disk() {
    let world = World::new();
    let way_out = "(use a disk of at least 21 MiB, or one more disk: --disk 1:size=16M,name=cidata; or cloud_init=off)";
    let what = "of the image reaches into the last 5 MiB of disk";
    let gpt = gpt_image(&world);
    for size in [16 * MIB, 20 * MIB] {
        assert_refused(&world, &gpt, size, &["partition 1 ", what, way_out]);
        assert_refused(&world, &mbr_image(&world), size, &["partition 2 ", what, way_out]);
    }
    let disk = Disk::stale(&world, "disk0", Kind::File, 21 * MIB);
    seeded(&world, disk.path(), &gpt, "raw").run().succeeds();
    let extended =
        image(&world, "ext.raw", 16 * MIB, "sfdisk", &["--quiet"], "label: dos\n1M,2M,83\n4M,,5\n5M,4M,83\n");
    assert_refused(&world, &extended, 16 * MIB, &["extended partition 2 of the image reaches into", way_out]);
    let tiny = image(&world, "tiny.raw", 4 * MIB, "sfdisk", &["--quiet"], "label: dos\n1M,1M,83\n");
    assert_refused(&world, &tiny, 5 * MIB, &["has 5 MiB, too small for a seed of 4 MiB at its end"]);
}

#[test]
fn no_table_or_none_with_a_free_entry() {
    let world = World::new();
    let way_out = "give the instance a disk for it: --disk 1:size=16M,name=cidata; or use cloud_init=off";
    let plain = world.path("plain.raw");
    File::create(&plain).unwrap().set_len(8 * MIB as u64).unwrap();
    tool("mkfs.ext4", &["-q", plain.to_str().unwrap()]);
    assert_refused(&world, &plain, 40 * MIB, &["the image has no partition table, so there is no place", way_out]);
    let damaged = gpt_image(&world);
    File::options().write(true).open(&damaged).unwrap().write_all_at(b"x", 1024 + 60).unwrap();
    assert_refused(&world, &damaged, 40 * MIB, &["the image has a damaged GPT, so there is no place", way_out]);
    let full = "label: dos\n1M,2M,83\n3M,1M,83\n4M,1M,83\n5M,1M,83\n";
    let full = image(&world, "full.raw", 8 * MIB, "sfdisk", &["--quiet"], full);
    let reason = "the MBR of the image has no free entry for the seed's partition: all four primary ones are in use";
    assert_refused(&world, &full, 40 * MIB, &[reason, way_out]);
}

/// An image with a file system labelled as a seed's in its second partition, which begins at 10 MiB.
fn labelled(world: &World, name: &str, table: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let disk = image(world, name, 16 * MIB, "sfdisk", &["--quiet"], table);
    let volume = world.path("labelled");
    make(&volume);
    File::options()
        .write(true)
        .open(&disk)
        .unwrap()
        .write_all_at(&fs::read(&volume).unwrap(), 10 * MIB as u64)
        .unwrap();
    fs::remove_file(volume).unwrap();
    disk
}

fn fat(args: &[&str], mib: u64) -> impl FnOnce(&Path) {
    move |path| {
        File::create(path).unwrap().set_len(mib << 20).unwrap();
        tool("mkfs.fat", &[args, &[path.to_str().unwrap()]].concat());
    }
}

#[test]
fn an_image_with_a_seed_of_its_own() {
    let world = World::new();
    let mbr = "label: dos\n1M,2M,83\n10M,4M,c\n";
    let logical = "label: dos\n1M,2M,83\n9M,,5\n10M,4M,c\n";
    let gpt = "label: gpt\n1M,2M\n10M,4M\n";
    let root_only = |path: &Path| {
        fat(&["-F", "16", "-s", "1", "-n", "cidata"], 4)(path);
        // The label in the boot sector alone is another one.
        File::options().write(true).open(path).unwrap().write_all_at(b"NO NAME    ", 43).unwrap();
    };
    let iso = |path: &Path| {
        let content = world.path("content");
        fs::create_dir_all(&content).unwrap();
        tool("genisoimage", &["-quiet", "-J", "-V", "cidata", "-o", path.to_str().unwrap(), content.to_str().unwrap()]);
    };
    let images = [
        (labelled(&world, "fat12.raw", mbr, fat(&["-n", "CIDATA"], 4)), 2),
        (labelled(&world, "fat16.raw", gpt, root_only), 2),
        (labelled(&world, "fat32.raw", logical, fat(&["-F", "32", "-s", "1", "-S", "512", "-n", "CIDATA"], 4)), 5),
        (labelled(&world, "iso.raw", mbr, iso), 2),
    ];
    for (image, number) in images {
        let reason = format!("the image already holds a volume labelled CIDATA, partition {number}, at 10 MiB");
        for target in [Kind::File, Kind::Block] {
            let disk = Disk::stale(&world, "disk0", target, 40 * MIB);
            seeded(&world, disk.path(), &image, "raw").env("INSTANCE_REINSTALL", "1").run().fails(&[&reason]);
            disk.assert_untouched("known before the first write");
        }
        // What comes as a stream is only known when it is there.
        for (image_type, file) in [("raw+gz", compress(&image, "gz")), ("qcow2", to_qcow2(&image, &[]))] {
            let disk = Disk::stale(&world, "disk0", Kind::File, 40 * MIB);
            seeded(&world, disk.path(), &file, image_type).run().fails(&[&reason]);
            disk.assert_unbootable(image_type);
        }
    }
}

#[test]
fn an_image_made_of_a_seeded_disk_names_the_way_out() {
    let world = World::new();
    let disk = Disk::stale(&world, "disk0", Kind::File, 40 * MIB);
    seeded(&world, disk.path(), &gpt_image(&world), "raw").run().succeeds();
    let target = Disk::stale(&world, "disk1", Kind::File, 60 * MIB);
    let create = || seeded(&world, target.path(), disk.path(), "raw");
    create().run().fails(&["holds a volume labelled CIDATA, partition 2", "remove it with `simpleimage seed remove`"]);
    world.tool(&["seed", "remove", disk.path().to_str().unwrap()]).run().succeeds();
    create().run().succeeds();
}
