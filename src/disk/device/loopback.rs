// SPDX-License-Identifier: BSD-2-Clause
//! The block device that hooks see: the disk itself, or a loop device over a file-backed disk.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use loopdev::LoopControl;

use super::leftovers::DeviceSnapshot;
use super::{DiskKind, HeldDisk, holder, target};
use crate::node::sys;

/// Tries to get a free loop device: any other process may take the one the kernel just named.
const ATTACH_TRIES: u32 = 200;

/// What the name of a device begins with that we attached; the disk follows. The kernel keeps the name for whoever asks
/// (`lo_file_name`), and does nothing with it.
pub(super) const MARK: &[u8] = b"simpleimage:";

/// How long udev and the like may keep a device busy after its last hook.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether they still do.
const POLL: Duration = Duration::from_millis(20);

/// What can go wrong with the device for hooks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookDeviceError {
    /// None could be attached.
    #[error("attaching a loop device to {path} (is the loop module loaded?)", path = path.display())]
    Attach {
        /// The disk's file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A hook left it mounted or open.
    #[error("{device} (disk {path}) is still in use after the hooks: {user}", device = device.display(), path = path.display())]
    StillUsed {
        /// The device.
        device: PathBuf,
        /// The disk.
        path: PathBuf,
        /// What uses it, and the way out.
        user: String,
    },
    /// Its state can't be read.
    #[error("looking whether {device} is still in use", device = device.display())]
    State {
        /// The device.
        device: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A block device over the disk for as long as this value lives. A loop device of ours has autoclear set: the kernel
/// detaches it when we are gone, whatever ended us. Devices that Ganeti gave are never detached.
#[derive(Debug)]
pub(crate) struct HookDevice<'d> {
    disk: &'d HeldDisk,
    before: Arc<DeviceSnapshot>,
    attached: Option<Attached>,
}

/// A loop device of ours.
#[derive(Debug)]
struct Attached {
    /// Open as long as it is lent.
    node: File,
    path: PathBuf,
    /// Says that this process looks after it.
    attendance: File,
}

impl<'d> HookDevice<'d> {
    /// The disk itself when it is a block device, else a loop device attached to its file.
    pub(crate) fn open(disk: &'d HeldDisk) -> Result<Self, HookDeviceError> {
        let state = |source| HookDeviceError::State { device: disk.path().to_owned(), source };
        let before = Arc::new(DeviceSnapshot::hooks(disk.file()).map_err(state)?);
        let attached = match disk.kind() {
            DiskKind::Block => None,
            DiskKind::File => {
                Some(attach(disk).map_err(|source| HookDeviceError::Attach { path: disk.path().to_owned(), source })?)
            }
        };
        Ok(HookDevice { disk, before, attached })
    }

    /// The loop device, where there is one of ours.
    pub(crate) fn attached(&self) -> Option<&Path> {
        self.attached.as_ref().map(|attached| attached.path.as_path())
    }

    /// The open block device.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.attached {
            Some(attached) => attached.node.as_fd(),
            None => self.disk.file().as_fd(),
        }
    }

    /// Tells what hooks made later, and removes it.
    pub(crate) fn before(&self) -> &Arc<DeviceSnapshot> {
        &self.before
    }

    /// The path of the block device.
    pub(crate) fn path(&self) -> &Path {
        self.attached().unwrap_or(self.disk.path())
    }

    /// Removes what hooks made out of the disk and left, lets go of a loop device of ours, and makes sure that nobody
    /// uses the disk: what is mounted, or has a device of its own on it, would write to it and block its removal.
    pub(crate) fn finish(self) -> Result<(), HookDeviceError> {
        let (path, own) = (self.path().to_owned(), self.attached().map(Path::to_owned));
        let start = Instant::now();
        let HookDevice { disk, before, attached } = self;
        let state = |source| HookDeviceError::State { device: path.clone(), source };
        before.remove(own.as_deref(), PATIENCE).map_err(state)?;
        let _attendance = attached.map(|Attached { node, attendance, .. }| {
            drop(node);
            attendance
        });
        wait_until_unused(&path, disk, &before, start)
    }
}

