// SPDX-License-Identifier: BSD-2-Clause
//! The disk that is written: ranges of bytes and ranges of zeros, at any offset.

use std::fs::{File, Metadata, OpenOptions, read_to_string};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, fallocate, fcntl};
use nix::sys::stat::{major, minor};

use super::{ALIGNMENT, AlignedBuf, DeviceError, DiskKind, descriptor_path, open_disk};
use crate::size::MIB;
use crate::sys;

/// One zeroing call covers at most this many bytes, so that a signal is served soon on devices that really write them.
const ZERO_STEP: u64 = 64 * MIB;

/// A disk opened for writing, with nobody else writing it.
#[derive(Debug)]
pub struct Target {
    /// Block devices: opened O_EXCL, which fails on a mounted or claimed device.
    file: File,
    held: Arc<HeldDisk>,
    /// The same disk past the page cache, where the device takes direct I/O.
    direct: Option<File>,
    direct_works: AtomicBool,
    sector: u64,
    ranges_work: AtomicBool,
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
    /// Opens and holds the disk at `path`.
    pub fn open(path: &Path) -> Result<Self, DeviceError> {
        let open_error = |source| DeviceError::Open { path: path.to_owned(), source };
        let (file, kind, size) = open_disk(path, OpenOptions::new().read(true).write(true), libc::O_EXCL)?;
        let sector = match kind {
            DiskKind::Block => sys::sector_size(&file).map_err(open_error)?,
            DiskKind::File => 1,
        };
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(descriptor_path(&file)).ok();
        let held = HeldDisk {
            lock: lock(&file, path)?,
            path: path.to_owned(),
            kind,
            size,
            unbootable: AtomicBool::new(false),
        };
        let works = || AtomicBool::new(true);
        let held = Arc::new(held);
        Ok(Target { file, held, direct, direct_works: works(), sector, ranges_work: works() })
    }

    /// As Ganeti named it.
    pub fn path(&self) -> &Path {
        &self.held.path
    }

    /// Block device or file.
    pub fn kind(&self) -> DiskKind {
        self.held.kind
    }

    /// The locked disk, not exclusively.
    pub fn held(&self) -> &Arc<HeldDisk> {
        &self.held
    }

    /// Gives the exclusive use up and keeps the lock.
    pub fn release(self) -> Arc<HeldDisk> {
        self.held
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.held.size
    }

    /// The open disk, for a child process to inherit.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether `path` leads to this disk itself.
    pub fn is_same_file(&self, path: &Path) -> bool {
        // One device may have several nodes, with an inode each. A file has no device number.
        let identity = |data: Metadata| match data.rdev() {
            0 => (data.dev(), data.ino(), 0),
            device => (0, 0, device),
        };
        self.file
            .metadata()
            .map(identity)
            .is_ok_and(|mine| std::fs::metadata(path).is_ok_and(|data| identity(data) == mine))
    }

    /// Whether it can be written past the page cache.
    pub fn takes_direct_io(&self) -> bool {
        self.direct.is_some() && self.direct_works.load(Ordering::Relaxed)
    }

