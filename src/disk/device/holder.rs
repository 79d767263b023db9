// SPDX-License-Identifier: BSD-2-Clause
//! Who uses a disk, in words for the administrator, as far as /proc and /sys tell. This is the one list of the ways in which a
//! disk can be in use.
//!
//! Only use that is active counts: a device that was made out of the disk, a mount, swap, a program that can write, or
//! whoever claims a device for itself. A signature of LVM, an array or swap in a guest's data is none, nor is a loop
//! device that nobody uses.
//!
//! O_EXCL tells of mounts, swap and devices made out of a block device, but not of a file, not of programs that write,
//! and never of a qemu. So while a disk is written, the bytes by which qemu's block layer marks a file in use are
//! write-locked: that fails while any qemu has the disk open, and a qemu that starts fails. Our own qemu-img takes no
//! locks.
//!
//! A loop device that nobody uses does not count, for the shell provider leaks such. A mapped device or an array
//! counts even if nobody has it open, such as a guest's volume group that the node has activated: it keeps the disk
//! for itself, and would go on over the new content. Ending it is the administrator's decision, so the error has the
//! command.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use super::descriptor_path;
use super::layers::{self, Kind, Layer};
use super::mounts::Mounts;
use super::processes::{self, Mode, Opener, Wanted};
use super::swaps::Swaps;
use crate::node::sys::{self, Identity};

/// Of whom only the kernel knows.
pub(super) const UNSEEN: &str =
    "a program has it open that can't be seen here, maybe on another node (see fuser -v; stop that first)";

/// Who uses a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// Who, and the way out.
    pub(super) words: String,
    /// Whether that is a mount or the like, and not only a process, which may be about to end.
    pub(super) lasting: bool,
}

impl User {
    pub(super) fn lasting(words: String) -> Self {
        User { words, lasting: true }
    }

    pub(super) fn passing(words: String) -> Self {
        User { words, lasting: false }
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// Who would be harmed by another content, or could change it.
    Use,
    /// Who could change it.
    Writing,
}

/// A disk, what lies on it, and what the node knows of that at this moment.
struct Scene<'d> {
    disk: &'d File,
    identity: Identity,
    /// The disk itself first, if it is a block device.
    layers: Vec<Layer>,
    mounts: Mounts,
    swaps: Swaps,
}

/// Who bars others from the disk, which somebody holds.
pub(super) fn find(disk: &File) -> Option<User> {
    let scene = Scene::of(disk).ok()?;
    scene.claim(Question::Use).or_else(|| scene.opener(Mode::Any))
}

/// Who uses the disk that is held. It may be open in this process, and in those that it started. That nobody can tell is
/// an error.
pub(super) fn user(disk: &File) -> io::Result<Option<User>> {
    let scene = Scene::of(disk)?;
    let claim = scene.claim(Question::Use);
    Ok(claim.or_else(|| scene.opener(Mode::Writing)).or_else(|| scene.claimed_loop()))
}

/// Who can write to the file or block device, which is about to be read.
pub(super) fn writer(image: &File) -> Option<User> {
    let scene = Scene::of(image).ok()?;
    scene.claim(Question::Writing).or_else(|| scene.opener(Mode::Writing))
}

/// Whether anybody can write to the regular file, on a file system that only this node has; so the kernel says, who has
/// it open for reading. Some, but not of others, keep it open for writing without harm: loop devices that nobody uses,
/// and this process.
pub(super) fn is_open_unseen(file: &File) -> bool {
    if sys::nobody_can_write(file) != Some(false) {
        return false;
    }
    let Some(scene) = Scene::of(file).ok().filter(|scene| scene.mounts.is_local(scene.identity.file.0)) else {
        return false;
    };
    let has_loops = scene.layers.iter().any(|layer| layer.kind == Kind::Loop);
    !has_loops && !processes::we_write(&scene.wanted(), &scene.mounts)
}

