// SPDX-License-Identifier: BSD-2-Clause
//! A reinstall never loses silently what the instance had: the old seed, compared and kept.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{KEY, OTHER_UUID, SECRET, USER_DATA, UUID, Volume, gpt_image, instance, mbr_image, seeded};
use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::MIB;
use crate::support::world::{Script, World, tool};

const SIZE: usize = 40 * MIB;
const START: usize = 35 * MIB;
const TRACE: usize = MIB - 4096;
const NAME: &str = "web1.example.org";
const MAC: &str = "aa:00:00:00:00:01";
const OTHER_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI ann";
const LOSES: &str = "warning: the instance loses what its old seed gave it: ";
const FORGETS: &str = "(Ganeti forgets OS parameters that a reinstall's command line does not repeat; to bring them back: gnt-instance reinstall ";

/// A reinstall with nothing but the image.
fn bare(world: &World, disk: &Path, image: &Path) -> Script {
    let script = world.create(disk, image.to_str().unwrap(), "raw").env("INSTANCE_REINSTALL", "1");
    instance(script, NAME, UUID, MAC)
}

/// The one warning of a run that went well, which holds no secret.
fn warning(log: &str) -> &str {
    let mut warnings = warnings(log);
    let warning = warnings.next().unwrap_or_else(|| panic!("no warning: {log}"));
    assert_eq!(warnings.next(), None, "{log}");
    assert_silent(log);
    warning
}

fn assert_silent(log: &str) {
    for secret in [SECRET, "AAAAC3", "joe", "ann", "cloud-config"] {
        assert!(!log.contains(secret), "{secret} is in: {log}");
    }
}

/// But that the image was just made, and which parameters of this run have no effect.
fn warnings(log: &str) -> impl Iterator<Item = &str> {
    let all = log.lines().filter(|line| line.contains("warning: "));
    all.filter(|line| !line.contains(" s ago: if it was not whole then") && !line.contains(" has no effect: "))
}

fn assert_quiet(log: &str) {
    assert_eq!(warnings(log).next(), None, "{log}");
    assert_silent(log);
}

fn assert_no_seed(world: &World, disk: &Path) {
    let disk = disk.to_str().unwrap();
    assert_eq!(world.tool(&["seed", "show", disk]).run().output(), format!("disk {disk} holds no seed\n"));
}

fn put(world: &World, disk: &Path, start: usize, name: &str, content: &[u8]) {
    let (file, image) = (world.path("put"), format!("{}@@{start}", disk.display()));
    fs::write(&file, content).unwrap();
    tool("mcopy", &["-o", "-i", &image, file.to_str().unwrap(), &format!("::{name}")]);
}

fn write_at(disk: &Path, bytes: &[u8], at: usize) {
    File::options().write(true).open(disk).unwrap().write_all_at(bytes, at as u64).unwrap();
}

#[test]
fn what_gets_lost_is_named_and_the_command_that_brings_it_back() {
    let world = World::new();
    world.variant_file("user-data/net.yaml", "version: 2\nethernets: {}\n");
    let image = gpt_image(&world);
    let both = format!("{KEY};{OTHER_KEY}");
    for (kind, given, expected, options) in [
        (
            Kind::File,
            &[][..],
            "ssh_keys (2 of 2 keys), user_data, dns_servers, seed_persist",
            "-O image=...,user_data=...,dns_servers=...,seed_persist=... --os-parameters-private ssh_keys=...",
        ),
        (
            Kind::Block,
            &[
                ("OSP_SSH_KEYS", OTHER_KEY),
                ("OSP_USER_DATA", USER_DATA),
                ("OSP_DNS_SERVERS", "192.0.2.1"),
                ("OSP_SEED_PERSIST", "yes"),
            ],
            "ssh_keys (1 of 2 keys)",
            "-O image=... --os-parameters-private ssh_keys=...",
        ),
        (
            Kind::File,
            &[("OSP_SSH_KEYS", &both), ("OSP_SEED_PERSIST", "yes"), ("OSP_NETWORK_CONFIG", "net.yaml")],
            "user_data",
            "-O image=...,user_data=...",
        ),
        (
            Kind::Block,
            &[("OSP_CLOUD_INIT", "off"), ("OSP_SSH_KEYS", &both)],
            "ssh_keys (2 of 2 keys), user_data, dns_servers, seed_persist",
            "-O image=...,user_data=...,dns_servers=...,seed_persist=... --os-parameters-private ssh_keys=...",
        ),
    ] {
        let disk = Disk::stale(&world, "disk0", kind, SIZE);
        seeded(&world, disk.path(), &image, "raw")
            .env("OSP_SSH_KEYS", &both)
            .env("OSP_SEED_PERSIST", "yes")
            .run()
            .succeeds();
        let script =
            given.iter().fold(bare(&world, disk.path(), &image), |script, (name, value)| script.env(name, value));
        let log = script.run().succeeds();
        let words = format!("{LOSES}{expected} {FORGETS}{options} {NAME})");
        assert!(warning(&log).ends_with(&words), "{words} is not the end of: {log}");
        assert!(log.find(&words) < log.find("written and synced in"), "told before the disk is touched: {log}");
    }
}

