// SPDX-License-Identifier: BSD-2-Clause
//! Checks by the tables of an image whether it is complete. A part that is missing would read as zeros on a disk that
//! boots.
//!
//! The size in a file system counts more than the size of its partition: published images (OpenWrt) have a partition
//! that reaches beyond the file, and a squashfs in it that does not. A GPT is also checked by its backup. If two
//! superblocks are found at one place, neither counts. Of a stream, only the beginning can be read before it is
//! written. The rest is checked when it is on the disk.

use std::io::{self, Read};
use std::ops::Range;

use super::mbr::PROTECTIVE;
use super::superblock::{self, MAX_PARTITIONS};
use super::{Gpt, Partition, PartitionType, Table, TableError, all_partitions, read_boot_area};
use crate::disk::device::ReadAt;
use crate::node::size::{ByteSize, MIB};

/// How many bytes of an MBR partition without a known file system may be missing, if no setting says otherwise. Some
/// tools round partitions up to cylinders and do not fill the last cylinder (OpenWrt's ptgen: 504 KiB).
pub(crate) const MBR_TOLERANCE: u64 = MIB;

/// Why an image is not complete.
#[derive(Debug, thiserror::Error)]
pub enum Incomplete {
    /// The tables of the image say that it is longer.
    #[error("the image is truncated: {what} reaches to {needed}, but the image ends at {end} (get all of it{unless})", unless = if *.tolerable { "; if it was published so, set mbr_tolerance" } else { "" })]
    Cut {
        /// The part that is not complete.
        what: String,
        /// Where that part ends.
        needed: ByteSize,
        /// Where the image ends.
        end: ByteSize,
        /// Whether a setting can allow this.
        tolerable: bool,
    },
    /// The missing part, which may be missing, does not fit onto the disk.
    #[error("{what} reaches to {needed}, but the disk has {disk} (use a larger disk)")]
    BeyondDisk {
        /// The part that does not fit.
        what: String,
        /// Where it ends.
        needed: ByteSize,
        /// The disk's size.
        disk: ByteSize,
    },
    /// The image can't be read.
    #[error("reading the image's partition table")]
    Read(#[from] io::Error),
}

/// The limits that an image is compared with, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImageExtent {
    /// The end of the image.
    pub(crate) image: u64,
    /// The end of the disk that the image is written to, if that is known.
    pub(crate) disk: Option<u64>,
    /// How much of an MBR partition without a known file system may be missing.
    pub(crate) mbr_tolerance: u64,
}

/// Fails if the tables of the image in `disk` say that it is larger than `extent`. `disk` may be only the beginning of
/// the image, and places beyond its end can't be checked.
pub(crate) fn check_complete(disk: &dyn ReadAt, extent: ImageExtent) -> Result<(), Incomplete> {
    let check = Check { disk, extent };
    let head = read_boot_area(disk)?;
    match Table::parse(&head) {
        Ok(Table::Mbr(_)) if superblock::is_boot_sector(&head) => check.file_system(0, None).map(drop),
        Ok(Table::Gpt(gpt)) => check.gpt(&gpt),
        Ok(table) => all_partitions(disk, &table)?.iter().try_for_each(|partition| check.mbr_partition(partition)),
        // Firmware also accepts a GPT without a protective MBR. But beside a file system, such a GPT is an old one.
        Err(TableError::None) => match (check.file_system(0, None)?, Gpt::parse(&head)) {
            (Known::No, Some(gpt)) => check.gpt(&gpt),
            _ => Ok(()),
        },
        // The image may end in the middle of the table.
        Err(TableError::Damaged) => match Gpt::reach(&head) {
            Some(reach) => check.ends(reach, || "its GPT".to_owned()),
            None => Ok(()),
        },
    }
}

/// Returns a warning if the GPT of an image of `len` bytes has no backup in its place. Such an image may be incomplete:
/// a copy into a file whose space was reserved before has the full length from the start, and zeros at its end. This is
/// no error, because images without a backup are published too. Returns `None` if the place can't be read.
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

