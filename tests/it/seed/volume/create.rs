// SPDX-License-Identifier: BSD-2-Clause
//! The seed in a partition of its own, behind every kind of table.

use std::fs;
use std::path::Path;

use super::{UUID, Volume, assert_verified, gpt_image, image, mbr_image, partitions, seeded};
use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, age, encode};
use crate::support::world::{World, tool};

const SIZE: usize = 40 * MIB;
/// Where the seed begins on a disk of [`SIZE`], which ends on a MiB.
const START: usize = 35 * MIB;
const END: usize = 39 * MIB;

/// The disk has the image's bytes but for those in `changed`, and what is behind the image is zero.
fn assert_image_but(disk: &[u8], image: &[u8], changed: &[std::ops::Range<usize>], what: &str) {
    for (at, byte) in disk.iter().enumerate() {
        let expected = image.get(at).copied().unwrap_or(0);
        let free = changed.iter().any(|range| range.contains(&at));
        assert!(free || *byte == expected, "{what}: byte {at} is {byte:#x} and was {expected:#x}");
    }
}

#[test]
fn a_gpt_gets_a_partition_at_the_very_end() {
    let world = World::new();
    let source = gpt_image(&world);
    let image = fs::read(&source).unwrap();
    for (image_type, kind) in
        [("raw", Kind::File), ("raw", Kind::Block), ("raw+gz", Kind::Block), ("qcow2", Kind::File)]
    {
        let file = if image_type == "raw" { source.clone() } else { encode(&world, &image, image_type) };
        let disk = Disk::stale(&world, "disk0", kind, SIZE);
        let log = seeded(&world, disk.path(), &file, image_type).run().succeeds();
        assert!(log.contains("the first-boot seed is in partition 2 of the disk"), "{log}");
        let path = world.path("disk0");
        assert_verified(&path);
        let entry = tool("sgdisk", &["-i", "2", path.to_str().unwrap()]);
        for line in [
            "Partition GUID code: EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 (Microsoft basic data)",
            &format!("First sector: {} (at 35.0 MiB)", START / 512),
            "Partition size: 8192 sectors (4.0 MiB)",
            "Attribute flags: C000000000000000",
            "Partition name: 'cidata'",
        ] {
            assert!(entry.contains(line), "{line}: {entry}");
        }
        let volume = Volume::of(&world, &path, START as u64, 4 * MIB);
        volume.assert_says(&world, "web1.example.org", UUID, "aa:00:00:00:00:01");
        // MBR and primary GPT, the old backup, the seed, the new backup.
        let changed = [0..34 * 512, 16 * MIB - 33 * 512..16 * MIB, START..END, SIZE - 33 * 512..SIZE];
        assert_image_but(&disk.bytes(), &image, &changed, image_type);
        assert!(disk.bytes()[..446] == image[..446], "the boot code changed");
        assert!(disk.bytes()[16 * MIB - 33 * 512..16 * MIB].iter().all(|byte| *byte == 0), "the old backup is there");
    }
}

#[test]
fn an_mbr_gets_a_primary_partition_at_its_end() {
    let world = World::new();
    let source = mbr_image(&world);
    let image = fs::read(&source).unwrap();
    for (image_type, kind) in [("raw", Kind::Block), ("raw+xz", Kind::File), ("qcow2+gz", Kind::Block)] {
        let file = if image_type == "raw" { source.clone() } else { encode(&world, &image, image_type) };
        let disk = Disk::stale(&world, "disk0", kind, SIZE);
        seeded(&world, disk.path(), &file, image_type).run().succeeds();
        let path = world.path("disk0");
        assert_verified(&path);
        let seed = &partitions(&path)[2];
        assert_eq!((&seed["start"], &seed["size"], &seed["type"]), (&71680.into(), &8192.into(), &"c".into()));
        Volume::of(&world, &path, START as u64, 4 * MIB).assert_says(
            &world,
            "web1.example.org",
            UUID,
            "aa:00:00:00:00:01",
        );
        assert_image_but(&disk.bytes(), &image, &[446 + 32..446 + 48, START..END], image_type);
    }
}

