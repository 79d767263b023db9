// SPDX-License-Identifier: BSD-2-Clause
//! When hooks run, what each phase is given and told, and what its failure costs.

use std::fs;
use std::path::Path;

use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, disk, encode};
use crate::support::server::{Reply, Server};
use crate::support::world::{Script, World, tool};

/// Has a hook write its environment to a file.
fn spy(world: &World, phase: &str) {
    world.hook(&format!("{phase}/spy"), &format!("env >{}", world.path(&format!("seen.{phase}")).display()));
}

/// What the hook of `phase` was told by us: sorted lines.
fn seen(world: &World, phase: &str) -> Vec<String> {
    let text = fs::read_to_string(world.path(&format!("seen.{phase}"))).unwrap();
    let ours = |line: &&str| line.starts_with("SIMPLEIMAGE_") || line.starts_with("TARGET_DISK_DEVICE=");
    let mut lines: Vec<_> = text.lines().filter(ours).map(str::to_owned).collect();
    lines.sort();
    lines
}

fn import(world: &World, disk: &Disk) -> Script {
    let path = disk.path().to_str().unwrap();
    world.script("import").env("IMPORT_DEVICE", path).env("IMPORT_DISK_PATH", path).env("IMPORT_INDEX", "0")
}

#[test]
fn hooks_before_the_image_may_veto_it() {
    let world = World::new();
    let image = disk(MIB);
    let server = Server::sequence([Reply::ok(image.clone())]);
    let sums = format!("{}", server.url("/SHA256SUMS"));
    world.hook("hooks.pre/10-quota", "echo not today; exit 3");
    world.hook("hooks/late", "touch $0.ran");
    for reinstall in [false, true] {
        let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
        let create = || {
            let script = world.create(target.path(), server.url("/x.raw").as_url().as_str(), "raw");
            let script = script.env("OSP_IMAGE_CHECKSUM", &sums);
            if reinstall { script.env("INSTANCE_REINSTALL", "1") } else { script }
        };
        let log = create().run().fails(&["a hook in ", "hooks.pre failed", "10-quota exited with return code 3"]);
        assert!(log.contains("hook: not today"), "{log}");
        if reinstall {
            target.assert_untouched("veto of a reinstall");
        } else {
            target.assert_unbootable("veto of a new instance");
        }
    }
    assert_eq!(server.requests().len(), 0, "something was fetched");
    assert!(!world.path("etc/ganeti/instance-simpleimage/default/hooks/late.ran").exists());
    assert!(!world.cache().exists(), "the cache was opened");
}

#[test]
fn hooks_before_the_image_know_its_name_and_nothing_of_the_disk() {
    let world = World::new();
    let image = disk(MIB);
    let server = Server::sequence([Reply::ok(image.clone())]);
    let url = server.url("/x.raw").to_string();
    let secret = url.replace("http://", "http://me:secret@") + "?token=secret";
    world.variant_file("config.toml", &format!("image = \"{secret}\"\n"));
    fs::set_permissions(
        world.path("etc/ganeti/instance-simpleimage/default/config.toml"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    spy(&world, "hooks.pre");
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    world.create(target.path(), "", "").without("OSP_IMAGE").run().succeeds();
    target.assert_holds(&image, "after its hooks");
    let seen = seen(&world, "hooks.pre");
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[0].starts_with("SIMPLEIMAGE_IMAGE=http://127.0.0.1:") && !seen[0].contains("secret"), "{seen:?}");
    assert_eq!(seen[1], "SIMPLEIMAGE_PHASE=pre");
}

#[test]
fn a_local_image_may_appear_in_a_hook_before_it_is_opened() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let late = world.path("late.raw");
    world.hook("hooks.pre/copy", &format!("cp {} \"$SIMPLEIMAGE_IMAGE\"", image.display()));
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    world.create(target.path(), late.to_str().unwrap(), "raw").run().succeeds();
    target.assert_holds(&disk(MIB), "the image that a hook brought");
}

