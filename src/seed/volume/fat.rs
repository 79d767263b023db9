// SPDX-License-Identifier: BSD-2-Clause
//! Formats and reads the small FAT of a seed, in memory.
//!
//! The crate fatfs formats it. All times are 1980-01-01, where the calendar of FAT begins, so the same input gives the
//! same bytes. fatfs does not read it: the instance may have changed its volume, and fatfs panics over an invalid
//! cluster number.

use std::fmt;
use std::io::{self, Cursor, Write};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use serde::{Deserialize, Serialize};

use super::label::{BOOT_SECTOR, BootSector, ENTRY};
use super::{LABEL, MAKER};
use crate::node::size::{ByteSize, MIB};

/// The largest length of the file system of a seed, in bytes.
pub(crate) const LEN: u64 = 4 * MIB;

/// The length of a cluster in bytes. At 4 MiB this makes a FAT12, as with mkfs.fat.
const CLUSTER: u32 = 2048;

/// Attributes of a directory entry. A piece of a long name has all of the lowest four.
const LONG_NAME: u8 = 0x0f;
const VOLUME: u8 = 0x08;
const FOLDER: u8 = 0x10;

/// A FAT with at least this number of clusters is a FAT16.
const FAT16_CLUSTERS: usize = 4085;

/// The largest number of files and folders in the root directory. The directory that this program makes has 512 entries.
const MAX_FILES: usize = 512;

/// The largest number of characters of a long name (Microsoft's FAT specification, "Long Directory Entries").
const MAX_LONG_NAME: usize = 255;

/// Where an entry has the characters of a long name, in bytes.
const NAME_PIECES: [std::ops::Range<usize>; 3] = [1..11, 14..26, 28..32];

/// Why a volume can't be made or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("making the seed's file system")]
    Format { source: io::Error },
    #[error(
        "the seed's {file} does not fit: the volume has {volume} (shorten it; large things can come from a URL that the user-data names)"
    )]
    Full { file: String, volume: ByteSize },
    #[error("the seed volume is damaged")]
    Damaged { source: io::Error },
}

/// Makes a file system of `len` bytes (1 to 4 MiB) for sectors of `sector` bytes, with `files` (name and content).
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
    // The file system is in memory, so no other error is possible.
    let full = |_err| VolumeError::Full { file: name.to_owned(), volume: ByteSize(len) };
    let mut file = fs.root_dir().create_file(name).map_err(full)?;
    file.write_all(content).and_then(|()| file.flush()).map_err(full)
}

/// The root directory of a volume. `Debug` shows no content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contents {
    /// The name and the content of each file, in the order of the directory.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// The names of the folders, whose content is not read.
    pub(crate) folders: Vec<String>,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.files.iter().map(|(name, content)| (name, content.len()))).finish()
    }
}

impl Contents {
    /// Reads the FAT12 or FAT16 in `bytes`.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, VolumeError> {
        let fat = Fat::parse(bytes).ok_or_else(|| damaged("its boot sector is not that of a FAT12 or FAT16"))?;
        fat.contents()
    }

    /// Returns the content of the file `name`. Letter case makes no difference in FAT.
    pub(crate) fn file(&self, name: &str) -> Option<&[u8]> {
        let found = self.files.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, content)| content.as_slice())
    }
}

fn damaged(why: &str) -> VolumeError {
    VolumeError::Damaged { source: io::Error::other(why.to_owned()) }
}

/// The parts of a FAT12 or FAT16. Nothing in them is trusted.
struct Fat<'b> {
    table: &'b [u8],
    root: &'b [u8],
    data: &'b [u8],
    cluster: usize,
    is_fat16: bool,
}

