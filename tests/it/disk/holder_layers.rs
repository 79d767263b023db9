// SPDX-License-Identifier: BSD-2-Clause
//! A disk that is used by way of what lies on it: partitions, loop devices, one upon another.
//!
//! Devices of the device mapper, md and nbd need a kernel that has them: `make test-node`.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use crate::disk::holders::{SIZE, Undo, add_partition, kernel_name, mount, refused, shell, text};
use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, disk, encode};
use crate::support::world::{World, tool};

/// A loop device over a device or file, with more options.
fn loop_over(path: &Path, options: &[&str]) -> (PathBuf, Undo) {
    let device = tool("losetup", &[&["--find", "--show"], options, &[text(path)]].concat());
    let device = PathBuf::from(device.trim());
    let undo = Undo("losetup", vec!["-d".to_owned(), text(&device).to_owned()]);
    (device, undo)
}

/// It is refused as long as the device is mounted or open for writing, and not when it is idle.
fn refused_while_used(world: &World, target: &Disk, device: &Path, what: &str) {
    let place = world.path("mnt");
    let _ = fs::remove_dir(&place);
    let name = kernel_name(device);
    {
        let _mounted = mount(device, &place);
        let reason = format!("the loop device {name} on it is mounted on {} (unmount that first)", place.display());
        refused(world, target.path(), &world.path("disk0"), &[&reason]);
    }
    {
        let writing = shell(&format!("exec 3<>{}", text(device)));
        let reason = format!("through {} process {} (cat) has it open (stop that first)", text(device), writing.0.id());
        refused(world, target.path(), &world.path("disk0"), &[&reason]);
    }
    {
        // As fsck and mkfs do; it may only read.
        let options =
            std::os::unix::fs::OpenOptionsExt::custom_flags(OpenOptions::new().read(true), libc::O_EXCL).to_owned();
        let _held = options.open(device).unwrap();
        let reason = format!("through {} process {} (", text(device), std::process::id());
        refused(world, target.path(), &world.path("disk0"), &[&reason]);
    }
    let _reading = shell(&format!("exec 3<{}", text(device)));
    let image = encode(world, &disk(2 * MIB), "raw");
    let log = world.create(target.path(), text(&image), "raw").run().succeeds();
    assert!(!log.contains("in use"), "{what}: {log}");
}

#[test]
fn a_loop_device() {
    let world = World::new();
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, SIZE);
        let (device, _undo) = loop_over(target.path(), &[]);
        refused_while_used(&world, &target, &device, "a loop device");
    }
}

#[test]
fn a_loop_device_over_another_and_over_a_part() {
    let world = World::new();
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, SIZE);
        let (lower, _undo_lower) = loop_over(target.path(), &[]);
        let (device, _undo) = loop_over(&lower, &["--offset", "1048576", "--sizelimit", "8388608"]);
        refused_while_used(&world, &target, &device, "one over another");
    }
}

#[test]
fn a_loop_device_over_a_partition() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::Block, SIZE);
    let (partition, _undo_partition) = add_partition(&target);
    {
        let (device, _undo) = loop_over(&partition, &[]);
        refused_while_used(&world, &target, &device, "over a partition");
    }
    let writing = shell(&format!("exec 3<>{}", text(&partition)));
    let reason = format!("through {} process {} (cat) has it open", text(&partition), writing.0.id());
    refused(&world, target.path(), &world.path("disk0"), &[&reason]);
}

/// The disk is a partition itself: whoever has claimed all of it bars it, whoever only watches it does not.
#[test]
fn the_whole_disk_of_a_partition() {
    let world = World::new();
    let whole = Disk::stale(&world, "disk0", Kind::Block, SIZE);
    let (partition, _undo_partition) = add_partition(&whole);
    let place = world.path("mnt");
    {
        let _mounted = mount(whole.path(), &place);
        let reason = format!("the whole disk {} is mounted on {}", kernel_name(whole.path()), place.display());
        refused(&world, &partition, &world.path("disk0"), &[&reason]);
    }
    let _watching = shell(&format!("exec 3<>{}", text(whole.path())));
    let image = encode(&world, &disk(2 * MIB), "raw");
    world.create(&partition, text(&image), "raw").run().succeeds();
}

#[test]
fn swap_on_a_loop_device() {
    let world = World::new();
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, SIZE);
        let (device, _undo) = loop_over(target.path(), &[]);
        tool("mkswap", &[text(&device)]);
        tool("swapon", &[text(&device)]);
        let _swap = Undo("swapoff", vec![text(&device).to_owned()]);
        let reason = format!("the loop device {} on it is swap space (run swapoff first)", kernel_name(&device));
        refused(&world, target.path(), &world.path("disk0"), &[&reason]);
    }
}

/// The mount table names one of its devices only.
#[test]
fn every_device_of_a_btrfs() {
    let world = World::new();
    let size = 160 * MIB;
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, size);
        let over = (kind == Kind::File).then(|| loop_over(target.path(), &[]));
        let device = over.as_ref().map_or(target.path(), |(device, _)| device);
        fs::write(world.path("other"), []).unwrap();
        OpenOptions::new().write(true).open(world.path("other")).unwrap().set_len(size as u64).unwrap();
        let (first, _undo) = loop_over(&world.path("other"), &[]);
        tool("mkfs.btrfs", &["-qf", text(&first), text(device)]);
        let place = world.path("mnt");
        let _ = fs::create_dir(&place);
        tool(
            "mount",
            &["-o", &format!("ro,device={},device={}", text(&first), text(device)), text(&first), text(&place)],
        );
        let _mounted = Undo("umount", vec![text(&place).to_owned()]);
        let subject =
            if kind == Kind::File { format!("the loop device {} on it", kernel_name(device)) } else { "it".to_owned() };
        let reason = format!("{subject} is mounted on {} (unmount that first)", place.display());
        refused(&world, target.path(), &world.path("disk0"), &[&reason]);
    }
}

/// Neither mounted nor open in any process.
#[test]
fn a_journal_of_another_file_system() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::File, SIZE);
    let (journal, _undo_journal) = loop_over(target.path(), &[]);
    fs::write(world.path("other"), vec![0; SIZE]).unwrap();
    let (device, _undo) = loop_over(&world.path("other"), &[]);
    tool("mke2fs", &["-qF", "-O", "journal_dev", "-b", "4096", text(&journal)]);
    tool("mkfs.ext4", &["-qF", "-b", "4096", "-J", &format!("device={}", text(&journal)), text(&device)]);
    let place = world.path("mnt");
    fs::create_dir(&place).unwrap();
    tool("mount", &["-o", "ro", text(&device), text(&place)]);
    let _mounted = Undo("umount", vec![text(&place).to_owned()]);
    let reason =
        format!("the loop device {} on it is held by the kernel (see lsblk; stop that first)", kernel_name(&journal));
    refused(&world, target.path(), &world.path("disk0"), &[&reason]);
}
