// SPDX-License-Identifier: BSD-2-Clause
//! The disk that is written: ranges of bytes and ranges of zeros, at any offset.
//!
//! O_EXCL keeps others from a block device while it is written, but not from a file, and hooks must be able to mount
//! the disk. So the disk is also locked by an open-file-description lock on one byte far behind its end. A second
//! `create` on the same disk fails after two seconds, as what a killed run left may need as long to let go of it. A
//! mount is refused at once.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, PosixFadviseAdvice, fcntl, posix_fadvise};

use super::holder::{self, User};
use super::zeroing::Zeroing;
use super::{ALIGNMENT, DeviceError, DirectReader, DiskKind, busy, descriptor_path, open_disk, used};

/// How long a disk may be busy before that is an error.
const PATIENCE: Duration = Duration::from_secs(2);

/// A disk opened for writing, with nobody else writing it.
#[derive(Debug)]
pub struct Target {
    /// Block devices: opened O_EXCL, which fails on a mounted or claimed device.
    file: File,
    held: Arc<HeldDisk>,
    /// The same disk past the page cache, where the device takes direct I/O.
    direct: Option<File>,
    direct_works: AtomicBool,
    zeroing: Zeroing,
}

/// A disk that stays locked against a second create, but is open for others: hooks mount it.
#[derive(Debug)]
pub struct HeldDisk {
    lock: File,
    path: PathBuf,
    kind: DiskKind,
    size: u64,
    unbootable: AtomicBool,
}

