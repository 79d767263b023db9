// SPDX-License-Identifier: BSD-2-Clause
//! What is read: disks for export, and image files.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{ALIGNMENT, AlignedBuf, DeviceError, descriptor_path, open_disk};
use crate::node::sys;

/// An open disk and its size. Nothing is held: Ganeti exports snapshots, and the disks of stopped instances.
#[derive(Debug)]
pub(crate) struct SourceDisk {
    file: File,
    /// As Ganeti named it.
    pub(crate) path: PathBuf,
    /// In bytes.
    pub(crate) size: u64,
}

impl SourceDisk {
    /// Opens a block device or regular file for reading.
    pub(crate) fn open(path: &Path) -> Result<Self, DeviceError> {
        let (file, _, size) = open_disk(path, OpenOptions::new().read(true), 0)?;
        Ok(SourceDisk { file, path: path.to_owned(), size })
    }

    /// The disk, open for reading.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Its bytes.
    pub(crate) fn reader(&self) -> DirectReader<'_> {
        DirectReader::new(&self.file)
    }
}

/// A file or block device read past the page cache, where that is offered: once through, its bytes would only drive
/// others out of it, and be copied once more. What the page cache holds already, an image just downloaded for instance,
/// comes from there: that spares the disk.
#[derive(Debug)]
pub(crate) struct DirectReader<'f> {
    file: &'f File,
    direct: Option<File>,
}

impl<'f> DirectReader<'f> {
    /// Of a file that is open for reading.
    pub(crate) fn new(file: &'f File) -> Self {
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(descriptor_path(file)).ok();
        DirectReader { file, direct }
    }

    /// Whether it is read past the page cache.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Reads `len` bytes at `offset` (both in bytes) into the start of `buffer`; fewer are an error.
    pub(crate) fn read(&self, buffer: &mut AlignedBuf, offset: u64, len: usize) -> io::Result<()> {
        let mut done = 0;
        let direct = self.direct.as_ref().filter(|_| offset.is_multiple_of(ALIGNMENT as u64));
        if let Some(direct) = direct.filter(|_| !self.is_cached(offset, len)) {
            // Short at the file's end only; the rest, and what direct reads refuse, comes through the page cache.
            let whole = len.next_multiple_of(ALIGNMENT).min(buffer.len());
            done = direct.read_at(&mut buffer[..whole], offset).unwrap_or(0).min(len);
        }
        self.file.read_exact_at(&mut buffer[done..len], offset + done as u64)
    }

    /// Whether the page cache holds a range, but for an eighth at most: the kernel takes back single pages of a file that
    /// was just read, and for those few it is not worth reading all the rest from the disk again. A kernel that can't
    /// tell counts as no.
    pub(crate) fn is_cached(&self, offset: u64, len: usize) -> bool {
        sys::cached_bytes(self.file, offset, len as u64).is_ok_and(|cached| cached >= (len - len / 8) as u64)
    }
}
