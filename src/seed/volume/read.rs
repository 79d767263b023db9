// SPDX-License-Identifier: BSD-2-Clause
//! Reads the files of a small FAT12 or FAT16. Its bytes were an instance's own, so nothing in them is believed: fatfs,
//! which makes our volumes, panics over a cluster number that can't be.

use std::fmt;
use std::io;

use super::VolumeError;

/// Length of a directory entry in bytes.
const ENTRY: usize = 32;

/// Attributes of an entry: a piece of a long name has all of the first four.
const LONG_NAME: u8 = 0x0f;
const VOLUME: u8 = 0x08;
const FOLDER: u8 = 0x10;

/// From this number of clusters on, entries of the table have 16 bits.
const FAT16_CLUSTERS: usize = 4085;

/// A long name has no more characters than this (Microsoft's FAT specification, "Long Directory Entries").
const MAX_LONG_NAME: usize = 255;

/// Where the characters of a long name are in its entries, in bytes.
const NAME_PIECES: [std::ops::Range<usize>; 3] = [1..11, 14..26, 28..32];

/// What lies in the root directory of a volume. `Debug` shows no content.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Its files: name and content, in the directory's order.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// The names of its folders, which are not read.
    pub(crate) folders: Vec<String>,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.files.iter().map(|(name, content)| (name, content.len()))).finish()
    }
}

impl Contents {
    /// All of the file system in `bytes`.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, VolumeError> {
        let fat = Fat::parse(bytes).ok_or_else(|| damaged("its boot sector is none of FAT12 or FAT16"))?;
        fat.contents()
    }

    /// The content of a file; FAT's names have no case.
    pub(crate) fn file(&self, name: &str) -> Option<&[u8]> {
        let found = self.files.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, content)| content.as_slice())
    }
}

fn damaged(why: &str) -> VolumeError {
    VolumeError::Damaged { source: io::Error::other(why.to_owned()) }
}

struct Fat<'b> {
    table: &'b [u8],
    root: &'b [u8],
    data: &'b [u8],
    cluster: usize,
    wide: bool,
}

impl<'b> Fat<'b> {
    fn parse(bytes: &'b [u8]) -> Option<Self> {
        let two = |at: usize| Some(usize::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?)));
        let (sector, per_cluster, fats) = (two(11)?, usize::from(*bytes.get(13)?), usize::from(*bytes.get(16)?));
        if !matches!(sector, 512 | 1024 | 2048 | 4096) || !per_cluster.is_power_of_two() || fats == 0 {
            return None;
        }
        let (table_start, table_len, root_len) = (two(14)? * sector, two(22)? * sector, two(17)? * ENTRY);
        let root_start = table_start + fats * table_len;
        let data_start = root_start + root_len.next_multiple_of(sector);
        let sectors = match two(19)? {
            0 => usize::try_from(u32::from_le_bytes(bytes.get(32..36)?.try_into().ok()?)).ok()?,
            sectors => sectors,
        };
        let data = bytes.get(data_start..sectors.checked_mul(sector)?.min(bytes.len()))?;
        let cluster = per_cluster * sector;
        let table = bytes.get(table_start..table_start + table_len).filter(|table| !table.is_empty())?;
        let root = bytes.get(root_start..root_start + root_len)?;
        Some(Fat { table, root, data, cluster, wide: data.len() / cluster >= FAT16_CLUSTERS })
    }

    fn contents(&self) -> Result<Contents, VolumeError> {
        let (mut contents, mut name) = (Contents { files: Vec::new(), folders: Vec::new() }, LongName::default());
        // Files that share clusters must not fill the memory.
        let mut room = self.data.len();
        for entry in self.root.chunks_exact(ENTRY).take_while(|entry| entry[0] != 0) {
            let attributes = entry[11];
            if entry[0] == 0xe5 || attributes & LONG_NAME == LONG_NAME {
                name.piece(entry);
                continue;
            }
            let long = std::mem::take(&mut name);
            if attributes & FOLDER != 0 {
                contents.folders.push(long.of(entry));
            } else if attributes & VOLUME == 0 {
                let content = self.file(entry, room)?;
                room -= content.len();
                contents.files.push((long.of(entry), content));
            }
        }
        Ok(contents)
    }

    /// The content of the file that `entry` names, of `room` bytes at most.
    fn file(&self, entry: &[u8], room: usize) -> Result<Vec<u8>, VolumeError> {
        let len = u32::from_le_bytes([entry[28], entry[29], entry[30], entry[31]]);
        let len = usize::try_from(len).ok().filter(|len| *len <= room);
        let len = len.ok_or_else(|| damaged("a file is larger than the volume"))?;
        let mut cluster = usize::from(u16::from_le_bytes([entry[26], entry[27]]));
        let mut content = Vec::with_capacity(len);
        while content.len() < len {
            let start = cluster.checked_sub(2).and_then(|index| index.checked_mul(self.cluster));
            let data = start.and_then(|start| self.data.get(start..start + self.cluster));
            let data = data.ok_or_else(|| damaged("a file has a cluster that is not there"))?;
            content.extend_from_slice(&data[..self.cluster.min(len - content.len())]);
            cluster = self.next(cluster).ok_or_else(|| damaged("the table of its clusters is too short"))?;
        }
        Ok(content)
    }

    /// The cluster after this one in the chain; at its end a number that no cluster has.
    fn next(&self, cluster: usize) -> Option<usize> {
        let at = if self.wide { cluster * 2 } else { cluster * 3 / 2 };
        let pair = u16::from_le_bytes(self.table.get(at..at + 2)?.try_into().ok()?);
        Some(usize::from(match (self.wide, cluster % 2) {
            (true, _) => pair,
            (false, 0) => pair & 0xfff,
            (false, _) => pair >> 4,
        }))
    }
}

