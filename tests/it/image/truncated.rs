// SPDX-License-Identifier: BSD-2-Clause
//! Images of which the end is missing, which only their own tables tell.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::support::bytes;
use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, compress, disk, to_qcow2};
use crate::support::server::{Reply, Server};
use crate::support::world::{World, tool};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file of `len` zeros.
fn zeros(path: PathBuf, len: usize) -> PathBuf {
    File::create(&path).unwrap().set_len(len as u64).unwrap();
    path
}

/// The image without all but its first `len` bytes, as another file.
fn cut(image: &Path, len: usize) -> PathBuf {
    let path = image.with_extension(format!("{len}.raw"));
    fs::write(&path, &fs::read(image).unwrap()[..len]).unwrap();
    path
}

/// A disk of 8 MiB with a GPT and one partition up to 7 MiB.
fn gpt(world: &World) -> PathBuf {
    let path = zeros(world.path("gpt.raw"), 8 * MIB);
    File::options().write(true).open(&path).unwrap().write_all_at(&bytes(4, 2 * MIB), MIB as u64).unwrap();
    tool("sgdisk", &["-n", "1:2048:14335", text(&path)]);
    path
}

/// A disk of 8 MiB with an MBR; `partition` as sfdisk has it.
fn mbr(world: &World, partition: &str) -> PathBuf {
    let path = zeros(world.path("mbr.raw"), 8 * MIB);
    with_mbr(&path, partition);
    path
}

/// Writes the table, which may reach behind the file's end.
fn with_mbr(path: &Path, partition: &str) {
    let len = fs::metadata(path).unwrap().len();
    let file = File::options().write(true).open(path).unwrap();
    // sfdisk wants to have room for it.
    file.set_len(1 << 30).unwrap();
    tool("sh", &["-c", &format!("printf 'label: dos\\n{partition}\\n' | sfdisk --quiet --force {}", text(path))]);
    file.set_len(len).unwrap();
}

/// An install onto a disk of `size` bytes fails for `reason`, of a new instance and of one that has a system, which stays where
/// `early` says that it can be known in time.
fn refused(world: &World, image: &str, size: usize, early: bool, reason: &str) {
    for reinstall in ["1", "0"] {
        let target = Disk::stale(world, "disk0", Kind::File, size);
        world.create(target.path(), image, "").env("INSTANCE_REINSTALL", reinstall).run().fails(&[reason]);
        let what = format!("{image} {reinstall}");
        if early && reinstall == "1" { target.assert_untouched(&what) } else { target.assert_unbootable(&what) }
    }
}

fn taken(world: &World, image: &Path, size: usize) {
    let target = Disk::stale(world, "disk0", Kind::File, size);
    world.create(target.path(), text(image), "").run().succeeds();
    assert!(inspected(world, image).succeeds().is_empty());
}

fn inspected(world: &World, image: &Path) -> crate::support::world::Outcome {
    world.tool(&["inspect", text(image)]).run()
}

/// In every form that an image can have, and of inspect too.
/// `table` if its table alone tells, which of an .xz is known before anything is written.
fn refused_in_every_form(world: &World, raw: &Path, table: bool, reason: &str) {
    let forms = [
        (raw.to_owned(), true),
        (to_qcow2(raw, &[]), true),
        (compress(raw, "xz"), table),
        (compress(raw, "gz"), false),
        (compress(raw, "bz2"), false),
        (compress(raw, "zst"), false),
    ];
    for (image, early) in forms {
        refused(world, text(&image), 16 * MIB, early, reason);
        inspected(world, &image).fails(&[reason, text(&image)]);
    }
    let packed = compress(&to_qcow2(raw, &[]), "gz");
    refused(world, text(&packed), 16 * MIB, true, reason);
}

#[test]
fn half_a_gpt_disk() {
    let world = World::new();
    let reason =
        "the image is truncated: partition 1 of its GPT reaches to 7 MiB, but the image ends at 4 MiB (get all of it)";
    refused_in_every_form(&world, &cut(&gpt(&world), 4 * MIB), true, reason);
}

