// SPDX-License-Identifier: BSD-2-Clause
//! What a hook makes out of the disk and leaves: removed where it is ours to remove, named where somebody uses it.
//!
//! Devices of the device mapper, md and nbd need a kernel that has them: `make test-node`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::support::disk::{Disk, KINDS, Kind, loops_over};
use crate::support::images::{MIB, disk, encode, file_system};
use crate::support::watched::Watched;
use crate::support::world::{Outcome, Script, World, tool, wait_until};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn import(world: &World, disk: &Disk) -> Script {
    world.script("import").env("IMPORT_DEVICE", text(disk.path()))
}

/// Only the device that Ganeti gave is there, and nobody holds it.
fn assert_only_given(world: &World, target: &Disk, kind: Kind, what: &str) {
    assert_eq!(loops_over(&world.path("disk0")).len(), usize::from(kind == Kind::Block), "{what}");
    let exclusive =
        std::os::unix::fs::OpenOptionsExt::custom_flags(File::options().read(true), libc::O_EXCL).to_owned();
    assert!(kind == Kind::File || exclusive.open(target.path()).is_ok(), "{what}: it is claimed");
}

/// Ways to make a device of the disk and forget it; what each says is a device that has to be gone.
const FORGOTTEN: [(&str, &str); 6] = [
    ("a loop device", "losetup --find --show \"$TARGET_DISK_DEVICE\""),
    ("one over another", "losetup --find --show \"$(losetup --find --show \"$TARGET_DISK_DEVICE\")\""),
    ("one over the disk by another name", "ln \"$DISK_0_PATH\" OTHER; losetup --find --show OTHER"),
    ("one over a part", "losetup --find --show --offset 1048576 \"$TARGET_DISK_DEVICE\""),
    ("swap", "mkswap \"$TARGET_DISK_DEVICE\" >/dev/null 2>&1; swapon \"$TARGET_DISK_DEVICE\"; echo swap"),
    (
        "swap on a loop device",
        "l=$(losetup --find --show \"$TARGET_DISK_DEVICE\"); mkswap $l >/dev/null 2>&1; swapon $l; echo $l",
    ),
];

#[test]
fn what_a_hook_forgets_is_removed() {
    let world = World::new();
    let image = encode(&world, &disk(4 * MIB), "raw");
    for (kind, (what, make)) in KINDS.into_iter().flat_map(|kind| FORGOTTEN.map(|way| (kind, way))) {
        if kind == Kind::Block && make.starts_with("ln ") {
            continue;
        }
        let target = Disk::stale(&world, "disk0", kind, 8 * MIB);
        let other = world.path("other");
        let _ = fs::remove_file(&other);
        world.hook("hooks/forgets", &format!("set -e\n{}", make.replace("OTHER", text(&other))));
        let log = world.create(target.path(), text(&image), "raw").run().succeeds();
        let made = log.lines().find_map(|line| line.split("hook: /dev/").nth(1)).map(str::to_owned);
        assert_only_given(&world, &target, kind, what);
        if let Some(made) = made {
            let backing = fs::read_to_string(format!("/sys/block/{made}/loop/backing_file")).unwrap_or_default();
            assert!(!backing.contains(text(target.path())) && !backing.contains(text(&other)), "{what}: {backing}");
        }
        let swaps = fs::read_to_string("/proc/swaps").unwrap();
        assert!(!swaps.contains(text(target.path())), "{what}: {swaps}");
    }
}

