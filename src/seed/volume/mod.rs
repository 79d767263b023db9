// SPDX-License-Identifier: BSD-2-Clause
//! The volume of a first-boot seed: a small FAT labelled CIDATA in which cloud-init's NoCloud source looks for its
//! files; where it goes on a disk, and how it is found again.
//!
//! A volume is made anew, never edited. fatfs, the FAT crate in wide use, panics over a cluster number that can't be,
//! and an instance may write what it likes into its seed. So fatfs only formats, in memory. A rename or an import
//! makes the file system again from the same files, which gives the same bytes but for what changed, and only blocks
//! that differ are written. A seed with folders in it, which would get lost, is left alone.
//!
//! The FAT's OEM name says that a seed is ours, and its serial number, derived from `INSTANCE_UUID`, whose it is.
//! rename changes only the instance's own; import changes every one of ours that is another instance's. What in it was
//! not made from Ganeti's data stays. Neither needs a config, and neither fails over a seed.

mod error;
mod fat;
mod label;
mod place;
mod read;
mod trace;

pub(crate) use crate::disk::partition::read_boot_area;
pub(crate) use error::{PlaceError, VolumeError};
pub(crate) use fat::{LEN, format};
pub(crate) use label::Kind;
pub(crate) use place::{add_partition, check_removable, find_space, remove_partition};
pub(crate) use read::Contents;
pub(crate) use trace::{Trace, remove_trace};

use std::fmt;
use std::io;

use crate::disk::device::{ReadAt, WriteAt};
use crate::disk::partition::{self, Table};
use crate::node::size::{ByteSize, MIB};

/// The label of every seed, as FAT stores it.
const LABEL: &[u8; 11] = b"CIDATA     ";

/// The mark of ours: the name that a FAT's boot sector has for its maker.
const MAKER: &[u8; 8] = b"SIMPLIMG";

/// Sector size of a volume that is no partition of a table for other sectors, in bytes.
pub(crate) const SECTOR: u64 = partition::SECTOR;

/// A larger volume is not read into memory, in bytes.
const MAX_READ: u64 = 64 * MIB;

/// Changes are written in blocks of this length, in bytes.
const BLOCK: usize = 4096;

/// What can go wrong with a seed on a disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no place.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The volume can't be made or read.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The disk failed.
    #[error("reading or writing the seed on the disk")]
    Disk(#[from] io::Error),
}

/// A volume that cloud-init takes for a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its first byte on the disk.
    pub(crate) start: u64,
    /// The partition that it is in; none if it is the whole disk.
    pub(crate) partition: Option<u32>,
    /// What it is.
    pub(crate) kind: Kind,
}

impl Found {
    /// Whether it was made by this program, and its serial number if so.
    pub(crate) fn our_serial(&self) -> Option<u32> {
        match self.kind {
            Kind::Fat { maker, serial, len } if maker == *MAKER && len <= LEN => Some(serial),
            _ => None,
        }
    }

    /// Its bytes.
    pub(crate) fn load(&self, disk: &dyn ReadAt) -> Result<Vec<u8>, Error> {
        let damaged = |why: &str| VolumeError::Damaged { source: io::Error::other(why.to_owned()) };
        let Kind::Fat { len, .. } = self.kind else { return Err(damaged("it is an ISO 9660").into()) };
        if len > MAX_READ || self.start.saturating_add(len) > disk.len() {
            return Err(damaged("it is too large").into());
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        disk.read_at(&mut bytes, self.start)?;
        Ok(bytes)
    }
}

/// For messages: where it is.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.partition {
            Some(number) => write!(f, "partition {number}, at {}", ByteSize(self.start)),
            None => write!(f, "the whole disk"),
        }
    }
}

/// Every seed on the disk: the disk itself, and each partition.
pub(crate) fn survey(disk: &dyn ReadAt) -> io::Result<Vec<Found>> {
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

/// The seed of ours that lies where one goes on a disk without anything in its first MiB: what a run was to keep that did not
/// come to its end.
pub(crate) fn left_by_a_run(disk: &dyn ReadAt) -> io::Result<Option<Found>> {
    if read_boot_area(disk)?.iter().any(|byte| *byte != 0) {
        return Ok(None);
    }
    let Some(start) = place::start_without_table(disk.len()) else { return Ok(None) };
    let found = label::seed_at(disk, start)?.map(|kind| Found { start, partition: None, kind });
    Ok(found.filter(|found| found.our_serial().is_some()))
}

/// An error if the disk holds a seed already: with a second one nobody could tell which of them counts.
pub(crate) fn refuse_present(disk: &dyn ReadAt) -> Result<(), Error> {
    match survey(disk)?.first() {
        Some(found) => Err(PlaceError::Present { at: found.to_string() }.into()),
        None => Ok(()),
    }
}

/// `old`, a volume with `contents`, made anew for the serial number `serial` with `files`. What would get lost by that is
/// an error.
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

/// Writes the blocks in which `new` differs from `old`, both of them what lies at `start` of the disk.
pub(crate) fn write_changes(disk: &mut dyn WriteAt, start: u64, old: &[u8], new: &[u8]) -> io::Result<()> {
    for (index, (old, new)) in old.chunks(BLOCK).zip(new.chunks(BLOCK)).enumerate() {
        if old != new {
            disk.write_at(new, start + (index * BLOCK) as u64)?;
        }
    }
    Ok(())
}
