// SPDX-License-Identifier: BSD-2-Clause
//! The disk in a qcow2 image: any place of it, and all of it in the order in which its file arrives.
//!
//! The tables are not trusted because they were checked before. Whatever is read of the file is checked when it is used, so
//! an image that somebody changes meanwhile gives wrong bytes or an error, as a raw one does, and nothing worse.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::clusters::{Cluster, PARTS};
use super::header::Header;
use super::{ContainerError, Image, Tables, check_snapshots, l2_tables, read_error};
use crate::disk::device::{AlignedBuf, DirectReader, ReadAt};
use crate::disk::write::{Extent, Extents};
use crate::image::format::Format;
use crate::store::cache::DownloadFile;

/// Parts of the disk of this many bytes are decoded at once, or a larger cluster.
const PART: u64 = 1 << 20;

/// Parts that lie in the file as they lie on the disk are read together, up to this many bytes.
const LONG_PART: u64 = 4 << 20;

/// The largest number of L2 tables. Each takes 40 bytes of memory. An image of 64 TiB with clusters of 64 KiB has 131072.
const MAX_TABLES: usize = 1 << 19;

/// The file of an image.
pub(crate) enum ImageFile<'f> {
    /// A file of this many bytes.
    Whole(&'f File, u64),
    /// A file of which the end is still on its way.
    Growing(DownloadFile<'f>),
}

impl ImageFile<'_> {
    /// Returns the file, and its length in bytes when all of it has come.
    fn parts(&self) -> (&File, u64) {
        match self {
            ImageFile::Whole(file, len) => (file, *len),
            ImageFile::Growing(download) => (download.file(), download.len()),
        }
    }

    fn wait_for(&self, end: u64) -> io::Result<()> {
        match self {
            ImageFile::Whole(..) => Ok(()),
            ImageFile::Growing(download) => download.wait_for(end),
        }
    }
}

/// An L2 table.
#[derive(Debug, Clone, Copy)]
struct Table {
    /// The place of the table in the file, in bytes.
    start: u64,
    /// The first byte of the disk that it describes.
    guest: u64,
}

/// The disk in an image that this program decodes itself.
pub(crate) struct Qcow2Disk<'f> {
    header: Header,
    file: ImageFile<'f>,
    /// The tables in the order of the disk.
    tables: Vec<Table>,
    /// The tables in the order of the file, as [`Tables`] needs them.
    places: Vec<(u64, u64)>,
    queue: Mutex<Queue>,
    stopped: AtomicBool,
}

/// What nobody has taken yet.
struct Queue {
    zeros: Vec<(u64, u64)>,
    /// How many of the tables are read.
    tables: usize,
    /// The parts with data. The one that needs the least of the file comes first.
    parts: BinaryHeap<Reverse<Part>>,
}

/// A part of the disk with data, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    /// Up to where the file is needed.
    needed: u64,
    /// The first byte of the disk.
    guest: u64,
    len: u64,
    /// Where the part lies in the file, if it does so as it does on the disk.
    start: Option<u64>,
}

impl Part {
    /// Takes `other` into this part if it goes on where this one ends.
    fn join(&mut self, other: Part) -> bool {
        let goes_on = self.guest + self.len == other.guest
            && self.start.zip(other.start).is_some_and(|(start, other)| start + self.len == other);
        if !goes_on || self.len + other.len > LONG_PART {
            return false;
        }
        self.needed = self.needed.max(other.needed);
        self.len += other.len;
        true
    }
}

impl<'f> Qcow2Disk<'f> {
    /// Takes an image that begins with `head`. Waits for its L1 table. Returns `None` for an image that is left to
    /// qemu-img: it has bitmaps, or too many tables.
    pub(crate) fn open(head: &[u8], file: ImageFile<'f>) -> Result<Option<Self>, ContainerError> {
        let header = Header::parse(head)?;
        // QEMU reads the bitmaps when it opens the image, and may refuse them.
        if header.has_bitmaps {
            return Ok(None);
        }
        let (bytes, len) = file.parts();
        if header.l1.end <= len {
            file.wait_for(header.l1.end).map_err(read_error)?;
        }
        let places = l2_tables(&header, &image(bytes, len))?;
        if places.len() > MAX_TABLES {
            return Ok(None);
        }
        let mut tables: Vec<_> = places.iter().map(|(start, guest)| Table { start: *start, guest: *guest }).collect();
        tables.sort_unstable_by_key(|table| table.guest);
        let queue = Queue { zeros: holes(&header, &tables), tables: 0, parts: BinaryHeap::new() };
        Ok(Some(Qcow2Disk { header, file, tables, places, queue: Mutex::new(queue), stopped: AtomicBool::new(false) }))
    }

    /// Returns the length of a part with data. It lies in one L2 table.
    fn part(&self) -> u64 {
        PART.max(self.header.cluster()).min(self.header.l2_reach())
    }

