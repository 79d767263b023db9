// SPDX-License-Identifier: BSD-2-Clause
//! Makes large files from few bytes. An input has places and the bytes there, and everything else is zero.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::disk::device::{ReadAt, WriteAt};

/// The unit in bytes in which lengths and places are given, and in which written bytes are kept.
pub(super) const SECTOR: usize = 512;

/// The length of the longest disk in bytes.
const MAX_LEN: u64 = 1 << 31;

/// A disk in memory. Only the sectors that were written are kept.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Disk {
    len: u64,
    sectors: BTreeMap<u64, [u8; SECTOR]>,
}

impl Disk {
    /// Returns a disk of `len` zeros.
    pub(super) fn new(len: u64) -> Self {
        Disk { len, sectors: BTreeMap::new() }
    }

    /// Parses the length in sectors (3 bytes), how many bytes the last one lacks (2 bytes), and pieces: the sector
    /// where a piece begins (3 bytes), its length in bytes (2 bytes), and its bytes. Numbers are little-endian. What
    /// lies after the end of the disk is ignored.
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        let (&[low, middle, high, lacks_low, lacks_high], mut pieces) = data.split_first_chunk()?;
        let len = u64::from(u32::from_le_bytes([low, middle, high, 0])) * SECTOR as u64;
        let mut disk = Disk::new(len.saturating_sub(u16::from_le_bytes([lacks_low, lacks_high]).into()).min(MAX_LEN));
        while let Some((&[low, middle, high, len_low, len_high], rest)) = pieces.split_first_chunk() {
            let len = usize::from(u16::from_le_bytes([len_low, len_high])).min(rest.len());
            let (bytes, rest) = rest.split_at(len);
            let start = u64::from(u32::from_le_bytes([low, middle, high, 0])) * SECTOR as u64;
            let room = usize::try_from(disk.len.saturating_sub(start)).unwrap_or(usize::MAX);
            disk.put(&bytes[..len.min(room)], start);
            pieces = rest;
        }
        Some(disk)
    }

    fn put(&mut self, data: &[u8], offset: u64) {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let inside = usize::try_from(at % SECTOR as u64).unwrap_or(0);
            let (part, after) = rest.split_at(rest.len().min(SECTOR - inside));
            let sector = self.sectors.entry(at / SECTOR as u64).or_insert([0; SECTOR]);
            sector[inside..inside + part.len()].copy_from_slice(part);
            at += part.len() as u64;
            rest = after;
        }
        self.sectors.retain(|_, sector| *sector != [0; SECTOR]);
    }

    /// Copies the bytes that are not zero onto `other`.
    pub(super) fn write_onto(&self, other: &mut Self) {
        other.sectors.extend(self.sectors.iter().map(|(at, sector)| (*at, *sector)));
    }

    /// Returns the sectors that differ from those of `other`.
    pub(super) fn differences(&self, other: &Self) -> Vec<u64> {
        let all = self.sectors.keys().chain(other.sectors.keys().filter(|at| !self.sectors.contains_key(at)));
        all.filter(|at| self.sectors.get(at) != other.sectors.get(at)).copied().collect()
    }

    /// Returns the same content as a file.
    pub(super) fn file(&self) -> File {
        let file = File::from(memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC).expect("memory for a file"));
        file.set_len(self.len).expect("memory for a file");
        for (at, sector) in &self.sectors {
            let start = at * SECTOR as u64;
            let len = usize::try_from(self.len - start).unwrap_or(usize::MAX).min(SECTOR);
            file.write_all_at(&sector[..len], start).expect("writing to memory");
        }
        file
    }

    /// Returns the bytes from the start on, `len` at most.
    pub(super) fn head(&self, len: u64) -> Vec<u8> {
        let mut head = vec![0; usize::try_from(len.min(self.len)).expect("a short head")];
        self.read_at(&mut head, 0).expect("it is not longer than the disk");
        head
    }

    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        let end = offset.checked_add(len as u64);
        end.filter(|end| *end <= self.len).map(drop).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl ReadAt for Disk {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.check(offset, buf.len())?;
        buf.fill(0);
        let end = offset + buf.len() as u64;
        let size = SECTOR as u64;
        for (at, sector) in self.sectors.range(offset / size..end.div_ceil(size)) {
            let (from, to) = ((at * size).max(offset), ((at + 1) * size).min(end));
            let place = |byte: u64, base: u64| usize::try_from(byte - base).unwrap_or(usize::MAX);
            buf[place(from, offset)..place(to, offset)]
                .copy_from_slice(&sector[place(from, at * size)..place(to, at * size)]);
        }
        Ok(())
    }
}

impl WriteAt for Disk {
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.check(offset, data.len())?;
        self.put(data, offset);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}