impl<'b> Fat<'b> {
    fn parse(bytes: &'b [u8]) -> Option<Self> {
        let boot = BootSector::parse(bytes.first_chunk::<BOOT_SECTOR>()?)?;
        let part = |start: u64, len: u64| bytes.get(usize::try_from(start).ok()?..usize::try_from(start + len).ok()?);
        let data_end = boot.len().min(bytes.len() as u64);
        let data_start = boot.directory_start() + boot.directory_len().next_multiple_of(boot.sector);
        let cluster = usize::try_from(boot.cluster).ok()?;
        let data = part(data_start, data_end.checked_sub(data_start)?)?;
        Some(Fat {
            table: part(boot.tables_start, boot.table_len).filter(|table| !table.is_empty())?,
            root: part(boot.directory_start(), boot.directory_len())?,
            data,
            cluster,
            is_fat16: data.len() / cluster >= FAT16_CLUSTERS,
        })
    }

    fn contents(&self) -> Result<Contents, VolumeError> {
        let (mut contents, mut name) = (Contents { files: Vec::new(), folders: Vec::new() }, LongName::default());
        // Without this limit files that share clusters could fill the memory.
        let mut room = self.data.len();
        for entry in self.root.chunks_exact(ENTRY).take_while(|entry| entry[0] != 0) {
            steps(1);
            let attributes = entry[11];
            if entry[0] == 0xe5 || attributes & LONG_NAME == LONG_NAME {
                name.add(entry);
                continue;
            }
            if contents.files.len() + contents.folders.len() == MAX_FILES {
                return Err(damaged("it holds more than 512 files"));
            }
            let long = std::mem::take(&mut name);
            if attributes & FOLDER != 0 {
                contents.folders.push(long.name_of(entry));
            } else if attributes & VOLUME == 0 {
                let content = self.file(entry, room)?;
                room -= content.len();
                contents.files.push((long.name_of(entry), content));
            }
        }
        Ok(contents)
    }

    /// Returns the content of the file of `entry`, which may have `room` bytes at most.
    fn file(&self, entry: &[u8], room: usize) -> Result<Vec<u8>, VolumeError> {
        let len = u32::from_le_bytes([entry[28], entry[29], entry[30], entry[31]]);
        let len = usize::try_from(len).ok().filter(|len| *len <= room);
        let len = len.ok_or_else(|| damaged("a file is larger than the volume"))?;
        let mut cluster = usize::from(u16::from_le_bytes([entry[26], entry[27]]));
        let mut content = Vec::with_capacity(len);
        while content.len() < len {
            steps(1);
            let start = cluster.checked_sub(2).and_then(|index| index.checked_mul(self.cluster));
            let data = start.and_then(|start| self.data.get(start..start + self.cluster));
            let data = data.ok_or_else(|| damaged("a file has a cluster that is not there"))?;
            content.extend_from_slice(&data[..self.cluster.min(len - content.len())]);
            cluster = self.next(cluster).ok_or_else(|| damaged("the table of its clusters is too short"))?;
        }
        Ok(content)
    }

    /// Returns the number of the next cluster in the chain. At the end of the chain it is a number that no cluster has.
    fn next(&self, cluster: usize) -> Option<usize> {
        let at = if self.is_fat16 { cluster * 2 } else { cluster * 3 / 2 };
        let pair = u16::from_le_bytes(self.table.get(at..at + 2)?.try_into().ok()?);
        Some(usize::from(match (self.is_fat16, cluster % 2) {
            (true, _) => pair,
            (false, 0) => pair & 0xfff,
            (false, _) => pair >> 4,
        }))
    }
}

/// The long name in the entries before the entry of a file. The last piece comes first.
#[derive(Default)]
struct LongName {
    /// The units in reverse order, so that no piece moves those that came before it.
    backwards: Vec<u16>,
    sum: Option<u8>,
}

impl LongName {
    /// Adds the piece in `entry`.
    fn add(&mut self, entry: &[u8]) {
        // 0x40 marks the first entry of a name.
        if entry[0] == 0xe5 || entry[0] & 0x40 != 0 || self.sum != Some(entry[13]) {
            *self = LongName { backwards: Vec::new(), sum: (entry[0] != 0xe5).then_some(entry[13]) };
        }
        let pieces = NAME_PIECES.into_iter().flat_map(|piece| entry[piece].chunks_exact(2));
        let units = pieces.map(|unit| u16::from_le_bytes([unit[0], unit[1]])).take_while(|unit| *unit != 0);
        let units: Vec<u16> = units.collect();
        steps(units.len());
        self.backwards.extend(units.iter().rev());
        if self.backwards.len() > MAX_LONG_NAME {
            *self = LongName::default();
        }
    }