#[test]
fn a_gpt_without_its_last_sector_or_the_end_of_its_entries() {
    let world = World::new();
    let whole = gpt(&world);
    taken(&world, &whole, 8 * MIB);
    let reason = "the image is truncated: the backup of its GPT reaches to 8 MiB, but the image ends at ";
    for len in [8 * MIB - 512, 8 * MIB - 1, 7 * MIB] {
        refused(&world, text(&cut(&whole, len)), 8 * MIB, true, reason);
    }
    let reason = "the image is truncated: its GPT reaches to 8 MiB, but the image ends at 8 KiB";
    refused(&world, text(&cut(&whole, 8192)), 8 * MIB, true, reason);
}

const NO_BACKUP: &str = "warning: the image's GPT has no backup at byte 8388096, where it says that there is one: the image may \
                         not be all there (compare its checksum)";

/// As firmware sees it; Linux wants the protective entry.
#[test]
fn half_a_gpt_disk_without_its_protective_mbr() {
    let world = World::new();
    for zeroed in [446..510, 446..512] {
        let image = cut(&gpt(&world), 4 * MIB);
        let mut bytes = fs::read(&image).unwrap();
        bytes[zeroed].fill(0);
        fs::write(&image, bytes).unwrap();
        let reason = "the image is truncated: partition 1 of its GPT reaches to 7 MiB, but the image ends at 4 MiB (get all of it)";
        refused_in_every_form(&world, &image, true, reason);
    }
    // What an older table has left in front of a file system is no evidence.
    let image = zeros(world.path("left.raw"), 4 * MIB);
    tool("mkfs.ext4", &["-qF", text(&image)]);
    let header = fs::read(gpt(&world)).unwrap()[512..1024].to_vec();
    File::options().write(true).open(&image).unwrap().write_all_at(&header, 512).unwrap();
    taken(&world, &image, 8 * MIB);
}

/// All of its length, as a copy into reserved space has it from the start.
#[test]
fn a_gpt_disk_without_its_backup_is_warned_of() {
    let world = World::new();
    let whole = gpt(&world);
    let image = cut(&whole, 4 * MIB);
    File::options().write(true).open(&image).unwrap().set_len(8 * MIB as u64).unwrap();
    for form in [image.clone(), to_qcow2(&image, &[]), compress(&image, "gz")] {
        for size in [8 * MIB, 16 * MIB] {
            let target = Disk::stale(&world, "disk0", Kind::File, size);
            let log = world.create(target.path(), text(&form), "").run().succeeds();
            assert!(log.contains(NO_BACKUP), "{log}");
        }
        // Of an archive no more is unpacked than its beginning.
        let log = inspected(&world, &form).succeeds();
        assert_eq!(log.contains(NO_BACKUP), form.extension().is_none_or(|name| name != "gz"), "{log}");
    }
    let target = Disk::stale(&world, "disk0", Kind::File, 16 * MIB);
    let log = world.create(target.path(), text(&whole), "").run().succeeds();
    assert!(!log.contains("backup of its GPT"), "{log}");
}

#[test]
fn half_an_mbr_disk() {
    let world = World::new();
    let image = mbr(&world, "2048,12288,83");
    taken(&world, &image, 8 * MIB);
    let reason = "the image is truncated: partition 1 of its MBR reaches to 7 MiB, but the image ends at 4 MiB (get all of it; \
                  if it was published so, set mbr_tolerance)";
    refused_in_every_form(&world, &cut(&image, 4 * MIB), false, reason);
    // In an extended partition.
    let image = mbr(&world, "2048,2048,83\\n4096,10240,5\\n6144,8192,83");
    let reason = "of its MBR reaches to 7 MiB, but the image ends at 4 MiB";
    refused(&world, text(&cut(&image, 4 * MIB)), 8 * MIB, true, reason);
}

