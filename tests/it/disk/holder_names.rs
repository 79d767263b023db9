// SPDX-License-Identifier: BSD-2-Clause
//! A disk that is used under another name, or without any: what counts is the inode, or the device's number.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::disk::holders::{Running, SIZE, Undo, kernel_name, mount, ready, refused, shell, text};
use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, disk, encode};
use crate::support::world::{Outcome, World, tool, wait_until};

/// A loop device over the file that `other` is another name of is mounted.
fn refused_through(world: &World, disk: &Path, other: &Path, forget: impl Fn()) {
    let device = Disk::over(other.to_owned(), Kind::Block);
    let place = world.path("mnt");
    let _ = fs::remove_dir(&place);
    let mounted = mount(device.path(), &place);
    forget();
    let reason = format!("the loop device {} on it is mounted on ", kernel_name(device.path()));
    refused(world, disk, disk, &[&reason]);
    drop(mounted);
    device.wait_until_unmounted();
}

#[test]
fn a_loop_device_over_another_name_of_the_file() {
    let world = World::new();
    let file = Disk::stale(&world, "disk0", Kind::File, SIZE);
    let (path, other) = (file.path(), world.path("other"));
    fs::hard_link(path, &other).unwrap();
    refused_through(&world, path, &other, || ());
    // The name by which it was attached is gone, as the kernel says in other words.
    refused_through(&world, path, &other, || fs::remove_file(&other).unwrap());
    // A folder, and the file itself, at another place.
    let folder = world.path("folder");
    fs::create_dir(&folder).unwrap();
    tool("mount", &["--bind", text(path.parent().unwrap()), text(&folder)]);
    let bound = Undo("umount", vec![text(&folder).to_owned()]);
    refused_through(&world, path, &folder.join("disk0"), || ());
    drop(bound);
    fs::write(&other, "").unwrap();
    tool("mount", &["--bind", text(path), text(&other)]);
    let _bound = Undo("umount", vec![text(&other).to_owned()]);
    refused_through(&world, path, &other, || ());
}

#[test]
fn a_file_that_was_renamed_since() {
    let world = World::new();
    let file = Disk::stale(&world, "disk0", Kind::File, SIZE);
    let moved = world.path("moved");
    refused_through(&world, &moved, file.path(), || fs::rename(file.path(), &moved).unwrap());
}

/// Another file has the name by now: the loop device serves the old one.
#[test]
fn a_file_that_was_replaced_is_not_in_use() {
    let world = World::new();
    let old = Disk::stale(&world, "disk0", Kind::File, SIZE);
    let device = Disk::over(world.path("disk0"), Kind::Block);
    let place = world.path("mnt");
    let _mounted = mount(device.path(), &place);
    fs::remove_file(old.path()).unwrap();
    let image = encode(&world, &disk(2 * MIB), "raw");
    fs::write(old.path(), vec![1; 4 * MIB]).unwrap();
    world.create(old.path(), text(&image), "raw").run().succeeds();
    let bytes = fs::read(old.path()).unwrap();
    assert!(bytes[..2 * MIB] == disk(2 * MIB)[..] && bytes[2 * MIB..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_swap_file_by_any_name() {
    let world = World::new();
    let file = Disk::stale(&world, "disk0", Kind::File, SIZE);
    let other = world.path("other");
    fs::hard_link(file.path(), &other).unwrap();
    fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    tool("mkswap", &[text(&other)]);
    tool("swapon", &[text(&other)]);
    let _swap = Undo("swapoff", vec![text(&other).to_owned()]);
    for name in [file.path(), &other] {
        // Reading it is refused by nobody, so that its bytes can be compared.
        refused(&world, name, file.path(), &["it is a swap file (run swapoff first)"]);
    }
}

#[test]
fn a_program_that_writes_without_any_lock() {
    let world = World::new();
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, SIZE);
        let writing = shell(&format!("exec 3<>{}", text(target.path())));
        let reason = format!("process {} (cat) has it open (stop that first)", writing.0.id());
        refused(&world, target.path(), &world.path("disk0"), &[&reason]);
        drop(writing);
        // Who reads is no harm.
        let _reading = shell(&format!("exec 3<{}", text(target.path())));
        let image = encode(&world, &disk(2 * MIB), "raw");
        world.create(target.path(), text(&image), "raw").run().succeeds();
    }
}

#[test]
fn a_qemu_that_takes_no_locks() {
    let world = World::new();
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, SIZE);
        let socket = world.path("socket");
        let driver = if kind == Kind::Block { "host_device" } else { "file" };
        let options = format!("driver=raw,file.driver={driver},file.locking=off,file.filename={}", text(target.path()));
        let mut command = Command::new("qemu-nbd");
        command.args(["--persistent", "-k", text(&socket), "--image-opts", &options]);
        let running = Running(command.spawn().unwrap());
        wait_until("qemu-nbd serves", || socket.exists());
        let reason = format!("process {} (qemu-nbd) has it open (stop that first)", running.0.id());
        refused(&world, target.path(), &world.path("disk0"), &[&reason]);
        drop(running);
        fs::remove_file(socket).unwrap();
    }
}

/// Another node of the device, as containers have one, with locks of its own.
fn other_node(world: &World, device: &Path) -> PathBuf {
    let (node, number) = (world.path("node"), fs::metadata(device).unwrap().rdev());
    let _ = fs::remove_file(&node);
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    tool("mknod", &[text(&node), "b", &major.to_string(), &minor.to_string()]);
    node
}