/// Who uses the first of the devices that anybody uses, and the way out; of devices that nobody uses, that there is one.
pub(super) fn of_devices(layers: &[Layer]) -> Option<String> {
    let (mounts, swaps) = (Mounts::now(), Swaps::now());
    let used = |layer: &Layer| {
        claim(layer, Question::Use, &mounts, &swaps).or_else(|| {
            let found = processes::openers(&Wanted { devices: vec![layer.number], file: None }, Mode::Any, &mounts);
            through(layer, &found)
        })
    };
    let there = |layer: &Layer| format!("device {} was made of it ({})", layer.node().display(), layer.way_out());
    layers.iter().find_map(used).or_else(|| layers.first().map(there))
}

impl<'d> Scene<'d> {
    fn of(disk: &'d File) -> io::Result<Self> {
        let (mounts, swaps) = (Mounts::now(), Swaps::now());
        let identity = sys::look(&descriptor_path(disk))?;
        let on = layers::on(disk, &mounts)?;
        let below = identity.block_device.map(layers::below).unwrap_or_default();
        Ok(Scene { disk, identity, layers: [below, on].concat(), mounts, swaps })
    }

    /// What stays until somebody ends it: mounts and swap, then what was made out of the disk.
    fn claim(&self, question: Question) -> Option<User> {
        let is_swap =
            self.identity.block_device.is_none() && self.swaps.has_file(self.disk, self.identity, &self.mounts);
        let swap = is_swap.then(|| "it is a swap file (run swapoff first)".to_owned());
        let claim = || self.layers.iter().find_map(|layer| claim(layer, question, &self.mounts, &self.swaps));
        // The uppermost has to be removed first.
        let made = || {
            let made = self.layers.iter().rfind(|layer| layer.kind == Kind::Made && question == Question::Use)?;
            Some(format!("it is part of device {} ({})", made.known_as(), made.way_out()))
        };
        swap.or_else(claim).or_else(made).map(User::lasting)
    }

    /// The processes that have the disk open, or something that lies on it.
    fn opener(&self, mode: Mode) -> Option<User> {
        let found = processes::openers(&self.wanted(), mode, &self.mounts);
        let number = self.identity.block_device;
        let own: Vec<_> = found.iter().filter(|opener| opener.device == number).map(|opener| opener.process).collect();
        let words = processes::have_it_open(&own);
        words.or_else(|| self.layers.iter().find_map(|layer| through(layer, &found))).map(User::passing)
    }

    /// What processes may have open of it. A program that watches the whole disk of a partition is no user of that.
    fn wanted(&self) -> Wanted {
        let layers = self.layers.iter().filter(|layer| layer.kind != Kind::Whole);
        let file = self.identity.block_device.is_none().then_some(self.identity.file);
        Wanted { devices: layers.map(|layer| layer.number).collect(), file }
    }

    /// Who claims a loop device for itself and is not known otherwise: a kernel's journal on it, for instance.
    fn claimed_loop(&self) -> Option<User> {
        let loops = self.layers.iter().filter(|layer| layer.kind == Kind::Loop);
        loops.into_iter().find(|layer| is_claimed(layer)).map(|layer| {
            let found =
                processes::openers(&Wanted { devices: vec![layer.number], file: None }, Mode::Any, &self.mounts);
            let unknown = || format!("{} is held by the kernel (see lsblk; stop that first)", layer.words());
            User::passing(through(layer, &found).unwrap_or_else(unknown))
        })
    }
}

/// The device is mounted, or swapped to.
fn claim(layer: &Layer, question: Question, mounts: &Mounts, swaps: &Swaps) -> Option<String> {
    if let Some(place) = mounts.place(layer.number, question == Question::Writing) {
        return Some(format!("{} is mounted on {place} (unmount that first)", layer.words()));
    }
    swaps.has_device(layer.number).then(|| format!("{} is swap space (run swapoff first)", layer.words()))
}

/// The processes that have this one open, of those that were found.
fn through(layer: &Layer, found: &[Opener]) -> Option<String> {
    let own: Vec<_> =
        found.iter().filter(|opener| opener.device == Some(layer.number)).map(|opener| opener.process).collect();
    Some(format!("through {} {}", layer.node().display(), processes::have_it_open(&own)?))
}

/// Whether somebody has opened the device so that nobody else can.
fn is_claimed(layer: &Layer) -> bool {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(layer.node());
    opened.is_err_and(|err| err.raw_os_error() == Some(libc::EBUSY))
}
