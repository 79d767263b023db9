// SPDX-License-Identifier: BSD-2-Clause
//! The block device that hooks see: the disk itself, or a loop device over a file-backed disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use loopdev::{LoopControl, LoopDevice};

use super::{DiskKind, HeldDisk};
use crate::sys;

/// Tries to get a free loop device: any other process may take the one the kernel just named.
const ATTACH_TRIES: u32 = 200;

/// How long udev and the like may keep a loop device busy after its last hook.
const DETACH_PATIENCE: Duration = Duration::from_secs(5);

/// What can go wrong with a loop device.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// None could be attached.
    #[error("attaching a loop device to {path} (is the loop module loaded?)", path = path.display())]
    Attach {
        /// The disk's file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A hook left it mounted or open.
    #[error("{device} (disk {path}) is still in use after the hooks: a hook must unmount and close it", device = device.display(), path = path.display())]
    StillUsed {
        /// The loop device.
        device: PathBuf,
        /// The disk's file.
        path: PathBuf,
    },
    /// Its state can't be read.
    #[error("detaching {device}", device = device.display())]
    Detach {
        /// The loop device.
        device: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A block device over the disk for as long as this value lives. A loop device of ours has autoclear set: the kernel
/// detaches it when we are gone, whatever ended us. Devices that Ganeti gave are never detached.
#[derive(Debug)]
pub struct HookDevice<'d> {
    disk: &'d HeldDisk,
    attached: Option<(LoopDevice, PathBuf)>,
}

impl<'d> HookDevice<'d> {
    /// The disk itself when it is a block device, else a loop device attached to its file.
    pub fn open(disk: &'d HeldDisk) -> Result<Self, LoopError> {
        let attached = match disk.kind() {
            DiskKind::Block => None,
            DiskKind::File => {
                Some(attach(disk.file()).map_err(|source| LoopError::Attach { path: disk.path().to_owned(), source })?)
            }
        };
        Ok(HookDevice { disk, attached })
    }

    /// The path of the block device.
    pub fn path(&self) -> &Path {
        self.attached.as_ref().map_or(self.disk.path(), |(_, path)| path)
    }

    /// Lets go of a loop device of ours and makes sure that it is gone; an error names a device that a hook left in use.
    pub fn finish(self) -> Result<(), LoopError> {
        let Some((device, path)) = self.attached else { return Ok(()) };
        drop(device);
        wait_until_detached(&path, self.disk)
    }
}

fn attach(backing: &File) -> io::Result<(LoopDevice, PathBuf)> {
    let control = LoopControl::open()?;
    let mut last_error = io::Error::from(io::ErrorKind::ResourceBusy);
    for _ in 0..ATTACH_TRIES {
        let device = control.next_free()?;
        match sys::loop_configure(&device, backing) {
            Ok(()) => {
                let path = device.path().ok_or_else(|| io::Error::other("the loop device has no path"))?;
                return Ok((device, path));
            }
            Err(err) if err.kind() == io::ErrorKind::ResourceBusy => last_error = err,
            Err(err) => return Err(err),
        }
    }
    Err(last_error)
}

/// Somebody else may have bound the free device again by now, so it is told by whether it serves *our* file.
fn wait_until_detached(device: &Path, disk: &HeldDisk) -> Result<(), LoopError> {
    let detach_error = |source| LoopError::Detach { device: device.to_owned(), source };
    let ours = disk.file().metadata().map(|data| (data.dev(), data.ino())).map_err(detach_error)?;
    let start = Instant::now();
    loop {
        // Holding it open would keep it attached: look and close, and only then wait.
        let backing = match File::open(device) {
            Ok(handle) => sys::loop_backing_file(&handle).map_err(detach_error)?,
            Err(err) if err.kind() == io::ErrorKind::NotFound => None,
            Err(err) => return Err(detach_error(err)),
        };
        if backing != Some(ours) {
            return Ok(());
        }
        if start.elapsed() > DETACH_PATIENCE {
            return Err(LoopError::StillUsed { device: device.to_owned(), path: disk.path().to_owned() });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
