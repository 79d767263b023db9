// SPDX-License-Identifier: BSD-2-Clause
//! What breaks around a run: full and failing disks, limits, missing and dying programs. One line, an exit code, nothing left.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::support::bytes;
use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, disk, encode};
use crate::support::server::{Reply, Server};
use crate::support::tmpfs::Tmpfs;
use crate::support::watched::Watched;
use crate::support::world::{Script, World, tool, wait_until};

/// An image of `len` bytes without any zero run.
fn dense(len: usize) -> Vec<u8> {
    let mut image = bytes(1, len);
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image
}

fn import(world: &World, target: &Disk) -> Script {
    world.script("import").env("IMPORT_DEVICE", target.path().to_str().unwrap())
}

fn first_mib_is_zero(target: &Disk) -> bool {
    target.bytes()[..MIB].iter().all(|byte| *byte == 0)
}

#[test]
fn a_disk_on_a_full_file_system() {
    let world = World::new();
    let image = dense(9 * MIB);
    let (raw, qcow2) = (encode(&world, &image, "raw"), encode(&world, &image, "qcow2"));
    let small = world.path("small");
    let small = Tmpfs::mount(&small, "6m");
    for kind in KINDS {
        let backing = small.0.join("disk");
        let fresh = || {
            let _ = fs::remove_file(&backing);
            // The kernel's Landlock holds on to a file for a moment after its last process is gone.
            wait_until("the space is free", || {
                let used = nix::sys::statvfs::statvfs(small.0).unwrap();
                used.blocks_free() == used.blocks()
            });
            tool("truncate", &["-s", "16M", backing.to_str().unwrap()]);
            Disk::over(backing.clone(), kind)
        };
        let reason = if kind == Kind::File { "No space left on device" } else { "rror" };
        let target = fresh();
        let outcome = world.create(target.path(), raw.to_str().unwrap(), "raw").run();
        outcome.fails(&["writing to disk", reason]);
        assert!(first_mib_is_zero(&target), "{kind:?} raw");
        drop(target);
        let target = fresh();
        let outcome = world.create(target.path(), qcow2.to_str().unwrap(), "qcow2").run();
        outcome.fails(&["installing image /", reason]);
        assert!(first_mib_is_zero(&target), "{kind:?} qcow2");
        drop(target);
        let target = fresh();
        import(&world, &target).run_with(&image).fails(&["importing to disk /", "writing to disk", reason]);
        assert!(first_mib_is_zero(&target), "{kind:?} import");
    }
}

#[test]
fn the_limit_of_file_sizes_is_told() {
    let world = World::new();
    let image = dense(9 * MIB);
    let target = Disk::stale(&world, "disk0", Kind::File, 10 * MIB);
    let limited = |script: Script| script.under("prlimit", &["--fsize=4194304", "--core=0", "--"]);
    let create = |image: &str, image_type: &str| limited(world.create(target.path(), image, image_type)).run();
    let path = |image_type: &str| encode(&world, &image, image_type).to_str().unwrap().to_owned();
    for image_type in ["raw", "raw+zst", "qcow2"] {
        create(&path(image_type), image_type).fails(&["installing image /", "writing to disk /", "File too large"]);
        target.assert_unbootable(image_type);
    }
    world.qemu_img_decodes();
    create(&path("qcow2"), "qcow2").fails(&["installing image /", "qemu-img"]);
    target.assert_unbootable("qcow2");
    limited(import(&world, &target)).run_with(&image).fails(&["writing to disk /", "File too large"]);
    target.assert_unbootable("import");
    let server = Server::sequence([Reply::ok(image)]);
    create(server.url("/x").as_url().as_str(), "raw").fails(&["File too large"]);
    target.assert_unbootable("download");
    let url = server.url("/fetched").as_url().to_string();
    limited(world.tool(&["fetch", &url])).run().fails(&["writing /", ".part", "File too large"]);
}

