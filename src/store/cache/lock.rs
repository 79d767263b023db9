// SPDX-License-Identifier: BSD-2-Clause
//! Locks that end with the process that holds them (flock(2)).
//!
//! The lock file of an entry is locked exclusively while its image is downloaded or removed, so that a second `create`
//! waits and shares the download. The user of an image holds a shared lock on the image file itself, and does not need
//! the entry's lock any more. So an image in use is never removed, and a newer image can take its name meanwhile.
//!
//! A lock file goes with its entry. Only who holds it alone removes it. So whoever got a lock looks whether the file that
//! he locked still has its name. If not, the holder before him has removed it, and he tries again with the file that has
//! the name now. Otherwise two processes could hold the locks of two files of one name.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::CacheError;
use super::scan::Names;
use crate::node::file::identity;

/// The lock file of one entry.
pub(super) struct EntryLock {
    file: File,
    path: PathBuf,
}

/// How a lock is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Shared,
    Alone,
}

impl EntryLock {
    /// Opens the lock file, and makes it if it is missing.
    pub(super) fn open(path: &Path) -> Result<Self, CacheError> {
        Ok(EntryLock { file: open(path, true)?, path: path.to_owned() })
    }

    /// Opens the lock file if there is one.
    pub(super) fn existing(path: &Path) -> Result<Option<Self>, CacheError> {
        match open(path, false) {
            Ok(file) => Ok(Some(EntryLock { file, path: path.to_owned() })),
            Err(CacheError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes the lock together with other readers. `on_wait` is called before a wait.
    pub(super) fn shared(&mut self, on_wait: impl FnOnce()) -> Result<(), CacheError> {
        self.wait(Kind::Shared, on_wait)
    }

    /// Gives up a shared lock and takes the lock alone. `on_wait` is called before a wait.
    pub(super) fn exclusive(&mut self, on_wait: impl FnOnce()) -> Result<(), CacheError> {
        self.file.unlock().map_err(CacheError::io("locking", &self.path))?;
        self.wait(Kind::Alone, on_wait)
    }

    /// Tries to take the lock together with other readers.
    pub(super) fn try_shared(&mut self) -> Result<bool, CacheError> {
        self.attempt(Kind::Shared)
    }

    /// Tries to take the lock alone.
    pub(super) fn try_exclusive(&mut self) -> Result<bool, CacheError> {
        self.attempt(Kind::Alone)
    }

    /// Removes the lock file and gives up the lock, which the caller holds alone. A file that can't be removed is no
    /// harm.
    pub(super) fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }

    fn wait(&mut self, kind: Kind, on_wait: impl FnOnce()) -> Result<(), CacheError> {
        if self.attempt(kind)? {
            return Ok(());
        }
        on_wait();
        loop {
            let locked = match kind {
                Kind::Shared => self.file.lock_shared(),
                Kind::Alone => self.file.lock(),
            };
            match locked {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(CacheError::io("locking", &self.path))?,
            }
            if self.has_its_name()? {
                return Ok(());
            }
            self.file = open(&self.path, true)?;
        }
    }

    fn attempt(&mut self, kind: Kind) -> Result<bool, CacheError> {
        loop {
            let tried = match kind {
                Kind::Shared => self.file.try_lock_shared(),
                Kind::Alone => self.file.try_lock(),
            };
            if !locked(tried, &self.path)? {
                return Ok(false);
            }
            if self.has_its_name()? {
                return Ok(true);
            }
            self.file = open(&self.path, true)?;
        }
    }

    /// Whether the open file is the one that its name leads to.
    fn has_its_name(&self) -> Result<bool, CacheError> {
        let looking = CacheError::io("looking at", &self.path);
        let ours = self.file.metadata().map_err(&looking)?;
        match fs::symlink_metadata(&self.path) {
            Ok(named) => Ok(identity(&named) == identity(&ours)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(looking(error)),
        }
    }
}

/// Opens a lock file. To lock it, reading is enough, which a full or read-only file system still allows.
fn open(path: &Path, create: bool) -> Result<File, CacheError> {
    let mut options = OpenOptions::new();
    options.read(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let opened = match options.open(path) {
        Err(error) if create && error.kind() == io::ErrorKind::NotFound => options.write(true).create(true).open(path),
        opened => opened,
    };
    let file = opened.map_err(CacheError::io("opening", path))?;
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    let not_ours = || CacheError::io("opening", path)(io::Error::other("not a regular file"));
    if is_file { Ok(file) } else { Err(not_ours()) }
}

/// The numbers of the inodes that any process of the machine has locked, on whatever file system.
pub(super) struct LockedFiles(Option<HashSet<u64>>);

/// What `/proc/self/ns/pid` leads to outside of every container: `PROC_PID_INIT_INO` in the kernel's proc_ns.h.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

impl LockedFiles {
    /// Reads proc_locks(5). In a PID namespace of its own a process does not see all locks there.
    pub(super) fn read() -> Self {
        let is_first = fs::read_link("/proc/self/ns/pid").is_ok_and(|name| name == Path::new(FIRST_PID_NAMESPACE));
        LockedFiles(fs::read_to_string("/proc/locks").ok().filter(|_| is_first).map(|text| locked_inodes(&text)))
    }

    /// Whether one of the files may be locked. The locks themselves have to tell whether it is.
    pub(super) fn may_have_any(&self, names: &Names) -> bool {
        self.0.as_ref().is_none_or(|locked| names.inodes().any(|inode| locked.contains(&inode)))
    }
}

/// The inodes in the text of proc_locks(5): the last part of `MAJOR:MINOR:INODE`.
fn locked_inodes(text: &str) -> HashSet<u64> {
    let inode = |word: &str| word.rsplit_once(':').and_then(|(_device, inode)| inode.parse().ok());
    text.lines()
        .filter_map(|line| line.split_whitespace().filter(|word| word.matches(':').count() == 2).find_map(inode))
        .collect()
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

#[cfg(test)]
mod tests {
    use super::{EntryLock, locked_inodes};
    use std::path::PathBuf;
    use std::sync::mpsc;
    use std::thread;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.v2.lock");
        (dir, path)
    }

    #[test]
    fn who_opened_the_file_before_it_was_removed_locks_the_one_that_has_the_name() {
        let (_dir, path) = place();
        let mut first = EntryLock::open(&path).unwrap();
        let mut second = EntryLock::existing(&path).unwrap().unwrap();
        assert!(first.try_exclusive().unwrap());
        first.remove();
        assert!(!path.exists());
        assert!(second.try_exclusive().unwrap());
        assert!(path.exists(), "a lock that counts has a name");
        let mut third = EntryLock::existing(&path).unwrap().unwrap();
        assert!(!third.try_exclusive().unwrap() && !third.try_shared().unwrap());
        drop(second);
        assert!(third.try_shared().unwrap());
    }

    #[test]
    fn of_those_that_wait_for_a_removed_file_one_at_a_time_gets_the_lock() {
        let (_dir, path) = place();
        let mut first = EntryLock::open(&path).unwrap();
        first.exclusive(|| ()).unwrap();
        let (waiting, waits) = mpsc::channel();
        let (entering, entered) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..4 {
                let (path, waiting, entering) = (&path, waiting.clone(), entering.clone());
                scope.spawn(move || {
                    let mut lock = EntryLock::open(path).unwrap();
                    lock.exclusive(|| waiting.send(()).unwrap()).unwrap();
                    let mut other = EntryLock::open(path).unwrap();
                    entering.send(other.try_shared().unwrap()).unwrap();
                    lock.remove();
                });
            }
            (0..4).for_each(|_| waits.recv().unwrap());
            first.remove();
        });
        assert_eq!(entered.try_iter().collect::<Vec<_>>(), [false; 4], "nobody else had it meanwhile");
        assert!(!path.exists());
    }

    #[test]
    fn the_inodes_of_locks_are_read() {
        let text = "1: POSIX  ADVISORY  WRITE 1234 fd:00:2531452 1073741826 1073742335\n\
                    2: FLOCK  ADVISORY  READ  99 00:1a:77 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 100 00:1a:77 0 EOF\n\
                    3: LEASE  ACTIVE    READ  7 <none>:0 0 EOF\n";
        let mut inodes: Vec<_> = locked_inodes(text).into_iter().collect();
        inodes.sort_unstable();
        assert_eq!(inodes, [77, 2_531_452]);
        assert!(locked_inodes("").is_empty());
    }

    #[test]
    fn a_link_or_a_folder_is_no_lock() {
        let (dir, path) = place();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(EntryLock::open(&path).is_err() && !dir.path().join("elsewhere").exists());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(EntryLock::open(&path).is_err());
    }
}