#[test]
fn a_network_config_that_was_given_is_named() {
    let world = World::new();
    world.variant_file("user-data/net.yaml", "version: 2\nethernets: {}\n");
    let image = gpt_image(&world);
    let disk = Disk::stale(&world, "disk0", Kind::File, SIZE);
    let given = |script: Script| script.env("OSP_NETWORK_CONFIG", "net.yaml");
    given(seeded(&world, disk.path(), &image, "raw")).run().succeeds();
    let again = || given(seeded(&world, disk.path(), &image, "raw")).env("INSTANCE_REINSTALL", "1");
    assert_quiet(&again().run().succeeds());
    let log = again().without("OSP_NETWORK_CONFIG").run().succeeds();
    assert!(warning(&log).contains(&format!("{LOSES}network_config (")), "{log}");
}

#[test]
fn who_loses_nothing_is_told_nothing() {
    let world = World::new();
    let image = gpt_image(&world);
    let disk = Disk::stale(&world, "disk0", Kind::File, SIZE);
    // No seed before; then the same one twice.
    assert_quiet(&bare(&world, disk.path(), &image).run().succeeds());
    for _ in 0..2 {
        let log = seeded(&world, disk.path(), &image, "raw").env("INSTANCE_REINSTALL", "1").run().succeeds();
        assert_quiet(&log);
    }
    // A new instance on a disk with another tenant's seed, and one with a seed that is its own by accident.
    for uuid in [OTHER_UUID, UUID] {
        let log = bare(&world, disk.path(), &image)
            .env("INSTANCE_UUID", uuid)
            .env("INSTANCE_REINSTALL", "0")
            .run()
            .succeeds();
        assert_quiet(&log);
        seeded(&world, disk.path(), &image, "raw").run().succeeds();
    }
    // Another instance's seed, as after a copy of the disk by hand.
    assert_quiet(&bare(&world, disk.path(), &image).env("INSTANCE_UUID", OTHER_UUID).run().succeeds());
    assert_quiet(&bare(&world, disk.path(), &image).without("INSTANCE_UUID").run().succeeds());
}

#[test]
fn a_run_that_fails_before_leaves_the_seed_and_nothing_is_said_of_a_loss() {
    let world = World::new();
    let disk = Disk::stale(&world, "disk0", Kind::File, SIZE);
    seeded(&world, disk.path(), &gpt_image(&world), "raw").run().succeeds();
    let before = disk.bytes();
    let forgotten = bare(&world, disk.path(), Path::new("")).without("OSP_IMAGE").run();
    forgotten.fails(&[
        "no image is given: Ganeti forgets OS parameters that a reinstall's command line does not repeat (use gnt-instance \
         reinstall -O image=... web1.example.org, or set image in the variant's config.toml)",
    ]);
    bare(&world, disk.path(), &world.path("missing")).run().fails(&["No such file"]);
    assert!(disk.bytes() == before);
    let new = world.create(disk.path(), "", "raw").without("OSP_IMAGE").run();
    new.fails(&[
        "no image is given (use -O image=/path or -O image=https://..., or set image in the variant's config.toml)",
    ]);
}

