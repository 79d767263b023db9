// SPDX-License-Identifier: BSD-2-Clause
//! Processes: what signals children start with, and that nothing of a hook's outlives its run.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::disk::{Disk, KINDS, Kind, loops_over};
use crate::support::gpg::Key;
use crate::support::images::{MIB, disk, encode, file_system};
use crate::support::processes::{descendants, living_with, unique_seconds};
use crate::support::watched::Watched;
use crate::support::world::{Script, World, wait_until};

/// Every way that people know to get a process away from its parent, its group, its session, and its descriptors. The last
/// writes to the disk as long as it lives.
const ESCAPES: &str = "
sleep SECONDS &
setsid sleep SECONDS &
(setsid sh -c 'sleep SECONDS & sleep SECONDS' &)
timeout 1000 sleep SECONDS &
nohup setsid sleep SECONDS >/dev/null 2>&1 </dev/null &
start-stop-daemon --start --background --pidfile /nonexistent --exec /bin/sleep -- SECONDS
(trap '' HUP INT TERM; exec setsid sleep SECONDS) &
python3 -c '
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 4096)
        disk = os.open(os.environ[\"TARGET_DISK_DEVICE\"], os.O_RDWR)
        while True: os.pwrite(disk, b\"x\" * 512, 1024)
' SECONDS &
";

/// A hook that starts all of them, makes `ready` when they run, and does `then`.
fn escaping(world: &World, seconds: &str, then: &str) -> std::path::PathBuf {
    let ready = world.path("ready");
    let _ = fs::remove_file(&ready);
    let lines = ESCAPES.replace("SECONDS", seconds);
    // Each has the number as an argument, and timeout's does twice, as does the one that starts two.
    let wait = format!(
        "tries=2000
        count() {{ cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -cx {seconds}; }}
        until [ \"$(count)\" -ge 10 ]; do tries=$((tries - 1)); [ $tries -gt 0 ] || exit 99; sleep 0.01; done
        touch {}\n{then}",
        ready.display()
    );
    world.hook("hooks/escapes", &format!("{lines}\n{wait}"));
    ready
}

#[test]
fn nothing_that_a_hook_starts_lives_on_after_exit_0() {
    let world = World::new();
    let image = file_system(&world);
    for kind in KINDS {
        let seconds = unique_seconds();
        escaping(&world, &seconds, "");
        let target = Disk::stale(&world, "disk0", kind, 8 * MIB);
        world.create(target.path(), &image, "raw").run().succeeds();
        // At once: nobody waits for them.
        assert_eq!(living_with(&seconds), [""; 0], "{kind:?}");
        assert_eq!(loops_over(&world.path("disk0")).len(), usize::from(kind == Kind::Block));
    }
}

#[test]
fn nothing_that_a_hook_starts_lives_on_after_a_failed_hook() {
    let world = World::new();
    let image = file_system(&world);
    let seconds = unique_seconds();
    escaping(&world, &seconds, "exit 3");
    let target = Disk::stale(&world, "disk0", Kind::File, 8 * MIB);
    world.create(target.path(), &image, "raw").run().fails(&["escapes exited with return code 3"]);
    assert_eq!(living_with(&seconds), [""; 0]);
    target.assert_unbootable("a failed hook");
}

#[test]
fn nothing_that_a_hook_starts_lives_on_after_a_signal() {
    let world = World::new();
    let image = file_system(&world);
    for (kind, signal) in KINDS.into_iter().flat_map(|kind| ["TERM", "INT", "HUP", "KILL"].map(|name| (kind, name))) {
        let seconds = unique_seconds();
        let ready = escaping(&world, &seconds, &format!("exec sleep {seconds}"));
        let target = Disk::stale(&world, "disk0", kind, 8 * MIB);
        let run = Watched::spawn(world.create(target.path(), &image, "raw"));
        wait_until("all of them run", || ready.exists());
        run.signal(signal);
        let outcome = run.finish();
        if signal == "KILL" {
            wait_until("they have ended", || living_with(&seconds).is_empty());
            let given = usize::from(kind == Kind::Block);
            wait_until("the loop device is detached", || loops_over(&world.path("disk0")).len() == given);
        } else {
            outcome.fails(&[&format!("ended by SIG{signal}")]);
            assert_eq!(living_with(&seconds), [""; 0], "{kind:?} {signal}");
        }
        // One of them wrote to it until it was ended.
        target.assert_unbootable(signal);
    }
}

/// `timeout`, `kill` and traps of a hook do what they do elsewhere, however create itself was started.
#[test]
fn signals_work_in_hooks() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    let seconds = unique_seconds();
    let lines = format!(
        "timeout 0.1 sleep {seconds}; echo \"timeout $?\"
        sleep {seconds} & kill $!; wait $!; echo \"kill $?\"
        yes | head -n 1 >/dev/null; trap 'echo trapped' USR1; kill -USR1 $$; echo end"
    );
    world.hook("hooks/signals", &lines);
    let log = hostile(world.create(target.path(), image.to_str().unwrap(), "raw")).run().succeeds();
    for said in ["hook: timeout 124", "hook: kill 143", "hook: trapped", "hook: end"] {
        assert!(log.contains(said), "{said}: {log}");
    }
}

/// A hook sees the processes of its namespace, and a /proc that tells of them.
#[test]
fn a_hook_has_a_proc_of_its_own() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::Block, MIB);
    let lines = "test \"$(readlink /proc/self/ns/pid)\" = \"$(readlink /proc/$$/ns/pid)\" || exit 1
        test -r /proc/$PPID/stat -a \"$(cut -d ' ' -f 4 /proc/$$/stat)\" = $PPID || exit 2
        echo \"processes $(ls /proc | grep -c '^[0-9]*$')\"; grep -qs ' /proc proc ' /proc/mounts || exit 3";
    world.hook("hooks/looks", lines);
    let log = world.create(target.path(), image.to_str().unwrap(), "raw").run().succeeds();
    let count = log.split("hook: processes ").nth(1).unwrap().lines().next().unwrap().parse::<u32>().unwrap();
    // The first one, run-parts, the hook, a subshell, ls and grep.
    assert!((3..=8).contains(&count), "{log}");
    let outer = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(outer.lines().filter(|line| line.contains(" /proc rw")).count(), 1, "{outer}");
}

/// Started by somebody who ignores and blocks what can be.
fn hostile(script: Script) -> Script {
    script.under("env", &["--ignore-signal=HUP,INT,TERM,PIPE,XFSZ,USR1,CHLD", "--block-signal=HUP,TERM,USR2,CHLD"])
}

/// What a process has blocked and ignored, by the numbers of signals.
fn blocked_and_ignored(process: u32) -> Option<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    Some((mask("SigBlk:"), mask("SigIgn:")))
}

