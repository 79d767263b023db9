// SPDX-License-Identifier: BSD-2-Clause
//! Locks on bytes of a disk's file: our own locks, and those with which qemu marks an open image.
//!
//! They are open-file-description locks. flock(2) is left to udev, and a hook may call `udevadm lock`. qemu's
//! block/file-posix.c takes a read lock on one byte from 100 on for each thing that it does with a file, and on one
//! byte from 200 on for each thing that it forbids to others. The first of these bytes stands for reading, the second
//! for writing, the fourth for resizing.

use std::fs::{File, OpenOptions};
use std::io;

use nix::fcntl::{FcntlArg, fcntl};

use crate::node::file::descriptor_path;

/// The first of qemu's bytes, and how many there are.
const QEMU: (i64, i64) = (100, 200);

const QEMU_WRITES: [i64; 2] = [101, 103];
const QEMU_FORBIDS_READING: i64 = 200;
/// Locks on these bytes tell a qemu that we read the file, and that nobody else may write or resize it.
const WE_READ: [i64; 3] = [100, 201, 203];

/// This byte is locked while a disk is written and while its hooks run. It lies far beyond the end of any disk and
/// outside of qemu's bytes.
const WRITER: i64 = i64::MAX - 1;

/// This byte is locked by the process that runs the hooks. [`WRITER`] can't tell whether that process lives, because a
/// loop device keeps the descriptor that it was attached with, and so the lock.
const HOOKS: i64 = i64::MAX - 2;

/// Opens the disk again and locks it against a second writer, until the returned file is closed.
pub(super) fn lock_for_writing(disk: &File) -> io::Result<File> {
    open_and_lock(disk, WRITER)
}

/// Locks all of qemu's bytes until `disk` is closed. Fails while any qemu has the disk open. No qemu can open the disk
/// meanwhile.
pub(super) fn lock_out_qemu(disk: &File) -> io::Result<()> {
    lock(disk, libc::F_WRLCK, QEMU.0, QEMU.1)
}

/// Returns whether a qemu or a qemu-nbd has the disk open. Returns false where the locks can't be read.
pub(super) fn is_open_in_qemu(disk: &File) -> bool {
    is_locked(disk, QEMU.0, QEMU.1).unwrap_or(false)
}

/// Returns whether a qemu writes to the image or lets nobody read it. While `image` is open, no other qemu starts to
/// write to it. Returns false on a file system without locks.
pub(super) fn qemu_writes(image: &File) -> bool {
    let refused = |err: io::Error| matches!(err.raw_os_error(), Some(libc::EAGAIN | libc::EACCES));
    if WE_READ.iter().any(|byte| lock(image, libc::F_RDLCK, *byte, 1).is_err_and(refused)) {
        return true;
    }
    let mut bytes = QEMU_WRITES.into_iter().chain([QEMU_FORBIDS_READING]);
    bytes.any(|byte| is_locked(image, byte, 1).unwrap_or(false))
}

/// Shows other processes that this one looks after the device for hooks, until the returned file is closed.
pub(super) fn attend_hooks(disk: &File) -> io::Result<File> {
    open_and_lock(disk, HOOKS)
}

/// Returns whether another process looks after the device for hooks. Returns true where the locks can't be read.
pub(super) fn are_hooks_attended(disk: &File) -> bool {
    is_locked(disk, HOOKS, 1).unwrap_or(true)
}

fn open_and_lock(disk: &File, byte: i64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(descriptor_path(disk))?;
    lock(&file, libc::F_WRLCK, byte, 1)?;
    Ok(file)
}

/// Locks `len` bytes from `start` on until `file` is closed.
fn lock(file: &File, kind: i32, start: i64, len: i64) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&flock(kind, start, len)?))?;
    Ok(())
}

/// Returns whether another open file has a lock on any of `len` bytes from `start` on. The question is asked for a
/// write lock, which also finds read locks.
fn is_locked(file: &File, start: i64, len: i64) -> io::Result<bool> {
    let mut lock = flock(libc::F_WRLCK, start, len)?;
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn flock(kind: i32, start: i64, len: i64) -> io::Result<libc::flock> {
    let short = |constant: i32| i16::try_from(constant).map_err(io::Error::other);
    let (l_type, l_whence) = (short(kind)?, short(libc::SEEK_SET)?);
    Ok(libc::flock { l_type, l_whence, l_start: start, l_len: len, l_pid: 0 })
}
