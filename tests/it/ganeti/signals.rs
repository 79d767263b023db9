// SPDX-License-Identifier: BSD-2-Clause
//! SIGTERM in the middle of every phase: ended soon, with one line, nothing left behind and the device free.

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::support::disk::{Disk, KINDS, Kind, loops_over};
use crate::support::images::{MIB, disk, encode, file_system};
use crate::support::processes::living_in_session;
use crate::support::server::{Reply, Server};
use crate::support::watched::Watched;
use crate::support::world::{World, tool, wait_until};

/// Nobody waits this long for a run that was told to end, however busy the machine is. Half a second is usual.
const END_LIMIT: Duration = Duration::from_secs(10);

/// PATH with the programs of `folder` first.
fn path_with(folder: &Path) -> String {
    format!("{}:/sbin:/bin:/usr/sbin:/usr/bin", folder.display())
}

/// A program in a folder of the test's own.
fn program(world: &World, name: &str, script: &str) -> String {
    let path = world.path("programs").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path_with(path.parent().unwrap())
}

/// Whether a script runs that has started something.
fn has_child(script: &Path) -> bool {
    let folders = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let read = |path: std::path::PathBuf| fs::read(path).unwrap_or_default();
    let name = script.as_os_str().as_encoded_bytes();
    let mut runs = folders.filter(|folder| {
        let line = read(folder.join("cmdline"));
        line.split(|byte| *byte == 0).any(|word| word == name)
    });
    runs.any(|folder| {
        let id = folder.file_name().unwrap().to_owned();
        !read(folder.join("task").join(id).join("children")).is_empty()
    })
}

/// Ends the run; it does so soon, and the disk is free for whoever comes next.
fn end(run: Watched, target: &Disk, what: &str) {
    let told = Instant::now();
    run.signal("TERM");
    let outcome = run.finish();
    assert!(told.elapsed() < END_LIMIT, "{what}: took {:?}", told.elapsed());
    outcome.fails(&["ended by SIGTERM"]);
    assert_eq!(outcome.0.status.code(), Some(143), "{what}");
    assert_free(target, what);
}

fn assert_free(target: &Disk, what: &str) {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(target.path());
    assert!(opened.is_ok() || !target.path().starts_with("/dev"), "{what}: {opened:?}");
}

#[test]
fn waiting_for_servers_and_locks() {
    let world = World::new();
    let image = disk(9 * MIB);
    let server = Server::start(move |request, _| match request.target.as_str() {
        // Never an answer, not even its first line.
        "/silent" | "/SHA256SUMS" => Reply::ok([]).slow_head(Duration::from_secs(3600)),
        _ => Reply::ok(image.clone()).stall_after(6 * MIB),
    });
    let target = Disk::stale(&world, "disk0", Kind::Block, 10 * MIB);
    let url = |path: &str| server.url(path).as_url().to_string();
    let asked = |path: &str| {
        wait_until("the server was asked", || server.requests().iter().any(|request| request.target == path));
    };

    let run = Watched::spawn(world.create(target.path(), &url("/silent"), "raw"));
    asked("/silent");
    end(run, &target, "waiting for an answer");
    let script = world.create(target.path(), &url("/stalled"), "raw");
    let run = Watched::spawn(script.env("OSP_IMAGE_CHECKSUM", &url("/SHA256SUMS")));
    asked("/SHA256SUMS");
    end(run, &target, "waiting for a SUMS file");

    let first = Watched::spawn(world.create(target.path(), &url("/stalled"), "raw"));
    first.wait_for("image type raw");
    let other = Disk::stale(&world, "disk1", Kind::Block, 10 * MIB);
    let second = Watched::spawn(world.create(other.path(), &url("/stalled"), "raw"));
    second.wait_for("waiting for another download");
    end(second, &other, "waiting for another download");
    end(first, &target, "reading along with a download");
    target.assert_unbootable("in the middle of a download");
}

#[test]
fn while_a_child_runs_that_would_rather_not_end() {
    let world = World::new();
    world.qemu_img_decodes();
    let image = encode(&world, &disk(3 * MIB), "qcow2");
    let path = program(&world, "qemu-img", "trap '' TERM; sleep 1000; sleep 1000");
    let program = world.path("programs/qemu-img");
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, 4 * MIB);
        let script = world.create(target.path(), image.to_str().unwrap(), "qcow2").env("PATH", &path);
        let run = Watched::spawn(script);
        // Its sandbox lets it write nothing that would tell: it sleeps once it has a child.
        wait_until("qemu-img runs", || has_child(&program));
        end(run, &target, "qemu-img");
        target.assert_unbootable("qemu-img was ended");
    }
}

/// The superblock of such an image lies in the first MiB, and unmounting writes it.
#[test]
fn a_hook_may_clean_up_and_what_it_mounted_is_unmounted() {
    let world = World::new();
    let image = file_system(&world);
    let (mount, marks) = (world.path("mnt"), world.path("marks"));
    fs::create_dir(&mount).unwrap();
    let [mounted, cleaned] = ["mounted", "cleaned"].map(|name| marks.join(name));
    // The first takes its time to clean up, the second never would.
    for (trap, cleans) in [("sleep 0.2; touch CLEANED; exit 1", true), ("", false)] {
        let trap = trap.replace("CLEANED", cleaned.to_str().unwrap());
        let lines = format!(
            "trap '{trap}' TERM; mount \"$TARGET_DISK_DEVICE\" {mnt}; echo data > {mnt}/file; touch {mounted}
            while :; do sleep 0.05; done",
            mnt = mount.display(),
            mounted = mounted.display()
        );
        world.hook("hooks/mounts", &lines);
        for (kind, signal) in KINDS.into_iter().flat_map(|kind| [(kind, "TERM"), (kind, "KILL")]) {
            let what = format!("{kind:?} {signal} {cleans}");
            let _ = fs::remove_dir_all(&marks);
            fs::create_dir(&marks).unwrap();
            let target = Disk::stale(&world, "disk0", kind, 8 * MIB);
            let run = Watched::spawn(world.create(target.path(), &image, "raw"));
            wait_until("the hook has mounted", || mounted.exists());
            if signal == "TERM" {
                end(run, &target, &what);
                assert_eq!(cleaned.exists(), cleans, "{what}");
            } else {
                run.signal(signal);
                run.finish();
                assert_free(&target, &what);
            }
            let given = usize::from(kind == Kind::Block);
            wait_until("the loop device is detached", || loops_over(&world.path("disk0")).len() == given);
            target.assert_unbootable(&what);
        }
    }
}