/// Waits until a child of the run called `name` runs, and gives what it has blocked and ignored.
fn signals_of(run: &Watched, name: &str) -> (u64, u64) {
    // The script that stands for a program has its name; a copy of ours is told by its parent.
    let found = || {
        let all = descendants(run.child.id());
        all.into_iter().find(|id| {
            fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| {
                let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
                let is_ours = !matches!(&*words[0], "unshare" | "mount" | "env");
                is_ours && words.iter().any(|word| word == name || word.ends_with(&format!("/{name}")))
            })
        })
    };
    wait_until(&format!("{name} runs"), || found().is_some());
    blocked_and_ignored(found().unwrap()).unwrap()
}

const DEFAULT: (u64, u64) = (0, 0);

/// A program in the place of another, which runs `sleep` until it is ended: that inherits its signals, and blocks none for a
/// moment, as the shell does when it starts something.
fn endless(world: &World, name: &str, seconds: &str) -> std::path::PathBuf {
    let path = world.path("programs").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("#!/bin/sh\nsleep {seconds}\nsleep {seconds}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn every_kind_of_child_has_default_signals() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
    let (seconds, ready) = (unique_seconds(), world.path("ready"));
    world.hook("hooks/waits", &format!("touch {}; sleep {seconds}; exit 0", ready.display()));
    let run = Watched::spawn(hostile(world.create(target.path(), image.to_str().unwrap(), "raw")));
    wait_until("the hook runs", || ready.exists());
    // run-parts blocks SIGCHLD for itself, and gives hooks what it got.
    assert_eq!(signals_of(&run, "run-parts"), (1 << 16, 0));
    // What the hook starts, and the shell that watches over it.
    for name in [seconds.as_str(), "read -r end; exec dd if=/dev/zero bs=\"$1\" count=1 conv=fsync"] {
        assert_eq!(signals_of(&run, name), DEFAULT, "{name}");
    }
    run.signal("TERM");
    run.finish().fails(&["ended by SIGTERM"]);

    let qcow2 = encode(&world, &disk(MIB), "qcow2");
    world.qemu_img_decodes();
    let folder = endless(&world, "qemu-img", &seconds);
    let path = format!("{}:/sbin:/bin:/usr/sbin:/usr/bin", folder.parent().unwrap().display());
    let script = world.create(target.path(), qcow2.to_str().unwrap(), "qcow2").env("PATH", &path);
    let run = Watched::spawn(hostile(script));
    assert_eq!(signals_of(&run, &seconds), DEFAULT);
    // The worker is a copy of this program, to which a failed write is an error: SIGPIPE and SIGXFSZ.
    let worker = descendants(run.child.id())[0];
    let (blocked, ignored) = blocked_and_ignored(worker).unwrap();
    // Those of whoever started this test that the C library keeps to itself (32 and 33) stay in a copy.
    assert_eq!((blocked, ignored & !(3 << 31)), (0, 1 << 12 | 1 << 24));
    run.signal("TERM");
    run.finish().fails(&["ended by SIGTERM"]);
}

#[test]
fn gpgv_has_default_signals() {
    let (world, key) = (World::new(), Key::new());
    let image = encode(&world, &disk(MIB), "raw");
    let signature = world.path("image.sig");
    fs::write(&signature, key.sign(&fs::read(&image).unwrap(), &[])).unwrap();
    fs::write(world.variant_file("keyring.gpg", ""), key.public()).unwrap();
    let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
    let script = world.create(target.path(), image.to_str().unwrap(), "raw");
    let script = script.env("OSP_IMAGE_SIGNATURE", signature.to_str().unwrap()).env("INSTANCE_REINSTALL", "1");
    // Its PATH is fixed.
    let seconds = unique_seconds();
    let program = endless(&world, "gpgv", &seconds);
    let line = format!("mount --bind {} /usr/bin/gpgv && exec \"$0\" \"$@\"", program.display());
    let run = Watched::spawn(hostile(script).under("unshare", &["--mount", "sh", "-c", &line]));
    assert_eq!(signals_of(&run, &seconds), DEFAULT);
    run.signal("TERM");
    run.finish().fails(&["ended by SIGTERM"]);
    target.assert_untouched("gpgv was ended");
}
