// SPDX-License-Identifier: BSD-2-Clause
//! Finds out who uses a disk or writes an image, as far as /proc and /sys tell, and says so in words for the
//! administrator. This is the only list of the ways in which a disk can be in use.
//!
//! Only active use counts: a device that was made out of the disk, a mount, swap space, a program that can write, or a
//! program that claims a device for itself. The signature of LVM, of an array or of swap space in a guest's data is no
//! use. A loop device that nobody uses is none either, because killed runs and the shell provider leave such devices.
//! But a mapped device or an array counts even if nobody has it open, such as the volume group of a guest that the node
//! has activated: it claims the disk, and would still lie over the new content. Only the administrator can decide to
//! remove it, so the error has the command.
//!
//! There are three questions. `find_user` asks before a disk is written, and counts mounts, swap space, devices and
//! writers. `find_holder` explains why an exclusive open failed, so it also counts programs that only read.
//! `find_writer` asks before an image is read, and counts only what can change its content.
//!
//! O_EXCL finds mounts, swap space and devices that were made out of a block device. It does not find the users of a
//! file, programs that write, and a qemu. So qemu's own locks are taken too (`locks`), except by our own qemu-img. A
//! read lease finds writers that no process shows, because the kernel grants none while anybody can write. The lease is
//! given back at once, because a program that opens the file for writing would wait for it for 45 s.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use super::layers::{self, Layer, LayerKind};
use super::locks;
use super::mounts::{Mounts, Swaps};
use super::processes::{self, OpenMode, Opener, Wanted};
use crate::node::file::descriptor_path;
use crate::node::sys::{self, FileIdentity};

/// How long to wait for a process that has an image open, because it may be about to close it.
const PATIENCE: Duration = Duration::from_secs(2);

/// A use of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskUser {
    /// The name of the user, and what the administrator can do about it.
    pub(super) words: String,
    /// Whether the use is a mount, swap space or a device. A process is temporary, because it may be about to end.
    pub(super) permanent: bool,
}

impl DiskUser {
    pub(super) fn permanent(words: String) -> Self {
        DiskUser { words, permanent: true }
    }

    pub(super) fn temporary(words: String) -> Self {
        DiskUser { words, permanent: false }
    }

    /// Returns a user that only the kernel knows.
    pub(super) fn unseen() -> Self {
        let words =
            "a program has it open that can't be seen here, maybe on another node (see fuser -v; stop that first)";
        DiskUser::temporary(words.to_owned())
    }
}

/// Which users are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// All users of the disk (mount, swap space, a device on it) and all writers count.
    AnyUse,
    /// Only writers count.
    Writing,
}

/// A disk, the layers on it, and what the node knows of them at this moment.
struct Scene<'d> {
    disk: &'d File,
    identity: FileIdentity,
    /// The disk itself comes first if it is a block device.
    layers: Vec<Layer>,
    mounts: Mounts,
    swaps: Swaps,
}

/// Finds a user that keeps others from opening the disk exclusively.
pub(super) fn find_holder(disk: &File) -> Option<DiskUser> {
    let scene = Scene::of(disk).ok()?;
    scene.claim(Question::AnyUse).or_else(|| scene.opener(OpenMode::Any))
}

/// Finds a user of the disk other than this process and its children. Fails if the disk can't be examined.
pub(super) fn find_user(disk: &File) -> io::Result<Option<DiskUser>> {
    let scene = Scene::of(disk)?;
    let claim = scene.claim(Question::AnyUse);
    Ok(claim.or_else(|| scene.opener(OpenMode::Writing)).or_else(|| scene.claimed_loop()))
}

/// Says in words who can write to the file or block device `image`, which is about to be read, and what to do about it.
/// While `image` is open, no qemu starts to write to it, if the file system has locks.
pub fn find_writer(image: &File) -> Option<String> {
    let start = Instant::now();
    loop {
        match find_writer_now(image) {
            Some(DiskUser { permanent: false, .. }) if start.elapsed() < PATIENCE => std::thread::sleep(PATIENCE / 40),
            found => return found.map(|user| user.words),
        }
    }
}

fn find_writer_now(image: &File) -> Option<DiskUser> {
    let has_qemu = locks::qemu_writes(image);
    if !has_qemu && sys::nobody_can_write(image) == Some(true) {
        return None;
    }
    let scene = Scene::of(image).ok();
    let seen = scene.and_then(|scene| scene.claim(Question::Writing).or_else(|| scene.opener(OpenMode::Writing)));
    seen.or_else(|| (has_qemu || is_open_unseen(image)).then(DiskUser::unseen))
}

/// Returns whether anybody can write to the regular file, if its file system belongs to this node alone. The kernel
/// answers that for a `file` that is open for reading. This process and loop devices that nobody uses do no harm, so
/// the answer is false if there are any.
pub(super) fn is_open_unseen(file: &File) -> bool {
    if sys::nobody_can_write(file) != Some(false) {
        return false;
    }
    let Some(scene) = Scene::of(file).ok().filter(|scene| scene.mounts.is_local(scene.identity.file.0)) else {
        return false;
    };
    let has_loops = scene.layers.iter().any(|layer| layer.kind == LayerKind::Loop);
    !has_loops && !processes::is_ours_writing(&scene.wanted(), &scene.mounts)
}