#[test]
fn a_little_of_an_mbr_partition_may_be_missing_and_a_setting_says_how_much() {
    let world = World::new();
    let image = mbr(&world, "2048,12288,83");
    let (little, more) = (cut(&image, 6 * MIB), cut(&image, 6 * MIB - 512));
    taken(&world, &little, 8 * MIB);
    taken(&world, &compress(&little, "gz"), 8 * MIB);
    let reason = "partition 1 of its MBR reaches to 7 MiB, but the image ends at 5.99 MiB";
    refused(&world, text(&more), 8 * MIB, true, reason);
    world.variant_file("config.toml", "mbr_tolerance = '2M'\n");
    let target = Disk::stale(&world, "disk0", Kind::File, 8 * MIB);
    world.create(target.path(), text(&more), "").run().succeeds();
    target.assert_holds(&fs::read(&more).unwrap(), "the setting");
    // But the disk has to have room for all of the partition.
    let reason =
        "partition 1 of its MBR reaches to 7 MiB, but the disk has 6.50 MiB (6815744 bytes) (use a larger disk)";
    refused(&world, text(&more), 6 * MIB + MIB / 2, true, reason);
    world.variant_file("config.toml", "mbr_tolerance = '0'\n");
    refused(&world, text(&little), 8 * MIB, true, "partition 1 of its MBR reaches to 7 MiB");
}

/// As OpenWrt publishes its images: the partition is there for what the system will write, the squashfs in it ends early.
#[test]
fn a_squashfs_in_a_larger_mbr_partition_is_whole_when_its_own_bytes_are() {
    let world = World::new();
    let (content, squashfs) = (world.path("content"), world.path("squashfs"));
    fs::write(&content, bytes(9, 600_000)).unwrap();
    tool("mksquashfs", &[text(&content), text(&squashfs), "-quiet", "-no-progress"]);
    let root = fs::read(&squashfs).unwrap();
    let image = zeros(world.path("openwrt.raw"), MIB);
    with_mbr(&image, "2048,204800,83");
    OpenOptions::new().append(true).open(&image).unwrap().write_all(&root).unwrap();
    for form in [image.clone(), compress(&image, "gz"), to_qcow2(&image, &[])] {
        taken(&world, &form, 128 * MIB);
    }
    let reason = "partition 1 of its MBR reaches to 101 MiB, but the disk has 64 MiB (use a larger disk)";
    refused(&world, text(&image), 64 * MIB, true, reason);
    let reason = "the image is truncated: the squashfs file system in partition 1 reaches to ";
    refused(&world, text(&cut(&image, MIB + root.len() - 8192)), 128 * MIB, true, reason);
    refused(&world, text(&cut(&image, MIB + 512)), 128 * MIB, true, reason);
}

#[test]
fn a_protective_entry_alone_is_no_evidence() {
    let world = World::new();
    let path = world.path("protective.raw");
    let mut image = disk(2 * MIB);
    image[446..510].fill(0);
    image[450] = 0xee;
    image[454] = 1;
    image[458..462].fill(0xff);
    fs::write(&path, &image).unwrap();
    taken(&world, &path, 4 * MIB);
}

/// What makes a file system on a file, and what the error calls it.
const FILE_SYSTEMS: [(&str, &[&str], usize, &str); 10] = [
    ("mkfs.ext2", &["-qF"], 8, "ext2/3/4 file system"),
    ("mkfs.ext4", &["-qF", "-O", "64bit"], 8, "ext2/3/4 file system"),
    ("mkfs.xfs", &["-q", "-f"], 304, "xfs file system"),
    ("mkfs.btrfs", &["-q"], 120, "btrfs file system"),
    ("mkfs.f2fs", &["-q"], 64, "f2fs file system"),
    ("mkfs.fat", &["-F", "16"], 16, "FAT file system"),
    ("mkfs.fat", &["-F", "32"], 64, "FAT file system"),
    ("mkfs.exfat", &[], 16, "exFAT file system"),
    ("mkfs.ntfs", &["-q", "-F", "-Q"], 16, "NTFS file system"),
    ("mkfs.jfs", &["-q"], 32, "jfs file system"),
];

