// SPDX-License-Identifier: BSD-2-Clause
//! The disks of an instance. They are block devices or files, and are held exclusively while they are written.

mod hook_device;
mod io;
mod layers;
mod leftovers;
mod locks;
mod mounts;
mod processes;
mod sentinel;
mod target;
mod thin;
mod users;
mod zeroing;

pub(crate) use hook_device::{HookDevice, WithheldDisk};
pub(crate) use io::write_whole_pages;
pub use io::{ALIGNMENT, AlignedBuf};
pub(crate) use io::{DirectReader, FileBytes, MemoryDisk, ReadAt, SourceDisk, WriteAt};
pub(crate) use leftovers::{StaleLoop, stale_loops};
pub(crate) use sentinel::Sentinel;
pub use target::{HeldDisk, Target};
pub use users::find_writer;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::node::file::FoundFile;
use crate::node::sys;
use users::DiskUser;

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
        /// The path of the disk.
        path: PathBuf,
        /// The error of the kernel.
        source: std::io::Error,
    },
    /// The disk is neither a block device nor a regular file.
    #[error("disk {path} is neither a block device nor a regular file", path = .0.display())]
    Kind(PathBuf),
    /// The disk is mounted, is part of another device, or is held by another program.
    #[error("disk {path} is in use: {user}", path = path.display())]
    Busy {
        /// The path of the disk.
        path: PathBuf,
        /// The user of the disk, and what the administrator can do about it.
        user: String,
        /// False if the user is only a process that has the disk open, as it may be about to close it.
        permanent: bool,
    },
    /// It is not possible to find out whether the disk is in use.
    #[error("looking who uses disk {path} (is /sys mounted?)", path = path.display())]
    Look {
        /// The path of the disk.
        path: PathBuf,
        /// The error of the kernel.
        source: std::io::Error,
    },
    /// The disk has no size.
    #[error("disk {path} has size 0", path = .0.display())]
    Empty(PathBuf),
}

/// Opens `path` without waiting, because a FIFO would block. Returns the file, its kind, and its size in bytes.
fn open_disk(path: &Path, options: &OpenOptions, extra_flags: i32) -> Result<(File, DiskKind, u64), DeviceError> {
    let open_error = |source| DeviceError::Open { path: path.to_owned(), source };
    let found = FoundFile::at(path).map_err(open_error)?;
    let file_type = found.metadata().map_err(open_error)?.file_type();
    let kind = match (file_type.is_block_device(), file_type.is_file()) {
        (true, _) => DiskKind::Block,
        (_, true) => DiskKind::File,
        _ => return Err(DeviceError::Kind(path.to_owned())),
    };
    // O_EXCL without O_CREAT is defined for block devices only.
    let exclusive = if kind == DiskKind::Block { extra_flags & libc::O_EXCL } else { 0 };
    let flags = libc::O_NONBLOCK | exclusive | (extra_flags & !libc::O_EXCL);
    let opened = found.open(options.clone().custom_flags(flags));
    let file = opened.map_err(|err| match err.raw_os_error() {
        Some(libc::EBUSY) => busy(path, found.as_file()),
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

/// Returns the error for a disk that others hold. It names them if they are found.
fn busy(path: &Path, disk: &File) -> DeviceError {
    let user = users::find_holder(disk).unwrap_or_else(|| {
        let path = path.display();
        DiskUser::temporary(format!(
            "it is mounted, part of another device, or another program holds it (see lsblk and fuser -v {path}; stop that first)"
        ))
    });
    in_use(path, user)
}

fn in_use(path: &Path, user: DiskUser) -> DeviceError {
    DeviceError::Busy { path: path.to_owned(), user: user.words, permanent: user.permanent }
}
