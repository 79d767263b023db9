// SPDX-License-Identifier: BSD-2-Clause
//! Locks that end with the process that holds them (flock(2)).
//!
//! The lock file of an entry is locked exclusively while its image is downloaded or removed, so that a second `create`
//! waits and shares the download. The user of an image holds a shared lock on the image file itself, and does not need
//! the entry's lock any more. So an image in use is never removed, and a newer image can take its name meanwhile.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::CacheError;
use super::folder;

/// The lock file of one entry. It is never removed or replaced, because then two processes could lock two files of one
/// name.
pub(super) struct EntryLock {
    file: File,
    path: PathBuf,
}

impl EntryLock {
    /// Opens the lock file, and makes it if it is missing.
    pub(super) fn open(path: &Path) -> Result<Self, CacheError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(path).map_err(CacheError::io("opening", path))?;
        Ok(EntryLock { file, path: path.to_owned() })
    }

    /// Opens the lock file if there is one.
    pub(super) fn existing(path: &Path) -> Result<Option<Self>, CacheError> {
        Ok(folder::open_file(path, true)?.map(|file| EntryLock { file, path: path.to_owned() }))
    }

    /// Takes the lock together with other readers. `on_wait` is called before a wait.
    pub(super) fn shared(&self, on_wait: impl FnOnce()) -> Result<(), CacheError> {
        if !self.try_shared()? {
            on_wait();
            self.wait(File::lock_shared)?;
        }
        Ok(())
    }

    /// Tries to take the lock together with other readers.
    pub(super) fn try_shared(&self) -> Result<bool, CacheError> {
        locked(self.file.try_lock_shared(), &self.path)
    }

    /// Gives up a shared lock and takes the lock alone. `on_wait` is called before a wait.
    pub(super) fn exclusive(&self, on_wait: impl FnOnce()) -> Result<(), CacheError> {
        self.file.unlock().map_err(CacheError::io("locking", &self.path))?;
        if !self.try_exclusive()? {
            on_wait();
            self.wait(File::lock)?;
        }
        Ok(())
    }

    /// Tries to take the lock alone.
    pub(super) fn try_exclusive(&self) -> Result<bool, CacheError> {
        locked(self.file.try_lock(), &self.path)
    }

    fn wait(&self, lock: impl Fn(&File) -> io::Result<()>) -> Result<(), CacheError> {
        loop {
            match lock(&self.file) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map_err(CacheError::io("locking", &self.path)),
            }
        }
    }
}

/// Tries to mark the image at `path` as in use. That fails only while another process is about to remove it.
pub(super) fn mark_used(image: &File, path: &Path) -> Result<bool, CacheError> {
    locked(image.try_lock_shared(), path)
}

/// Tries to lock the image at `path` alone, which works if nobody uses it.
pub(super) fn claim_unused(image: &File, path: &Path) -> Result<bool, CacheError> {
    locked(image.try_lock(), path)
}

fn locked(result: Result<(), TryLockError>, path: &Path) -> Result<bool, CacheError> {
    match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(CacheError::io("locking", path)(error)),
    }
}
