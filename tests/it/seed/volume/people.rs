// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage seed show` and `simpleimage seed remove`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{KEY, SECRET, UUID, assert_verified, gpt_image, mbr_image, partitions, seeded};
use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, disk, encode};
use crate::support::world::{World, tool};

const SIZE: usize = 40 * MIB;
const START: usize = 35 * MIB;

fn seed(world: &World, verb: &str, disk: &Path, args: &[&str]) -> String {
    let outcome = world.tool(&[&["seed", verb, disk.to_str().unwrap()], args].concat()).run();
    assert_eq!(outcome.succeeds(), "");
    outcome.output()
}

#[test]
fn show_tells_what_a_disk_carries_but_no_secret() {
    let world = World::new();
    for kind in KINDS {
        let disk = Disk::stale(&world, "disk0", kind, SIZE);
        seeded(&world, disk.path(), &gpt_image(&world), "raw").run().succeeds();
        let text = seed(&world, "show", disk.path(), &[]);
        let hidden = text.contains(KEY) || text.contains(SECRET);
        assert!(!hidden, "{text}");
        for line in [
            format!("disk:     {}, 40 MiB", disk.path().display()),
            "place:    partition 2, at 35 MiB".to_owned(),
            "made by:  simpleimage".to_owned(),
            format!("  instance-id: {UUID}"),
            "  local-hostname: web1.example.org".to_owned(),
            "file:     user-data, 43 bytes".to_owned(),
        ] {
            assert!(text.lines().any(|other| other == line), "{line}: {text}");
        }
        assert!(text.contains("192.0.2.10/24"), "{text}");
        let all = seed(&world, "show", disk.path(), &["--secrets"]);
        assert!(all.contains(KEY) && all.contains(&format!("  password: {SECRET}\n")), "{all}");
        let json: Value = serde_json::from_str(&seed(&world, "show", disk.path(), &["--json"])).unwrap();
        assert_eq!(json["size"], SIZE);
        let found = &json["seeds"][0];
        assert_eq!((&found["partition"], &found["start"], &found["ours"]), (&2.into(), &START.into(), &true.into()));
        assert_eq!(found["files"][0]["instance-id"], UUID);
        assert_eq!((&found["files"][1]["name"], found["files"][1].get("content")), (&"user-data".into(), None));
        let all: Value = serde_json::from_str(&seed(&world, "show", disk.path(), &["--json", "--secrets"])).unwrap();
        assert_eq!(all["seeds"][0]["files"][1]["content"], format!("#cloud-config\npassword: {SECRET}\n"));
    }
}

#[test]
fn show_takes_disks_without_and_with_a_strange_seed() {
    let world = World::new();
    let file = world.path("plain");
    fs::write(&file, disk(2 * MIB)).unwrap();
    assert_eq!(seed(&world, "show", &file, &[]), format!("disk {} holds no seed\n", file.display()));
    tool("mkfs.fat", &["-n", "cidata", "-i", "12345678", file.to_str().unwrap()]);
    let rogue = world.path("rogue");
    fs::write(&rogue, format!("\u{1b}[31m\n{}", "x".repeat(5000))).unwrap();
    tool("mcopy", &["-i", file.to_str().unwrap(), rogue.to_str().unwrap(), "::network-config"]);
    let text = seed(&world, "show", &file, &[]);
    assert!(
        text.contains("place:    the whole disk\nmade by:  another program (mkfs.fat)\nserial:   1234-5678\n"),
        "{text}"
    );
    assert!(text.contains("  \\u{1b}[31m\n"), "{text}");
    File::options().write(true).open(&file).unwrap().write_all_at(&[0x55; 512], 512).unwrap();
    let text = seed(&world, "show", &file, &[]);
    assert!(text.contains("contents: the seed volume is damaged: "), "{text}");
    for (image_type, words) in
        [("qcow2", "in qcow2 format"), ("raw+gz", "in gz compression"), ("raw+xz", "in xz compression")]
    {
        let file = encode(&world, &disk(2 * MIB), image_type);
        for verb in ["show", "remove"] {
            let reason = format!("{} is {words}: only a disk or a raw image can be looked at", file.display());
            world.tool(&["seed", verb, file.to_str().unwrap()]).run().fails(&[&reason]);
        }
    }
    world.tool(&["seed", "show", "/nonexistent"]).run().fails(&["opening disk /nonexistent: No such file"]);
}

