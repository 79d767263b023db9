// SPDX-License-Identifier: BSD-2-Clause
//! A compressed image in a format of its own, unpacked for qemu-img, which must seek in it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::node::size::{ByteSize, MIB};

/// What such a file may need besides the disk's data, in bytes: its tables are far smaller.
const ALLOWANCE: u64 = 64 * MIB;

/// Why an image was not unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// The folder is full or unusable.
    #[error("unpacking the image into {folder}", folder = .0.display())]
    Folder(PathBuf, #[source] io::Error),
    /// The archive is broken.
    #[error("unpacking the image")]
    Archive(#[source] io::Error),
    /// It goes on and on.
    #[error("the unpacked image is larger than {0}, more than a disk of this size can need")]
    TooLarge(ByteSize),
}

/// Unpacks `packed` into a file without a name in `folder`, which is gone when it is closed, whatever ends us.
/// An archive that unpacks to more than twice the disk's size (snapshots take room) is refused.
pub(crate) fn unpack(packed: &mut dyn Read, folder: &Path, disk_size: u64) -> Result<File, SpoolError> {
    let folder_error = |err| SpoolError::Folder(folder.to_owned(), err);
    let file = tempfile::tempfile_in(folder).map_err(folder_error)?;
    let limit = disk_size.saturating_mul(2).saturating_add(ALLOWANCE);
    let mut buffer = vec![0; 1 << 20];
    let mut len = 0;
    loop {
        let read = match packed.read(&mut buffer) {
            Ok(0) => return Ok(file),
            Ok(read) => read,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(SpoolError::Archive(err)),
        };
        len += read as u64;
        if len > limit {
            return Err(SpoolError::TooLarge(ByteSize(limit)));
        }
        io::Write::write_all(&mut &file, &buffer[..read]).map_err(folder_error)?;
    }
}
