// SPDX-License-Identifier: BSD-2-Clause
//! Copies a raw image file. The file's holes are written as ranges of zeros.

use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};

use super::extents::{self, Extent, Extents};
use super::{DiskWriter, THREADS, WriteError};
use crate::disk::device::{ALIGNMENT, AlignedBuf, DirectReader};
use crate::disk::fingerprint::{BLOCK, Fingerprint};

/// The length of one read and one write, in bytes. 8 MiB were measured to be 1.2 times as fast as 4 MiB.
const STEP: usize = 8 << 20;

/// Writes the `len` bytes of `file` to the disk, and adds what it writes to the fingerprint `seen`, if there is one.
pub fn raw_file(
    file: &File,
    len: u64,
    writer: &mut DiskWriter<'_>,
    seen: Option<&Fingerprint>,
) -> Result<(), WriteError> {
    extents::copy(&RawExtents::new(file, len, seen), len, writer, THREADS)?;
    // If the file was cut off meanwhile, the missing part looked like a hole.
    match lseek64(file, 0, Whence::SeekEnd) {
        Ok(end) if u64::try_from(end).is_ok_and(|end| end < len) => Err(WriteError::Shrunk),
        Ok(_) => Ok(()),
        Err(err) => Err(WriteError::Image(err.into())),
    }
}

/// The data and the holes of a file, in steps of at most [`STEP`] of data.
struct RawExtents<'f> {
    file: &'f File,
    source: DirectReader<'f>,
    len: u64,
    /// Data begins and ends on multiples of this number, in bytes.
    unit: u64,
    place: Mutex<Place>,
    seen: Option<&'f Fingerprint>,
}

/// How far the extents were taken, and where the data there ends, in bytes.
#[derive(Default)]
struct Place {
    at: u64,
    data_end: u64,
}

impl Extents for RawExtents<'_> {
    fn longest(&self) -> usize {
        STEP
    }

    fn next(&self) -> io::Result<Option<Extent>> {
        let mut place = self.place();
        if place.at >= self.len {
            return Ok(None);
        }
        let offset = place.at;
        if offset >= place.data_end {
            // Holes consist of whole pages, because a page that one thread writes in part and another zeroes in part
            // might keep old data.
            let page = self.unit;
            let found = self.seek(offset, Whence::SeekData)?;
            let start = if found < self.len { (found - found % page).max(offset) } else { found };
            let end = if found < self.len { self.seek(found, Whence::SeekHole)? } else { self.len };
            place.data_end = end.next_multiple_of(page).min(self.len);
            if start > offset {
                place.at = start;
                return Ok(Some(Extent::Zeros { offset, len: start - offset }));
            }
        }
        // Steps end on multiples of STEP, so that direct I/O stays aligned wherever the extent begins.
        let step_end = (offset / STEP as u64 + 1) * STEP as u64;
        place.at = step_end.min(place.data_end);
        let len = usize::try_from(place.at - offset).map_err(io::Error::other)?;
        Ok(Some(Extent::Data { offset, len }))
    }

    fn read(&self, buffer: &mut AlignedBuf, offset: u64, len: usize) -> io::Result<()> {
        self.source.read(buffer, offset, len)?;
        // The fingerprint gets exactly the bytes that are written.
        if let Some(seen) = self.seen {
            seen.add(&buffer[..len], offset);
        }
        Ok(())
    }

    fn stop(&self) {
        self.place().at = self.len;
    }
}

impl<'f> RawExtents<'f> {
    fn new(file: &'f File, len: u64, seen: Option<&'f Fingerprint>) -> Self {
        // The two passes of the fingerprint have to cut the file into the same blocks.
        let unit = if seen.is_some() { BLOCK } else { ALIGNMENT } as u64;
        RawExtents { file, source: DirectReader::new(file), len, unit, place: Mutex::default(), seen }
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns where data or a hole begins at or after `offset`, or the end of the file. On a file system that can't
    /// tell, everything is data.
    fn seek(&self, offset: u64, whence: Whence) -> io::Result<u64> {
        let start = i64::try_from(offset).map_err(io::Error::other)?;
        match lseek64(self.file, start, whence) {
            Ok(found) => Ok(u64::try_from(found).map_err(io::Error::other)?.min(self.len)),
            Err(Errno::ENXIO) => Ok(self.len),
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) if matches!(whence, Whence::SeekData) => Ok(offset),
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(self.len),
            Err(err) => Err(err.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{RawExtents, raw_file};
    use crate::disk::device::Target;
    use crate::disk::write::extents::{self, Extent, Extents as _};
    use crate::disk::write::{DiskWriter, THREADS, WriteOptions};
    use crate::node::file::descriptor_path;
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::os::unix::fs::FileExt;

    #[test]
    fn extents_cover_the_file() {
        let file = tempfile::tempfile().unwrap();
        let len = (20 << 20) + 123;
        file.set_len(len).unwrap();
        file.write_all_at(b"x", 5 << 20).unwrap();
        file.write_all_at(b"y", 20 << 20).unwrap();
        let extents = RawExtents::new(&file, len, None);
        let mut end = 0;
        let mut holes = 0;
        while let Some(extent) = extents.next().unwrap() {
            let (offset, len, hole) = match extent {
                Extent::Data { offset, len } => (offset, len as u64, 0),
                Extent::Zeros { offset, len } => (offset, len, len),
            };
            assert_eq!(offset, end);
            assert!(len > 0);
            end = offset + len;
            holes += hole;
        }
        assert_eq!(end, len);
        assert!(holes >= 15 << 20, "{holes}");
    }

    /// After an error of the source or the disk, no thread may continue to the end of the image.
    #[test]
    fn an_error_of_one_thread_ends_the_other() {
        let len = 256 << 20;
        let image = tempfile::tempfile().unwrap();
        image.set_len(len).unwrap();
        image.write_all_at(&vec![1; 16 << 20], 40 << 20).unwrap();
        let disk = std::fs::File::from(memfd_create(c"disk", MFdFlags::MFD_ALLOW_SEALING).unwrap());
        disk.set_len(len).unwrap();
        let target = Target::open(&descriptor_path(&disk)).unwrap();
        let mut writer = DiskWriter::begin(&target, WriteOptions::default()).unwrap();
        let extents = RawExtents::new(&image, len, None);
        fcntl(&disk, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
        let failed = extents::copy(&extents, len, &mut writer, THREADS).unwrap_err().to_string();
        assert!(failed.starts_with("writing to disk "), "{failed}");
        assert!(extents.next().unwrap().is_none(), "something is left to copy");
        let failed = raw_file(&image, len, &mut writer, None).unwrap_err().to_string();
        assert!(failed.starts_with("writing to disk "), "{failed}");
    }

    /// A part that is cut off while the image is read looks like a hole.
    #[test]
    fn a_file_that_gets_shorter_is_an_error() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(4 << 20).unwrap();
        let target = Target::open(disk.path()).unwrap();
        let mut writer = DiskWriter::begin(&target, WriteOptions::default()).unwrap();
        let image = tempfile::tempfile().unwrap();
        image.set_len(2 << 20).unwrap();
        raw_file(&image, 2 << 20, &mut writer, None).unwrap();
        image.set_len((2 << 20) - 1).unwrap();
        let message = raw_file(&image, 2 << 20, &mut writer, None).unwrap_err().to_string();
        assert_eq!(message, "the image became shorter while it was read (is somebody writing a new one there?)");
    }
}
