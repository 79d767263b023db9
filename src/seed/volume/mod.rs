// SPDX-License-Identifier: BSD-2-Clause
//! The volume of a seed: a small FAT with the label CIDATA, in which the NoCloud source of cloud-init looks for its
//! files.
//!
//! A volume is always made anew and never edited. A rename or an import formats the volume again from its files.
//! Unchanged files give the same bytes, and only the blocks that differ are written. A seed with folders is not
//! changed, because they would get lost.
//!
//! The OEM name in the boot sector says that this program made the volume. The serial number is derived from
//! `INSTANCE_UUID`, and says to which instance it belongs. A rename changes only the volume of that instance. An import
//! changes every volume of ours that belongs to another instance, but only what was made from the data of Ganeti.
//! Neither of them needs the configuration, and neither of them fails because of a seed.

mod fat;
mod label;
mod partition_slot;
mod trace;

pub(crate) use crate::disk::partition::read_boot_area;
pub(crate) use fat::{Contents, LEN, VolumeError, format};
pub(crate) use label::Kind;
pub(crate) use partition_slot::{PlaceError, add_partition, check_removable, find_space, remove_partition};
pub(crate) use trace::{Trace, remove_trace};

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use crate::disk::device::{ReadAt, WriteAt};
use crate::disk::partition::{self, Table};
use crate::node::size::{ByteSize, MIB};

/// The label of every seed, as FAT stores it.
const LABEL: &[u8; 11] = b"CIDATA     ";

/// The OEM name in the boot sector of every seed that this program makes.
const MAKER: &[u8; 8] = b"SIMPLIMG";

/// The sector size of a volume, in bytes, unless the partition table has another one.
pub(crate) const SECTOR: u64 = partition::SECTOR;

/// The largest volume that is read into memory, in bytes.
const MAX_READ: u64 = 64 * MIB;

/// Changes are written in blocks of this length, in bytes.
const BLOCK: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error("reading or writing the seed on the disk")]
    Disk(#[from] io::Error),
}

/// A volume that cloud-init takes for a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    /// The first byte on the disk.
    pub(crate) start: u64,
    /// The number of the partition; none if the volume is the whole disk.
    pub(crate) partition: Option<u32>,
    pub(crate) kind: Kind,
}

impl Found {
    /// Returns the serial number, if this program made the volume.
    pub(crate) fn our_serial(&self) -> Option<u32> {
        match self.kind {
            Kind::Fat { maker, serial, len } if maker == *MAKER && len <= LEN => Some(serial),
            _ => None,
        }
    }

    /// Reads the whole volume.
    pub(crate) fn load(&self, disk: &dyn ReadAt) -> Result<Vec<u8>, Error> {
        let damaged = |why: &str| VolumeError::Damaged { source: io::Error::other(why.to_owned()) };
        let Kind::Fat { len, .. } = self.kind else { return Err(damaged("it is an ISO 9660 file system").into()) };
        if len > MAX_READ || self.start.saturating_add(len) > disk.len() {
            return Err(damaged("it is too large").into());
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        disk.read_at(&mut bytes, self.start)?;
        Ok(bytes)
    }
}

/// Says where the volume is, for messages.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.partition {
            Some(number) => write!(f, "partition {number}, at {}", ByteSize(self.start)),
            None => write!(f, "the whole disk"),
        }
    }
}

/// Finds the seeds on the disk: the disk itself and each of at most 255 partitions may be one.
pub(crate) fn find_seeds(disk: &dyn ReadAt) -> io::Result<Vec<Found>> {
    let mut places = vec![(None, 0)];
    if let Ok(table) = Table::parse(&read_boot_area(disk)?) {
        let partitions = partition::all_partitions(disk, &table)?.into_iter().filter(|partition| !partition.extended);
        places.extend(partitions.map(|partition| (Some(partition.number), partition.start)));
    }
    let mut found = Vec::new();
    for (partition, start) in places {
        found.extend(label::seed_at(disk, start)?.map(|kind| Found { start, partition, kind }));
    }
    Ok(found)
}

/// Returns the seed that a failed run has left on a disk whose first MiB it did not write.
pub(crate) fn seed_of_failed_run(disk: &dyn ReadAt) -> io::Result<Option<Found>> {
    if read_boot_area(disk)?.iter().any(|byte| *byte != 0) {
        return Ok(None);
    }
    let Some(start) = partition_slot::start_without_table(disk.len()) else { return Ok(None) };
    let found = label::seed_at(disk, start)?.map(|kind| Found { start, partition: None, kind });
    Ok(found.filter(|found| found.our_serial().is_some()))
}

