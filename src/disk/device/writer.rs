// SPDX-License-Identifier: BSD-2-Clause
//! Who can write to a file or device that is about to be read as an image.
//!
//! What only has it open for reading is no harm, nor is a loop device that nobody uses: such are left by killed runs.
//!
//! A read lease tells of writers that no process shows: the kernel gives none while anybody can write. It is asked for
//! and given back at once, for whoever opens the file to write would hang for 45 s. qemu's own locks are held while
//! the image is read, as qemu-img would hold them.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};

use super::holder::{self, User};
use super::target::lock_of;
use crate::node::sys;

/// So long a process that has the image open is waited for: it may be about to close it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The bytes by which qemu's block/file-posix.c tells others what it does with a file (from 100 on) and what it lets
/// nobody else do (from 200 on): reading is the first, writing the second, resizing the fourth.
const QEMU_WRITES: [i64; 2] = [101, 103];
const QEMU_FORBIDS_READING: i64 = 200;
/// What we tell: that we read, and that nobody else is to write or resize.
const WE_READ: [i64; 3] = [100, 201, 203];

/// Who can write to the image, and the way out, in words; none when nobody can. As long as `image` is open no qemu starts
/// to write to it, where the file system has locks.
pub fn find_writer(image: &File) -> Option<String> {
    let start = Instant::now();
    loop {
        match look(image) {
            Some(User { lasting: false, .. }) if start.elapsed() < PATIENCE => std::thread::sleep(PATIENCE / 40),
            found => return found.map(|user| user.words),
        }
    }
}

/// The same at this moment.
fn look(image: &File) -> Option<User> {
    let qemu = qemu_writes(image);
    if !qemu && sys::nobody_can_write(image) == Some(true) {
        return None;
    }
    let unseen = || (qemu || holder::is_open_unseen(image)).then(|| User::passing(holder::UNSEEN.to_owned()));
    holder::writer(image).or_else(unseen)
}

/// Whether a qemu writes to the image or lets nobody read it; from now on it does not start to. A file system without
/// locks knows of no qemu.
fn qemu_writes(image: &File) -> bool {
    let share = |byte: &i64| {
        let lock = lock_of(libc::F_RDLCK, *byte, 1)?;
        fcntl(image, FcntlArg::F_OFD_SETLK(&lock)).map_err(io::Error::from)
    };
    let refused = |err: io::Error| matches!(err.raw_os_error(), Some(libc::EAGAIN | libc::EACCES));
    if WE_READ.iter().any(|byte| share(byte).is_err_and(refused)) {
        return true;
    }
    // All of qemu's locks are shared ones; whoever asks for another kind is told of them.
    let held = |byte: i64| {
        let Ok(mut lock) = lock_of(libc::F_WRLCK, byte, 1) else { return false };
        fcntl(image, FcntlArg::F_OFD_GETLK(&mut lock)).is_ok() && i32::from(lock.l_type) != libc::F_UNLCK
    };
    QEMU_WRITES.into_iter().chain([QEMU_FORBIDS_READING]).any(held)
}