/// Whoever gets the loop device next would else have them.
#[test]
fn partitions_of_our_loop_device_go_with_it() {
    let world = World::new();
    let image = encode(&world, &disk(4 * MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, 8 * MIB);
    let lines = "addpart \"$TARGET_DISK_DEVICE\" 3 2048 4096; test -b \"${TARGET_DISK_DEVICE}p3\" && echo has p3
        echo \"device $(ls -d /sys/class/block/${TARGET_DISK_DEVICE#/dev/}p3)\"";
    world.hook("hooks/forgets", lines);
    let log = world.create(target.path(), text(&image), "raw").run().succeeds();
    assert!(log.contains("hook: has p3"), "{log}");
    let folder = log.split("hook: device ").nth(1).unwrap().lines().next().unwrap();
    assert!(!Path::new(folder).exists(), "{folder} is still there");
    assert_only_given(&world, &target, Kind::File, "partitions");
}

/// What was there before is not the hooks': the predecessor leaked such devices.
#[test]
fn a_device_that_was_there_before_stays() {
    let world = World::new();
    let image = encode(&world, &disk(4 * MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, 8 * MIB);
    let old = Disk::over(world.path("disk0"), Kind::Block);
    world.hook("hooks/any", "echo hi");
    world.create(target.path(), text(&image), "raw").run().succeeds();
    assert_eq!(loops_over(&world.path("disk0")), [text(old.path())]);
}

/// A run whose hook has made a loop device out of the disk, and waits until it may end.
struct Waiting {
    run: Watched,
    made: PathBuf,
    go: PathBuf,
}

impl Waiting {
    fn start(world: &World, folder: &str, script: Script) -> Self {
        let (said, go) = (world.path("said"), world.path("go"));
        let _ = (fs::remove_file(&said), fs::remove_file(&go));
        let lines = format!(
            "set -e; losetup --find --show \"${{TARGET_DISK_DEVICE:-$DISK_0_PATH}}\" >{said}.new; mv {said}.new {said}
            while ! test -e {go}; do sleep 0.01; done",
            said = said.display(),
            go = go.display()
        );
        world.hook(&format!("{folder}/makes"), &lines);
        let run = Watched::spawn(script);
        wait_until("the hook has made a device", || said.exists());
        let made = PathBuf::from(fs::read_to_string(&said).unwrap().trim());
        Waiting { run, made, go }
    }

    fn finish(self) -> Outcome {
        fs::write(&self.go, "").unwrap();
        self.run.finish()
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_device_that_somebody_uses_is_named_with_who_does() {
    let world = World::new();
    let image = file_system(&world);
    let mount = world.path("mnt");
    fs::create_dir(&mount).unwrap();
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, 8 * MIB);
        let waiting = Waiting::start(&world, "hooks", world.create(target.path(), &image, "raw"));
        let made = waiting.made.clone();
        // The node's own mount: those of hooks end with them.
        tool("mount", &["-o", "ro", text(&made), text(&mount)]);
        let outcome = waiting.finish();
        tool("umount", &[text(&mount)]);
        let name = made.file_name().unwrap().to_str().unwrap();
        let user = format!("the loop device {name} on it is mounted on {} (unmount that first)", mount.display());
        outcome.fails(&["is still in use after the hooks: ", &user]);
        let given = usize::from(kind == Kind::Block);
        wait_until("it is detached", || loops_over(&world.path("disk0")).len() == given);
        target.assert_unbootable("mounted");

        let waiting = Waiting::start(&world, "hooks", world.create(target.path(), &image, "raw"));
        let made = waiting.made.clone();
        let sleep = Command::new("sleep").arg("1000").stdin(File::open(&made).unwrap()).spawn();
        let holder = Running(sleep.unwrap());
        let outcome = waiting.finish();
        let user =
            format!("through {} process {} (sleep) has it open (stop that first)", made.display(), holder.0.id());
        outcome.fails(&["is still in use after the hooks: ", &user]);
        drop(holder);
        wait_until("it is detached", || loops_over(&world.path("disk0")).len() == given);
        target.assert_unbootable("open");
    }
}

#[test]
fn an_import_whose_hook_leaves_a_device_in_use_keeps_what_was_restored() {
    let world = World::new();
    let dump = disk(4 * MIB);
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, 4 * MIB);
        fs::write(world.path("dump"), &dump).unwrap();
        let script = import(&world, &target).stdin(File::open(world.path("dump")).unwrap());
        let waiting = Waiting::start(&world, "hooks.import", script);
        let holder = File::open(&waiting.made).unwrap();
        waiting.finish().fails(&["is still in use after the hooks: ", " has it open (stop that first)"]);
        drop(holder);
        let given = usize::from(kind == Kind::Block);
        wait_until("it is detached", || loops_over(&world.path("disk0")).len() == given);
        target.assert_holds(&dump, "import");
    }
}

#[test]
fn a_signal_removes_what_hooks_made_too() {
    let world = World::new();
    let image = encode(&world, &disk(4 * MIB), "raw");
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, 8 * MIB);
        let waiting = Waiting::start(&world, "hooks", world.create(target.path(), text(&image), "raw"));
        waiting.run.signal("TERM");
        waiting.run.finish().fails(&["ended by SIGTERM"]);
        let given = usize::from(kind == Kind::Block);
        wait_until("it is detached", || loops_over(&world.path("disk0")).len() == given);
        assert_only_given(&world, &target, kind, "SIGTERM");
        target.assert_unbootable("SIGTERM");
    }
}

/// These hooks are told nothing of the disk, but have Ganeti's variables.
#[test]
fn what_a_hook_before_the_image_makes_is_removed_or_named() {
    let world = World::new();
    let image = encode(&world, &disk(4 * MIB), "raw");
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, 8 * MIB);
        let given = usize::from(kind == Kind::Block);
        let reinstall = || world.create(target.path(), text(&image), "raw").env("INSTANCE_REINSTALL", "1");
        let waiting = Waiting::start(&world, "hooks.pre", reinstall());
        let holder = File::open(&waiting.made).unwrap();
        let made = waiting.made.clone();
        let outcome = waiting.finish();
        // A child that another test has just forked has a copy of the descriptor for a moment.
        outcome.fails(&["is still in use after the hooks: ", text(&made), " it open (stop that first)"]);
        drop(holder);
        wait_until("it is detached", || loops_over(&world.path("disk0")).len() == given);
        target.assert_untouched("in use");
        world.hook("hooks.pre/makes", "losetup --find \"$DISK_0_PATH\"");
        reinstall().run().succeeds();
        assert_only_given(&world, &target, kind, "before the image");
        fs::remove_file(world.variant_file("hooks.pre/makes", "")).unwrap();
    }
}

/// What it would have changed is on a file that no instance uses.
#[test]
fn a_hook_that_puts_another_file_in_the_disks_place_fails() {
    let world = World::new();
    let image = encode(&world, &disk(4 * MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, 8 * MIB);
    world
        .hook("hooks/replaces", "cp \"$DISK_0_PATH\" \"$DISK_0_PATH.new\" && mv \"$DISK_0_PATH.new\" \"$DISK_0_PATH\"");
    let outcome = world.create(target.path(), text(&image), "raw").run();
    outcome.fails(&["was replaced by another one while hooks ran"]);
}
