// SPDX-License-Identifier: BSD-2-Clause
//! Locks that end with the process that holds them, however it ends (flock(2)).
//!
//! There are two. The lock file of an entry is held alone while its image is downloaded or removed, so that a second
//! `create` waits and shares the download. Who uses an image holds a shared lock on the image's own inode, and needs
//! the first lock no longer: an image in use is never removed, and a newer one can take its name meanwhile.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The lock file of one entry. It is never removed or replaced: two processes must not hold locks on two files of one
/// name.
pub(super) struct EntryLock(File);

impl EntryLock {
    /// Opens the lock file, made when missing.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        options().create(true).open(path).map(EntryLock)
    }

    /// Opens the lock file if there is one.
    pub(super) fn existing(path: &Path) -> io::Result<Option<Self>> {
        match options().open(path) {
            Ok(file) => Ok(Some(EntryLock(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Locks together with other readers; `on_wait` runs first when that has to wait.
    pub(super) fn shared(&self, on_wait: impl FnOnce()) -> io::Result<()> {
        if !taken(self.0.try_lock_shared())? {
            on_wait();
            uninterrupted(|| self.0.lock_shared())?;
        }
        Ok(())
    }

    /// Locks together with other readers if that is possible now, and says whether it was.
    pub(super) fn try_shared(&self) -> io::Result<bool> {
        taken(self.0.try_lock_shared())
    }

    /// Locks alone, giving up a shared lock before; `on_wait` runs first when that has to wait.
    pub(super) fn exclusive(&self, on_wait: impl FnOnce()) -> io::Result<()> {
        self.0.unlock()?;
        if !taken(self.0.try_lock())? {
            on_wait();
            uninterrupted(|| self.0.lock())?;
        }
        Ok(())
    }

    /// Locks alone if that is possible now, and says whether it was.
    pub(super) fn try_exclusive(&self) -> io::Result<bool> {
        taken(self.0.try_lock())
    }
}

/// Marks an image as in use, if nobody is just removing it.
pub(super) fn mark_used(image: &File) -> io::Result<bool> {
    taken(image.try_lock_shared())
}

/// Makes sure that nobody uses an image, if that is so.
pub(super) fn claim_unused(image: &File) -> io::Result<bool> {
    taken(image.try_lock())
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options
}

fn taken(result: Result<(), TryLockError>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn uninterrupted(mut lock: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match lock() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