#[test]
fn a_gpt_for_large_sectors_and_one_with_a_hybrid_mbr() {
    let world = World::new();
    // sgdisk takes the sector size from the device.
    let large = world.path("large.raw");
    tool("truncate", &["-s", "16M", large.to_str().unwrap()]);
    on_large_sectors(&large, |device| {
        tool("sgdisk", &["-n", "1:256:2047", device]);
    });
    let disk = Disk::stale(&world, "disk0", Kind::File, SIZE);
    seeded(&world, disk.path(), &large, "raw").run().succeeds();
    on_large_sectors(disk.path(), |device| {
        assert_verified(Path::new(device));
        let entry = tool("sgdisk", &["-i", "2", device]);
        assert!(entry.contains("First sector: 8960 (at 35.0 MiB)"), "{entry}");
    });
    Volume::of(&world, disk.path(), START as u64, 4 * MIB).assert_says(
        &world,
        "web1.example.org",
        UUID,
        "aa:00:00:00:00:01",
    );

    let hybrid = gpt_image(&world);
    tool("sgdisk", &["-h", "3", hybrid.to_str().unwrap()]);
    let before = fs::read(&hybrid).unwrap();
    let disk = Disk::stale(&world, "disk1", Kind::File, SIZE);
    seeded(&world, disk.path(), &hybrid, "raw").run().succeeds();
    assert!(disk.bytes()[..512] == before[..512], "the hybrid MBR changed");
    let verdict = tool("sgdisk", &["-v", disk.path().to_str().unwrap()]);
    assert!(verdict.contains("No problems found"), "{verdict}");
    Volume::of(&world, disk.path(), START as u64, 4 * MIB).assert_identified(&world);
}

/// A loop device with sectors of 4096 bytes over `file`.
fn on_large_sectors(file: &Path, work: impl FnOnce(&str)) {
    let device = tool("losetup", &["--find", "--show", "--sector-size", "4096", file.to_str().unwrap()]);
    work(device.trim());
    tool("losetup", &["--detach", device.trim()]);
}

#[test]
fn a_disk_of_the_images_size_will_do_when_its_end_is_free() {
    let world = World::new();
    let source = image(&world, "free.raw", 16 * MIB, "sgdisk", &["-n", "1:2048:20000"], "");
    let mbr = image(&world, "mbr.raw", 16 * MIB, "sfdisk", &["--quiet"], "label: dos\n1M,10M,83\n");
    for image in [source, mbr] {
        for size in [16 * MIB, 16 * MIB + 512 * 7] {
            let disk = Disk::stale(&world, "disk0", Kind::File, size);
            seeded(&world, disk.path(), &image, "raw").run().succeeds();
            assert_verified(disk.path());
            Volume::of(&world, disk.path(), 11 * MIB as u64, 4 * MIB).assert_identified(&world);
        }
    }
}

#[test]
fn the_same_request_gives_the_same_bytes_and_off_gives_the_image() {
    let world = World::new();
    let source = mbr_image(&world);
    let mut disks = ["disk0", "disk1"].map(|name| {
        let disk = Disk::stale(&world, name, Kind::File, SIZE);
        seeded(&world, disk.path(), &source, "raw").run().succeeds();
        disk
    });
    assert!(disks[0].bytes() == disks[1].bytes());
    disks[0] = Disk::stale(&world, "disk0", Kind::File, SIZE);
    let log = seeded(&world, disks[0].path(), &source, "raw").env("OSP_CLOUD_INIT", "off").run().succeeds();
    disks[0].assert_holds(&fs::read(source).unwrap(), "off");
    assert!(log.contains("warning: ssh_keys has no effect: cloud_init is off"), "{log}");
}

