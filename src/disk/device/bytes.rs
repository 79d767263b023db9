// SPDX-License-Identifier: BSD-2-Clause
//! Bytes at offsets, wherever they lie: on a disk, in an image, or partly still in memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{HeldDisk, SourceDisk, Target};

/// Something of fixed length that can be read at any offset.
pub(crate) trait ReadAt {
    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Fills `buf` from `offset` on (bytes). Behind the end is an error.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

/// The same, to be written as well.
pub(crate) trait WriteAt: ReadAt {
    /// Writes all of `data` at `offset` (bytes).
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()>;

    /// What was written so far is on stable storage before anything that is written later. Nothing to do for what is
    /// put there as a whole at another time.
    fn sync(&mut self) -> io::Result<()>;
}

impl ReadAt for Target {
    fn len(&self) -> u64 {
        self.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        Target::read_at(self, buf, offset)
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
        self.file().write_all_at(data, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file().sync_all()
    }
}

impl ReadAt for SourceDisk {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file().read_exact_at(buf, offset)
    }
}

/// The first `len` bytes of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileBytes<'f> {
    file: &'f File,
    len: u64,
}

impl<'f> FileBytes<'f> {
    /// Of a file that is open for reading and has at least `len` bytes.
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

/// A disk in memory, or its beginning.
pub(crate) struct MemoryDisk(pub(crate) Vec<u8>);

impl MemoryDisk {
    /// Where `len` bytes from `offset` on lie; `beyond` if they reach behind the end.
    fn range(&self, len: usize, offset: u64, beyond: io::ErrorKind) -> io::Result<std::ops::Range<usize>> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let end = at.checked_add(len).filter(|end| *end <= self.0.len());
        Ok(at..end.ok_or(beyond)?)
    }
}

impl ReadAt for MemoryDisk {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        buf.copy_from_slice(&self.0[self.range(buf.len(), offset, io::ErrorKind::UnexpectedEof)?]);
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