    /// Returns the name of the file of `entry`. It is the long name if its checksum says that it belongs to `entry`,
    /// otherwise the short one.
    fn name_of(self, entry: &[u8]) -> String {
        let sum = entry[..11].iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        if self.sum == Some(sum) && !self.backwards.is_empty() {
            steps(self.backwards.len());
            return String::from_utf16_lossy(&self.backwards.into_iter().rev().collect::<Vec<_>>());
        }
        let text = |bytes: &[u8], lower: bool| {
            let text = String::from_utf8_lossy(bytes).trim_end().to_owned();
            if lower { text.to_ascii_lowercase() } else { text }
        };
        let (base, extension) = (text(&entry[..8], entry[12] & 0x08 != 0), text(&entry[8..11], entry[12] & 0x10 != 0));
        if extension.is_empty() { base } else { format!("{base}.{extension}") }
    }
}

/// Counts `count` steps of the work. A test checks that their number does not grow faster than the volume.
fn steps(count: usize) {
    #[cfg(test)]
    tests::STEPS.with(|steps| steps.set(steps.get() + count));
    let _ = count;
}

#[cfg(test)]
mod tests {
    use super::{Contents, ENTRY, LEN, MAX_FILES, VolumeError, format};
    use proptest::prelude::{any, prop, proptest};
    use std::cell::Cell;

    thread_local! {
        pub(super) static STEPS: Cell<usize> = const { Cell::new(0) };
    }

    /// A volume with `count` entries in its root directory, which `entry` fills, and room for files behind it.
    fn with_directory(count: u16, entry: impl Fn(&mut [u8])) -> Vec<u8> {
        let directory = usize::from(count) * ENTRY;
        let start = 4 * 512;
        let mut bytes = vec![0; start + directory.next_multiple_of(512) + 64 * 512];
        (bytes[11], bytes[12], bytes[13], bytes[14], bytes[16], bytes[21]) = (0, 2, 1, 1, 1, 0xf8);
        bytes[17..19].copy_from_slice(&count.to_le_bytes());
        let sectors = u32::try_from(bytes.len() / 512).unwrap();
        bytes[32..36].copy_from_slice(&sectors.to_le_bytes());
        bytes[22] = 3;
        bytes[start..start + directory].chunks_exact_mut(ENTRY).for_each(entry);
        bytes
    }

    /// How many steps reading it takes, and what comes of it.
    fn read(bytes: &[u8]) -> (usize, Result<Contents, VolumeError>) {
        STEPS.set(0);
        let contents = Contents::read(bytes);
        (STEPS.get(), contents)
    }

    #[test]
    fn twice_the_directory_is_twice_the_work() {
        let pieces = |first: bool| {
            move |entry: &mut [u8]| {
                entry.fill(b'a');
                (entry[0], entry[11], entry[13]) = (if first { 0x41 } else { 1 }, 0x0f, 7);
            }
        };
        for kind in ["one name without an end", "names of one piece"] {
            let make = |count| with_directory(count, pieces(kind != "one name without an end"));
            let ((once, small), (twice, large)) = (read(&make(32_000)), read(&make(64_000)));
            assert!(small.unwrap().files.is_empty() && large.unwrap().files.is_empty());
            assert_eq!(once, 32_000 * 14, "{kind}");
            assert_eq!(twice, 2 * once, "{kind}");
        }
    }