/// Done would be said of a disk that is not the instance's any more.
#[test]
fn a_disk_that_was_replaced_meanwhile_is_an_error() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    for change in ["rm \"$DISK_0_PATH\"", "mv \"$DISK_0_PATH\" \"$DISK_0_PATH.old\"; truncate -s 2M \"$DISK_0_PATH\""] {
        world.hook("hooks.pre/change", change);
        for reinstall in ["0", "1"] {
            let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
            let create =
                world.create(target.path(), image.to_str().unwrap(), "raw").env("INSTANCE_REINSTALL", reinstall);
            let reason = format!("disk {} was replaced by another one while it was written", target.path().display());
            create.run().fails(&[&reason]);
            let _ = fs::remove_file(target.path());
        }
    }
}

/// The image as its hooks can read it is what was installed, byte for byte.
#[test]
fn hooks_can_read_the_image_and_know_its_checksum() {
    let world = World::new();
    let packed = fs::read(encode(&world, &disk(MIB), "raw+gz")).unwrap();
    let local = world.path("local.raw.gz");
    fs::write(&local, &packed).unwrap();
    let hex = tool("sha256sum", &[local.to_str().unwrap()])[..64].to_owned();
    let server = Server::sequence([Reply::ok(packed.clone())]);
    let url = server.url("/x.raw.gz").to_string();
    let copy = world.path("copy");
    spy(&world, "hooks");
    world.hook("hooks/copy", &format!("cat \"$SIMPLEIMAGE_IMAGE_FILE\" >{}", copy.display()));
    let known = format!("SIMPLEIMAGE_IMAGE_SHA256={hex}");
    let path = local.to_str().unwrap();
    // Downloaded along with the install, kept, waited for by a reinstall; a file with and without a checksum.
    for (image, checksum, reinstall, told) in [
        (url.as_str(), "", "", true),
        (&url, "", "", true),
        (&url, "", "1", true),
        (path, &format!("sha256:{hex}"), "", true),
        (path, "", "", false),
    ] {
        let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
        let script = world.create(target.path(), image, "raw+gz").env("OSP_IMAGE_CHECKSUM", checksum);
        if reinstall.is_empty() { script } else { script.env("INSTANCE_REINSTALL", "1") }.run().succeeds();
        assert!(fs::read(&copy).unwrap() == packed, "{image}: another image");
        let seen = seen(&world, "hooks");
        assert_eq!(seen.contains(&known), told, "{image}: {seen:?}");
        assert!(seen.contains(&format!("SIMPLEIMAGE_IMAGE={image}")), "{seen:?}");
        assert!(seen.contains(&"SIMPLEIMAGE_PHASE=create".to_owned()), "{seen:?}");
    }
}

/// Whatever becomes of the cache or of a file on the node meanwhile, and in a program that closes all that it inherits.
#[test]
fn the_image_can_be_read_as_long_as_hooks_run() {
    let world = World::new();
    let image = disk(MIB);
    let server = Server::sequence([Reply::ok(image.clone())]);
    let copy = world.path("copy");
    world.hook("hooks/1-removes", &format!("rm -r '{}'", world.cache().display()));
    let read = "import os, shutil; os.closerange(3, 4096); shutil.copy(os.environ['SIMPLEIMAGE_IMAGE_FILE'], os.environ['COPY'])";
    world.hook("hooks/2-reads", &format!("COPY='{}' python3 -c \"{read}\"", copy.display()));
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    world.create(target.path(), server.url("/x.raw").as_url().as_str(), "raw").run().succeeds();
    assert!(fs::read(&copy).unwrap() == image, "another image");
    let local = encode(&world, &image, "raw");
    for change in [
        "echo other >\"$SIMPLEIMAGE_IMAGE.new\"; mv \"$SIMPLEIMAGE_IMAGE.new\" \"$SIMPLEIMAGE_IMAGE\"",
        "rm \"$SIMPLEIMAGE_IMAGE\"",
    ] {
        fs::write(&local, &image).unwrap();
        world.hook("hooks/1-removes", change);
        world.create(target.path(), local.to_str().unwrap(), "raw").run().succeeds();
        assert!(fs::read(&copy).unwrap() == image, "{change}: another image");
    }
}

/// Partition tables that people have, each with what lays it out.
const TABLES: [(&str, &str); 3] = [
    ("gpt", "label: gpt\n2048,4096,U\n8192,10240,L\n20480,2048,S\n"),
    // Logical partitions count from 5; the second primary entry stays free.
    (
        "dos",
        "label: dos\np1: start=2048,size=4096,type=83\np3: start=8192,size=16384,type=f\n\
         p5: start=10240,size=2048,type=83\np6: start=14336,size=4096,type=82\n",
    ),
    ("dos", "label: dos\np4: start=2048,size=4096,type=c\n"),
];

