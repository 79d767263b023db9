// SPDX-License-Identifier: BSD-2-Clause
//! The block device that hooks see: the disk itself, or a loop device over a file-backed disk.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use loopdev::LoopControl;

use super::leftovers::DeviceSnapshot;
use super::{DiskKind, HeldDisk, locks, users};
use crate::node::file::identity;
use crate::node::sys;

/// The number of attempts to attach a loop device. Any other process may take the free loop device that the kernel has
/// just named.
const ATTACH_TRIES: u32 = 200;

/// The name of a loop device of ours begins with this text, and the path of the disk follows. The kernel only stores
/// the name (`lo_file_name`).
pub(super) const LOOP_NAME: &[u8] = b"simpleimage:";

/// How long udev and similar programs may keep a device busy after the last hook.
const PATIENCE: Duration = Duration::from_secs(5);

const POLL: Duration = Duration::from_millis(20);

/// Why the device for hooks can't be made, or is still in use afterwards.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookDeviceError {
    #[error("attaching a loop device to {path} (is the loop module loaded?)", path = path.display())]
    Attach {
        /// The disk's file.
        path: PathBuf,
        source: io::Error,
    },
    /// A hook has left the device mounted or open.
    #[error("{device} (disk {path}) is still in use after the hooks: {user}", device = device.display(), path = path.display())]
    StillUsed {
        device: PathBuf,
        /// The disk.
        path: PathBuf,
        /// The user of the device, and what the administrator can do about it.
        user: String,
    },
    #[error("looking whether {device} is still in use", device = device.display())]
    State { device: PathBuf, source: io::Error },
}

fn state_error(device: &Path) -> impl Fn(io::Error) -> HookDeviceError + Copy {
    move |source| HookDeviceError::State { device: device.to_owned(), source }
}

fn take_snapshot(disk: &HeldDisk) -> Result<Arc<DeviceSnapshot>, HookDeviceError> {
    DeviceSnapshot::take(disk.file()).map(Arc::new).map_err(state_error(disk.path()))
}

/// The block device that hooks get, for as long as this value lives. A loop device of ours has autoclear set, so the
/// kernel detaches it when this process has ended for any reason. A device that Ganeti gave is never detached.
#[derive(Debug)]
pub(crate) struct HookDevice<'d> {
    disk: &'d HeldDisk,
    snapshot: Arc<DeviceSnapshot>,
    attached: Option<AttachedLoop>,
}

#[derive(Debug)]
struct AttachedLoop {
    /// The device stays attached as long as this is open.
    node: File,
    path: PathBuf,
    /// A lock that tells other processes that this one looks after the device.
    attendance: File,
}

impl<'d> HookDevice<'d> {
    /// Takes the disk itself if it is a block device. If it is a file, attaches a loop device to it.
    pub(crate) fn open(disk: &'d HeldDisk) -> Result<Self, HookDeviceError> {
        let snapshot = take_snapshot(disk)?;
        let attached = match disk.kind() {
            DiskKind::Block => None,
            DiskKind::File => {
                Some(attach(disk).map_err(|source| HookDeviceError::Attach { path: disk.path().to_owned(), source })?)
            }
        };
        Ok(HookDevice { disk, snapshot, attached })
    }

    /// Returns the path of the loop device, or `None` if the disk is a block device.
    pub(crate) fn attached(&self) -> Option<&Path> {
        self.attached.as_ref().map(|attached| attached.path.as_path())
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.attached {
            Some(attached) => attached.node.as_fd(),
            None => self.disk.file().as_fd(),
        }
    }

    /// Returns the devices that were on the disk before the hooks ran.
    pub(crate) fn snapshot(&self) -> &Arc<DeviceSnapshot> {
        &self.snapshot
    }

    pub(crate) fn path(&self) -> &Path {
        self.attached().unwrap_or(self.disk.path())
    }