#[test]
fn a_kept_seed_is_the_same_again() {
    let world = World::new();
    world.variant_file("config.toml", "seed_keep = true\n");
    for (image, kind) in [(gpt_image(&world), Kind::File), (mbr_image(&world), Kind::Block)] {
        let disk = Disk::stale(&world, "disk0", kind, SIZE);
        seeded(&world, disk.path(), &image, "raw").without("OSP_DNS_SERVERS").run().succeeds();
        let before = disk.bytes();
        for _ in 0..2 {
            let log = bare(&world, disk.path(), &image).run().succeeds();
            assert_quiet(&log);
            assert!(log.contains("SSH keys kept from the old seed: 1 (seed_keep)"), "{log}");
            assert!(log.contains("user-data kept from the old seed: 43 bytes (seed_keep)"), "{log}");
            assert!(disk.bytes() == before, "every byte");
        }
    }
}

#[test]
fn what_is_not_kept_is_still_named() {
    let world = World::new();
    world.variant_file("config.toml", "seed_keep = true\n");
    let (image, disk) = (gpt_image(&world), Disk::stale(&world, "disk0", Kind::File, SIZE));
    seeded(&world, disk.path(), &image, "raw").run().succeeds();
    let log = bare(&world, disk.path(), &image).run().succeeds();
    assert!(warning(&log).contains(&format!("{LOSES}dns_servers (")), "{log}");
    Volume::of(&world, disk.path(), START as u64, 4 * MIB).assert_says(&world, NAME, UUID, MAC);
}

/// Parameters are stronger than the old seed, which is stronger than the variant's user-data and comes beside its keys.
#[test]
fn parameters_come_before_the_old_seed_and_that_before_the_variant() {
    let world = World::new();
    let (image, disk) = (gpt_image(&world), Disk::stale(&world, "disk0", Kind::File, SIZE));
    let keys = |world: &World| {
        let volume = Volume::of(world, disk.path(), START as u64, 4 * MIB);
        let read = volume.as_cloud_init_reads_it();
        (read["keys"].clone(), read["user"].clone())
    };
    let old = || drop(seeded(&world, disk.path(), &image, "raw").run().succeeds());
    let user_data = format!("#cloud-config\npassword: {SECRET}\n");
    let config = format!("seed_keep = true\nssh_keys = '{OTHER_KEY}'\nuser_data = 'base64:IyEvYmluL3NoCg=='\n");
    world.variant_file("config.toml", &config);
    old();
    bare(&world, disk.path(), &image).run().succeeds();
    assert_eq!(keys(&world), (serde_json::json!([OTHER_KEY, KEY]), user_data.as_str().into()));
    old();
    let log = bare(&world, disk.path(), &image).env("OSP_SSH_KEYS", OTHER_KEY).run().succeeds();
    assert_eq!(keys(&world), (serde_json::json!([OTHER_KEY]), user_data.as_str().into()));
    assert!(warning(&log).contains("ssh_keys (1 of 1 key), dns_servers ("), "{log}");
    old();
    bare(&world, disk.path(), &image).env("OSP_USER_DATA", "none").run().succeeds();
    assert_eq!(keys(&world), (serde_json::json!([OTHER_KEY, KEY]), "".into()));
    old();
    let log = bare(&world, disk.path(), &image).env("OSP_CLOUD_INIT", "off").run().succeeds();
    assert!(warning(&log).contains("ssh_keys (1 of 1 key), user_data, dns_servers ("), "{log}");
    assert_no_seed(&world, disk.path());
}

#[test]
fn without_an_old_seed_there_is_nothing_to_keep() {
    let world = World::new();
    world.variant_file("config.toml", "seed_keep = true\n");
    let image = mbr_image(&world);
    let disk = Disk::stale(&world, "disk0", Kind::File, SIZE);
    // NICs without which there can be no seed: of no interest here, and told where they are.
    let odd = |script: Script| script.env("NIC_0_NAME", "no such name");
    odd(bare(&world, disk.path(), &image)).run().succeeds();
    odd(bare(&world, disk.path(), &image)).env("INSTANCE_REINSTALL", "0").run().succeeds();
    disk.assert_holds(&fs::read(&image).unwrap(), "no seed");
    seeded(&world, disk.path(), &image, "raw").run().succeeds();
    let before = disk.bytes();
    odd(bare(&world, disk.path(), &image)).run().fails(&["keeping the old seed (seed_keep): ", "NIC_0_NAME"]);
    assert!(disk.bytes() == before, "before the disk is touched");
}

