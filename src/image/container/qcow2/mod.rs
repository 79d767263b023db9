// SPDX-License-Identifier: BSD-2-Clause
//! Checks the header and the tables of qcow2 images.
//!
//! The layout is QEMU's docs/interop/qcow2.rst, the limits are those of its block/qcow2.h. All numbers are big-endian.
//! Following the tables costs little: 8 bytes are read for each cluster of 64 KiB, and whoever decodes it needs them next.

mod clusters;
mod disk;
mod header;
#[cfg(test)]
mod qemu_tests;

pub(crate) use disk::{ImageFile, Qcow2Disk};

use std::os::unix::fs::FileExt;

use self::clusters::Cluster;
pub(crate) use self::header::virtual_size;
use self::header::{Header, MAX_SNAPSHOTS, Region, SNAPSHOT_LEN};
use super::{ContainerError, Image};
use crate::image::detect::Fields;
use crate::image::format::Format;

/// The most bytes of an entry for what later versions added (QCOW_MAX_SNAPSHOT_EXTRA_DATA).
const MAX_SNAPSHOT_EXTRA: u64 = 1024;
/// The largest snapshot table in bytes (QCOW_MAX_SNAPSHOTS_SIZE).
const MAX_SNAPSHOT_TABLE: u64 = 1024 * MAX_SNAPSHOTS;

/// Where an entry points (bits 9 to 55 in both tables).
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The bit of an L2 entry that says that the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// The bit of an L2 entry of version 3 without subclusters that says that the cluster reads zero, whatever it points
/// to.
const ZERO: u64 = 1;

/// Compressed data lies in sectors of this many bytes.
const SECTOR: u64 = 512;

const INTO_TABLES: &str = "an entry points into the tables of the image";

fn corrupt(what: &'static str) -> ContainerError {
    ContainerError::Tables { format: Format::Qcow2, what }
}

/// Checks the header and all tables. Returns the virtual size in bytes.
pub(super) fn check_file(image: &Image<'_>) -> Result<u64, ContainerError> {
    let header = Header::parse(image.head)?;
    let l2 = l2_tables(&header, image)?;
    let tables = Tables { header: &header, image, l2: &l2 };
    let mut table = vec![0; usize::try_from(header.cluster()).unwrap_or(usize::MAX)];
    for (offset, guest) in &l2 {
        image.file.read_exact_at(&mut table, *offset).map_err(read_error)?;
        tables.check_l2(&table, *guest)?;
    }
    check_snapshots(&header, image)?;
    Ok(header.size)
}

/// Follows the snapshot table to its end, as QEMU does when it opens an image. What the snapshots hold does not matter.
fn check_snapshots(header: &Header, image: &Image<'_>) -> Result<(), ContainerError> {
    let (start, count) = header.snapshots;
    let mut at = start;
    for _ in 0..count {
        let mut fixed = [0; SNAPSHOT_LEN];
        read_padded(image, &mut fixed, at)?;
        let fields = Fields(&fixed);
        let id_and_name = fields.bytes::<4>(12).map_or(0, |lengths| {
            let [id, name] = [[lengths[0], lengths[1]], [lengths[2], lengths[3]]].map(u16::from_be_bytes);
            u64::from(id) + u64::from(name)
        });
        let extra = fields.be_u32(36).map_or(0, u64::from);
        at = (at + SNAPSHOT_LEN as u64 + extra + id_and_name).next_multiple_of(8);
        if extra > MAX_SNAPSHOT_EXTRA || at - start > MAX_SNAPSHOT_TABLE {
            return Err(corrupt("its snapshot table is too large"));
        }
    }
    Ok(())
}

/// Reads bytes of the file, and zeros after its end, as QEMU does.
fn read_padded(image: &Image<'_>, bytes: &mut [u8], at: u64) -> Result<(), ContainerError> {
    let len = usize::try_from(image.len.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
    image.file.read_exact_at(&mut bytes[..len], at).map_err(read_error)
}

fn read_error(source: std::io::Error) -> ContainerError {
    ContainerError::Read(Format::Qcow2, source)
}

/// Returns the L2 tables, sorted by their offsets in the file: that offset, and the first byte of the disk that the
/// table describes.
fn l2_tables(header: &Header, image: &Image<'_>) -> Result<Vec<(u64, u64)>, ContainerError> {
    for region in &header.regions[1..] {
        image.needs(region.start, region.end - region.start)?;
    }
    let l1 = image.read(header.l1.start, header.l2_tables() * 8)?;
    let mut tables = Vec::new();
    for (index, entry) in (0..).zip(l1.as_chunks().0) {
        let start = u64::from_be_bytes(*entry) & OFFSET;
        if start != 0 {
            check_offset(header, start)?;
            image.needs(start, header.cluster())?;
            tables.push((start, index * header.l2_reach()));
        }
    }
    tables.sort_unstable();
    // QEMU never writes such an image, and a small file with many such entries would take for ever to check.
    if tables.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(corrupt("two entries point to the same L2 table"));
    }
    Ok(tables)
}

/// Fails unless a cluster can begin at `start`, outside of the header and the tables.
fn check_offset(header: &Header, start: u64) -> Result<(), ContainerError> {
    if !start.is_multiple_of(header.cluster()) {
        return Err(corrupt("an entry does not point to the start of a cluster"));
    }
    check_no_overlap(header, Region { start, end: start + header.cluster() })
}

fn check_no_overlap(header: &Header, data: Region) -> Result<(), ContainerError> {
    match header.regions.iter().any(|region| region.overlaps(data)) {
        true => Err(corrupt(INTO_TABLES)),
        false => Ok(()),
    }
}

/// The tables of an image, which are followed to its data.
struct Tables<'i> {
    header: &'i Header,
    image: &'i Image<'i>,
    l2: &'i [(u64, u64)],
}

impl Tables<'_> {
    /// Checks an L2 table that describes the disk from its byte `guest` on.
    fn check_l2(&self, table: &[u8], mut guest: u64) -> Result<(), ContainerError> {
        let words = if self.header.extended_l2 { 2 } else { 1 };
        for entry in table.as_chunks::<8>().0.chunks_exact(words) {
            if guest >= self.header.size {
                break;
            }
            let subclusters = entry.get(1).map(|bitmap| u64::from_be_bytes(*bitmap));
            self.check_entry(u64::from_be_bytes(entry[0]), subclusters, guest)?;
            guest += self.header.cluster();
        }
        Ok(())
    }

    fn check_entry(&self, entry: u64, subclusters: Option<u64>, guest: u64) -> Result<(), ContainerError> {
        let cluster = Cluster::of(self.header, entry, subclusters)?;
        if let Cluster::Compressed(start, end) = cluster {
            return self.check_compressed(start, end);
        }
        let start = entry & OFFSET;
        if start != 0 {
            check_offset(self.header, start)?;
            if self.l2.binary_search_by_key(&start, |(table, _)| *table).is_ok() {
                return Err(corrupt(INTO_TABLES));
            }
        }
        // The last cluster may reach beyond the end of the disk. QEMU does not read that part.
        let useful = self.header.cluster().min(self.header.size - guest);
        self.image.needs(0, cluster.end(self.header.cluster(), useful, self.image.len))
    }

    fn check_compressed(&self, start: u64, end: u64) -> Result<(), ContainerError> {
        check_no_overlap(self.header, Region { start, end: start + 1 })?;
        // The entry counts whole sectors, and the file may end within the last one.
        if end <= self.image.len.next_multiple_of(SECTOR) { Ok(()) } else { self.image.needs(start, end - start) }
    }
}