    /// Returns the clusters from the one at `guest` on, as far as they are needed for `len` bytes.
    fn clusters(&self, guest: u64, len: usize) -> io::Result<Vec<Cluster>> {
        let (cluster, reach) = (self.header.cluster(), self.header.l2_reach());
        let last = (guest + (len as u64).max(1) - 1) / cluster;
        let mut all = Vec::new();
        let mut next = guest / cluster;
        while next <= last {
            let count = (last + 1 - next).min((reach - next * cluster % reach) / cluster);
            match self.table_of(next * cluster) {
                Some(table) => self.read_entries(table, next * cluster, count, &mut all)?,
                None => all.resize(all.len() + index(count)?, Cluster::Zeros),
            }
            next += count;
        }
        Ok(all)
    }

    fn table_of(&self, guest: u64) -> Option<Table> {
        let start = guest - guest % self.header.l2_reach();
        let found = self.tables.binary_search_by_key(&start, |table| table.guest);
        found.ok().map(|index| self.tables[index])
    }

    /// Adds `count` clusters from the one at `guest` on.
    fn read_entries(&self, table: Table, guest: u64, count: u64, all: &mut Vec<Cluster>) -> io::Result<()> {
        let entry = self.header.l2_entry_len();
        let start = table.start + (guest - table.guest) / self.header.cluster() * entry;
        let mut bytes = vec![0; index(count * entry)?];
        self.file.wait_for(start + count * entry)?;
        self.file.parts().0.read_exact_at(&mut bytes, start)?;
        for entry in self.entries(&bytes) {
            all.push(entry.map_err(invalid)?);
        }
        Ok(())
    }

    fn entries<'b>(&'b self, table: &'b [u8]) -> impl Iterator<Item = Result<Cluster, ContainerError>> + 'b {
        let words = if self.header.extended_l2 { 2 } else { 1 };
        table.as_chunks::<8>().0.chunks_exact(words).map(|entry| {
            let bitmap = entry.get(1).map(|bitmap| u64::from_be_bytes(*bitmap));
            Cluster::of(&self.header, u64::from_be_bytes(entry[0]), bitmap)
        })
    }

    /// Returns up to where the file is needed for a cluster of the disk.
    fn end_of(&self, cluster: Cluster, guest: u64) -> u64 {
        let size = self.header.cluster().min(self.header.size.saturating_sub(guest));
        cluster.end(self.header.cluster(), size, self.file.parts().1)
    }

    /// Reads a whole cluster, or the first bytes of one.
    fn read_start(&self, cluster: Cluster, buffer: &mut [u8]) -> io::Result<()> {
        let (file, len) = self.file.parts();
        match cluster {
            Cluster::Zeros => buffer.fill(0),
            Cluster::Data(start) => file.read_exact_at(buffer, start)?,
            Cluster::Parts { start, allocated } => {
                let part = index(self.header.cluster() / PARTS)?;
                for (number, bytes) in (0_u64..).zip(buffer.chunks_mut(part)) {
                    match allocated >> number & 1 {
                        0 => bytes.fill(0),
                        _ => file.read_exact_at(bytes, start + number * part as u64)?,
                    }
                }
            }
            Cluster::Compressed(start, end) => {
                let mut packed = vec![0; index(end.min(len).saturating_sub(start))?];
                file.read_exact_at(&mut packed, start)?;
                if buffer.len() as u64 == self.header.cluster() {
                    return self.header.compression.decode(&packed, buffer);
                }
                let mut whole = vec![0; index(self.header.cluster())?];
                self.header.compression.decode(&packed, &mut whole)?;
                buffer.copy_from_slice(&whole[..buffer.len()]);
            }
        }
        Ok(())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks what comes last in the file. That of a whole file was checked before.
    fn check_end(&self) -> io::Result<()> {
        let ImageFile::Growing(download) = &self.file else { return Ok(()) };
        download.wait_for(download.len())?;
        check_snapshots(&self.header, &image(download.file(), download.len())).map_err(invalid)
    }

    /// Adds the parts of an L2 table, which is in the file.
    fn add_parts(&self, queue: &mut Queue, (start, guest): (u64, u64)) -> io::Result<()> {
        let (file, len) = self.file.parts();
        let mut table = vec![0; index(self.header.cluster())?];
        file.read_exact_at(&mut table, start)?;
        let tables = Tables { header: &self.header, image: &image(file, len), l2: &self.places };
        tables.check_l2(&table, guest).map_err(invalid)?;
        let (part, end) = (self.part(), self.header.size.min(guest + self.header.l2_reach()));
        let clusters = self.entries(&table).collect::<Result<Vec<_>, _>>().map_err(invalid)?;
        let mut parts: Vec<Part> = Vec::new();
        for (clusters, at) in
            clusters.chunks(index(part / self.header.cluster())?).zip((guest..end).step_by(index(part)?))
        {
            let part = self.part_of(clusters, at, part.min(end - at));
            match (part.needed, queue.zeros.last_mut()) {
                (0, Some((start, len))) if *start + *len == at => *len += part.len,
                (0, _) => queue.zeros.push((at, part.len)),
                _ if parts.last_mut().is_some_and(|last| last.join(part)) => {}
                _ => parts.push(part),
            }
        }
        queue.parts.extend(parts.into_iter().map(Reverse));
        Ok(())
    }

    /// Returns the part of `len` bytes that begins with the byte `guest` of the disk and has these clusters.
    fn part_of(&self, clusters: &[Cluster], guest: u64, len: u64) -> Part {
        let places = (guest..guest + len).step_by(usize::try_from(self.header.cluster()).unwrap_or(usize::MAX));
        let needed = clusters.iter().zip(places).map(|(cluster, at)| self.end_of(*cluster, at)).max();
        Part { needed: needed.unwrap_or_default(), guest, len, start: self.start_of(clusters) }
    }

    /// Returns where the clusters begin in the file, if they lie there as they lie on the disk.
    fn start_of(&self, clusters: &[Cluster]) -> Option<u64> {
        let Some(Cluster::Data(start)) = clusters.first().copied() else { return None };
        let places = (start..).step_by(usize::try_from(self.header.cluster()).ok()?);
        clusters.iter().zip(places).all(|(cluster, place)| *cluster == Cluster::Data(place)).then_some(start)
    }
}

impl Extents for Qcow2Disk<'_> {
    fn longest(&self) -> usize {
        usize::try_from(self.part().max(LONG_PART)).unwrap_or(usize::MAX)
    }

