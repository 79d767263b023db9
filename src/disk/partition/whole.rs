// SPDX-License-Identifier: BSD-2-Clause
//! Whether an image is all there, as far as its own tables tell: what was cut off reads as zeros on the disk, and boots.
//!
//! A file system's own size counts more than its partition's: published images (OpenWrt) have a partition that reaches
//! behind the file, and a squashfs in it that does not. A GPT has its backup to tell. Of two superblocks at one place
//! neither is believed. What lies behind the readable beginning of a stream is looked at when it is on the disk.

use std::io;

use super::superblock::{self, Beginning, MAX_LOOKS};
use super::{Gpt, Partition, PartitionType, Table, TableError, all_partitions, read_boot_area};
use crate::disk::device::ReadAt;
use crate::node::size::{ByteSize, MIB};

/// How much of an MBR partition without a known file system may be missing where nothing else is said. Tools that round
/// partitions to cylinders and do not fill the last one (OpenWrt's ptgen: 504 KiB) publish such images.
pub(crate) const MBR_TOLERANCE: u64 = MIB;

/// Type of the MBR's entry that stands for a GPT: it says how large a disk was once, or is to be.
const PROTECTIVE: PartitionType = PartitionType::Mbr(0xee);

/// Why an image is not all there.
#[derive(Debug, thiserror::Error)]
pub enum Incomplete {
    /// It says itself that there is more.
    #[error("the image is truncated: {what} reaches to {needed}, but the image ends at {end} (get all of it{unless})", unless = if *.tolerable { "; if it was published so, set mbr_tolerance" } else { "" })]
    Cut {
        /// What is not all there.
        what: String,
        /// Where it ends.
        needed: ByteSize,
        /// Where the image ends.
        end: ByteSize,
        /// Whether a setting takes it all the same.
        tolerable: bool,
    },
    /// What may be missing of it has no room either.
    #[error("{what} reaches to {needed}, but the disk has {disk} (use a larger disk)")]
    BeyondDisk {
        /// What has no room.
        what: String,
        /// Where it ends.
        needed: ByteSize,
        /// The disk's size.
        disk: ByteSize,
    },
    /// It can't be looked at.
    #[error("reading the image's partition table")]
    Read(#[from] io::Error),
}

/// How much there is, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImageExtent {
    /// The image's end.
    pub(crate) image: u64,
    /// The end of the disk that it goes to; none if that is not known.
    pub(crate) disk: Option<u64>,
    /// How much of an MBR partition without a known file system may be missing.
    pub(crate) mbr_tolerance: u64,
}

/// An error if the image in `disk` says itself that it is larger than `extent` says. What lies behind the end of `disk`,
/// which may be only its beginning, can't be looked at and is no evidence.
pub(crate) fn check_complete(disk: &dyn ReadAt, extent: ImageExtent) -> Result<(), Incomplete> {
    let check = Check { disk, extent };
    let head = read_boot_area(disk)?;
    match Table::parse(&head) {
        Ok(Table::Mbr(_)) if superblock::is_boot_sector(&head) => check.file_system(0, None).map(drop),
        Ok(Table::Gpt(gpt)) => check.gpt(&gpt),
        Ok(table) => all_partitions(disk, &table)?.iter().try_for_each(|partition| check.mbr_partition(partition)),
        // Firmware also takes a GPT without a protective MBR. But before a file system it is what was there earlier.
        Err(TableError::None) => match (check.file_system(0, None)?, Gpt::parse(&head)) {
            (Some(false), Some(gpt)) => check.gpt(&gpt),
            _ => Ok(()),
        },
        // Maybe because it is cut in the middle of the table.
        Err(TableError::Damaged) => {
            Gpt::reach(&head).map_or(Ok(()), |reach| check.ends(reach, || "its GPT".to_owned()))
        }
    }
}

/// What makes one doubt that an image of `len` bytes is all there, though it does not say so itself: its GPT has no backup. A
/// copy into space that was reserved before is as long as the whole from the start, and its end is zero. Published images
/// without a backup are known, so that it is no error. What can't be looked at is no reason.
pub(crate) fn missing_backup(disk: &dyn ReadAt, len: u64) -> io::Result<Option<String>> {
    let Ok(Table::Gpt(gpt)) = Table::parse(&read_boot_area(disk)?) else { return Ok(None) };
    let (at, mut magic) = (gpt.alternate().saturating_mul(gpt.sector()), [0; Gpt::MAGIC.len()]);
    if at.saturating_add(gpt.sector()) > disk.len().min(len) {
        return Ok(None);
    }
    disk.read_at(&mut magic, at)?;
    Ok((&magic != Gpt::MAGIC).then(|| {
        format!(
            "the image's GPT has no backup at byte {at}, where it says that there is one: the image may not be all there (compare its checksum)"
        )
    }))
}

struct Check<'d> {
    disk: &'d dyn ReadAt,
    extent: ImageExtent,
}

impl Check<'_> {
    fn gpt(&self, gpt: &Gpt) -> Result<(), Incomplete> {
        let backup = gpt.alternate().saturating_add(1).saturating_mul(gpt.sector());
        for Partition { number, end, .. } in gpt.partitions() {
            self.ends(end, || format!("partition {number} of its GPT"))?;
        }
        self.ends(backup, || "the backup of its GPT".to_owned())?;
        for Partition { number, start, .. } in gpt.partitions().into_iter().take(MAX_LOOKS) {
            self.file_system(start, Some(number))?;
        }
        Ok(())
    }

    /// Its file system, if that is known, says what is needed of it; else its entry does, within bounds.
    fn mbr_partition(&self, partition: &Partition) -> Result<(), Incomplete> {
        let Partition { number, start, end, extended, kind } = *partition;
        if kind == PROTECTIVE {
            return Ok(());
        }
        let what = || format!("partition {number} of its MBR");
        let known = if extended { Some(false) } else { self.file_system(start, Some(number))? };
        if known == Some(false) && end.saturating_sub(self.extent.image) > self.extent.mbr_tolerance {
            return Err(self.cut(end, what(), true));
        }
        match self.extent.disk.filter(|disk| end > *disk) {
            Some(disk) => Err(Incomplete::BeyondDisk { what: what(), needed: ByteSize(end), disk: ByteSize(disk) }),
            None => Ok(()),
        }
    }

    /// Whether a file system that says its size begins at `start`, of a partition or the whole disk; an error if it is
    /// not all there. None if the disk can't be read there, so that nobody knows yet.
    fn file_system(&self, start: u64, partition: Option<u32>) -> Result<Option<bool>, Incomplete> {
        let image = self.extent.image;
        // Behind the image there may be what others have left on the disk.
        let readable = self.disk.len().min(image);
        if let Beginning::Known(found) = superblock::beginning(self.disk, start..readable)? {
            let name = found.name;
            self.ends(start.saturating_add(found.len), || match partition {
                Some(number) => format!("the {name} in partition {number}"),
                None => format!("its {name}"),
            })?;
            return Ok(Some(true));
        }
        let seen = readable == image || start.saturating_add(superblock::LOOK) <= readable;
        Ok(seen.then_some(false))
    }

    fn ends(&self, end: u64, what: impl FnOnce() -> String) -> Result<(), Incomplete> {
        if end > self.extent.image { Err(self.cut(end, what(), false)) } else { Ok(()) }
    }

    fn cut(&self, needed: u64, what: String, tolerable: bool) -> Incomplete {
        Incomplete::Cut { what, needed: ByteSize(needed), end: ByteSize(self.extent.image), tolerable }
    }
}