/// Says in words who uses one of the devices, and what to do about it. If nobody uses any of them, it says that the
/// first one exists.
pub(super) fn of_devices(layers: &[Layer]) -> Option<String> {
    let (mounts, swaps) = (Mounts::now(), Swaps::now());
    let used =
        |layer: &Layer| claim(layer, Question::AnyUse, &mounts, &swaps).or_else(|| opener_of_layer(layer, &mounts));
    let exists =
        |layer: &Layer| format!("device {} was made of it ({})", layer.node().display(), layer.removal_command());
    layers.iter().find_map(used).or_else(|| layers.first().map(exists))
}

impl<'d> Scene<'d> {
    fn of(disk: &'d File) -> io::Result<Self> {
        let (mounts, swaps) = (Mounts::now(), Swaps::now());
        let identity = sys::identify(&descriptor_path(disk))?;
        let above = layers::on(disk, &mounts)?;
        let own = identity.block_device.map(layers::disk_and_parent).unwrap_or_default();
        Ok(Scene { disk, identity, layers: [own, above].concat(), mounts, swaps })
    }

    /// Returns a use that lasts until somebody ends it: swap space, a mount, or a device that was made out of the disk.
    fn claim(&self, question: Question) -> Option<DiskUser> {
        let is_file = self.identity.block_device.is_none();
        if is_file && self.swaps.has_file(self.disk, self.identity, &self.mounts) {
            return Some(DiskUser::permanent("it is a swap file (run swapoff first)".to_owned()));
        }
        let mut words = self.layers.iter().find_map(|layer| claim(layer, question, &self.mounts, &self.swaps));
        if words.is_none() && question == Question::AnyUse {
            // The administrator has to remove the uppermost device first.
            let made = self.layers.iter().rfind(|layer| layer.kind == LayerKind::Made);
            words = made.map(|made| format!("it is part of device {} ({})", made.known_as(), made.removal_command()));
        }
        words.map(DiskUser::permanent)
    }

    /// Returns the processes that have the disk open, or something that lies on it.
    fn opener(&self, mode: OpenMode) -> Option<DiskUser> {
        let found = processes::openers(&self.wanted(), mode, &self.mounts);
        let words = processes::have_it_open(&found, self.identity.block_device);
        words.or_else(|| self.layers.iter().find_map(|layer| opener_among(layer, &found))).map(DiskUser::temporary)
    }

    /// Returns the devices and the file that a user of the disk may have open. The whole disk of a partition is not
    /// among them, because a program that watches it does not use the partition.
    fn wanted(&self) -> Wanted {
        let layers = self.layers.iter().filter(|layer| layer.kind != LayerKind::Parent);
        let file = self.identity.block_device.is_none().then_some(self.identity.file);
        Wanted { devices: layers.map(|layer| layer.number).collect(), file }
    }

    /// Finds a user that claims a loop device of the disk and can't be found in another way, such as the journal of a
    /// file system on it.
    fn claimed_loop(&self) -> Option<DiskUser> {
        let mut loops = self.layers.iter().filter(|layer| layer.kind == LayerKind::Loop);
        let layer = loops.find(|layer| is_claimed(layer))?;
        let words = opener_of_layer(layer, &self.mounts);
        Some(DiskUser::temporary(
            words.unwrap_or_else(|| format!("{} is held by the kernel (see lsblk; stop that first)", layer.words())),
        ))
    }
}

/// Says that the device is mounted or swapped to.
fn claim(layer: &Layer, question: Question, mounts: &Mounts, swaps: &Swaps) -> Option<String> {
    if let Some(place) = mounts.place(layer.number, question == Question::Writing) {
        return Some(format!("{} is mounted on {place} (unmount that first)", layer.words()));
    }
    swaps.has_device(layer.number).then(|| format!("{} is swap space (run swapoff first)", layer.words()))
}

/// Returns the processes that have this device open.
fn opener_of_layer(layer: &Layer, mounts: &Mounts) -> Option<String> {
    let wanted = Wanted { devices: vec![layer.number], file: None };
    opener_among(layer, &processes::openers(&wanted, OpenMode::Any, mounts))
}

/// Returns those of the processes `found` that have this device open.
fn opener_among(layer: &Layer, found: &[Opener]) -> Option<String> {
    let processes = processes::have_it_open(found, Some(layer.number))?;
    Some(format!("through {} {processes}", layer.node().display()))
}

/// Returns whether somebody has the device open exclusively.
fn is_claimed(layer: &Layer) -> bool {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(layer.node());
    opened.is_err_and(|err| err.raw_os_error() == Some(libc::EBUSY))
}