impl Target {
    /// Opens and holds the disk at `path`. What another run leaves behind that was killed lets go of it within moments: so
    /// long a process is waited for that has it open.
    pub fn open(path: &Path) -> Result<Self, DeviceError> {
        let start = Instant::now();
        loop {
            match Self::open_now(path) {
                Err(DeviceError::Busy { lasting: false, .. }) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(PATIENCE / 20);
                }
                opened => return opened,
            }
        }
    }

    fn open_now(path: &Path) -> Result<Self, DeviceError> {
        // Asked before we are one of those.
        let unseen = open_file(path).is_ok_and(|file| file.is_some_and(|file| holder::is_open_unseen(&file)));
        Self::hold(path, |file| refuse_others(file, unseen, path))
    }

    /// Memory that nobody else can have, for what tries many in a second.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn in_memory(memory: &File) -> Result<Self, DeviceError> {
        Self::hold(&descriptor_path(memory), |_| Ok(()))
    }

    fn hold(path: &Path, check: impl FnOnce(&File) -> Result<(), DeviceError>) -> Result<Self, DeviceError> {
        let open_error = |source| DeviceError::Open { path: path.to_owned(), source };
        let (file, kind, size) = open_disk(path, OpenOptions::new().read(true).write(true), libc::O_EXCL)?;
        check(&file)?;
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(descriptor_path(&file)).ok();
        let zeroing = Zeroing::of(&file, kind).map_err(open_error)?;
        let (lock, path) = (lock(&file, path)?, path.to_owned());
        let held = Arc::new(HeldDisk { lock, path, kind, size, unbootable: AtomicBool::new(false) });
        Ok(Target { file, held, direct, direct_works: AtomicBool::new(true), zeroing })
    }

    /// As Ganeti named it.
    pub fn path(&self) -> &Path {
        &self.held.path
    }

    /// Block device or file.
    pub(crate) fn kind(&self) -> DiskKind {
        self.held.kind
    }

    /// The locked disk, not exclusively.
    pub(crate) fn held(&self) -> &Arc<HeldDisk> {
        &self.held
    }

    /// Gives the exclusive use up and keeps the lock.
    pub fn release(self) -> Arc<HeldDisk> {
        self.held
    }

    /// In bytes.
    pub(crate) fn size(&self) -> u64 {
        self.held.size
    }

    /// The open disk, for a child process to inherit.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether `path` leads to this disk itself.
    pub(crate) fn is_same_file(&self, path: &Path) -> bool {
        self.held().is_same_file(path)
    }

    /// Whether it can be written past the page cache.
    pub(crate) fn takes_direct_io(&self) -> bool {
        self.direct.is_some() && self.direct_works.load(Ordering::Relaxed)
    }

    /// Writes `data` at `offset` (bytes), past the page cache as far as alignment allows.
    pub(crate) fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let aligned = data.len() - data.len() % ALIGNMENT;
        let direct_fits = offset.is_multiple_of(ALIGNMENT as u64) && data.as_ptr().align_offset(ALIGNMENT) == 0;
        let Some(direct) = self.direct.as_ref().filter(|_| direct_fits && aligned > 0 && self.takes_direct_io()) else {
            return self.file.write_all_at(data, offset);
        };
        match direct.write_all_at(&data[..aligned], offset) {
            // Opened so, but with another alignment than ours: the page cache has none.
            Err(err) if err.raw_os_error() == Some(libc::EINVAL) => {
                self.direct_works.store(false, Ordering::Relaxed);
                self.file.write_all_at(data, offset)
            }
            written => written.and_then(|()| self.file.write_all_at(&data[aligned..], offset + aligned as u64)),
        }
    }

    /// Reads `buf.len()` bytes at `offset` of what the disk holds now.
    pub(crate) fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    /// Reads what the disk itself holds. The page cache lets go of what it has of it, so that what direct I/O does not
    /// offer (an odd end, some file systems) comes from the disk too. What was written has to be synced before.
    pub(crate) fn read_back(&self) -> DirectReader<'_> {
        // Only advice; a page that stays is one that somebody has read, from the disk, since it was synced.
        let _ = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        DirectReader::new(&self.file)
    }

    /// Makes `len` bytes at `offset` read zero: by range where the disk can (a file keeps its holes, a thin volume its
    /// room), else by writing.
    pub(crate) fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.zeroing.zero(self, offset, len)
    }

    pub(super) fn zeroing(&self) -> &Zeroing {
        &self.zeroing
    }

    /// Whether zeroing all of the disk costs next to nothing.
    pub(crate) fn zeroes_cheaply(&self) -> bool {
        self.zeroing.is_cheap(self)
    }

    /// All that was written is on stable storage, or an error: `fsync` reports what the page cache failed to write.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Checks that writing did not change the size of a file.
    pub(crate) fn check_size(&self) -> io::Result<()> {
        let now = self.file.metadata()?.len();
        if self.kind() == DiskKind::File && now != self.size() {
            return Err(io::Error::other(format!("its size changed from {} to {now} bytes", self.size())));
        }
        Ok(())
    }
}

/// The first and the number of the bytes by which qemu's block/file-posix.c tells of an open image: whoever has it open
/// read-locks one from 100 on for each thing it does, and one from 200 on for each that it lets nobody else do.
const QEMU: (i64, i64) = (100, 200);

/// Opens what is at `path` for reading if it is a regular file.
fn open_file(path: &Path) -> io::Result<Option<File>> {
    let probe = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
    let is_file = probe.metadata()?.is_file();
    is_file.then(|| File::open(descriptor_path(&probe))).transpose()
}

/// Sees to it that nobody uses the disk, of which O_EXCL tells only a part, and of a file nothing. While all of qemu's bytes
/// are write-locked, no qemu starts on the disk either. `unseen`: the kernel knew of somebody who could write.
fn refuse_others(file: &File, unseen: bool, path: &Path) -> Result<(), DeviceError> {
    lock_bytes(file, QEMU.0, QEMU.1).map_err(|err| lock_error(err, file, path))?;
    let unknown = || unseen.then(|| User::passing(holder::UNSEEN.to_owned()));
    let user = holder::user(file).map_err(|source| DeviceError::Look { path: path.to_owned(), source })?;
    user.or_else(unknown).map_or(Ok(()), |user| Err(used(path, user)))
}

/// Locked by who writes a disk, hooks included. The bytes lie far behind any disk's end and outside the ones qemu locks
/// (100 to 303).
const WRITER: i64 = i64::MAX - 1;