    /// Writes `data` at `offset` (bytes), past the page cache as far as alignment allows.
    pub fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
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
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    /// Makes `len` bytes at `offset` read zero: by range where the disk can (a file keeps its holes), else by writing.
    pub fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset + len;
        let first = offset.next_multiple_of(self.sector).min(end);
        let last = (end - end % self.sector).max(first);
        self.write_zeros(offset, first - offset)?;
        let mut at = first;
        while at < last {
            let step = ZERO_STEP.min(last - at);
            if !self.ranges_work.load(Ordering::Relaxed) || !self.zero_range(at, step)? {
                self.write_zeros(at, step)?;
            }
            at += step;
        }
        self.write_zeros(last, end - last)
    }

    /// Whether zeroing all of the disk costs next to nothing: a file, or a device that zeroes ranges by itself.
    pub fn zeroes_cheaply(&self) -> bool {
        if self.kind() == DiskKind::File {
            return self.ranges_work.load(Ordering::Relaxed);
        }
        let Ok(data) = self.file.metadata() else { return false };
        let limit =
            format!("/sys/dev/block/{}:{}/queue/write_zeroes_max_bytes", major(data.rdev()), minor(data.rdev()));
        read_to_string(limit).is_ok_and(|text| text.trim().parse().is_ok_and(|bytes: u64| bytes > 0))
    }

    /// All that was written is on stable storage, or an error: `fsync` reports what the page cache failed to write.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Checks that writing did not change the size of a file.
    pub fn check_size(&self) -> io::Result<()> {
        let now = self.file.metadata()?.len();
        if self.kind() == DiskKind::File && now != self.size() {
            return Err(io::Error::other(format!("its size changed from {} to {now} bytes", self.size())));
        }
        Ok(())
    }

    fn zero_range(&self, offset: u64, len: u64) -> io::Result<bool> {
        let done = match self.kind() {
            DiskKind::Block => sys::zero_out(&self.file, offset, len),
            DiskKind::File => {
                let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let range = (offset.try_into().map_err(io::Error::other)?, len.try_into().map_err(io::Error::other)?);
                fallocate(&self.file, flags, range.0, range.1).map_err(io::Error::from)
            }
        };
        match done.as_ref().err().and_then(io::Error::raw_os_error).map(Errno::from_raw) {
            // Not offered by this file system or device: write them.
            Some(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENOTTY | Errno::EINVAL) => {
                self.ranges_work.store(false, Ordering::Relaxed);
                Ok(false)
            }
            _ => done.map(|()| true),
        }
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let zeros = AlignedBuf::new(usize::try_from(len.min(MIB)).map_err(io::Error::other)?);
        let mut at = 0;
        while at < len {
            let step = usize::try_from((len - at).min(zeros.len() as u64)).map_err(io::Error::other)?;
            self.write_at(&zeros[..step], offset + at)?;
            at += step as u64;
        }
        Ok(())
    }
}

/// Opens the disk once more and locks one byte of it, so that a second create is refused at once, in the hooks phase
/// too, when O_EXCL is dropped. Not flock: that one belongs to udev, and a hook may call `udevadm lock`. The byte lies
/// far behind any disk's end and outside the ones qemu locks (100 to 303).
fn lock(file: &File, path: &Path) -> Result<File, DeviceError> {
    let open_error = |source| DeviceError::Open { path: path.to_owned(), source };
    let file = OpenOptions::new().read(true).write(true).open(descriptor_path(file)).map_err(open_error)?;
    let byte = byte_lock(i64::MAX - 1, 1).map_err(open_error)?;
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&byte)) {
        Ok(_) => Ok(file),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(DeviceError::Busy(path.to_owned())),
        Err(err) => Err(open_error(err.into())),
    }
}

/// A lock for writing on `len` bytes from `start` on.
fn byte_lock(start: i64, len: i64) -> io::Result<libc::flock> {
    let short = |constant: i32| i16::try_from(constant).map_err(io::Error::other);
    let (l_type, l_whence) = (short(libc::F_WRLCK)?, short(libc::SEEK_SET)?);
    Ok(libc::flock { l_type, l_whence, l_start: start, l_len: len, l_pid: 0 })
}

impl HeldDisk {
    /// Opens and locks the disk at `path`, which others may hold exclusively.
    pub fn open(path: &Path) -> Result<Self, DeviceError> {
        let (file, kind, size) = open_disk(path, OpenOptions::new().read(true).write(true), 0)?;
        Ok(HeldDisk { lock: lock(&file, path)?, path: path.to_owned(), kind, size, unbootable: AtomicBool::new(false) })
    }

    /// As Ganeti named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Block device or file.
    pub fn kind(&self) -> DiskKind {
        self.kind
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The disk, open for reading and writing, not exclusively.
    pub fn file(&self) -> &File {
        &self.lock
    }

    /// Whether its boot area is known to be zero, on stable storage.
    pub fn is_unbootable(&self) -> bool {
        self.unbootable.load(Ordering::Relaxed)
    }

    /// Notes what is known of its boot area.
    pub fn set_unbootable(&self, unbootable: bool) {
        self.unbootable.store(unbootable, Ordering::Relaxed);
    }

    /// Whether a running qemu has the disk open: it locks bytes of it, of files and devices alike, for reading at least
    /// (`RAW_LOCK_PERM_BASE` and `RAW_LOCK_SHARED_BASE` of its block/file-posix.c).
    pub fn is_run_by_qemu(&self) -> io::Result<bool> {
        let mut lock = byte_lock(100, 204)?;
        fcntl(&self.lock, FcntlArg::F_OFD_GETLK(&mut lock))?;
        Ok(i32::from(lock.l_type) != libc::F_UNLCK)
    }

    /// Whether somebody uses the block device: it is mounted, or another device lies on it.
    pub fn is_claimed(&self) -> io::Result<bool> {
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