    #[test]
    fn a_directory_of_more_files_than_any_seed_has_is_refused_at_once() {
        let empty = |entry: &mut [u8]| {
            entry.fill(0);
            entry[..11].copy_from_slice(b"X       TXT");
        };
        let most = u16::try_from(MAX_FILES).unwrap();
        assert_eq!(read(&with_directory(most, empty)).1.unwrap().files.len(), MAX_FILES);
        for count in [most + 1, 60_000] {
            let (steps, refused) = read(&with_directory(count, empty));
            let VolumeError::Damaged { source } = refused.unwrap_err() else { panic!("another error") };
            assert_eq!((steps, source.to_string()), (MAX_FILES + 1, "it holds more than 512 files".to_owned()));
        }
    }

    #[test]
    fn files_that_share_clusters_are_read_once_over() {
        // Each has the clusters from 2 on, in a chain that is a circle, and says that it is larger than the volume is.
        for len in [16 * 512_u32, 64 * 512 + 1, u32::MAX] {
            let bytes = with_directory(256, |entry| {
                entry.fill(0);
                entry[..11].copy_from_slice(b"X       TXT");
                entry[26] = 2;
                entry[28..32].copy_from_slice(&len.to_le_bytes());
            });
            let mut bytes = bytes;
            // The FAT12 entry of cluster 2 is 2 itself.
            bytes[512 + 3] = 2;
            let (steps, refused) = read(&bytes);
            let VolumeError::Damaged { source } = refused.unwrap_err() else { panic!("another error") };
            assert_eq!(source.to_string(), "a file is larger than the volume");
            assert!(steps <= 64 + 256, "{steps} steps for 64 clusters");
        }
    }

    const NAMES: [&str; 5] =
        ["meta-data", "user-data", "network-config", "X.TXT", "a name of more than thirteen letters"];

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

    fn volume(sector: u64) -> Vec<u8> {
        let files = (0..).zip(NAMES).map(|(index, name)| (name, vec![index; usize::from(index) * 3000]));
        format(LEN, sector, 0x1234_5678, files).unwrap()
    }

    #[test]
    fn files_come_back() {
        for sector in [512, 4096] {
            let contents = Contents::read(&volume(sector)).unwrap();
            assert!(contents.folders.is_empty());
            let lengths: Vec<_> = contents.files.iter().map(|(name, content)| (name.as_str(), content.len())).collect();
            let expected: Vec<_> = NAMES.into_iter().zip([0, 3000, 6000, 9000, 12000]).collect();
            assert_eq!(lengths, expected);
            assert_eq!(contents.file("Network-Config").unwrap(), [2; 6000]);
        }
    }

    /// A name of more pieces than any has.
    #[test]
    fn a_name_without_an_end_is_none() {
        let bytes = format(LEN, 512, 7, [("X.TXT", b"content")]).unwrap();
        let at = bytes.windows(11).position(|window| window == b"X       TXT").unwrap();
        let entry = bytes[at..at + 32].to_vec();
        let sum = entry[..11].iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        let mut piece = [b'a'; 32];
        (piece[0], piece[11], piece[13]) = (1, 0x0f, sum);
        // The piece that fatfs itself wrote comes first.
        for (pieces, expected) in [(19, 19 * 13 + "X.TXT".len()), (20, "X.TXT".len())] {
            let mut bytes = bytes.clone();
            for index in 0..pieces {
                bytes[at + index * 32..at + (index + 1) * 32].copy_from_slice(&piece);
            }
            bytes[at + pieces * 32..at + (pieces + 1) * 32].copy_from_slice(&entry);
            let files = Contents::read(&bytes).unwrap().files;
            assert_eq!((files.len(), files[0].0.chars().count(), &files[0].1[..]), (1, expected, &b"content"[..]));
        }
    }

    proptest! {
        /// The disk of an instance holds what its owner wrote there: boot sector, table and directory.
        #[test]
        fn no_volume_panics(changes in prop::collection::vec((0..24_000_usize, any::<u8>()), 1..200)) {
            let mut bytes = volume(512);
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            let _ = Contents::read(&bytes);
        }

        #[test]
        fn no_boot_sector_panics(changes in prop::collection::vec((11..64_usize, any::<u8>()), 1..6)) {
            let mut bytes = volume(512);
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            let _ = Contents::read(&bytes);
        }
    }
}
