// SPDX-License-Identifier: BSD-2-Clause
//! Hooks of create and rename.

use std::fs;
use std::process::Command;

use crate::support::disk::{Disk, KINDS, Kind, loops_over};
use crate::support::images::{MIB, disk, encode, file_system};
use crate::support::processes::{living_with, unique_seconds};
use crate::support::world::{Outcome, World, tool, wait_until};

#[test]
fn a_hook_gets_a_block_device_that_it_can_mount() {
    for kind in KINDS {
        let world = World::new();
        let image = file_system(&world);
        let target = Disk::stale(&world, "disk0", kind, 12 * MIB);
        let mount = world.path("mnt");
        let script = format!(
            "set -e; test -b \"$TARGET_DISK_DEVICE\"; mkdir {mnt}; mount \"$TARGET_DISK_DEVICE\" {mnt}
            echo \"$INSTANCE_NAME\" > {mnt}/hostname; umount {mnt}; rmdir {mnt}",
            mnt = mount.display()
        );
        world.hook("hooks/50-hostname", &script);
        world.create(target.path(), &image, "raw").run().succeeds();
        let name = tool("debugfs", &["-R", "cat hostname", world.path("disk0").to_str().unwrap()]);
        assert_eq!(name, "web1.example.org\n");
        assert!(!mount.exists());
        let expected = if kind == Kind::Block { 1 } else { 0 };
        assert_eq!(loops_over(&world.path("disk0")).len(), expected, "{kind:?}");
    }
}

#[test]
fn a_hook_sees_all_that_ganeti_gave() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::Block, MIB);
    world.hook("hooks/env", &format!("env > {}", world.path("seen").display()));
    let script = world.create(target.path(), image.to_str().unwrap(), "raw");
    let script = script.env("OSP_SSH_KEY", "a secret").env("NIC_0_MAC", "aa:00:00:35:ac:5d").env("X", "");
    let given: Vec<_> = script.command.get_envs().map(|(name, _)| name.to_str().unwrap().to_owned()).collect();
    script.run().succeeds();
    let seen = fs::read_to_string(world.path("seen")).unwrap();
    for line in [
        "OSP_SSH_KEY=a secret",
        "NIC_0_MAC=aa:00:00:35:ac:5d",
        "X=",
        "OS_VARIANT=default",
        "INSTANCE_NAME=web1.example.org",
        &format!("OSP_IMAGE={}", image.display()),
        &format!("DISK_0_PATH={}", target.path().display()),
        &format!("TARGET_DISK_DEVICE={}", target.path().display()),
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line} is not in: {seen}");
    }
    // Nothing else, what a shell adds aside.
    for name in seen.lines().map(|line| line.split('=').next().unwrap()) {
        let is_ours = name.starts_with("SIMPLEIMAGE_") || name == "TARGET_DISK_DEVICE";
        let is_the_shells = ["PWD", "OLDPWD", "SHLVL", "_"].contains(&name);
        assert!(is_ours || is_the_shells || given.iter().any(|known| known == name), "{name} is in: {seen}");
    }
}

#[test]
fn no_folder_and_an_empty_folder_are_fine() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    world.create(target.path(), image.to_str().unwrap(), "raw").run().succeeds();
    fs::create_dir_all(world.path("etc/ganeti/instance-simpleimage/default/hooks")).unwrap();
    world.create(target.path(), image.to_str().unwrap(), "raw").run().succeeds();
}

#[test]
fn rename_without_hooks_needs_neither_variant_nor_disk() {
    let world = World::new();
    world.script("rename").env("OS_VARIANT", "").run().succeeds();
    world.script("rename").env("DISK_0_URI", "rbd:pool/x").run().succeeds();
    world.hook("hooks.rename/any", "true");
    world.script("rename").env("DISK_0_URI", "rbd:pool/x").run().fails(&["DISK_0_PATH is empty"]);
}

#[test]
fn a_killed_create_leaves_neither_hook_nor_loop_device() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    let started = world.path("pid");
    let hook = unique_seconds();
    let script = format!("touch {}; exec sleep {hook}", started.display());
    world.hook("hooks/slow", &script);
    for signal in ["-KILL", "-TERM", "-INT"] {
        let child = world.create(target.path(), image.to_str().unwrap(), "raw").spawn();
        wait_until("the hook runs", || started.exists());
        assert_eq!(loops_over(&world.path("disk0")).len(), 1);
        fs::remove_file(&started).unwrap();
        tool("kill", &[signal, &child.id().to_string()]);
        if signal == "-KILL" {
            wait_until("the hook is gone", || living_with(&hook).is_empty());
            wait_until("the loop device is detached", || loops_over(&world.path("disk0")).is_empty());
            child.wait_with_output().unwrap();
        } else {
            let outcome = Outcome(child.wait_with_output().unwrap());
            outcome.fails(&[&format!("ended by SIG{}", &signal[1..])]);
            wait_until("the hook is gone", || living_with(&hook).is_empty());
            wait_until("the loop device is detached", || loops_over(&world.path("disk0")).is_empty());
            // Half-configured, it must not boot.
            target.assert_unbootable(signal);
        }
    }
}