/// A long name, gathered from the entries before the file's own, the last piece first.
#[derive(Default)]
struct LongName {
    units: Vec<u16>,
    sum: Option<u8>,
}

impl LongName {
    fn piece(&mut self, entry: &[u8]) {
        // 0x40 begins another name.
        if entry[0] == 0xe5 || entry[0] & 0x40 != 0 || self.sum != Some(entry[13]) {
            *self = LongName { units: Vec::new(), sum: (entry[0] != 0xe5).then_some(entry[13]) };
        }
        let pieces = NAME_PIECES.into_iter().flat_map(|piece| entry[piece].chunks_exact(2));
        let units = pieces.map(|unit| u16::from_le_bytes([unit[0], unit[1]])).take_while(|unit| *unit != 0);
        let mut units: Vec<u16> = units.collect();
        units.append(&mut self.units);
        // More pieces than any name has would be copied again for each one that follows.
        self.units = units;
        if self.units.len() > MAX_LONG_NAME {
            *self = LongName::default();
        }
    }

    /// The name of the file of `entry`: the long one if it belongs to it, which a checksum tells, else the short one.
    fn of(self, entry: &[u8]) -> String {
        let sum = entry[..11].iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        if self.sum == Some(sum) && !self.units.is_empty() {
            return String::from_utf16_lossy(&self.units);
        }
        let text = |bytes: &[u8], lower: bool| {
            let text = String::from_utf8_lossy(bytes).trim_end().to_owned();
            if lower { text.to_ascii_lowercase() } else { text }
        };
        let (base, extension) = (text(&entry[..8], entry[12] & 0x08 != 0), text(&entry[8..11], entry[12] & 0x10 != 0));
        if extension.is_empty() { base } else { format!("{base}.{extension}") }
    }
}

#[cfg(test)]
mod tests {
    use super::Contents;
    use crate::seed::volume::fat::{LEN, format};
    use proptest::prelude::{any, prop, proptest};

    const NAMES: [&str; 5] =
        ["meta-data", "user-data", "network-config", "X.TXT", "a name of more than thirteen letters"];

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

    /// A name of more pieces than any has: gathering them all would take time that grows with the square of their number.
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
