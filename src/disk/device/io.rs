// SPDX-License-Identifier: BSD-2-Clause
//! Reads and writes bytes at offsets of disks, files and memory. Here are also the buffers and readers for direct I/O.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{DeviceError, HeldDisk, Target, open_disk};
use crate::node::file::descriptor_path;
use crate::node::sys;

/// Something of fixed length that can be read at any offset.
pub(crate) trait ReadAt {
    /// Returns the length in bytes.
    fn len(&self) -> u64;

    /// Fills `buf` with the bytes from `offset` on. Fails if fewer bytes are left.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

impl<T: ReadAt> ReadAt for &T {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_at(buf, offset)
    }
}

/// Something of fixed length that can also be written at any offset.
pub(crate) trait WriteAt: ReadAt {
    /// Writes all of `data` at `offset` (bytes).
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Puts everything that was written so far onto stable storage, before anything that is written later.
    fn sync(&mut self) -> io::Result<()>;
}

impl ReadAt for Target {
    fn len(&self) -> u64 {
        self.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file().read_exact_at(buf, offset)
    }
}

impl WriteAt for Target {
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        Target::write_at(self, data, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        Target::sync(self)
    }
}

impl ReadAt for HeldDisk {
    fn len(&self) -> u64 {
        self.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file().read_exact_at(buf, offset)
    }
}

impl WriteAt for HeldDisk {
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        write_whole_pages(self.file(), data, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file().sync_all()
    }
}

/// Writes all of `data` at `offset` (bytes), each page of the disk as a whole.
///
/// The kernel copies from the memory to the page cache, and SIGKILL can end it at the end of a page of either of them. So the
/// pages of both begin at the same places. Else a part of a disk's block would be new and the rest old.
pub(crate) fn write_whole_pages(file: &File, data: &[u8], offset: u64) -> io::Result<()> {
    let shift = usize::try_from(offset % ALIGNMENT as u64).map_err(io::Error::other)?;
    let mut pages = AlignedBuf::new(shift + data.len());
    pages[shift..].copy_from_slice(data);
    file.write_all_at(&pages[shift..], offset)
}

/// The first `len` bytes of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileBytes<'f> {
    file: &'f File,
    len: u64,
}

impl<'f> FileBytes<'f> {
    /// Takes a file that is open for reading and has at least `len` bytes.
    pub(crate) fn new(file: &'f File, len: u64) -> Self {
        FileBytes { file, len }
    }
}

impl ReadAt for FileBytes<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

/// A disk in memory, or the beginning of one.
pub(crate) struct MemoryDisk(pub(crate) Vec<u8>);

impl MemoryDisk {
    /// Returns the range of `len` bytes from `offset` on. The error is of the kind `beyond` if the range is not in the
    /// disk.
    fn range(&self, len: usize, offset: u64, beyond: io::ErrorKind) -> io::Result<Range<usize>> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(len).filter(|end| *end <= self.0.len());
        Ok(start..end.ok_or(beyond)?)
    }
}

impl ReadAt for MemoryDisk {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let range = self.range(buf.len(), offset, io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(&self.0[range]);
        Ok(())
    }
}

#[cfg(test)]
impl WriteAt for MemoryDisk {
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        let range = self.range(data.len(), offset, io::ErrorKind::StorageFull)?;
        self.0[range].copy_from_slice(data);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The alignment of direct I/O in bytes, in memory and on disk. It is right for sectors of 512 and of 4096 bytes.
pub const ALIGNMENT: usize = 4096;

/// A buffer of fixed length whose first byte lies on an [`ALIGNMENT`] boundary.
#[derive(Debug)]
pub struct AlignedBuf {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// Returns a buffer of `len` zero bytes.
    pub fn new(len: usize) -> Self {
        let memory = vec![0; len + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        AlignedBuf { memory, start, len }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// A disk that is open for reading. It is not locked: Ganeti exports snapshots and the disks of stopped instances.
#[derive(Debug)]
pub(crate) struct SourceDisk {
    file: File,
    /// The path that Ganeti gave.
    pub(crate) path: PathBuf,
    /// The size in bytes.
    pub(crate) size: u64,
}

impl SourceDisk {
    /// Opens a block device or regular file for reading.
    pub(crate) fn open(path: &Path) -> Result<Self, DeviceError> {
        let (file, _, size) = open_disk(path, OpenOptions::new().read(true), 0)?;
        Ok(SourceDisk { file, path: path.to_owned(), size })
    }

    pub(crate) fn reader(&self) -> DirectReader<'_> {
        DirectReader::new(&self.file)
    }
}

impl ReadAt for SourceDisk {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

/// Reads a file or a block device without the page cache, where that is possible. Bytes that are read only once would
/// take the place of others in the cache, and would be copied once more. What the page cache already holds, such as an
/// image that was just downloaded, is read from there, because that is faster than the disk.
#[derive(Debug)]
pub(crate) struct DirectReader<'f> {
    file: &'f File,
    direct: Option<File>,
}

impl<'f> DirectReader<'f> {
    /// Takes a file that is open for reading.
    pub(crate) fn new(file: &'f File) -> Self {
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(descriptor_path(file)).ok();
        DirectReader { file, direct }
    }

    /// Returns whether the file can be read without the page cache.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Reads `len` bytes at `offset` (both in bytes) into the start of `buffer`. Fails if fewer bytes are left.
    pub(crate) fn read(&self, buffer: &mut AlignedBuf, offset: u64, len: usize) -> io::Result<()> {
        let mut done = 0;
        let direct = self.direct.as_ref().filter(|_| offset.is_multiple_of(ALIGNMENT as u64));
        if let Some(direct) = direct.filter(|_| !self.is_cached(offset, len)) {
            // A direct read is short only at the end of the file. The rest is read through the page cache, and so is
            // what a direct read refuses.
            let aligned_len = len.next_multiple_of(ALIGNMENT).min(buffer.len());
            done = direct.read_at(&mut buffer[..aligned_len], offset).unwrap_or(0).min(len);
        }
        self.file.read_exact_at(&mut buffer[done..len], offset + done as u64)
    }

    /// Returns whether the page cache holds at least seven eighths of a range. The kernel drops single pages of a file
    /// that was just read, and it would be slow to read the whole range from the disk again because of them. Returns
    /// false on a kernel that can't answer the question.
    pub(crate) fn is_cached(&self, offset: u64, len: usize) -> bool {
        sys::cached_bytes(self.file, offset, len as u64).is_ok_and(|cached| cached >= (len - len / 8) as u64)
    }
}