#[test]
fn an_image_on_a_failing_disk() {
    let world = World::new();
    let backing = world.path("failing");
    tool("truncate", &["-s", "80M", backing.to_str().unwrap()]);
    tool("mkfs.ext4", &["-qF", "-b", "4096", "-O", "^has_journal", backing.to_str().unwrap()]);
    let mount = world.path("mnt");
    fs::create_dir(&mount).unwrap();
    let device = Disk::over(backing.clone(), Kind::Block);
    let (from, to) = (device.path().to_str().unwrap(), mount.to_str().unwrap());
    tool("mount", &[from, to]);
    for image_type in ["raw", "raw+gz", "raw+bz2", "raw+xz", "raw+zst", "qcow2"] {
        fs::copy(encode(&world, &dense(8 * MIB), image_type), mount.join(image_type)).unwrap();
    }
    device.unmount();
    let mut images = ["raw", "raw+gz", "raw+bz2", "raw+xz", "raw+zst", "qcow2"].map(|name| {
        let request = format!("bmap {name} 1000");
        let block = tool("debugfs", &["-R", &request, backing.to_str().unwrap()]);
        (block.trim().parse::<u64>().unwrap(), name)
    });
    // From the end on: the device keeps its size, and all that lies behind its file's end can't be read any more.
    images.sort_by(|one, other| other.cmp(one));
    for (block, image_type) in images {
        File::options().write(true).open(&backing).unwrap().set_len(block * 4096).unwrap();
        tool("mount", &["-o", "ro", from, to]);
        let target = Disk::stale(&world, "disk0", Kind::File, 10 * MIB);
        let outcome = world.create(target.path(), mount.join(image_type).to_str().unwrap(), image_type).run();
        device.unmount();
        outcome.fails(&["image /", "nput/output error"]);
        assert!(!outcome.log().contains("corrupt"), "{image_type}: {}", outcome.log());
        target.assert_unbootable(image_type);
    }
}

#[test]
fn a_disk_that_changes_its_size_meanwhile_cannot_boot() {
    let world = World::new();
    let dump = disk(9 * MIB);
    let target = Disk::stale(&world, "disk0", Kind::File, 10 * MIB);
    let mut run = Watched::spawn(import(&world, &target).stdin(std::process::Stdio::piped()));
    let mut input = run.child.stdin.take().unwrap();
    input.write_all(&dump[..6 * MIB]).unwrap();
    wait_until("data is on the disk", || target.bytes()[3 * MIB..4 * MIB] == dump[3 * MIB..4 * MIB]);
    OpenOptions::new().append(true).open(target.path()).unwrap().write_all(b"x").unwrap();
    input.write_all(&dump[6 * MIB..]).unwrap();
    drop(input);
    run.finish().fails(&["importing to disk /", "its size changed from 10485760 to 10485761 bytes"]);
    target.assert_unbootable("another size");
}

#[test]
fn hooks_that_cannot_run() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let hooks = world.path("etc/ganeti/instance-simpleimage/default/hooks");
    let second = hooks.join("20-second");
    let name = second.display();
    let cases = [
        ("vanishes", format!("rm {name}"), "echo never", "failed to stat component /"),
        ("is no program any more", format!("echo text > {name}"), "echo never", "20-second: Exec format error"),
        (
            "may not be run any more",
            format!("chmod 644 {name}"),
            "echo never",
            "20-second did not run: it was removed or changed meanwhile",
        ),
        (
            "becomes a folder",
            format!("rm {name}; mkdir {name}"),
            "echo never",
            "20-second did not run: it was removed or changed meanwhile",
        ),
        ("dies", "true".to_owned(), "kill -KILL $$", "20-second exited because of uncaught signal 9"),
    ];
    let assert_fails = |what: &str, kind: Kind, reason: &str| {
        let target = Disk::stale(&world, "disk0", kind, 2 * MIB);
        let outcome = world.create(target.path(), image.to_str().unwrap(), "raw").run();
        outcome.fails(&["a hook in /", "failed: "]);
        assert!(outcome.log().contains(reason), "{what}: {}", outcome.log());
        target.assert_unbootable(what);
    };
    for (kind, (what, first, script, reason)) in
        KINDS.into_iter().flat_map(|kind| cases.iter().map(move |case| (kind, case)))
    {
        let _ = fs::remove_dir_all(&hooks);
        world.hook("hooks/10-first", first);
        world.hook("hooks/20-second", script);
        assert_fails(what, kind, reason);
    }
    fs::remove_dir_all(&hooks).unwrap();
    let path = world.variant_file("hooks/10-no-interpreter", "#!/nonexistent/sh\n");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    assert_fails("no interpreter", Kind::File, "10-no-interpreter: No such file or directory");
}

