// SPDX-License-Identifier: BSD-2-Clause
//! The file system of a seed: a small FAT, made and changed in memory.
//!
//! The same input gives the same bytes: all times in it are 1980-01-01, where FAT's calendar begins.

use std::io::{self, Cursor, Read, Write};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};

use super::{LABEL, MAKER, MAX_READ, VolumeError};
use crate::size::{ByteSize, MIB};

/// Length of a cluster in bytes. At 4 MiB this makes a FAT12, as mkfs.fat would.
const CLUSTER: u32 = 2048;

/// A FAT in memory.
#[derive(Clone)]
pub struct Volume(Vec<u8>);

/// Length of a seed's file system at most, in bytes.
pub const LEN: u64 = 4 * MIB;

/// Where the serial number is in the boot sector of FAT12 and FAT16.
const SERIAL: std::ops::Range<usize> = 39..43;

impl Volume {
    /// A new one of `len` bytes (1 to 4 MiB) for sectors of `sector` bytes, with `files` by name.
    pub fn format(len: u64, sector: u64, serial: u32, files: &[(&str, &[u8])]) -> Result<Self, VolumeError> {
        let damaged = |source| VolumeError::Format { source };
        let bytes = vec![0; usize::try_from(len).map_err(|err| damaged(io::Error::other(err)))?];
        let sector = u16::try_from(sector).map_err(|err| damaged(io::Error::other(err)))?;
        let options = FormatVolumeOptions::new()
            .fat_type(FatType::Fat12)
            .bytes_per_sector(sector)
            .bytes_per_cluster(CLUSTER.max(u32::from(sector)))
            .volume_id(serial)
            .volume_label(*LABEL);
        let mut disk = Cursor::new(bytes);
        fatfs::format_volume(&mut disk, options).map_err(damaged)?;
        let mut volume = Volume(disk.into_inner());
        volume.0[3..11].copy_from_slice(MAKER);
        for (name, content) in files {
            volume.put(name, content)?;
        }
        Ok(volume)
    }

    /// One that was read from a disk. Only FAT12 and FAT16, as all seeds of ours are.
    pub fn open(bytes: Vec<u8>) -> Result<Self, VolumeError> {
        let mut volume = Volume(bytes);
        match volume.mount().map(|fs| fs.fat_type()) {
            Ok(FatType::Fat12 | FatType::Fat16) => Ok(volume),
            Ok(FatType::Fat32) => Err(VolumeError::Damaged { source: io::Error::other("it is a FAT32") }),
            Err(source) => Err(VolumeError::Damaged { source }),
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The content of a file in the root directory; none when there is none of that name.
    pub fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, VolumeError> {
        let damaged = |source| VolumeError::Damaged { source };
        let fs = self.mount().map_err(damaged)?;
        let mut content = Vec::new();
        let file = match fs.root_dir().open_file(name) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(damaged(err)),
        };
        file.take(MAX_READ).read_to_end(&mut content).map_err(damaged)?;
        Ok(Some(content))
    }

    /// Gives a file another content; it is made if it is not there.
    pub fn put(&mut self, name: &str, content: &[u8]) -> Result<(), VolumeError> {
        let len = self.0.len() as u64;
        let full = |source: io::Error| match source.kind() {
            // fatfs's word for a full volume, and that of a cut write.
            io::ErrorKind::Other | io::ErrorKind::WriteZero => {
                VolumeError::Full { file: name.to_owned(), volume: ByteSize(len) }
            }
            _ => VolumeError::Damaged { source },
        };
        if content.len() as u64 > len {
            return Err(VolumeError::Full { file: name.to_owned(), volume: ByteSize(len) });
        }
        let fs = self.mount().map_err(|source| VolumeError::Damaged { source })?;
        {
            let mut file = fs.root_dir().create_file(name).map_err(full)?;
            file.truncate().map_err(full)?;
            file.write_all(content).map_err(full)?;
            file.flush().map_err(full)?;
        }
        fs.unmount().map_err(|source| VolumeError::Damaged { source })
    }

    /// Removes a file from the root directory, if it is there.
    pub fn remove(&mut self, name: &str) -> Result<(), VolumeError> {
        let fs = self.mount().map_err(|source| VolumeError::Damaged { source })?;
        match fs.root_dir().remove(name) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(VolumeError::Damaged { source }),
            _ => {}
        }
        fs.unmount().map_err(|source| VolumeError::Damaged { source })
    }

    /// Makes it another instance's.
    pub fn set_serial(&mut self, serial: u32) {
        self.0[SERIAL].copy_from_slice(&serial.to_le_bytes());
    }

    fn mount(&mut self) -> io::Result<FileSystem<Cursor<&mut [u8]>>> {
        FileSystem::new(Cursor::new(self.0.as_mut_slice()), FsOptions::new())
    }
}

#[cfg(test)]
mod tests {
    use super::{LEN, Volume};
    use crate::volume::VolumeError;
    use proptest::prelude::{any, prop, proptest};

    fn volume(sector: u64) -> Volume {
        Volume::format(LEN, sector, 0x1234_5678, &[("meta-data", b"a: b\n"), ("user-data", &[7; 5000])]).unwrap()
    }

    #[test]
    fn files_come_back_and_change() {
        for sector in [512, 4096] {
            let mut volume = volume(sector);
            assert_eq!(volume.read("user-data").unwrap().unwrap(), [7; 5000]);
            assert_eq!(volume.read("vendor-data").unwrap(), None);
            volume.put("meta-data", &[1; 9000]).unwrap();
            volume.remove("user-data").unwrap();
            volume.remove("never-there").unwrap();
            let mut again = Volume::open(volume.bytes().to_vec()).unwrap();
            assert_eq!(again.read("meta-data").unwrap().unwrap(), [1; 9000]);
            assert_eq!(again.read("user-data").unwrap(), None);
        }
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        assert!(volume(512).bytes() == volume(512).bytes());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for len in [LEN - 4096, LEN + 1] {
            let content = vec![1; usize::try_from(len).unwrap()];
            let error = volume(512).put("user-data", &content).unwrap_err();
            assert!(matches!(&error, VolumeError::Full { file, .. } if file == "user-data"), "{error:?}");
        }
    }

    proptest! {
        /// The disk of an instance holds what its owner wrote there.
        #[test]
        fn no_volume_panics(changes in prop::collection::vec((0..24_000_usize, any::<u8>()), 1..200)) {
            let mut bytes = volume(512).bytes().to_vec();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            if let Ok(mut volume) = Volume::open(bytes) {
                let _ = (volume.read("meta-data"), volume.read("user-data"));
                let _ = (volume.put("meta-data", b"new"), volume.remove("user-data"));
            }
        }

        #[test]
        fn no_boot_sector_panics(changes in prop::collection::vec((11..64_usize, any::<u8>()), 1..6)) {
            let mut bytes = volume(512).bytes().to_vec();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            if let Ok(mut volume) = Volume::open(bytes) {
                let _ = (volume.read("meta-data"), volume.read("user-data"));
                let _ = (volume.put("meta-data", b"new"), volume.remove("user-data"));
            }
        }
    }
}
