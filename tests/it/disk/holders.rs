// SPDX-License-Identifier: BSD-2-Clause
//! A disk that somebody uses is refused at once, stays as it is, and the error says who it is.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, disk, encode};
use crate::support::world::{Outcome, World, tool, wait_until};

pub(crate) const SIZE: usize = 32 * MIB;

/// `create` on the disk, as a new instance and as a reinstall, is refused for these reasons, and changes no byte.
pub(crate) fn refused(world: &World, path: &Path, backing: &Path, reasons: &[&str]) {
    let image = encode(world, &disk(2 * MIB), "raw");
    let before = fs::read(backing).unwrap();
    for reinstall in ["0", "1"] {
        let script = world.create(path, image.to_str().unwrap(), "raw").env("INSTANCE_REINSTALL", reinstall);
        script.run().fails(&[&[format!("disk {} is in use: ", path.display()).as_str()], reasons].concat());
    }
    assert!(fs::read(backing).unwrap() == before, "the disk was written to");
}

/// Something to undo, whatever becomes of the test.
pub(crate) struct Undo(pub(crate) &'static str, pub(crate) Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        let _ = Command::new(self.0).args(&self.1).status();
    }
}

pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn mount(device: &Path, at: &Path) -> Undo {
    tool("mkfs.ext4", &["-qF", text(device)]);
    fs::create_dir(at).unwrap();
    // A file system that may be written to is, at any time, by a thread of the kernel.
    tool("mount", &["-o", "ro", text(device), text(at)]);
    Undo("umount", vec![text(at).to_owned()])
}

/// `loop0` of `/dev/loop0`.
pub(crate) fn kernel_name(device: &Path) -> &str {
    device.file_name().unwrap().to_str().unwrap()
}

/// Waits for the line "ready" of a program that goes on until its standard input ends.
pub(crate) fn ready(mut command: Command) -> Running {
    let mut running = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = [0; 6];
    std::io::Read::read_exact(running.0.stdout.as_mut().unwrap(), &mut line).unwrap();
    assert_eq!(&line, b"ready\n");
    running
}

/// A shell that runs `script`, says that it is ready, and goes on.
pub(crate) fn shell(script: &str) -> Running {
    let mut command = Command::new("sh");
    command.args(["-ec", &format!("{script}; echo ready; exec cat")]);
    ready(command)
}

#[test]
fn a_mounted_disk_by_any_of_its_names() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::Block, SIZE);
    let place = world.path("mnt");
    let _mounted = mount(target.path(), &place);
    let link = world.path("link");
    std::os::unix::fs::symlink(target.path(), &link).unwrap();
    let reason = format!("it is mounted on {} (unmount that first)", place.display());
    for name in [target.path(), &link] {
        refused(&world, name, &world.path("disk0"), &[&reason]);
    }
}

#[test]
fn a_disk_mounted_in_another_mount_namespace() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::Block, SIZE);
    tool("mkfs.ext4", &["-qF", text(target.path())]);
    let place = world.path("mnt");
    fs::create_dir(&place).unwrap();
    let script = format!(
        "mount -o ro {} {} && touch {} && exec cat",
        text(target.path()),
        text(&place),
        text(&world.path("ready"))
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).stdin(Stdio::piped());
    let running = Running(command.spawn().unwrap());
    wait_until("it is mounted", || world.path("ready").exists());
    let reason =
        format!("it is mounted on {} in the mount namespace of process {} (cat)", place.display(), running.0.id());
    refused(&world, target.path(), &world.path("disk0"), &[&reason]);
}

/// A partition of a loop device, without a partition table: not every kernel reads them.
pub(crate) fn add_partition(disk: &Disk) -> (PathBuf, Undo) {
    let device = text(disk.path()).to_owned();
    tool("addpart", &[&device, "1", "2048", "40960"]);
    let partition = PathBuf::from(format!("{device}p1"));
    let undo = Undo("delpart", vec![device, "1".to_owned()]);
    wait_until("the partition has a node", || partition.exists());
    (partition, undo)
}

#[test]
fn a_disk_with_a_mounted_partition() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::Block, SIZE);
    let (partition, _undo) = add_partition(&target);
    let place = world.path("mnt");
    let _mounted = mount(&partition, &place);
    let name = partition.file_name().unwrap().to_str().unwrap();
    let reason = format!("its partition {name} is mounted on {}", place.display());
    refused(&world, target.path(), &world.path("disk0"), &[&reason]);
}

