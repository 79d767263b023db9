// SPDX-License-Identifier: BSD-2-Clause
//! Makes the file system of a seed: a small FAT, in memory.
//!
//! The same input gives the same bytes: all times in it are 1980-01-01, where FAT's calendar begins.

use std::io::{self, Cursor, Write};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};

use super::{LABEL, MAKER, VolumeError};
use crate::node::size::{ByteSize, MIB};

/// Length of a seed's file system at most, in bytes.
pub(crate) const LEN: u64 = 4 * MIB;

/// Length of a cluster in bytes. At 4 MiB this makes a FAT12, as mkfs.fat would.
const CLUSTER: u32 = 2048;

/// A new file system of `len` bytes (1 to 4 MiB) for sectors of `sector` bytes, with the serial number `serial` and
/// `files` by name.
pub(crate) fn format<N: AsRef<str>, C: AsRef<[u8]>>(
    len: u64,
    sector: u64,
    serial: u32,
    files: impl IntoIterator<Item = (N, C)>,
) -> Result<Vec<u8>, VolumeError> {
    let failed = |source| VolumeError::Format { source };
    let mut disk = Cursor::new(vec![0; usize::try_from(len).map_err(|err| failed(io::Error::other(err)))?]);
    let sector = u16::try_from(sector).map_err(|err| failed(io::Error::other(err)))?;
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat12)
        .bytes_per_sector(sector)
        .bytes_per_cluster(CLUSTER.max(u32::from(sector)))
        .volume_id(serial)
        .volume_label(*LABEL);
    fatfs::format_volume(&mut disk, options).map_err(failed)?;
    disk.set_position(0);
    let fs = FileSystem::new(disk.by_ref(), FsOptions::new()).map_err(failed)?;
    for (name, content) in files {
        write_file(&fs, name.as_ref(), content.as_ref(), len)?;
    }
    fs.unmount().map_err(failed)?;
    let mut bytes = disk.into_inner();
    bytes[3..11].copy_from_slice(MAKER);
    Ok(bytes)
}

fn write_file(fs: &FileSystem<&mut Cursor<Vec<u8>>>, name: &str, content: &[u8], len: u64) -> Result<(), VolumeError> {
    // In memory nothing else can happen.
    let full = |_err| VolumeError::Full { file: name.to_owned(), volume: ByteSize(len) };
    let mut file = fs.root_dir().create_file(name).map_err(full)?;
    file.write_all(content).and_then(|()| file.flush()).map_err(full)
}

#[cfg(test)]
mod tests {
    use super::{LEN, format};
    use crate::seed::volume::VolumeError;

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let volume = || format(LEN, 512, 7, [("meta-data", b"a: b\n")]).unwrap();
        assert!(volume() == volume());
        assert_eq!(volume().len() as u64, LEN);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for len in [LEN - 4096, LEN + 1] {
            let content = vec![1; usize::try_from(len).unwrap()];
            let error = format(LEN, 512, 7, [("meta-data", &b"a"[..]), ("user-data", &content)]).unwrap_err();
            assert!(matches!(&error, VolumeError::Full { file, .. } if file == "user-data"), "{error:?}");
        }
    }
}