#[test]
fn a_qemu_img_that_is_missing_fails_or_dies() {
    let world = World::new();
    world.qemu_img_decodes();
    let image = encode(&world, &disk(3 * MIB), "qcow2");
    let folder = world.path("programs");
    fs::create_dir(&folder).unwrap();
    let cases = [
        ("exit 3", "qemu-img failed (exit status: 3)"),
        ("echo qemu-img: out of order >&2; exit 1", "qemu-img: out of order"),
        // Its sandbox lets it send no signal, not even to itself.
        ("ulimit -t 1; while :; do :; done", "qemu-img failed (signal: 9 (SIGKILL))"),
        ("exec /usr/bin/python3 -c 'import ctypes; ctypes.string_at(0)'", "qemu-img failed (signal: 11 (SIGSEGV)"),
    ];
    for kind in KINDS {
        let create = |path: &str, reason: &str| {
            let target = Disk::stale(&world, "disk0", kind, 4 * MIB);
            let script = world.create(target.path(), image.to_str().unwrap(), "qcow2").env("PATH", path);
            script.run().fails(&["installing image /", reason]);
            target.assert_unbootable(reason);
        };
        create("/nonexistent", "qemu-img is not installed (install the package qemu-utils)");
        for (script, reason) in cases {
            let program = folder.join("qemu-img");
            fs::write(&program, format!("#!/bin/sh\nulimit -c 0\n{script}\n")).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            create(&format!("{}:/usr/bin:/bin", folder.display()), reason);
        }
    }
}

#[test]
fn a_cache_that_is_full_or_read_only() {
    let world = World::new();
    let server = Server::sequence([Reply::ok(dense(9 * MIB))]);
    let url = server.url("/x").as_url().to_string();
    let packed = encode(&world, &dense(9 * MIB), "qcow2+gz").to_str().unwrap().to_owned();
    let cache = world.cache();
    let small = Tmpfs::mount(&cache, "2m");
    let create = |image: &str, reinstall: bool, reasons: &[&str]| {
        let target = Disk::stale(&world, "disk0", Kind::File, 10 * MIB);
        let script =
            world.create(target.path(), image, "auto").env("INSTANCE_REINSTALL", if reinstall { "1" } else { "0" });
        script.run().fails(reasons);
        match reinstall {
            true => target.assert_untouched("the old system"),
            false => target.assert_unbootable("a new instance"),
        }
    };
    for reinstall in [false, true] {
        create(&url, reinstall, &["the download needs 9 MiB in the cache folder /", ", which has "]);
    }
    // A packed qcow2 is unpacked there.
    create(&packed, false, &["unpacking the image into /", "No space left on device"]);
    small.make_read_only();
    for reinstall in [false, true] {
        create(&url, reinstall, &["opening /", ".lock: Read-only file system"]);
    }
}

#[test]
fn standard_streams_that_fail() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::File, 3 * MIB);
    // A folder can be opened, but not read.
    let folder: PathBuf = world.path("folder");
    fs::create_dir(&folder).unwrap();
    let outcome = import(&world, &target).stdin(File::open(&folder).unwrap()).run();
    outcome.fails(&["importing to disk /", "reading the dump", "Is a directory"]);
    target.assert_unbootable("no dump");

    let source = Disk::stale(&world, "disk1", Kind::File, 3 * MIB);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let script = world.script("export").env("EXPORT_DEVICE", source.path().to_str().unwrap()).env("EXP_SIZE_FD", "9");
    let script = script.under("/bin/sh", &["-c", r#"exec "$0" "$@" 9<&0 </dev/null"#]).stdin(writer);
    script.run().fails(&["writing the size of the dump to EXP_SIZE_FD", "Broken pipe"]);
    source.assert_untouched("export");
}

/// As when a new version is copied over it, which cuts it first.
#[test]
fn an_image_that_is_cut_while_it_is_read_is_no_image() {
    let world = World::new();
    let content = dense(64 * MIB);
    let image = encode(&world, &content, "raw");
    // It may be too fast once or twice.
    let in_time = (0..20).any(|_| {
        let target = Disk::stale(&world, "disk0", Kind::File, 64 * MIB);
        let run = Watched::spawn(world.create(target.path(), image.to_str().unwrap(), "raw"));
        wait_until("it is being copied", || begins_with(&target, 3 * MIB, &content));
        run.signal("STOP");
        let in_time = !begins_with(&target, 60 * MIB, &content);
        if in_time {
            OpenOptions::new().write(true).open(&image).unwrap().set_len(2 * MIB as u64).unwrap();
        }
        run.signal("CONT");
        let outcome = run.finish();
        if in_time {
            outcome.fails(&["image /", " changed while it was read: its size was 64 MiB and is 2 MiB"]);
            target.assert_unbootable("half an image");
        }
        in_time
    });
    assert!(in_time, "never stopped in the middle");
}

/// Whether a block of the disk holds the image's bytes.
fn begins_with(target: &Disk, at: usize, image: &[u8]) -> bool {
    let mut data = [0; 4096];
    let file = File::open(target.path()).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut data, at as u64).unwrap();
    data == image[at..at + 4096]
}
