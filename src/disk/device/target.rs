// SPDX-License-Identifier: BSD-2-Clause
//! The disk to which ranges of bytes and ranges of zeros are written, at any offset.
//!
//! O_EXCL keeps others from a block device while it is written. It has no effect on a file, and hooks must be able to
//! mount the disk. So a byte far beyond the end of the disk is locked as well (`locks`). A second `create` on the same
//! disk fails after two seconds, because the processes that a killed run left behind may need that long to close it. A
//! mounted disk is refused at once.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::users::{self, DiskUser};
use super::zeroing::Zeroing;
use super::{ALIGNMENT, DeviceError, DirectReader, DiskKind, busy, in_use, locks, open_disk};
use crate::node::file::{FoundFile, descriptor_path};

/// How long a disk may be busy before this is an error.
const PATIENCE: Duration = Duration::from_secs(2);

/// A disk that is open for writing, while nobody else can write it.
#[derive(Debug)]
pub struct Target {
    /// A block device is opened with O_EXCL, which fails if the device is mounted or claimed.
    file: File,
    held: Arc<HeldDisk>,
    /// The same disk opened for direct I/O, if the device allows it.
    direct: Option<File>,
    direct_works: AtomicBool,
    zeroing: Zeroing,
}

/// A disk that is locked against a second create but open for others, so that hooks can mount it.
#[derive(Debug)]
pub struct HeldDisk {
    lock: File,
    path: PathBuf,
    kind: DiskKind,
    size: u64,
    unbootable: AtomicBool,
}

impl Target {
    /// Opens and holds the disk at `path`. Waits up to two seconds for a process that has the disk open, because what a
    /// killed run left behind closes it within moments.
    pub fn open(path: &Path) -> Result<Self, DeviceError> {
        let start = Instant::now();
        loop {
            match Self::open_now(path) {
                Err(DeviceError::Busy { permanent: false, .. }) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(PATIENCE / 20);
                }
                opened => return opened,
            }
        }
    }

    fn open_now(path: &Path) -> Result<Self, DeviceError> {
        // This question has to be asked before this process itself has the file open for writing.
        let has_unseen_user = open_file(path).is_ok_and(|file| file.is_some_and(|file| users::is_open_unseen(&file)));
        Self::hold(path, |file| refuse_others(file, has_unseen_user, path))
    }

    /// Opens memory as a disk without looking for other users, because tests open many disks in a second.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn in_memory(memory: &File) -> Result<Self, DeviceError> {
        Self::hold(&descriptor_path(memory), |_| Ok(()))
    }

    fn hold(path: &Path, check: impl FnOnce(&File) -> Result<(), DeviceError>) -> Result<Self, DeviceError> {
        let (file, kind, size) = open_disk(path, OpenOptions::new().read(true).write(true), libc::O_EXCL)?;
        check(&file)?;
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(descriptor_path(&file)).ok();
        let path = path.to_owned();
        let zeroing = match Zeroing::of(&file, kind) {
            Ok(zeroing) => zeroing,
            Err(source) => return Err(DeviceError::Open { path, source }),
        };
        let lock = locks::lock_for_writing(&file).map_err(|err| lock_error(err, &file, &path))?;
        let held = Arc::new(HeldDisk { lock, path, kind, size, unbootable: AtomicBool::new(false) });
        Ok(Target { file, held, direct, direct_works: AtomicBool::new(true), zeroing })
    }

    /// Returns the path that Ganeti gave.
    pub fn path(&self) -> &Path {
        &self.held.path
    }

    pub(crate) fn kind(&self) -> DiskKind {
        self.held.kind
    }

    pub(crate) fn held(&self) -> &Arc<HeldDisk> {
        &self.held
    }

    /// Gives up the exclusive use of the disk and keeps the lock.
    pub fn release(self) -> Arc<HeldDisk> {
        self.held
    }

    /// Returns the size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.held.size
    }

    /// Returns the open disk, which a child process may inherit.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Returns whether `path` leads to this disk.
    pub(crate) fn is_same_file(&self, path: &Path) -> bool {
        self.held().is_same_file(path)
    }

    /// Returns whether the disk can be written without the page cache.
    pub(crate) fn takes_direct_io(&self) -> bool {
        self.direct.is_some() && self.direct_works.load(Ordering::Relaxed)
    }

    /// Writes `data` at `offset` (bytes), without the page cache as far as the alignment allows it.
    pub(crate) fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let aligned = data.len() - data.len() % ALIGNMENT;
        let direct_fits = offset.is_multiple_of(ALIGNMENT as u64) && data.as_ptr().align_offset(ALIGNMENT) == 0;
        let Some(direct) = self.direct.as_ref().filter(|_| direct_fits && aligned > 0 && self.takes_direct_io()) else {
            return self.file.write_all_at(data, offset);
        };
        match direct.write_all_at(&data[..aligned], offset) {
            // The device needs a larger alignment than ours. The page cache accepts any.
            Err(err) if err.raw_os_error() == Some(libc::EINVAL) => {
                self.direct_works.store(false, Ordering::Relaxed);
                self.file.write_all_at(data, offset)
            }
            written => written.and_then(|()| self.file.write_all_at(&data[aligned..], offset + aligned as u64)),
        }
    }

    /// Returns a reader of the content of the disk itself. Everything that was written has to be synced before. The
    /// page cache is asked to drop its pages of the disk, so that reads without direct I/O (an odd end, some file
    /// systems) also come from the disk.
    pub(crate) fn read_back(&self) -> DirectReader<'_> {
        // The kernel may ignore this advice for a page that is in use. Such a page was read from the disk after the
        // sync.
        let _ = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        DirectReader::new(&self.file)
    }

    /// Makes `len` bytes at `offset` read zero. If the disk can do it, this is done by range: a file gets a hole, and a
    /// thin volume gives its space back. Otherwise zeros are written.
    pub(crate) fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.zeroing.zero(self, offset, len)
    }

    pub(super) fn zeroing(&self) -> &Zeroing {
        &self.zeroing
    }

    /// Returns whether zeroing the whole disk costs next to nothing.
    pub(crate) fn zeroes_cheaply(&self) -> bool {
        self.zeroing.is_cheap(self)
    }

    /// Puts everything that was written onto stable storage. Also reports what the page cache failed to write.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Fails if writing has changed the size of a file.
    pub(crate) fn check_size(&self) -> io::Result<()> {
        let now = self.file.metadata()?.len();
        if self.kind() == DiskKind::File && now != self.size() {
            return Err(io::Error::other(format!("its size changed from {} to {now} bytes", self.size())));
        }
        Ok(())
    }
}

