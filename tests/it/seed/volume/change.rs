// SPDX-License-Identifier: BSD-2-Clause
//! rename and import: who the seed says that the instance is.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{OTHER_UUID, UUID, Volume, assert_verified, gpt_image, instance, mbr_image, seeded};
use crate::disk::holders::shell;
use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, disk};
use crate::support::world::{Script, World, tool};

const SIZE: usize = 40 * MIB;
const START: usize = 35 * MIB;
const MAC: &str = "aa:00:00:00:00:01";
const OTHER_MAC: &str = "aa:00:00:00:00:02";

fn rename(world: &World, disk: &Path, name: &str, uuid: &str) -> Script {
    let script = world.script("rename").env("OLD_INSTANCE_NAME", "web1.example.org").without("OS_VARIANT");
    instance(script, name, uuid, MAC).env("DISK_0_PATH", disk.to_str().unwrap())
}

fn import(world: &World, disk: &Path) -> Script {
    let script = world.script("import").env("IMPORT_DEVICE", disk.to_str().unwrap()).env("IMPORT_INDEX", "0");
    instance(script, "web2.example.org", OTHER_UUID, OTHER_MAC)
}

/// Writes a file into the volume at `start` of a disk, as its instance could.
fn put(disk: &Path, start: usize, args: &[&str]) {
    let image = format!("{}@@{start}", disk.display());
    tool(args[0], &[&["-i", &image], &args[1..]].concat());
}

#[test]
fn a_rename_changes_the_name_in_its_own_seed_and_nothing_else() {
    let world = World::new();
    for (image, kind) in [(gpt_image(&world), Kind::File), (mbr_image(&world), Kind::Block)] {
        let disk = Disk::stale(&world, "disk0", kind, SIZE);
        seeded(&world, disk.path(), &image, "raw").run().succeeds();
        let before = disk.bytes();
        let log = rename(&world, disk.path(), "db1.example.org", UUID).run().succeeds();
        assert!(log.contains("the first-boot seed on disk") && log.contains("has the new name"), "{log}");
        let volume = Volume::of(&world, &world.path("disk0"), START as u64, 4 * MIB);
        volume.assert_says(&world, "db1.example.org", UUID, MAC);
        let changed = disk.bytes();
        let differing: Vec<_> = (0..SIZE).filter(|at| before[*at] != changed[*at]).collect();
        // The directory's entry with the length, and the file itself.
        assert!(
            differing.len() < 1000 && differing.iter().all(|at| (START..START + 64 * 1024).contains(at)),
            "{differing:?}"
        );
        // Twice is once.
        assert_eq!(rename(&world, disk.path(), "db1.example.org", UUID).run().succeeds(), "");
        rename(&world, disk.path(), "web1.example.org", UUID).run().succeeds();
        assert!(disk.bytes() == before, "back again");
    }
}

/// Its name would stay the old one without a word.
#[test]
fn a_rename_refuses_a_disk_in_use() {
    let world = World::new();
    for (image, kind) in [(gpt_image(&world), Kind::File), (mbr_image(&world), Kind::Block)] {
        let disk = Disk::stale(&world, "disk0", kind, SIZE);
        seeded(&world, disk.path(), &image, "raw").run().succeeds();
        let before = disk.bytes();
        let writing = shell(&format!("exec 3<>{}", disk.path().display()));
        let reason = format!("process {} (cat) has it open (stop that first)", writing.0.id());
        let renamed = rename(&world, disk.path(), "db1.example.org", UUID).run();
        renamed.fails(&[&format!("disk {} is in use: ", disk.path().display()), &reason]);
        assert!(disk.bytes() == before, "the disk was written to");
        drop(writing);
        rename(&world, disk.path(), "db1.example.org", UUID).run().succeeds();
    }
}

#[test]
fn a_rename_without_a_seed_of_its_own_changes_nothing_and_runs_the_hooks() {
    let world = World::new();
    world.hook("hooks.rename/note", "echo renamed to $INSTANCE_NAME");
    let disk = Disk::stale(&world, "disk0", Kind::File, SIZE);
    let plain = || rename(&world, disk.path(), "db1.example.org", UUID).env("OS_VARIANT", "default").run().succeeds();
    assert!(plain().contains("renamed to db1.example.org"));
    disk.assert_untouched("no seed");
    // Another instance's seed, as after a copy of the disk by hand.
    seeded(&world, disk.path(), &gpt_image(&world), "raw").run().succeeds();
    let before = disk.bytes();
    rename(&world, disk.path(), "db1.example.org", OTHER_UUID).run().succeeds();
    assert!(disk.bytes() == before);
    rename(&world, Path::new("/nonexistent/disk"), "db1.example.org", UUID).run().succeeds();
}