#[test]
fn a_disk_of_its_own_keeps_its_seed_anyway() {
    let world = World::new();
    let image = gpt_image(&world);
    for kind in KINDS {
        let (root, own) = (Disk::stale(&world, "disk0", kind, SIZE), Disk::stale(&world, "disk1", kind, 8 * MIB));
        seeded(&world, root.path(), &image, "raw").seed_disk(own.path()).run().succeeds();
        let before = own.bytes();
        assert_quiet(&bare(&world, root.path(), &image).seed_disk(own.path()).run().succeeds());
        assert!(own.bytes() == before, "it is not touched");
        let less = bare(&world, root.path(), &image).seed_disk(own.path()).env("OSP_SSH_KEYS", KEY).run().succeeds();
        assert!(warning(&less).contains(&format!("{LOSES}user_data, dns_servers (")), "{less}");
    }
}

#[test]
fn a_kept_seed_moves_to_a_disk_of_its_own() {
    let world = World::new();
    world.variant_file("config.toml", "seed_keep = true\n");
    let image = gpt_image(&world);
    let (root, own) =
        (Disk::stale(&world, "disk0", Kind::File, SIZE), Disk::stale(&world, "disk1", Kind::File, 8 * MIB));
    seeded(&world, root.path(), &image, "raw").without("OSP_DNS_SERVERS").run().succeeds();
    for _ in 0..2 {
        assert_quiet(&bare(&world, root.path(), &image).seed_disk(own.path()).run().succeeds());
        Volume::of(&world, own.path(), 0, 4 * MIB).assert_says(&world, NAME, UUID, MAC);
    }
}

/// What cuts a reinstall leaves the seed where the next run finds it, though the partition table is gone.
#[test]
fn what_was_to_be_kept_survives_a_run_that_failed() {
    let world = World::new();
    world.variant_file("config.toml", "seed_keep = true\n");
    for (image, kind) in [(gpt_image(&world), Kind::File), (mbr_image(&world), Kind::Block)] {
        let disk = Disk::stale(&world, "disk0", kind, SIZE);
        seeded(&world, disk.path(), &image, "raw").without("OSP_DNS_SERVERS").run().succeeds();
        let before = disk.bytes();
        world.hook("hooks/10-no", "exit 1");
        for _ in 0..2 {
            bare(&world, disk.path(), &image).run().fails(&["a hook in ", "10-no"]);
            disk.assert_unbootable("a hook failed");
        }
        fs::remove_file(world.path("etc/ganeti/instance-simpleimage/default/hooks/10-no")).unwrap();
        assert_quiet(&bare(&world, disk.path(), &image).run().succeeds());
        assert!(disk.bytes() == before, "every byte");
    }
}

/// Removes the partition of the seed, as the guest's script does, and grows that of the root over its place, as growpart does.
fn guest_removes_its_seed(disk: &Path, [seed, root]: [&str; 2]) {
    let path = disk.to_str().unwrap();
    let options = ["--quiet", "--no-reread", "--no-tell-kernel"];
    tool("sfdisk", &[&options[..], &["--delete", path, seed]].concat());
    let grow = format!("echo ', +' | sfdisk {} -N {root} {path}", options.join(" "));
    tool("sh", &["-c", &grow]);
    write_at(disk, &vec![0xe1; 4 * MIB], START);
}

const TOOK: &str = "warning: the instance loses settings that it copied from its seed into its own file system (seed_persist); seed_keep can't read them there: ";