/// Somebody asked for it, and nobody would get it.
#[test]
fn parameters_without_effect_are_warned_of() {
    let world = World::new();
    let source = mbr_image(&world);
    age(&source);
    let create = |settings: &str, parameters: &[(&str, &str)]| {
        world.variant_file("config.toml", settings);
        let disk = Disk::stale(&world, "disk0", Kind::File, SIZE);
        let script =
            world.create(disk.path(), source.to_str().unwrap(), "raw").env("INSTANCE_UUID", UUID).env("NIC_COUNT", "0");
        let log = parameters.iter().fold(script, |script, (name, value)| script.env(name, value)).run().succeeds();
        log.lines()
            .filter_map(|line| line.split_once("warning: ").map(|(_, words)| words.to_owned()))
            .collect::<Vec<_>>()
    };
    let warned = |settings, parameters: &[(&str, &str)], expected: &[&str]| {
        assert_eq!(create(settings, parameters), expected, "{settings} {parameters:?}");
    };
    let [user_data, dns, search] = [
        ("OSP_USER_DATA", "base64:I2Nsb3VkLWNvbmZpZwo="),
        ("OSP_DNS_SERVERS", "192.0.2.1"),
        ("OSP_DNS_SEARCH", "a.example"),
    ];
    let network = ("OSP_NETWORK_CONFIG", "base64:dmVyc2lvbjogMgo=");
    let off = "cloud_init = \"off\"\n";
    let none = |name: &str| format!("{name} has no effect: cloud_init is off");
    let dns_only = |name: &str| format!("{name} has no effect: network_config is not auto");
    warned(off, &[user_data, network], &[&none("user_data"), &none("network_config")]);
    warned(
        "",
        &[("OSP_CLOUD_INIT", "off"), dns, search, ("OSP_SEED_PERSIST", "yes")],
        &[&none("dns_servers"), &none("dns_search"), &none("seed_persist")],
    );
    warned("", &[network, dns, search], &[&dns_only("dns_servers"), &dns_only("dns_search")]);
    // What the administrator gives to all is not asked for by anybody, and what says nothing loses nothing.
    warned("cloud_init = \"off\"\nuser_data = \"base64:I2Nsb3VkLWNvbmZpZwo=\"\n", &[], &[]);
    warned(off, &[("OSP_SSH_KEYS", "none"), ("OSP_NETWORK_CONFIG", "auto"), ("OSP_SEED_PERSIST", "no")], &[]);
    warned("", &[user_data, dns], &[]);
}

#[test]
fn the_seed_is_on_stable_storage_before_the_disk_can_boot() {
    let world = World::new();
    let source = mbr_image(&world);
    for kind in KINDS {
        let disk = Disk::stale(&world, "disk0", kind, SIZE);
        let (mut script, trace) = (seeded(&world, disk.path(), &source, "raw"), world.path("trace"));
        let mut traced = std::process::Command::new("strace");
        traced
            .args(["-f", "-s", "0", "-e", "trace=pwrite64,fsync", "-o"])
            .arg(&trace)
            .arg(script.command.get_program());
        traced.args(script.command.get_args()).env_clear();
        traced.envs(script.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        script.command = traced;
        script.run().succeeds();
        let trace = fs::read_to_string(trace).unwrap();
        let calls: Vec<_> =
            trace.lines().filter(|line| line.contains("pwrite64(") || line.contains("fsync(")).collect();
        let last = |part: &str| calls.iter().rposition(|call| call.contains(part)).unwrap();
        let seed = calls.iter().position(|call| call.contains(&format!(", {START})"))).unwrap();
        // All of the boot area but its first 4 KiB, and then those.
        let (boot, first) = (last(", 1044480, 4096)"), last(", 4096, 0)"));
        let synced = |from: usize, to: usize| calls[from..to].iter().any(|call| call.contains("fsync("));
        assert!(seed < boot && synced(seed, boot) && synced(boot, first) && last("fsync(") > first, "{trace}");
    }
}

#[test]
fn a_hook_that_fails_leaves_no_disk_that_boots() {
    let world = World::new();
    // Its seed is on the disk by then.
    world.hook("hooks/fail", "grep -qa web1.example.org \"$TARGET_DISK_DEVICE\" && exit 3");
    let disk = Disk::stale(&world, "disk0", Kind::File, SIZE);
    seeded(&world, disk.path(), &gpt_image(&world), "raw").run().fails(&["a hook in", "return code 3"]);
    disk.assert_unbootable("hook");
}

#[test]
fn a_reinstall_writes_a_fresh_seed() {
    let world = World::new();
    let disk = Disk::stale(&world, "disk0", Kind::Block, SIZE);
    seeded(&world, disk.path(), &gpt_image(&world), "raw").run().succeeds();
    let again = seeded(&world, disk.path(), &mbr_image(&world), "raw").env("INSTANCE_REINSTALL", "1");
    again.env("INSTANCE_NAME", "web9.example.org").run().succeeds();
    assert_verified(&world.path("disk0"));
    let volume = Volume::of(&world, &world.path("disk0"), START as u64, 4 * MIB);
    volume.assert_says(&world, "web9.example.org", UUID, "aa:00:00:00:00:01");
}