    /// Removes the devices that hooks made out of the disk and left, and closes a loop device of ours. Fails if anybody
    /// still uses the disk, because a mount or a device on it would write to the disk and block its removal.
    pub(crate) fn finish(self) -> Result<(), HookDeviceError> {
        let (path, own) = (self.path().to_owned(), self.attached().map(Path::to_owned));
        let start = Instant::now();
        let HookDevice { disk, snapshot, attached } = self;
        snapshot.remove_new(own.as_deref(), PATIENCE).map_err(state_error(&path))?;
        let _attendance = attached.map(|AttachedLoop { node, attendance, .. }| {
            drop(node);
            attendance
        });
        wait_until_unused(&path, disk, &snapshot, start)
    }
}

/// A disk that hooks do not get while they run. They know its name, so they may nevertheless use it.
#[derive(Debug)]
pub(crate) struct WithheldDisk<'d> {
    disk: &'d HeldDisk,
    snapshot: Arc<DeviceSnapshot>,
}

impl<'d> WithheldDisk<'d> {
    pub(crate) fn before_hooks(disk: &'d HeldDisk) -> Result<Self, HookDeviceError> {
        Ok(WithheldDisk { disk, snapshot: take_snapshot(disk)? })
    }

    /// Returns the devices that were on the disk before the hooks ran.
    pub(crate) fn snapshot(&self) -> &Arc<DeviceSnapshot> {
        &self.snapshot
    }

    /// Removes the devices that hooks made out of the disk. Fails if one of them is left.
    pub(crate) fn finish(self) -> Result<(), HookDeviceError> {
        let path = self.disk.path();
        self.snapshot.remove_new(None, PATIENCE).map_err(state_error(path))?;
        let left = self.snapshot.new_devices().map_err(state_error(path))?;
        match users::of_devices(&left) {
            Some(user) => Err(HookDeviceError::StillUsed { device: path.to_owned(), path: path.to_owned(), user }),
            None => Ok(()),
        }
    }
}

fn attach(disk: &HeldDisk) -> io::Result<AttachedLoop> {
    let attendance = locks::attend_hooks(disk.file())?;
    let name = [LOOP_NAME, disk.path().as_os_str().as_bytes()].concat();
    let control = LoopControl::open()?;
    let mut last_error = io::Error::from(io::ErrorKind::ResourceBusy);
    for _ in 0..ATTACH_TRIES {
        let device = control.next_free()?;
        match sys::loop_configure(&device, disk.file(), &name) {
            Ok(()) => {
                let path = device.path().ok_or_else(|| io::Error::other("the loop device has no path"))?;
                return Ok(AttachedLoop { node: File::open(&path)?, path, attendance });
            }
            Err(err) if err.kind() == io::ErrorKind::ResourceBusy => last_error = err,
            Err(err) => return Err(err),
        }
    }
    Err(last_error)
}

/// Waits until nobody uses the device, because udev and similar programs may open it for a moment after the last hook.
fn wait_until_unused(
    device: &Path,
    disk: &HeldDisk,
    snapshot: &DeviceSnapshot,
    start: Instant,
) -> Result<(), HookDeviceError> {
    loop {
        let is_used = match disk.kind() {
            DiskKind::Block => disk.is_claimed(),
            DiskKind::File => serves(device, disk),
        };
        let made = snapshot.new_devices().map_err(state_error(device))?;
        if !is_used.map_err(state_error(device))? && made.is_empty() && !locks::is_open_in_qemu(disk.file()) {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            let user = users::of_devices(&made).or_else(|| users::find_holder(disk.file()).map(|user| user.words));
            let user = user.unwrap_or_else(|| "a hook must unmount and close it".to_owned());
            return Err(HookDeviceError::StillUsed { device: device.to_owned(), path: disk.path().to_owned(), user });
        }
        std::thread::sleep(POLL);
    }
}

/// Returns whether the loop device still belongs to the disk's file. When it was free for a moment, another process may
/// have attached it to another file. The device is closed again at once, because an open device stays attached.
fn serves(device: &Path, disk: &HeldDisk) -> io::Result<bool> {
    let ours = disk.file().metadata().map(|data| identity(&data))?;
    match File::open(device) {
        Ok(handle) => Ok(sys::loop_status(&handle)?.is_some_and(|status| status.backing_file == ours)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err),
    }
}