#[test]
fn a_seed_that_the_guest_removed_leaves_a_trace() {
    let world = World::new();
    world.variant_file("config.toml", "seed_keep = true\n");
    for (image, kind, numbers) in
        [(gpt_image(&world), Kind::File, ["2", "1"]), (mbr_image(&world), Kind::Block, ["3", "2"])]
    {
        let disk = Disk::stale(&world, "disk0", kind, SIZE);
        let create = || seeded(&world, disk.path(), &image, "raw").env("OSP_SEED_PERSIST", "yes");
        create().run().succeeds();
        let bytes = disk.bytes();
        let plain = fs::read(&image).unwrap();
        assert!(
            bytes[TRACE..].starts_with(b"simpleimage: this instance got a first-boot seed")
                && bytes[34 * 512..TRACE] == plain[34 * 512..TRACE]
        );
        for secret in [SECRET.as_bytes(), b"AAAAC3", b"joe"] {
            assert!(!bytes[..MIB].windows(secret.len()).any(|window| window == secret), "a secret in the trace");
        }
        let path = world.path("disk0");
        // As long as the seed is there, it counts.
        assert_quiet(&create().env("INSTANCE_REINSTALL", "1").run().succeeds());
        guest_removes_its_seed(&path, numbers);
        super::assert_verified(&path);
        let shown = world.tool(&["seed", "show", path.to_str().unwrap()]).run();
        assert!(
            shown.output().contains("holds no seed\ntrace:    of a seed with 1 SSH keys and user-data, serial "),
            "{}",
            shown.output()
        );
        // The same parameters again: nothing is lost.
        assert_quiet(&create().env("INSTANCE_REINSTALL", "1").run().succeeds());
        guest_removes_its_seed(&path, numbers);
        assert_quiet(
            &bare(&world, disk.path(), &image)
                .env("INSTANCE_UUID", OTHER_UUID)
                .env("INSTANCE_REINSTALL", "0")
                .run()
                .succeeds(),
        );
        create().run().succeeds();
        guest_removes_its_seed(&path, numbers);
        let log = bare(&world, disk.path(), &image).run().succeeds();
        let words = format!(
            "{TOOK}ssh_keys (1 of 1 key), user_data {FORGETS}-O image=...,user_data=... --os-parameters-private ssh_keys=... {NAME})"
        );
        assert!(warning(&log).ends_with(&words), "{log}");
        assert_no_seed(&world, &path);
        assert!(disk.bytes()[34 * 512..8 * MIB] == plain[34 * 512..8 * MIB], "no trace of it either");
        // There is nothing to lose any more.
        assert_quiet(&bare(&world, disk.path(), &image).run().succeeds());
    }
}

#[test]
fn a_trace_goes_with_the_dump_and_with_the_new_name() {
    let world = World::new();
    let image = gpt_image(&world);
    let source = Disk::stale(&world, "disk0", Kind::File, SIZE);
    seeded(&world, source.path(), &image, "raw").env("OSP_SEED_PERSIST", "yes").run().succeeds();
    guest_removes_its_seed(source.path(), ["2", "1"]);
    let rename = world.script("rename").env("DISK_0_PATH", source.path().to_str().unwrap());
    let before = source.bytes();
    instance(rename, "db1.example.org", UUID, MAC).run().succeeds();
    assert!(source.bytes() == before, "a trace has no name in it");
    let export = world.script("export").env("EXPORT_DEVICE", source.path().to_str().unwrap()).run();
    assert!(export.0.stdout == before);
    let clone = Disk::stale(&world, "disk1", Kind::Block, SIZE + 4 * MIB);
    let import = world.script("import").env("IMPORT_DEVICE", clone.path().to_str().unwrap());
    assert_quiet(&instance(import, "web2.example.org", OTHER_UUID, MAC).run_with(&before).succeeds());
    let log = bare(&world, clone.path(), &image).env("INSTANCE_UUID", OTHER_UUID).run().succeeds();
    assert!(warning(&log).contains(&format!("{TOOK}ssh_keys (1 of 1 key), user_data (")), "{log}");
    // An administrator takes it away.
    let disk = source.path().to_str().unwrap();
    let removed = world.tool(&["seed", "remove", disk]).run();
    assert_eq!(removed.output(), format!("removed the trace of a seed from disk {disk}\n"));
    assert!(source.bytes()[TRACE..MIB].iter().all(|byte| *byte == 0));
    assert_quiet(&bare(&world, source.path(), &image).run().succeeds());
}