#[test]
fn a_rename_reaches_the_disk_named_cidata() {
    let world = World::new();
    let (root, own) =
        (Disk::stale(&world, "disk0", Kind::File, SIZE), Disk::stale(&world, "disk1", Kind::Block, 8 * MIB));
    let with = |script: Script| script.seed_disk(own.path());
    with(seeded(&world, root.path(), &gpt_image(&world), "raw")).run().succeeds();
    let before = root.bytes();
    with(rename(&world, root.path(), "db1.example.org", UUID)).run().succeeds();
    Volume::of(&world, &world.path("disk1"), 0, 4 * MIB).assert_says(&world, "db1.example.org", UUID, MAC);
    assert!(root.bytes() == before);
}

#[test]
fn what_the_instance_did_to_its_seed_stays() {
    let world = World::new();
    let disk = Disk::stale(&world, "disk0", Kind::File, SIZE);
    seeded(&world, disk.path(), &gpt_image(&world), "raw").run().succeeds();
    let note = world.path("A note of mine.txt");
    fs::write(&note, vec![b'x'; 5000]).unwrap();
    put(disk.path(), START, &["mcopy", note.to_str().unwrap(), "::"]);
    rename(&world, disk.path(), "db1.example.org", UUID).run().succeeds();
    let volume = Volume::of(&world, disk.path(), START as u64, 4 * MIB);
    volume.assert_says(&world, "db1.example.org", UUID, MAC);
    assert_eq!(volume.text("A note of mine.txt"), "x".repeat(5000));
    // A folder would get lost, so that the seed is left alone; a rename does not fail for that.
    put(disk.path(), START, &["mmd", "::folder"]);
    let before = disk.bytes();
    let log = rename(&world, disk.path(), "db2.example.org", UUID).run().succeeds();
    assert!(log.contains("warning: the name in a first-boot seed was not changed") && log.contains("folder"), "{log}");
    assert!(disk.bytes() == before);
}

#[test]
fn a_clone_gets_a_first_boot_of_its_own() {
    let world = World::new();
    for (image, kind) in [(gpt_image(&world), Kind::File), (mbr_image(&world), Kind::Block)] {
        let source = Disk::stale(&world, "disk0", Kind::File, SIZE);
        seeded(&world, source.path(), &image, "raw").env("OSP_SEED_PERSIST", "yes").run().succeeds();
        let old = Volume::of(&world, source.path(), START as u64, 4 * MIB);
        let (old_serial, old_script) = (old.serial(), old.text("vendor-data"));
        let clone = Disk::stale(&world, "disk1", kind, SIZE + 5 * MIB);
        let log = import(&world, clone.path()).run_with(&source.bytes()).succeeds();
        assert!(log.contains("the first-boot seed in partition") && !log.contains("warning"), "{log}");
        let path = world.path("disk1");
        assert_verified(&path);
        let new = Volume::of(&world, &path, START as u64, 4 * MIB);
        new.assert_says(&world, "web2.example.org", OTHER_UUID, OTHER_MAC);
        assert!(new.text("network-config").contains("192.0.2.53"), "the name servers are the old ones");
        assert_ne!(new.serial(), old_serial);
        assert!(old_script.contains(&old_serial));
        assert_eq!(new.text("vendor-data"), old_script.replace(&old_serial, &new.serial()));
        // Everything else is the dump's, but for the GPT, which moved, and the trace of the seed.
        let (dump, clone) = (source.bytes(), clone.bytes());
        let trace = MIB - 4096..MIB;
        assert!(clone[34 * 512..trace.start] == dump[34 * 512..trace.start] && clone[MIB..START] == dump[MIB..START]);
        let words = |bytes: &[u8]| String::from_utf8(bytes[trace.clone()].to_vec()).unwrap();
        let serial = |serial: &str| format!("serial={}", serial.to_ascii_lowercase().replace('-', ""));
        assert!(words(&dump).contains(&serial(&old_serial)));
        assert_eq!(words(&clone), words(&dump).replace(&serial(&old_serial), &serial(&new.serial())));
    }
}

