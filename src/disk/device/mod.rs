// SPDX-License-Identifier: BSD-2-Clause
//! The disks of an instance: block devices and files, held exclusively while they are written.

mod buffer;
mod bytes;
mod holder;
mod layers;
mod leftovers;
mod loopback;
mod mounts;
mod processes;
mod sentinel;
mod source;
mod stale_loops;
mod swaps;
mod target;
mod thin;
mod writer;
mod zeroing;

pub use buffer::{ALIGNMENT, AlignedBuf};
pub(crate) use bytes::MemoryDisk;
pub(crate) use bytes::{FileBytes, ReadAt, WriteAt};
pub(crate) use loopback::{HookDevice, WithheldDisk};
pub(crate) use sentinel::Sentinel;
pub(crate) use source::{DirectReader, SourceDisk};
pub(crate) use stale_loops::{StaleLoop, stale_loops};
pub use target::{HeldDisk, Target};
pub use writer::find_writer;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::node::sys;
use holder::User;

/// What a disk is to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskKind {
    /// A block device (LVM, DRBD, RBD, external storage).
    Block,
    /// A regular file of the disk's full size (file and sharedfile templates).
    File,
}

/// Why a disk can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The device or file is missing or can't be opened.
    #[error("opening disk {path}", path = path.display())]
    Open {
        /// The disk.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Neither a block device nor a regular file.
    #[error("disk {path} is neither a block device nor a regular file", path = .0.display())]
    Kind(PathBuf),
    /// Mounted, part of another device, or held by another program.
    #[error("disk {path} is in use: {user}", path = path.display())]
    Busy {
        /// The disk.
        path: PathBuf,
        /// What uses it, and the way out.
        user: String,
        /// Whether that is known to be more than a process, which may be about to end.
        lasting: bool,
    },
    /// Whether it is in use can't be known.
    #[error("looking who uses disk {path} (is /sys mounted?)", path = path.display())]
    Look {
        /// The disk.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A disk of no size.
    #[error("disk {path} has size 0", path = .0.display())]
    Empty(PathBuf),
}

/// Opens `path` without waiting (a FIFO would block) and finds out what it is and how large, in bytes.
fn open_disk(path: &Path, options: &OpenOptions, extra_flags: i32) -> Result<(File, DiskKind, u64), DeviceError> {
    let open_error = |source| DeviceError::Open { path: path.to_owned(), source };
    let kind = |file: &File| -> io::Result<Option<DiskKind>> {
        let kind = file.metadata()?.file_type();
        Ok(if kind.is_block_device() { Some(DiskKind::Block) } else { kind.is_file().then_some(DiskKind::File) })
    };
    let probe = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).map_err(open_error)?;
    let kind = kind(&probe).map_err(open_error)?.ok_or_else(|| DeviceError::Kind(path.to_owned()))?;
    // Through the probe, so that what was examined is what is opened. O_EXCL without O_CREAT: block devices only.
    let exclusive = if kind == DiskKind::Block { extra_flags & libc::O_EXCL } else { 0 };
    let flags = libc::O_NONBLOCK | exclusive | (extra_flags & !libc::O_EXCL);
    let file =
        options.clone().custom_flags(flags).open(descriptor_path(&probe)).map_err(|err| match err.raw_os_error() {
            Some(libc::EBUSY) => busy(path, &probe),
            _ => open_error(err),
        })?;
    let size = match kind {
        DiskKind::Block => sys::block_device_size(&file),
        DiskKind::File => file.metadata().map(|data| data.len()),
    };
    match size.map_err(open_error)? {
        0 => Err(DeviceError::Empty(path.to_owned())),
        size => Ok((file, kind, size)),
    }
}

/// The error for a disk that others use: with who it is, where that can be known.
fn busy(path: &Path, disk: &File) -> DeviceError {
    let unknown = || {
        let path = path.display();
        let words = format!(
            "it is mounted, part of another device, or another program holds it (see lsblk and fuser -v {path}; stop that first)"
        );
        User::passing(words)
    };
    used(path, holder::find(disk).unwrap_or_else(unknown))
}

fn used(path: &Path, User { words: user, lasting }: User) -> DeviceError {
    DeviceError::Busy { path: path.to_owned(), user, lasting }
}

/// The path under which this process, and a child that inherits the descriptor, opens the same file anew.
pub fn descriptor_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