#[test]
fn a_file_system_that_is_larger_than_what_is_there() {
    let world = World::new();
    for (program, options, size, name) in FILE_SYSTEMS {
        let bare = zeros(world.path("bare.raw"), size * MIB);
        tool(program, &[options, &[text(&bare)]].concat());
        taken(&world, &bare, size * MIB);
        let reason = format!("the image is truncated: its {name} reaches to ");
        let half = cut(&bare, size * MIB / 2);
        refused(&world, text(&half), size * MIB, true, &reason);
        inspected(&world, &half).fails(&[&reason]);
        // In a partition, the last one of its table, which is cut within the tolerance.
        let part = zeros(world.path("part.raw"), MIB);
        let sectors = size * 2048;
        with_mbr(&part, &format!("2048,{sectors},83"));
        let content = fs::read(&bare).unwrap();
        OpenOptions::new().append(true).open(&part).unwrap().write_all(&content).unwrap();
        taken(&world, &part, (size + 1) * MIB);
        let reason = format!("the image is truncated: the {name} in partition 1 reaches to ");
        let cut = cut(&part, (size + 1) * MIB - 600 * 1024);
        // What lies behind a jfs's data is not counted.
        if name != "jfs file system" {
            refused(&world, text(&cut), (size + 1) * MIB, true, &reason);
        }
        [bare, half, part, cut].iter().for_each(|path| fs::remove_file(path).unwrap());
    }
}

#[test]
fn an_lvm_physical_volume_that_is_larger_than_what_is_there() {
    let world = World::new();
    let volume = zeros(world.path("pv.raw"), 16 * MIB);
    {
        let device = Disk::over(volume.clone(), Kind::Block);
        tool("pvcreate", &["-qq", "-y", text(device.path())]);
    }
    taken(&world, &volume, 16 * MIB);
    let reason = "the image is truncated: its LVM physical volume reaches to 16 MiB, but the image ends at 8 MiB";
    refused(&world, text(&cut(&volume, 8 * MIB)), 16 * MIB, true, reason);
}

#[test]
fn a_partition_of_which_only_the_free_end_is_missing_is_whole() {
    let world = World::new();
    let image = mbr(&world, "2048,12288,83");
    let bare = zeros(world.path("fs"), 3 * MIB);
    tool("mkfs.ext4", &["-qF", text(&bare)]);
    File::options().write(true).open(&image).unwrap().write_all_at(&fs::read(&bare).unwrap(), MIB as u64).unwrap();
    taken(&world, &cut(&image, 4 * MIB), 8 * MIB);
    refused(
        &world,
        text(&cut(&image, 4 * MIB - 512)),
        8 * MIB,
        true,
        "the ext2/3/4 file system in partition 1 reaches to 4 MiB",
    );
}

#[test]
fn a_download_without_a_length_that_was_cut_is_not_kept() {
    let world = World::new();
    let whole = gpt(&world);
    let half = cut(&whole, 4 * MIB);
    for image in [half.clone(), compress(&half, "gz")] {
        let body = fs::read(&image).unwrap();
        let server = Server::start(move |_, _| Reply::ok(body.clone()).until_closed());
        let url = server.url("/x").as_url().to_string();
        let reason = "the image is truncated: partition 1 of its GPT reaches to 7 MiB, but the image ends at 4 MiB";
        let kept = || {
            let names = fs::read_dir(world.cache()).unwrap().map(|entry| entry.unwrap().path());
            names.filter(|path| path.extension().is_some_and(|e| e == "img" || e == "toml" || e == "part")).count()
        };
        let early = image == half;
        for reinstall in ["1", "0"] {
            let target = Disk::stale(&world, "disk0", Kind::File, 8 * MIB);
            world.create(target.path(), &url, "").env("INSTANCE_REINSTALL", reinstall).run().fails(&[reason]);
            if early && reinstall == "1" {
                target.assert_untouched(reason)
            } else {
                target.assert_unbootable(reason)
            }
            assert_eq!(kept(), 0, "{reinstall}");
        }
        if early {
            world.tool(&["fetch", &url]).run().fails(&[reason]);
            assert_eq!(kept(), 0);
        }
    }
}

/// A backup is restored as it is; that it was cut is told.
#[test]
fn a_dump_that_was_cut_is_warned_of() {
    let world = World::new();
    let whole = fs::read(gpt(&world)).unwrap();
    for (dump, warns) in [(&whole[..], false), (&whole[..4 * MIB], true)] {
        let target = Disk::stale(&world, "disk0", Kind::File, 8 * MIB);
        let script = world.script("import").env("IMPORT_DEVICE", text(target.path())).env("IMPORT_INDEX", "0");
        let log = script.env("DISK_0_PATH", text(target.path())).run_with(dump).succeeds();
        let warning = "warning: the dump may not be all there: the image is truncated: partition 1 of its GPT";
        assert_eq!(log.contains(warning), warns, "{log}");
    }
}