/// Fails if the disk already has a seed, because with two of them it is undefined which one cloud-init uses.
pub(crate) fn refuse_present(disk: &dyn ReadAt) -> Result<(), Error> {
    match find_seeds(disk)?.first() {
        Some(found) => Err(PlaceError::Present { at: found.to_string() }.into()),
        None => Ok(()),
    }
}

/// Formats the volume `old`, which has `contents`, again with `serial` and `files`. Fails if something would get lost.
pub(crate) fn rebuild(
    old: &[u8],
    contents: &Contents,
    serial: u32,
    files: &[(String, Vec<u8>)],
) -> Result<Vec<u8>, VolumeError> {
    if let Some(folder) = contents.folders.first() {
        let source = io::Error::other(format!("it holds a folder, {}, which is not ours", folder.escape_default()));
        return Err(VolumeError::Damaged { source });
    }
    let sector = u64::from(u16::from_le_bytes([old[11], old[12]]));
    format(old.len() as u64, sector, serial, files.iter().map(|(name, content)| (name, content)))
}

/// Writes the blocks in which `new` differs from `old`, which is on the disk from the byte `start` on.
pub(crate) fn write_changes(disk: &mut dyn WriteAt, start: u64, old: &[u8], new: &[u8]) -> io::Result<()> {
    for (index, (old, new)) in old.chunks(BLOCK).zip(new.chunks(BLOCK)).enumerate() {
        if old != new {
            disk.write_at(new, start + (index * BLOCK) as u64)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{find_seeds, format};
    use crate::disk::device::{MemoryDisk, ReadAt};
    use crate::disk::partition::{crc32, seal};
    use std::cell::Cell;
    use std::io;

    const SEED: usize = 1 << 20;

    /// A disk that counts how often it is read, and how many bytes.
    struct Counted(MemoryDisk, Cell<(usize, usize)>);

    impl ReadAt for Counted {
        fn len(&self) -> u64 {
            self.0.len()
        }

        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            let (reads, bytes) = self.1.get();
            self.1.set((reads + 1, bytes + buf.len()));
            self.0.read_at(buf, offset)
        }
    }

    /// A disk with a GPT of so many entries, all for the same seed.
    fn disk(entries: u32) -> MemoryDisk {
        let mut bytes = vec![0; 4 << 20];
        bytes[SEED..2 * SEED].copy_from_slice(&format(SEED as u64, 512, 7, [("meta-data", "{}")]).unwrap());
        (bytes[450], bytes[454], bytes[458]) = (0xee, 1, 0xff);
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        let len = usize::try_from(entries).unwrap() * 128;
        for entry in bytes[1024..1024 + len].chunks_exact_mut(128) {
            entry[..16].fill(1);
            entry[32..40].copy_from_slice(&2048_u64.to_le_bytes());
            entry[40..48].copy_from_slice(&4095_u64.to_le_bytes());
        }
        let sum = crc32(&bytes[1024..1024 + len]);
        let header = &mut bytes[512..512 + 92];
        header[..16].copy_from_slice(b"EFI PART\0\0\x01\0\x5c\0\0\0");
        for (at, value) in [(24, 1), (32, 8191), (40, 1100), (48, 7000), (72, 2_u64)] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[80..84].copy_from_slice(&entries.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&sum.to_le_bytes());
        seal(header);
        MemoryDisk(bytes)
    }

    /// How many seeds there are, how many reads that took, and how many bytes.
    fn cost(entries: u32) -> (usize, usize, usize) {
        let disk = Counted(disk(entries), Cell::new((0, 0)));
        let found = find_seeds(&disk).unwrap().len();
        let (reads, bytes) = disk.1.get();
        (found, reads, bytes)
    }

    #[test]
    fn a_table_of_thousands_costs_as_much_as_one_of_255() {
        let (none, once, twice) = (cost(1), cost(101), cost(201));
        assert_eq!((none.0, once.0, twice.0), (1, 101, 201));
        assert_eq!(
            (twice.1 - once.1, twice.2 - once.2),
            (once.1 - none.1, once.2 - none.2),
            "twice as much for twice as many"
        );
        assert_eq!(cost(4090), cost(255));
        assert_eq!(cost(255).0, 255);
    }
}