#[test]
fn where_the_image_has_something_else_there_is_no_trace() {
    let world = World::new();
    let image = gpt_image(&world);
    write_at(&image, b"the image's own", TRACE + 100);
    let disk = Disk::stale(&world, "disk0", Kind::File, SIZE);
    let log = seeded(&world, disk.path(), &image, "raw")
        .env("OSP_SEED_PERSIST", "yes")
        .env("DEBUG_LEVEL", "1")
        .run()
        .succeeds();
    assert!(log.contains("the image leaves no place for a trace"), "{log}");
    assert!(disk.bytes()[TRACE..MIB] == fs::read(&image).unwrap()[TRACE..MIB]);
}

#[test]
fn seed_remove_removes_the_trace_too() {
    let world = World::new();
    let image = mbr_image(&world);
    let (plain, disk) =
        (Disk::stale(&world, "disk1", Kind::File, SIZE), Disk::stale(&world, "disk0", Kind::Block, SIZE));
    world.create(plain.path(), image.to_str().unwrap(), "raw").run().succeeds();
    seeded(&world, disk.path(), &image, "raw").env("OSP_SEED_PERSIST", "yes").run().succeeds();
    let removed = world.tool(&["seed", "remove", disk.path().to_str().unwrap()]).run();
    assert!(removed.output().starts_with("removed the seed from disk "));
    assert!(disk.bytes() == plain.bytes(), "every byte");
}

/// A guest writes what it likes into its seed. That never fails a run, whatever the variant says.
#[test]
fn what_a_guest_made_of_its_seed_fails_no_run() {
    let world = World::new();
    let image = mbr_image(&world);
    let plain = fs::read(&image).unwrap();
    let unreadable = "warning: can't read the instance's old seed (";
    for (keep, kind) in [(false, Kind::File), (true, Kind::Block)] {
        world.variant_file("config.toml", &format!("seed_keep = {keep}\n"));
        let make = || {
            let disk = Disk::stale(&world, "disk0", kind, SIZE);
            seeded(&world, disk.path(), &image, "raw").run().succeeds();
            disk
        };
        // Each with a disk of its own, which is gone before the next one comes.
        let check = |change: &dyn Fn(&Path), why: &str| {
            let disk = make();
            change(disk.path());
            let log = bare(&world, disk.path(), &image).run().succeeds();
            assert!(warning(&log).contains(&format!("{unreadable}disk ")) && log.contains(why), "{why}: {log}");
            disk.assert_holds(&plain, why);
        };
        let broken = |disk: &Path| {
            put(&world, disk, START, "user-data", &[b'x'; 5000]);
            // The table of clusters, all of it pointing nowhere.
            write_at(disk, &[0xee; 3000], START + 512);
        };
        check(&broken, "the seed volume is damaged");
        let odd = |disk: &Path| put(&world, disk, START, "meta-data", b"\x1b[31minstance-id: \xff\xfe\n");
        check(&odd, "its meta-data is not as simpleimage writes it");
        let large = |disk: &Path| put(&world, disk, START, "user-data", &vec![b'x'; 2 * MIB + 1]);
        check(&large, "its user-data has 2.00 MiB (2097153 bytes), more than simpleimage writes");
    }
}

/// The most that a guest can give: nobody's run fails, and the variant's own keys come first.
#[test]
fn more_keys_than_fit_are_not_kept() {
    let world = World::new();
    world.variant_file("config.toml", &format!("seed_keep = true\nssh_keys = '{KEY}'\n"));
    let (image, disk) = (gpt_image(&world), Disk::stale(&world, "disk0", Kind::File, SIZE));
    seeded(&world, disk.path(), &image, "raw").without("OSP_DNS_SERVERS").run().succeeds();
    let comment = "c".repeat(512 * 1024 - 200);
    let meta_data = format!(r#"{{"instance-id": "x", "public-keys": ["{OTHER_KEY}{comment}"]}}"#);
    put(&world, disk.path(), START, "meta-data", meta_data.as_bytes());
    let log = bare(&world, disk.path(), &image).run().succeeds();
    assert!(log.contains("warning: the 1 SSH keys of the old seed are too many to be kept"), "{log}");
    assert!(log.contains(&format!("{LOSES}ssh_keys (1 of 1 key) (")), "{log}");
    Volume::of(&world, disk.path(), START as u64, 4 * MIB).assert_says(&world, NAME, UUID, MAC);
}