#[test]
fn another_node_of_the_device() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::Block, SIZE);
    let node = other_node(&world, target.path());
    let writing = shell(&format!("exec 3<>{}", text(&node)));
    let reason = format!("process {} (cat) has it open (stop that first)", writing.0.id());
    refused(&world, target.path(), &world.path("disk0"), &[&reason]);
}

/// Its own name, and its mount, are gone; what was opened stays.
#[test]
fn a_file_that_is_open_through_a_mount_that_is_gone() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::File, SIZE);
    let folder = world.path("folder");
    fs::create_dir(&folder).unwrap();
    let script = format!(
        "mount --bind {} {folder}; exec 3<>{folder}/disk0; umount --lazy {folder}",
        text(target.path().parent().unwrap()),
        folder = text(&folder)
    );
    let writing = shell(&script);
    let reason = format!("process {} (cat) has it open (stop that first)", writing.0.id());
    refused(&world, target.path(), &world.path("disk0"), &[&reason]);
}

/// No descriptor is left, but the kernel knows of it.
#[test]
fn a_file_that_is_in_somebodys_memory() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::File, SIZE);
    let mut command = Command::new("python3");
    let script = "import mmap,os,sys\nf=os.open(sys.argv[1],os.O_RDWR)\nm=mmap.mmap(f,4096)\nos.close(f)\n\
                  import ctypes\nprint('ready',flush=True)\nsys.stdin.read()";
    // Python's own mmap keeps a copy of the descriptor; the C library's does not.
    let script = script.replace("m=mmap.mmap(f,4096)", "import ctypes\nl=ctypes.CDLL(None)\nl.mmap.restype=ctypes.c_void_p\nassert l.mmap(None,ctypes.c_size_t(4096),3,1,f,ctypes.c_long(0))!=ctypes.c_void_p(-1).value");
    command.args(["-c", &script, text(target.path())]);
    let _mapped = ready(command);
    refused(&world, target.path(), &world.path("disk0"), &["a program has it open that can't be seen here"]);
}

#[test]
fn a_loop_device_that_is_mounted_in_another_mount_namespace() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::File, SIZE);
    let device = Disk::over(world.path("disk0"), Kind::Block);
    tool("mkfs.ext4", &["-qF", text(device.path())]);
    let place = world.path("mnt");
    fs::create_dir(&place).unwrap();
    let mut command = Command::new("unshare");
    let script = format!("mount -o ro {} {}; echo ready; exec cat", text(device.path()), text(&place));
    command.args(["--mount", "sh", "-ec", &script]);
    let running = ready(command);
    let place = format!("{} in the mount namespace of process {} (cat)", place.display(), running.0.id());
    let reason = format!("the loop device {} on it is mounted on {place}", kernel_name(device.path()));
    refused(&world, target.path(), &world.path("disk0"), &[&reason]);
    drop(running);
    device.wait_until_unmounted();
}

/// While hooks run the first one keeps neither O_EXCL nor locks that another inode has.
#[test]
fn another_run_by_another_name() {
    let world = World::new();
    for kind in KINDS {
        let image = encode(&world, &disk(2 * MIB), "raw");
        let target = Disk::stale(&world, "disk0", kind, 4 * MIB);
        let other = world.path("other");
        let _ = fs::remove_file(&other);
        let other = match kind {
            Kind::Block => other_node(&world, target.path()),
            Kind::File => fs::hard_link(target.path(), &other).map(|()| other).unwrap(),
        };
        let (started, go) = (world.path("started"), world.path("go"));
        let _ = (fs::remove_file(&started), fs::remove_file(&go));
        let lines = format!("touch {}; while ! test -e {}; do sleep 0.01; done", started.display(), go.display());
        world.hook("hooks/wait", &lines);
        let first = world.create(target.path(), text(&image), "raw").spawn();
        let id = first.id();
        wait_until("the hook runs", || started.exists());
        world.variant_file("../other/config.toml", "");
        let second = world.create(&other, text(&image), "raw").env("OS_VARIANT", "other").run();
        fs::write(&go, "").unwrap();
        Outcome(first.wait_with_output().unwrap()).succeeds();
        second.fails(&[&format!("disk {} is in use: ", text(&other)), &format!("process {id} (simpleimage)")]);
    }
}

/// One who left a descriptor open to a server that is gone keeps nobody waiting: nothing on it is looked at.
#[test]
fn a_server_that_does_not_answer() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::File, 4 * MIB);
    let place = world.path("server");
    fs::create_dir(&place).unwrap();
    let mut command = Command::new("python3");
    command.args([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/dead_server.py"), text(&place)]);
    let server = ready(command);
    let _mounted = Undo("umount", vec!["--lazy".to_owned(), "--force".to_owned(), text(&place).to_owned()]);
    let reader = Command::new("sleep").arg("1000").stdin(fs::File::open(place.join("disk0")).unwrap()).spawn();
    let _reader = Running(reader.unwrap());
    let writer = fs::OpenOptions::new().read(true).write(true).open(place.join("disk0")).unwrap();
    let _writer = Running(Command::new("sleep").arg("1000").stdin(Stdio::from(writer)).spawn().unwrap());
    // Gone before all the others, which could not end without it.
    let _first = Undo("kill", vec!["-KILL".to_owned(), server.0.id().to_string()]);
    tool("kill", &["-s", "USR1", &server.0.id().to_string()]);
    wait_until("the server no longer answers", || world.path("server.dead").exists());
    let image = encode(&world, &disk(2 * MIB), "raw");
    world.create(target.path(), text(&image), "raw").run().succeeds();
}
