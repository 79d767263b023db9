// SPDX-License-Identifier: BSD-2-Clause
//! An image that has passed the gate: either the bytes and holes of its disk, or a file for qemu-img.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use super::container::Qcow2Disk;
use super::disk_size::DiskSize;
use super::format::ImageType;
use crate::disk::device::{FileBytes, ReadAt};
use crate::disk::partition;
use crate::disk::write::QemuDisk;
use crate::node::process::Children;
use crate::node::size::{ByteSize, MIB};

/// The number of bytes that an unpacked image may need besides the data of the disk. Its tables are far smaller.
const ALLOWANCE: u64 = 64 * MIB;

pub(crate) struct ImageReader<'f> {
    /// The declared type, or the type that was found.
    pub(crate) image_type: ImageType,
    /// The size of the disk in the image, as far as it is known before the whole image was decoded.
    pub(crate) size: DiskSize,
    pub(crate) bytes: ImageBytes<'f>,
}

/// The disk in an image, in the form that is fastest to copy.
pub(crate) enum ImageBytes<'f> {
    /// The file is the disk, which may have holes, and has this length in bytes.
    RawFile(&'f File, u64),
    /// The bytes of the disk, which are decoded while they are read.
    RawStream(Box<dyn Read + Send + 'f>),
    /// A qcow2 file that this program decodes. Any place of the disk can be read.
    Qcow2(Box<Qcow2Disk<'f>>),
    /// A file for qemu-img, and the size in bytes of the disk in it.
    QemuFile(&'f File, u64),
    /// The bytes of a file for qemu-img. They have to be unpacked to a file, which then passes the gate.
    QemuStream(Box<dyn Read + Send + 'f>),
}

impl ImageReader<'_> {
    /// Returns the disk if any place of it can be read now. That is not possible for a stream.
    pub(crate) fn disk<'d>(&'d self, children: &'d Children) -> io::Result<Option<Box<dyn ReadAt + 'd>>> {
        Ok(match &self.bytes {
            ImageBytes::RawFile(file, len) => Some(Box::new(FileBytes::new(file, *len))),
            ImageBytes::Qcow2(disk) => Some(Box::new(&**disk)),
            ImageBytes::QemuFile(file, size) => {
                Some(Box::new(QemuDisk::open(file, self.image_type.format.name(), *size, children)?))
            }
            ImageBytes::RawStream(_) | ImageBytes::QemuStream(_) => None,
        })
    }

    /// Returns the first MiB of the disk, or all of a smaller one. A stream returns these bytes again afterwards.
    pub(crate) fn beginning(&mut self, children: &Children) -> io::Result<Vec<u8>> {
        if let ImageBytes::RawStream(decoded) = &mut self.bytes {
            let mut head = Vec::new();
            decoded.by_ref().take(MIB).read_to_end(&mut head)?;
            let rest = std::mem::replace(decoded, Box::new(io::empty()));
            *decoded = Box::new(Cursor::new(head.clone()).chain(rest));
            return Ok(head);
        }
        match self.disk(children)? {
            Some(disk) => partition::read_boot_area(&*disk),
            None => Err(io::Error::other("the image is not unpacked yet")),
        }
    }
}

/// Why an image was not unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error("unpacking the image into {folder}", folder = .0.display())]
    Folder(PathBuf, #[source] io::Error),
    #[error("unpacking the image")]
    Archive(#[source] io::Error),
    #[error("the unpacked image is larger than {0}, more than a disk of this size can need")]
    TooLarge(ByteSize),
}

/// Unpacks the bytes of an image in which qemu-img has to seek. The file in `folder` has no name, so it is gone when it
/// is closed, whatever ends this process. Fails if the image has more than twice `disk_size` (in bytes), because
/// snapshots take space too.
pub(crate) fn unpack(packed: &mut dyn Read, folder: &Path, disk_size: u64) -> Result<File, UnpackError> {
    let folder_error = |err| UnpackError::Folder(folder.to_owned(), err);
    let file = tempfile::tempfile_in(folder).map_err(folder_error)?;
    let limit = disk_size.saturating_mul(2).saturating_add(ALLOWANCE);
    let mut buffer = vec![0; 1 << 20];
    let mut len = 0;
    loop {
        let read = match packed.read(&mut buffer) {
            Ok(0) => return Ok(file),
            Ok(read) => read,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(UnpackError::Archive(err)),
        };
        len += read as u64;
        if len > limit {
            return Err(UnpackError::TooLarge(ByteSize(limit)));
        }
        io::Write::write_all(&mut &file, &buffer[..read]).map_err(folder_error)?;
    }
}