#[test]
fn swap_space() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::Block, SIZE);
    tool("mkswap", &[text(target.path())]);
    tool("swapon", &[text(target.path())]);
    let _swap = Undo("swapoff", vec![text(target.path()).to_owned()]);
    refused(&world, target.path(), &world.path("disk0"), &["it is swap space (run swapoff first)"]);
}

#[test]
fn a_process_that_holds_the_device() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::Block, SIZE);
    // O_EXCL, as mkfs and fsck open it, by this process.
    let options =
        std::os::unix::fs::OpenOptionsExt::custom_flags(OpenOptions::new().read(true), libc::O_EXCL).to_owned();
    let _held = options.open(target.path()).unwrap();
    let reason = format!("process {} (", std::process::id());
    refused(&world, target.path(), &world.path("disk0"), &[&reason, ") has it open (stop that first)"]);
}

#[test]
fn a_disk_file_that_is_mounted_or_written_through_a_loop_device() {
    let world = World::new();
    let file = Disk::stale(&world, "disk0", Kind::File, SIZE);
    let device = Disk::over(world.path("disk0"), Kind::Block);
    let image = encode(&world, &disk(2 * MIB), "raw");
    let place = world.path("mnt");
    {
        let _mounted = mount(device.path(), &place);
        tool("sync", &["-f", text(&place)]);
        let reason = format!("the loop device {} on it is mounted on {}", kernel_name(device.path()), place.display());
        refused(&world, file.path(), &world.path("disk0"), &[&reason]);
    }
    device.wait_until_unmounted();
    {
        let _writing = OpenOptions::new().write(true).open(device.path()).unwrap();
        let reason = format!("through {} process {} (", text(device.path()), std::process::id());
        refused(&world, file.path(), &world.path("disk0"), &[&reason]);
    }
    // A loop device that nobody uses, as a killed process leaves behind, bars nobody.
    world.create(file.path(), image.to_str().unwrap(), "raw").run().succeeds();
}

#[test]
fn a_disk_that_a_qemu_has_open() {
    let world = World::new();
    for kind in KINDS {
        for options in [&[] as &[_], &["--read-only"]] {
            let target = Disk::stale(&world, "disk0", kind, SIZE);
            let socket = world.path("socket");
            let mut command = Command::new("qemu-nbd");
            command.args(["--persistent", "-f", "raw", "-k", text(&socket)]).args(options).arg(target.path());
            let running = Running(command.spawn().unwrap());
            wait_until("qemu-nbd serves", || socket.exists());
            let reason = format!("process {} (qemu-nbd) has it open (stop that first)", running.0.id());
            refused(&world, target.path(), &world.path("disk0"), &[&reason]);
            drop(running);
            let _ = fs::remove_file(socket);
        }
    }
}

#[test]
fn no_qemu_starts_on_a_disk_that_is_written() {
    let world = World::new();
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, SIZE);
        let held = simpleimage::disk::device::Target::open(target.path()).unwrap();
        let qemu = || Command::new("qemu-io").args(["-f", "raw", "-c", "quit", text(target.path())]).output().unwrap();
        let output = qemu();
        assert!(String::from_utf8_lossy(&output.stderr).contains("lock"), "{output:?}");
        assert!(!output.status.success());
        // Hooks may use it again.
        let _still_locked = held.release();
        assert!(qemu().status.success());
    }
}

#[test]
fn a_second_create_is_told_who_is_first() {
    for kind in KINDS {
        let world = World::new();
        let image = encode(&world, &disk(2 * MIB), "raw");
        let target = Disk::stale(&world, "disk0", kind, 4 * MIB);
        let (started, go) = (world.path("started"), world.path("go"));
        world.hook(
            "hooks/wait",
            &format!("touch {}; while ! test -e {}; do sleep 0.01; done", started.display(), go.display()),
        );
        let first = world.create(target.path(), image.to_str().unwrap(), "raw").spawn();
        let id = first.id();
        wait_until("the hook runs", || started.exists());
        world.variant_file("../other/config.toml", "");
        let second = world.create(target.path(), image.to_str().unwrap(), "raw").env("OS_VARIANT", "other").run();
        fs::write(&go, "").unwrap();
        Outcome(first.wait_with_output().unwrap()).succeeds();
        second.fails(&[&format!("disk {} is in use: ", text(target.path())), &format!("process {id} (simpleimage)")]);
    }
}