#[test]
fn hooks_know_the_partitions_as_partx_does() {
    for (kind, (label, layout)) in TABLES.iter().enumerate().map(|(n, table)| (KINDS[n % 2], table)) {
        let world = World::new();
        let image = world.path("image.raw");
        fs::File::create(&image).unwrap().set_len(16 * MIB as u64).unwrap();
        tool("sh", &["-c", &format!("printf '{layout}' | sfdisk -q {}", image.display())]);
        spy(&world, "hooks");
        spy(&world, "hooks.rename");
        let target = Disk::stale(&world, "disk0", kind, 20 * MIB);
        world.create(target.path(), image.to_str().unwrap(), "raw").run().succeeds();
        let expected = partx(target.path(), label);
        let mut told = seen(&world, "hooks");
        told.retain(|line| line.starts_with("SIMPLEIMAGE_PARTITION_"));
        assert_eq!(told, expected);
        world.script("rename").env("DISK_0_PATH", target.path().to_str().unwrap()).run().succeeds();
        let mut told = seen(&world, "hooks.rename");
        assert!(told.contains(&"SIMPLEIMAGE_PHASE=rename".to_owned()), "{told:?}");
        told.retain(|line| line.starts_with("SIMPLEIMAGE_PARTITION_"));
        assert_eq!(told, expected);
    }
}

/// What partx says of the partitions, in our words: sorted lines.
fn partx(disk: &Path, label: &str) -> Vec<String> {
    let columns = ["--bytes", "--raw", "--noheadings", "--output", "NR,START,SIZE,TYPE", disk.to_str().unwrap()];
    let listing = tool("partx", &columns);
    let mut lines = vec![format!("SIMPLEIMAGE_PARTITION_COUNT={}", listing.lines().count())];
    lines.push(format!("SIMPLEIMAGE_PARTITION_TABLE={label}"));
    for (index, line) in (1..).zip(listing.lines()) {
        let words: Vec<_> = line.split(' ').collect();
        let offset = words[1].parse::<u64>().unwrap() * 512;
        for (name, value) in [("NUMBER", words[0]), ("SIZE", words[2]), ("TYPE", words[3])] {
            lines.push(format!("SIMPLEIMAGE_PARTITION_{index}_{name}={value}"));
        }
        lines.push(format!("SIMPLEIMAGE_PARTITION_{index}_OFFSET={offset}"));
    }
    lines.sort();
    lines
}

#[test]
fn a_disk_without_a_partition_table_has_none() {
    let world = World::new();
    spy(&world, "hooks");
    let file_system = world.path("fs.raw");
    fs::File::create(&file_system).unwrap().set_len(8 * MIB as u64).unwrap();
    tool("mkfs.ext4", &["-qF", file_system.to_str().unwrap()]);
    let target = Disk::stale(&world, "disk0", Kind::File, 8 * MIB);
    world.create(target.path(), file_system.to_str().unwrap(), "raw").run().succeeds();
    let seen = seen(&world, "hooks");
    assert!(seen.contains(&"SIMPLEIMAGE_PARTITION_COUNT=0".to_owned()), "{seen:?}");
    assert_eq!(seen.iter().filter(|line| line.contains("_PARTITION_")).count(), 1, "{seen:?}");
}

/// A damaged table is told as none, and what one hook changes the next one is not told of.
#[test]
fn hooks_are_told_of_the_partitions_that_the_first_one_found() {
    let world = World::new();
    let image = world.path("image.raw");
    fs::File::create(&image).unwrap().set_len(8 * MIB as u64).unwrap();
    tool("sh", &["-c", &format!("printf 'label: gpt\\n2048,4096,L\\n' | sfdisk -q {}", image.display())]);
    // The checksum of the GPT's header.
    world.hook(
        "hooks/1-damages",
        "dd if=/dev/zero of=\"$TARGET_DISK_DEVICE\" bs=1 count=4 seek=528 conv=notrunc 2>/dev/null",
    );
    spy(&world, "hooks");
    spy(&world, "hooks.rename");
    let target = Disk::stale(&world, "disk0", Kind::File, 8 * MIB);
    world.create(target.path(), image.to_str().unwrap(), "raw").run().succeeds();
    let created = seen(&world, "hooks");
    for line in ["SIMPLEIMAGE_PARTITION_TABLE=gpt", "SIMPLEIMAGE_PARTITION_COUNT=1"] {
        assert!(created.contains(&line.to_owned()), "{created:?}");
    }
    let log = world.script("rename").env("DISK_0_PATH", target.path().to_str().unwrap()).run().succeeds();
    assert!(log.contains("its hooks are told of no partitions"), "{log}");
    let renamed = seen(&world, "hooks.rename");
    assert!(renamed.contains(&"SIMPLEIMAGE_PARTITION_COUNT=0".to_owned()), "{renamed:?}");
    assert_eq!(renamed.iter().filter(|line| line.contains("_PARTITION_")).count(), 1, "{renamed:?}");
}