    /// Takes what needs the least of the file: an L2 table, which has more parts, or a part.
    fn next(&self) -> io::Result<Option<Extent>> {
        loop {
            if self.stopped.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let mut queue = self.queue();
            if let Some((offset, len)) = queue.zeros.pop() {
                return Ok(Some(Extent::Zeros { offset, len }));
            }
            let number = queue.tables;
            let table = self.places.get(number).copied();
            let table_end = table.map_or(u64::MAX, |(start, _)| start + self.header.cluster());
            if let Some(Reverse(part)) = queue.parts.peek().copied().filter(|part| part.0.needed <= table_end) {
                queue.parts.pop();
                return Ok(Some(Extent::Data { offset: part.guest, len: index(part.len)? }));
            }
            let Some(table) = table else { return self.check_end().map(|()| None) };
            // Nobody else has to wait for the lock meanwhile.
            drop(queue);
            self.file.wait_for(table_end)?;
            let mut queue = self.queue();
            if queue.tables == number {
                queue.tables += 1;
                self.add_parts(&mut queue, table)?;
            }
        }
    }

    fn read(&self, buffer: &mut AlignedBuf, offset: u64, len: usize) -> io::Result<()> {
        let clusters = self.clusters(offset, len)?;
        let Some(start) = self.start_of(&clusters) else { return self.read_at(&mut buffer[..len], offset) };
        self.file.wait_for(start + len as u64)?;
        DirectReader::new(self.file.parts().0).read(buffer, start, len)
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let ImageFile::Growing(download) = &self.file {
            download.stop();
        }
    }
}

impl ReadAt for Qcow2Disk<'_> {
    fn len(&self) -> u64 {
        self.header.size
    }

    fn read_at(&self, mut buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.header.size);
        end.ok_or(io::ErrorKind::UnexpectedEof)?;
        if buf.is_empty() {
            return Ok(());
        }
        let size = self.header.cluster();
        let mut inside = index(offset % size)?;
        let mut guest = offset - offset % size;
        for cluster in self.clusters(offset, buf.len())? {
            let len = buf.len().min(index(size)? - inside);
            let (now, later) = buf.split_at_mut(len);
            self.file.wait_for(self.end_of(cluster, guest))?;
            if inside == 0 {
                self.read_start(cluster, now)?;
            } else {
                let mut start = vec![0; inside + len];
                self.read_start(cluster, &mut start)?;
                now.copy_from_slice(&start[inside..]);
            }
            (buf, inside, guest) = (later, 0, guest + size);
        }
        Ok(())
    }
}

/// Returns the parts of the disk that no L2 table describes: where each begins, and its length, in bytes.
fn holes(header: &Header, tables: &[Table]) -> Vec<(u64, u64)> {
    let mut holes = Vec::new();
    let mut at = 0;
    for guest in tables.iter().map(|table| table.guest).chain([header.size]) {
        if at < guest {
            holes.push((at, guest - at));
        }
        at = guest.saturating_add(header.l2_reach());
    }
    holes
}

fn image(file: &File, len: u64) -> Image<'_> {
    Image { format: Format::Qcow2, head: &[], file, len }
}

fn invalid(error: ContainerError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn index(number: u64) -> io::Result<usize> {
    usize::try_from(number).map_err(io::Error::other)
}
