// SPDX-License-Identifier: BSD-2-Clause
//! Every command that writes a disk refuses one in use before its first write; what only looks like use is none.

use std::fs;

use crate::disk::holders::{SIZE, Undo, kernel_name, mount, text};
use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, disk, encode};
use crate::support::world::{World, tool};

#[test]
fn import_install_and_rename_refuse_too() {
    let world = World::new();
    world.hook("hooks.rename/any", "echo hook ran");
    let image = encode(&world, &disk(2 * MIB), "raw");
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, SIZE);
        let (path, place) = (text(target.path()).to_owned(), world.path("mnt"));
        let device = tool("losetup", &["--find", "--show", &path]);
        let device = std::path::Path::new(device.trim());
        let _attached = Undo("losetup", vec!["-d".to_owned(), text(device).to_owned()]);
        let _ = fs::remove_dir(&place);
        let _mounted = mount(device, &place);
        let before = fs::read(world.path("disk0")).unwrap();
        let reason = format!("the loop device {} on it is mounted on {}", kernel_name(device), place.display());
        let reasons = [format!("disk {path} is in use: "), reason];
        let reasons: Vec<_> = reasons.iter().map(String::as_str).collect();
        world.script("import").env("IMPORT_DEVICE", &path).run_with(&disk(2 * MIB)).fails(&reasons);
        world.tool(&["install", text(&image), &path]).run().fails(&reasons);
        let rename = world.script("rename").env("DISK_0_PATH", &path).env("OLD_INSTANCE_NAME", "old.example.org");
        let log = rename.run().fails(&reasons);
        assert!(!log.contains("hook ran"), "{log}");
        assert!(fs::read(world.path("disk0")).unwrap() == before, "the disk was written to");
    }
}

/// Signatures of what could use a disk are the guest's data.
#[test]
fn signatures_on_the_disk_are_no_use() {
    let world = World::new();
    let image = encode(&world, &disk(2 * MIB), "raw");
    for kind in KINDS {
        for (at, signature) in [
            (512, &b"LABELONE"[..]),
            (4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
            (4086, b"SWAPSPACE2"),
            (1024 + 56, &[0x53, 0xef]),
        ] {
            let target = Disk::stale(&world, "disk0", kind, 4 * MIB);
            let file = fs::OpenOptions::new().write(true).open(world.path("disk0")).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, signature, at).unwrap();
            drop(file);
            world.create(target.path(), text(&image), "raw").env("INSTANCE_REINSTALL", "1").run().succeeds();
            target.assert_holds(&disk(2 * MIB), "a signature");
        }
    }
}

/// The shell provider leaks such: nobody has them open, and they stay.
#[test]
fn idle_loop_devices_are_no_use() {
    let world = World::new();
    let image = encode(&world, &disk(2 * MIB), "raw");
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, 4 * MIB);
        let lower = Disk::over(target.path().to_owned(), Kind::Block);
        let _upper = Disk::over(lower.path().to_owned(), Kind::Block);
        world.create(target.path(), text(&image), "raw").run().succeeds();
        world.create(target.path(), text(&image), "raw").env("INSTANCE_REINSTALL", "1").run().succeeds();
        let bytes = fs::read(world.path("disk0")).unwrap();
        assert!(bytes[..2 * MIB] == disk(2 * MIB)[..]);
    }
}