/// Its offset is what a hook would mount at, or write to.
#[test]
fn a_partition_that_is_not_on_the_disk_is_named_to_nobody() {
    let world = World::new();
    spy(&world, "hooks.import");
    let dump = world.path("dump.raw");
    fs::File::create(&dump).unwrap().set_len(64 * MIB as u64).unwrap();
    let layout = "label: dos\\n2048,4096,83\\n8192,100000,83\\n";
    tool("sh", &["-c", &format!("printf '{layout}' | sfdisk -q {}", dump.display())]);
    let target = Disk::stale(&world, "disk1", Kind::File, 8 * MIB);
    // create takes no image whose table says that there is more of it; a dump is what somebody had.
    let log = import(&world, &target).run_with(&fs::read(&dump).unwrap()[..8 * MIB]).succeeds();
    assert!(log.contains("partition 2 does not lie on the disk: its hooks are not told of it"), "{log}");
    let seen = seen(&world, "hooks.import");
    assert!(seen.contains(&"SIMPLEIMAGE_PARTITION_COUNT=1".to_owned()), "{seen:?}");
    assert!(seen.contains(&format!("SIMPLEIMAGE_PARTITION_1_OFFSET={MIB}")), "{seen:?}");
}

#[test]
fn import_runs_the_import_hooks_on_the_disk_that_was_restored() {
    for kind in KINDS {
        let world = World::new();
        let dump = disk(2 * MIB);
        spy(&world, "hooks.import");
        world.hook("hooks.import/write", "printf changed | dd of=\"$TARGET_DISK_DEVICE\" conv=notrunc 2>/dev/null");
        world.hook("hooks/other", "exit 1");
        // A config that nobody can read stops no restore, and no hook.
        world.variant_file("config.toml", "no such = [");
        let target = Disk::stale(&world, "disk1", kind, 3 * MIB);
        import(&world, &target).env("DISK_0_PATH", "/nonexistent").run_with(&dump).succeeds();
        let expected = [b"changed", &dump[7..]].concat();
        target.assert_holds(&expected, "the dump and what the hook wrote");
        let seen = seen(&world, "hooks.import");
        assert!(seen.contains(&"SIMPLEIMAGE_PHASE=import".to_owned()), "{seen:?}");
        assert!(seen.iter().any(|line| line.starts_with("TARGET_DISK_DEVICE=/dev/loop")), "{seen:?}");
        assert!(!seen.iter().any(|line| line.starts_with("SIMPLEIMAGE_IMAGE")), "{seen:?}");
    }
}

#[test]
fn a_failed_import_hook_is_told_and_leaves_the_restored_system() {
    let world = World::new();
    let dump = disk(2 * MIB);
    world.hook("hooks.import/fail", "exit 9");
    let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
    import(&world, &target).run_with(&dump).fails(&["hooks.import failed", "exited with return code 9"]);
    target.assert_holds(&dump, "a failed import hook");
    // Not looked at before the dump is on the disk.
    import(&world, &target).run_with(&[]).fails(&["the dump is empty"]);
}

#[test]
fn no_variant_stops_an_import() {
    let world = World::new();
    let dump = disk(MIB);
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    import(&world, &target).env("OS_VARIANT", "").run_with(&dump).succeeds();
    import(&world, &target).env("OS_VARIANT", "gone").run_with(&dump).succeeds();
    let log = import(&world, &target).env("OS_VARIANT", "../evil").run_with(&dump).succeeds();
    assert!(log.contains("warning: no import hooks were looked for: '../evil' is not a variant name"), "{log}");
    target.assert_holds(&dump, "import");
}