/// Opens `path` for reading if it is a regular file.
fn open_file(path: &Path) -> io::Result<Option<File>> {
    let found = FoundFile::at(path)?;
    if found.metadata()?.is_file() { found.open_regular().map(Some) } else { Ok(None) }
}

/// Fails if anybody uses the disk. O_EXCL finds only some of the users of a device, and none of a file. From now on no
/// qemu can open the disk. `has_unseen_user` says that the kernel knows of a writer, although no process shows it.
fn refuse_others(file: &File, has_unseen_user: bool, path: &Path) -> Result<(), DeviceError> {
    locks::lock_out_qemu(file).map_err(|err| lock_error(err, file, path))?;
    let user = users::find_user(file).map_err(|source| DeviceError::Look { path: path.to_owned(), source })?;
    match user {
        Some(user) => Err(in_use(path, user)),
        None if has_unseen_user => Err(in_use(path, DiskUser::unseen())),
        None => Ok(()),
    }
}

fn lock_error(source: io::Error, file: &File, path: &Path) -> DeviceError {
    match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::PermissionDenied => busy(path, file),
        _ => DeviceError::Open { path: path.to_owned(), source },
    }
}

impl HeldDisk {
    /// Returns the path that Ganeti gave.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn kind(&self) -> DiskKind {
        self.kind
    }

    /// Returns the size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Returns the disk, which is open for reading and writing, but not exclusively.
    pub(crate) fn file(&self) -> &File {
        &self.lock
    }

    /// Returns whether `path` leads to this disk.
    pub(crate) fn is_same_file(&self, path: &Path) -> bool {
        // A device may have several nodes, each with its own inode, so devices are compared by their numbers. The
        // device number of a file is 0.
        let identity = |data: Metadata| match data.rdev() {
            0 => (data.dev(), data.ino(), 0),
            device => (0, 0, device),
        };
        match (self.lock.metadata(), std::fs::metadata(path)) {
            (Ok(own), Ok(other)) => identity(own) == identity(other),
            _ => false,
        }
    }

    /// Returns whether the boot area is known to be zero, on stable storage.
    pub(crate) fn is_unbootable(&self) -> bool {
        self.unbootable.load(Ordering::Relaxed)
    }

    pub(crate) fn set_unbootable(&self, unbootable: bool) {
        self.unbootable.store(unbootable, Ordering::Relaxed);
    }

    /// Returns whether the block device is mounted, or another device was made of it. Returns false for a file.
    pub(crate) fn is_claimed(&self) -> io::Result<bool> {
        if self.kind == DiskKind::File {
            return Ok(false);
        }
        match OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(descriptor_path(&self.lock)) {
            Ok(_) => Ok(false),
            Err(err) if err.kind() == io::ErrorKind::ResourceBusy => Ok(true),
            Err(err) => Err(err),
        }
    }
}