/// Locked by whose hooks run: a loop device keeps the descriptor that it was attached with, and its lock with that, when
/// nobody writes any more.
const HOOKS: i64 = i64::MAX - 2;

/// Opens the disk once more and locks one byte of it, so that a second create is refused at once, in the hooks phase
/// too, when O_EXCL is dropped. Not flock: that one belongs to udev, and a hook may call `udevadm lock`.
fn lock(file: &File, path: &Path) -> Result<File, DeviceError> {
    lock_byte(file, WRITER).map_err(|err| lock_error(err, file, path))
}

fn lock_error(source: io::Error, file: &File, path: &Path) -> DeviceError {
    match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::PermissionDenied => busy(path, file),
        _ => DeviceError::Open { path: path.to_owned(), source },
    }
}

/// Shows, while the result is open, that somebody looks after the hooks' device of this disk.
pub(super) fn attend(disk: &HeldDisk) -> io::Result<File> {
    lock_byte(&disk.lock, HOOKS)
}

/// Whether somebody does. True where that can't be told.
pub(super) fn is_attended(disk: &File) -> bool {
    are_locked(disk, HOOKS, 1).unwrap_or(true)
}

/// Whether another open file has any of `len` bytes from `start` locked.
fn are_locked(disk: &File, start: i64, len: i64) -> io::Result<bool> {
    let mut bytes = bytes(start, len)?;
    fcntl(disk, FcntlArg::F_OFD_GETLK(&mut bytes))?;
    Ok(i32::from(bytes.l_type) != libc::F_UNLCK)
}

fn lock_byte(file: &File, start: i64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(descriptor_path(file))?;
    lock_bytes(&file, start, 1)?;
    Ok(file)
}

/// Locks `len` bytes from `start` for as long as `file` is open; no other open file may have locked any of them.
fn lock_bytes(file: &File, start: i64, len: i64) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&bytes(start, len)?))?;
    Ok(())
}

fn bytes(start: i64, len: i64) -> io::Result<libc::flock> {
    lock_of(libc::F_WRLCK, start, len)
}

/// A lock of the kind `kind` on `len` bytes from `start`.
pub(super) fn lock_of(kind: i32, start: i64, len: i64) -> io::Result<libc::flock> {
    let short = |constant: i32| i16::try_from(constant).map_err(io::Error::other);
    let (l_type, l_whence) = (short(kind)?, short(libc::SEEK_SET)?);
    Ok(libc::flock { l_type, l_whence, l_start: start, l_len: len, l_pid: 0 })
}

impl HeldDisk {
    /// As Ganeti named it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Block device or file.
    pub(crate) fn kind(&self) -> DiskKind {
        self.kind
    }

    /// In bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The disk, open for reading and writing, not exclusively.
    pub(crate) fn file(&self) -> &File {
        &self.lock
    }

    /// Whether `path` leads to this disk itself.
    pub(crate) fn is_same_file(&self, path: &Path) -> bool {
        // One device may have several nodes, with an inode each. A file has no device number.
        let identity = |data: Metadata| match data.rdev() {
            0 => (data.dev(), data.ino(), 0),
            device => (0, 0, device),
        };
        self.lock
            .metadata()
            .map(identity)
            .is_ok_and(|mine| std::fs::metadata(path).is_ok_and(|data| identity(data) == mine))
    }

    /// Whether its boot area is known to be zero, on stable storage.
    pub(crate) fn is_unbootable(&self) -> bool {
        self.unbootable.load(Ordering::Relaxed)
    }

    /// Notes what is known of its boot area.
    pub(crate) fn set_unbootable(&self, unbootable: bool) {
        self.unbootable.store(unbootable, Ordering::Relaxed);
    }

    /// Whether a qemu, or a qemu-nbd, has it open.
    pub(crate) fn is_open_in_qemu(&self) -> bool {
        // What can't be told is no use.
        are_locked(&self.lock, QEMU.0, QEMU.1).unwrap_or(false)
    }

    /// Whether somebody uses the block device: it is mounted, or another device lies on it.
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