/// Whether a file system with a known size was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Yes,
    No,
    NotReadable,
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
        for Partition { number, start, .. } in gpt.partitions().into_iter().take(MAX_PARTITIONS) {
            self.file_system(start, Some(number))?;
        }
        Ok(())
    }

    /// Checks the end of a partition. If its file system is known, that tells how much of the partition is needed.
    /// Otherwise the entry in the table does, within the tolerance.
    fn mbr_partition(&self, partition: &Partition) -> Result<(), Incomplete> {
        let Partition { number, start, end, extended, kind } = *partition;
        // A protective entry has the size of a disk that the image was on before, or will be written to.
        if kind == PartitionType::Mbr(PROTECTIVE) {
            return Ok(());
        }
        let what = || format!("partition {number} of its MBR");
        let known = if extended { Known::No } else { self.file_system(start, Some(number))? };
        if known == Known::No && end.saturating_sub(self.extent.image) > self.extent.mbr_tolerance {
            return Err(self.cut(end, what(), true));
        }
        match self.extent.disk.filter(|disk| end > *disk) {
            Some(disk) => Err(Incomplete::BeyondDisk { what: what(), needed: ByteSize(end), disk: ByteSize(disk) }),
            None => Ok(()),
        }
    }

    /// Looks for a file system at `start`, of a partition or of the whole disk. Fails if it is incomplete.
    fn file_system(&self, start: u64, partition: Option<u32>) -> Result<Known, Incomplete> {
        let image = self.extent.image;
        // After the end of the image the disk may hold old data of others.
        let readable = self.disk.len().min(image);
        if let Some(found) = superblock::find(self.disk, start..readable)? {
            let name = found.name;
            self.ends(start.saturating_add(found.len), || match partition {
                Some(number) => format!("the {name} in partition {number}"),
                None => format!("its {name}"),
            })?;
            return Ok(Known::Yes);
        }
        let was_read = readable == image || start.saturating_add(superblock::READ_LEN) <= readable;
        Ok(if was_read { Known::No } else { Known::NotReadable })
    }

    fn ends(&self, end: u64, what: impl FnOnce() -> String) -> Result<(), Incomplete> {
        if end > self.extent.image { Err(self.cut(end, what(), false)) } else { Ok(()) }
    }

    fn cut(&self, needed: u64, what: String, tolerable: bool) -> Incomplete {
        Incomplete::Cut { what, needed: ByteSize(needed), end: ByteSize(self.extent.image), tolerable }
    }
}

/// The parts of a streamed disk that [`check_complete`] reads: the first MiB, the beginning of each partition, and the
/// backup of a GPT. Everything else reads as zeros.
pub(crate) struct StreamedDisk {
    /// Offsets and the bytes there, in order and without overlaps.
    parts: Vec<(u64, Vec<u8>)>,
    len: u64,
}

impl StreamedDisk {
    /// Reads the whole `disk`. `head` was read before: its first MiB, or all of a smaller disk.
    pub(crate) fn read(head: Vec<u8>, disk: &mut dyn Read) -> io::Result<Self> {
        let wanted = wanted_ranges(&head);
        let mut streamed = StreamedDisk { len: head.len() as u64, parts: vec![(0, head)] };
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = match disk.read(&mut buffer) {
                Ok(0) => return Ok(streamed),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            let next = streamed.len..streamed.len + read as u64;
            for range in wanted.iter().filter(|range| range.start < next.end && range.end > next.start) {
                streamed.keep(range, &buffer[..read]);
            }
            streamed.len = next.end;
        }
    }

    /// Keeps the part of `data` that is in `range`. `data` comes next in the stream.
    fn keep(&mut self, range: &Range<u64>, data: &[u8]) {
        let index = |at: u64| usize::try_from(at.saturating_sub(self.len)).unwrap_or(usize::MAX).min(data.len());
        let part = &data[index(range.start)..index(range.end)];
        match self.parts.last_mut().filter(|(start, bytes)| start + bytes.len() as u64 == self.len.max(range.start)) {
            Some((start, bytes)) if *start == range.start => bytes.extend_from_slice(part),
            _ => self.parts.push((self.len.max(range.start), part.to_vec())),
        }
    }
}

/// Returns the ranges after the head that are kept, in order and without overlaps.
fn wanted_ranges(head: &[u8]) -> Vec<Range<u64>> {
    let table = Table::parse(head).ok().filter(|_| head.len() as u64 == MIB);
    let partitions = table.iter().flat_map(Table::partitions).take(MAX_PARTITIONS);
    let mut starts: Vec<_> = partitions.map(|partition| partition.start).collect();
    if let Some(Table::Gpt(gpt)) = &table {
        starts.push(gpt.alternate().saturating_mul(gpt.sector()));
    }
    starts.sort_unstable();
    let mut last_end = MIB;
    let mut ranges = Vec::new();
    for start in starts {
        let range = start.max(last_end)..start.saturating_add(superblock::READ_LEN);
        if !range.is_empty() {
            last_end = range.end;
            ranges.push(range);
        }
    }
    ranges
}

impl ReadAt for StreamedDisk {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.fill(0);
        for (start, bytes) in &self.parts {
            let (from, to) = (offset.max(*start), end.min(start + bytes.len() as u64));
            if from < to {
                // Both places are in the buffer and in the part, so they fit into a usize.
                let index = |at: u64, base: u64| usize::try_from(at - base).unwrap_or(usize::MAX);
                let part = &bytes[index(from, *start)..index(to, *start)];
                buf[index(from, offset)..index(to, offset)].copy_from_slice(part);
            }
        }
        Ok(())
    }
}