/// A disk that hooks are not lent while they run: they know its name all the same.
#[derive(Debug)]
pub(crate) struct WithheldDisk<'d> {
    disk: &'d HeldDisk,
    before: Arc<DeviceSnapshot>,
}

impl<'d> WithheldDisk<'d> {
    /// Before the hooks run.
    pub(crate) fn before_hooks(disk: &'d HeldDisk) -> Result<Self, HookDeviceError> {
        let state = |source| HookDeviceError::State { device: disk.path().to_owned(), source };
        Ok(WithheldDisk { disk, before: Arc::new(DeviceSnapshot::hooks(disk.file()).map_err(state)?) })
    }

    /// Tells what hooks made later, and removes it.
    pub(crate) fn before(&self) -> &Arc<DeviceSnapshot> {
        &self.before
    }

    /// Removes what hooks made out of the disk all the same; an error where somebody uses it.
    pub(crate) fn finish(self) -> Result<(), HookDeviceError> {
        let path = self.disk.path();
        let state = |source| HookDeviceError::State { device: path.to_owned(), source };
        self.before.remove(None, PATIENCE).map_err(state)?;
        let left = self.before.made().map_err(state)?;
        let still_used = |user| HookDeviceError::StillUsed { device: path.to_owned(), path: path.to_owned(), user };
        holder::of_devices(&left).map_or(Ok(()), |user| Err(still_used(user)))
    }
}

fn attach(disk: &HeldDisk) -> io::Result<Attached> {
    let attendance = target::attend(disk)?;
    let name = [MARK, disk.path().as_os_str().as_bytes()].concat();
    let control = LoopControl::open()?;
    let mut last_error = io::Error::from(io::ErrorKind::ResourceBusy);
    for _ in 0..ATTACH_TRIES {
        let device = control.next_free()?;
        match sys::loop_configure(&device, disk.file(), &name) {
            Ok(()) => {
                let path = device.path().ok_or_else(|| io::Error::other("the loop device has no path"))?;
                return Ok(Attached { node: File::open(&path)?, path, attendance });
            }
            Err(err) if err.kind() == io::ErrorKind::ResourceBusy => last_error = err,
            Err(err) => return Err(err),
        }
    }
    Err(last_error)
}

/// udev and the like may look at the device for a moment after its last hook.
fn wait_until_unused(
    device: &Path,
    disk: &HeldDisk,
    before: &DeviceSnapshot,
    start: Instant,
) -> Result<(), HookDeviceError> {
    let state = |source| HookDeviceError::State { device: device.to_owned(), source };
    loop {
        let used = match disk.kind() {
            DiskKind::Block => disk.is_claimed(),
            DiskKind::File => serves(device, disk),
        };
        let made = before.made().map_err(state)?;
        if !used.map_err(state)? && made.is_empty() && !disk.is_open_in_qemu() {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            let user = holder::of_devices(&made).or_else(|| holder::find(disk.file()).map(|user| user.words));
            let user = user.unwrap_or_else(|| "a hook must unmount and close it".to_owned());
            return Err(HookDeviceError::StillUsed { device: device.to_owned(), path: disk.path().to_owned(), user });
        }
        std::thread::sleep(POLL);
    }
}

/// Whether the loop device still serves the disk's file. Somebody else may have bound the free device again by now.
/// Holding it open would keep it attached: it is closed again before anybody waits.
fn serves(device: &Path, disk: &HeldDisk) -> io::Result<bool> {
    let ours = disk.file().metadata().map(|data| (data.dev(), data.ino()))?;
    match File::open(device) {
        Ok(handle) => Ok(sys::loop_status(&handle)?.is_some_and(|status| status.backing_file == ours)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err),
    }
}