#[test]
fn a_cloned_disk_of_its_own_gets_it_too() {
    let world = World::new();
    let (root, own) =
        (Disk::stale(&world, "disk0", Kind::File, SIZE), Disk::stale(&world, "disk1", Kind::File, 8 * MIB));
    seeded(&world, root.path(), &gpt_image(&world), "raw").seed_disk(own.path()).run().succeeds();
    for kind in KINDS {
        let clone = Disk::stale(&world, "disk2", kind, 9 * MIB);
        import(&world, clone.path()).env("IMPORT_INDEX", "1").run_with(&own.bytes()).succeeds();
        let volume = Volume::of(&world, &world.path("disk2"), 0, 4 * MIB);
        volume.assert_says(&world, "web2.example.org", OTHER_UUID, OTHER_MAC);
        drop(clone);
    }
}

#[test]
fn what_was_given_by_hand_stays_in_a_clone() {
    let world = World::new();
    world.variant_file("user-data/net.yaml", "version: 2\nethernets: {}\n");
    let source = Disk::stale(&world, "disk0", Kind::File, SIZE);
    let script = seeded(&world, source.path(), &gpt_image(&world), "raw").env("OSP_NETWORK_CONFIG", "net.yaml");
    script.without("OSP_DNS_SERVERS").run().succeeds();
    let clone = Disk::stale(&world, "disk1", Kind::File, SIZE);
    let log = import(&world, clone.path()).run_with(&source.bytes()).succeeds();
    assert!(log.contains("warning: network-config of the first-boot seed was written by hand"), "{log}");
    let volume = Volume::of(&world, clone.path(), START as u64, 4 * MIB);
    assert_eq!(volume.text("network-config"), "version: 2\nethernets: {}\n");
    assert!(volume.text("meta-data").contains("web2.example.org"));
}

/// A restore never fails over a seed, and never touches what is not ours.
#[test]
fn other_dumps_are_restored_as_they_are() {
    let world = World::new();
    let source = Disk::stale(&world, "disk0", Kind::File, SIZE);
    seeded(&world, source.path(), &mbr_image(&world), "raw").run().succeeds();
    let note = world.path("note");
    fs::write(&note, vec![b'x'; 5000]).unwrap();
    put(source.path(), START, &["mcopy", note.to_str().unwrap(), "::"]);
    let seeded_dump = source.bytes();
    let with = |changes: &[(usize, &[u8])]| {
        let mut dump = seeded_dump.clone();
        for (at, bytes) in changes {
            dump[START + at..START + at + bytes.len()].copy_from_slice(bytes);
        }
        dump
    };
    let target = Disk::stale(&world, "disk1", Kind::File, SIZE);
    let foreign = with(&[(3, b"mkfs.fat")]);
    assert!(!import(&world, target.path()).run_with(&foreign).succeeds().contains("seed"));
    target.assert_holds(&foreign, "another program's");
    // The table of clusters, all of it pointing nowhere.
    let broken = with(&[(512, &[0xee; 3000])]);
    let log = import(&world, target.path()).run_with(&broken).succeeds();
    assert!(log.contains("warning: the first-boot seed of the instance in the dump stays as it is"), "{log}");
    target.assert_holds(&broken, "broken");
    let anonymous = import(&world, target.path()).without("INSTANCE_UUID").run_with(&seeded_dump).succeeds();
    assert!(anonymous.contains("INSTANCE_UUID is not a UUID"), "{anonymous}");
    target.assert_holds(&seeded_dump, "no UUID");
    let plain = disk(9 * MIB);
    import(&world, target.path()).without("INSTANCE_UUID").run_with(&plain).succeeds();
    target.assert_holds(&plain, "no seed");
}

/// The mark is in the volume, so that a table that changed meanwhile is no matter.
#[test]
fn a_seed_is_found_in_whatever_partition_it_is_now() {
    let world = World::new();
    let disk = Disk::stale(&world, "disk0", Kind::File, SIZE);
    seeded(&world, disk.path(), &mbr_image(&world), "raw").run().succeeds();
    let volume = disk.bytes()[START..START + 4 * MIB].to_vec();
    let moved = super::image(&world, "moved", SIZE, "sgdisk", &["-n", "1:2048:20000", "-n", "7:40960:+4M"], "");
    File::options().write(true).open(&moved).unwrap().write_all_at(&volume, 20 * MIB as u64).unwrap();
    rename(&world, &moved, "db1.example.org", UUID).run().succeeds();
    Volume::of(&world, &moved, 20 * MIB as u64, 4 * MIB).assert_says(&world, "db1.example.org", UUID, MAC);
}