#[test]
fn in_the_middle_of_import_and_export() {
    let world = World::new();
    let dump = disk(9 * MIB);
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, 10 * MIB);
        let device = target.path().to_str().unwrap();
        let script = world.script("import").env("IMPORT_DEVICE", device).stdin(std::process::Stdio::piped());
        let mut run = Watched::spawn(script);
        run.child.stdin.as_mut().unwrap().write_all(&dump[..6 * MIB]).unwrap();
        wait_until("data is on the disk", || target.bytes()[3 * MIB..4 * MIB] == dump[3 * MIB..4 * MIB]);
        let input = run.child.stdin.take();
        end(run, &target, "import");
        drop(input);
        target.assert_unbootable("import");
        drop(target);

        let target = Disk::stale(&world, "disk0", kind, 40 * MIB);
        let run = Watched::spawn(world.script("export").env("EXPORT_DEVICE", target.path().to_str().unwrap()));
        // Nobody reads it: it waits with a full pipe.
        run.wait_for("exporting disk");
        end(run, &target, "export");
        target.assert_untouched("export");
    }
}

/// Ganeti stops and continues nothing, but administrators do, and the kernel then gives EINTR to some waiting calls.
#[test]
fn being_stopped_and_continued_and_other_harmless_signals_change_nothing() {
    let world = World::new();
    world.variant_file("config.toml", "[http]\nretries = 0\n");
    world.hook("hooks/slow", "sleep 0.3; echo done");
    let image = disk(9 * MIB);
    for image_type in ["raw", "raw+gz", "qcow2"] {
        let body = fs::read(encode(&world, &image, image_type)).unwrap();
        let piece = body.len() / 50 + 1;
        let server = Server::sequence([Reply::ok(body).pieces(piece, Duration::from_millis(10))]);
        let target = Disk::stale(&world, "disk0", Kind::File, 10 * MIB);
        let url = server.url("/x").as_url().to_string();
        let mut run = Watched::spawn(world.create(target.path(), &url, image_type));
        let pid = run.child.id().to_string();
        let mut rounds = 0;
        while run.child.try_wait().unwrap().is_none() {
            for signal in ["WINCH", "CHLD", "URG", "STOP", "CONT"] {
                // Not reaped before the next look, so the number is still its own.
                tool("kill", &["-s", signal, &pid]);
            }
            rounds += 1;
        }
        let session = run.child.id();
        assert!(rounds > 2, "{rounds}");
        run.finish().succeeds();
        assert!(living_in_session(session).is_empty());
        target.assert_holds(&image, image_type);
    }
}

#[test]
fn a_hook_that_leaves_its_mount_behind_leaves_none() {
    for kind in KINDS {
        let world = World::new();
        let image = file_system(&world);
        let target = Disk::stale(&world, "disk0", kind, 8 * MIB);
        let mount = world.path("mnt");
        fs::create_dir(&mount).unwrap();
        let mount_it = format!("mount \"$TARGET_DISK_DEVICE\" {}", mount.display());
        world.hook("hooks/10-mounts", &mount_it);
        // Hooks see each other's mounts, as they always did.
        world.hook("hooks/20-uses", &format!("mountpoint -q {mnt}; echo data > {mnt}/file", mnt = mount.display()));
        world.create(target.path(), &image, "raw").run().succeeds();
        assert_eq!(fs::read_dir(&mount).unwrap().count(), 0, "it is mounted on the node");
        let text = tool("debugfs", &["-R", "cat file", world.path("disk0").to_str().unwrap()]);
        assert_eq!(text, "data\n");
        assert_eq!(loops_over(&world.path("disk0")).len(), usize::from(kind == Kind::Block));
        assert_free(&target, "after the hooks");
    }
}

/// Nobody reads standard error, which is a full pipe: a message waits for ever, in the middle of a run.
#[test]
fn while_nobody_reads_the_messages() {
    let world = World::new();
    let image = encode(&world, &disk(3 * MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, 4 * MIB);
    let (_reader, writer) = std::io::pipe().unwrap();
    let flags = OFlag::from_bits_truncate(fcntl(&writer, FcntlArg::F_GETFL).unwrap());
    fcntl(&writer, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
    while nix::unistd::write(&writer, &[b'x'; 4096]).is_ok() {}
    let own = format!("exec \"$@\" 2>/proc/{}/fd/{}", std::process::id(), writer.as_raw_fd());
    let script = world.create(target.path(), image.to_str().unwrap(), "raw").under("sh", &["-c", &own, "sh"]);
    let child = RefCell::new(script.spawn());
    let pid = child.borrow().id();
    let waits = || std::fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|place| place.contains("pipe"));
    wait_until("it waits for whoever reads its messages", waits);
    tool("kill", &["-TERM", &pid.to_string()]);
    wait_until("the signal ends it", || child.borrow_mut().try_wait().unwrap().is_some());
    assert_eq!(child.borrow_mut().wait().unwrap().code(), Some(143));
}