#[test]
fn remove_gives_the_disk_back_as_it_was_without_a_seed() {
    let world = World::new();
    for (image, kind) in
        [(gpt_image(&world), Kind::File), (gpt_image(&world), Kind::Block), (mbr_image(&world), Kind::Block)]
    {
        let plain = Disk::stale(&world, "disk1", Kind::File, SIZE);
        world.create(plain.path(), image.to_str().unwrap(), "raw").run().succeeds();
        let disk = Disk::stale(&world, "disk0", kind, SIZE);
        seeded(&world, disk.path(), &image, "raw").run().succeeds();
        let path = world.path("disk0");
        assert_eq!(partitions(&path).len(), 3);
        let text = seed(&world, "remove", disk.path(), &[]);
        assert!(text.starts_with("removed the seed from disk ") && text.contains(", at 35 MiB\n"), "{text}");
        assert_verified(&path);
        assert!(disk.bytes() == plain.bytes(), "every byte");
        let reason = format!("disk {} holds no seed", disk.path().display());
        world.tool(&["seed", "remove", disk.path().to_str().unwrap()]).run().fails(&[&reason]);
    }
}

#[test]
fn remove_leaves_what_is_not_ours_unless_it_is_told_to() {
    let world = World::new();
    let disk = Disk::stale(&world, "disk0", Kind::File, SIZE);
    seeded(&world, disk.path(), &mbr_image(&world), "raw").run().succeeds();
    File::options().write(true).open(disk.path()).unwrap().write_all_at(b"mkfs.fat", START as u64 + 3).unwrap();
    let before = disk.bytes();
    let path = disk.path().to_str().unwrap();
    let outcome = world.tool(&["seed", "remove", path]).run();
    outcome.fails(&[
        "simpleimage did not make the seed on disk",
        "partition 3, at 35 MiB",
        "--force removes it all the same",
    ]);
    assert!(disk.bytes() == before);
    seed(&world, "remove", disk.path(), &["--force"]);
    assert_eq!(partitions(disk.path()).len(), 2);
    assert!(disk.bytes()[START..].iter().all(|byte| *byte == 0));
}

#[test]
fn remove_empties_a_disk_that_is_a_seed() {
    let world = World::new();
    for kind in KINDS {
        let (root, own) = (Disk::stale(&world, "disk0", Kind::File, SIZE), Disk::stale(&world, "disk1", kind, 8 * MIB));
        seeded(&world, root.path(), &gpt_image(&world), "raw").seed_disk(own.path()).run().succeeds();
        assert!(seed(&world, "remove", own.path(), &[]).contains("the whole disk"));
        assert!(own.bytes().iter().all(|byte| *byte == 0));
    }
}

#[test]
fn remove_refuses_a_disk_in_use() {
    let world = World::new();
    for kind in KINDS {
        let disk = Disk::stale(&world, "disk0", kind, SIZE);
        seeded(&world, disk.path(), &mbr_image(&world), "raw").run().succeeds();
        let before = disk.bytes();
        let path = disk.path().to_str().unwrap();
        // qemu-io holds the disk as a running instance does.
        let driver = if kind == Kind::File { "file" } else { "host_device" };
        let options = format!("driver=raw,file.driver={driver},file.filename={path},file.locking=on");
        let mut qemu = Command::new("qemu-io");
        let mut qemu =
            qemu.args(["--image-opts", &options]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        qemu.stdin.as_mut().unwrap().write_all(b"length\n").unwrap();
        let mut answer = [0; 1];
        qemu.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
        let outcome = world.tool(&["seed", "remove", path]).run();
        drop(qemu.stdin.take());
        qemu.wait().unwrap();
        outcome.fails(&["(qemu-io) has it open (stop that first)"]);
        assert!(disk.bytes() == before);
    }
}