#[test]
fn many_creates_at_once_share_the_loop_devices() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    world.hook("hooks/look", "test -b \"$TARGET_DISK_DEVICE\" && losetup \"$TARGET_DISK_DEVICE\"");
    let disks: Vec<_> = (0..12).map(|n| Disk::stale(&world, &format!("disk{n}"), Kind::File, MIB)).collect();
    let children: Vec<_> =
        disks.iter().map(|disk| world.create(disk.path(), image.to_str().unwrap(), "raw").spawn()).collect();
    for (child, disk) in children.into_iter().zip(&disks) {
        let log = Outcome(child.wait_with_output().unwrap()).succeeds();
        assert!(log.contains(&format!("({})", disk.path().display())), "another disk behind the device: {log}");
    }
}

#[test]
fn rename_runs_the_rename_hooks_only() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    let script = || {
        let script = world.script("rename").env("DISK_0_PATH", target.path().to_str().unwrap());
        script.env("OLD_INSTANCE_NAME", "old.example.org")
    };
    world.hook("hooks/create-only", "exit 1");
    script().run().succeeds();
    world
        .hook("hooks.rename/10-tell", "echo \"$OLD_INSTANCE_NAME is $INSTANCE_NAME on ${TARGET_DISK_DEVICE-nothing}\"");
    let log = script().run().succeeds();
    assert!(log.contains("hook: old.example.org is web1.example.org on /dev/loop"), "{log}");
    target.assert_untouched("rename");
    world.hook("hooks.rename/20-fail", "echo no way; exit 7");
    script().run().fails(&["20-fail exited with return code 7"]);
    // A failed rename hook is no reason to make a running system unbootable.
    target.assert_untouched("failed rename");
    let log = script().without("DISK_0_PATH").env("DISK_COUNT", "0").run().fails(&["20-fail exited"]);
    assert!(log.contains("hook: old.example.org is web1.example.org on nothing"), "{log}");
}

#[test]
fn hooks_run_in_the_order_of_the_c_locale() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    // Sorted by their bytes; people's languages put _ and - nowhere, and a before B.
    let names = ["-x", "10", "9", "B", "_x", "a", "a-b", "a_a", "ab"];
    for name in names.iter().rev() {
        world.hook(&format!("hooks/{name}"), &format!("echo \"is {name}\""));
    }
    let script = world.create(target.path(), image.to_str().unwrap(), "raw").env("LC_ALL", "en_US.UTF-8");
    let log = script.run().succeeds();
    let ran: Vec<_> = log.lines().filter_map(|line| line.split("hook: is ").nth(1)).collect();
    assert_eq!(ran, names);
}

#[test]
fn a_hook_reads_nothing_and_all_that_it_says_is_logged() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    world.hook("hooks/says", "echo \"read $(wc -c)\"; printf 'one\\ntwo' >&2; echo \" $OSP_PASSWORD\"; exit 3");
    let script = world.create(target.path(), image.to_str().unwrap(), "raw").env("OSP_PASSWORD", "s3cret");
    let log = script.stdin(fs::File::open(&image).unwrap()).run().fails(&["says exited with return code 3"]);
    let said: Vec<_> = log.lines().filter_map(|line| line.split("hook: ").nth(1)).collect();
    assert_eq!(said[1..4], ["read 0", "one", "two s3cret"], "{log}");
}

#[test]
fn output_of_hooks_is_made_ascii() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    world.hook("hooks/noisy", "printf 'caf\\303\\251 \\377\\033[1m\\rover\\n'");
    let log = world.create(target.path(), image.to_str().unwrap(), "raw").run().succeeds();
    assert!(log.contains("hook: caf\\u{e9} \\u{fffd}\\u{1b}[1m; over"), "{log}");
}

#[test]
fn run_parts_missing_is_told() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    world.hook("hooks/any", "true");
    let outcome = world.create(target.path(), image.to_str().unwrap(), "raw").env("PATH", "/nonexistent").run();
    outcome.fails(&["running the hooks in /", "No such file"]);
    target.assert_unbootable("no run-parts");
    assert!(Command::new("run-parts").arg("--version").output().is_ok());
}
