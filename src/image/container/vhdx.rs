// SPDX-License-Identifier: BSD-2-Clause
//! Checks VHDX images, which Hyper-V writes. The layout is [MS-VHDX]; all numbers are little-endian.

use super::{ContainerError, Image};
use crate::image::detect::Fields;
use crate::image::format::Format;

/// The offsets of the two headers. Of those with a correct checksum the one with the higher sequence number is valid.
const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const HEADER_LEN: u64 = 4 << 10;
/// The offset of the first region table; QEMU reads only this one.
const REGIONS: u64 = 192 << 10;
const REGIONS_LEN: u64 = 64 << 10;
const METADATA_LEN: u64 = 64 << 10;
const MIB: u64 = 1 << 20;
/// The largest virtual size in bytes that the specification allows.
const MAX_SIZE: u64 = 64 << 40;

/// GUIDs in the byte order of the file.
const BAT: u128 = u128::from_le_bytes(*b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08");
const METADATA: u128 = u128::from_le_bytes(*b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e");
const PARAMETERS: u128 = u128::from_le_bytes(*b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b");
const DISK_SIZE: u128 = u128::from_le_bytes(*b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8");
const SECTOR_SIZE: u128 = u128::from_le_bytes(*b"\x1d\xbf\x41\x81\x6f\xa9\x09\x47\xba\x47\xf2\x33\xa8\xfa\xab\x5f");
const PHYSICAL_SECTOR_SIZE: u128 =
    u128::from_le_bytes(*b"\xc7\x48\xa3\xcd\x5d\x44\x71\x44\x9c\xc9\xe9\x88\x52\x51\xc5\x56");
const IDENTIFIER: u128 = u128::from_le_bytes(*b"\xab\x12\xca\xbe\xe6\xb2\x23\x45\x93\xef\xc3\x09\xe0\x00\xc7\x46");
const PARENT: u128 = u128::from_le_bytes(*b"\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c");

/// Flag of an entry: a program that does not know the entry must not read the image.
const REQUIRED: u32 = 1;
const METADATA_REQUIRED: u32 = 4;
/// Flag of the file parameters.
const HAS_PARENT: u64 = 2;

/// States of a block: all of it is in the file, or a part of it, and the rest is in the parent image.
const FULL: u64 = 6;
const PARTIAL: u64 = 7;

/// The metadata that are used, in bytes.
#[derive(Default)]
struct Metadata {
    size: u64,
    block: u64,
    sector: u64,
}

fn invalid(what: &'static str) -> ContainerError {
    ContainerError::Header { format: Format::Vhdx, what }
}

/// Checks the headers and all tables. Gives the virtual size in bytes.
pub(super) fn check_file(image: &Image<'_>) -> Result<u64, ContainerError> {
    check_headers(image)?;
    let (bat, metadata) = regions(image)?;
    let disk = Metadata::read(image, metadata)?;
    check_blocks(image, &disk, bat)?;
    Ok(disk.size)
}

fn check_headers(image: &Image<'_>) -> Result<(), ContainerError> {
    let mut newest = None;
    for start in HEADERS {
        let header = image.read(start, HEADER_LEN)?;
        if header.starts_with(b"head") && is_intact(&header) {
            let number = Fields(&header).le_u64(8);
            if newest.as_ref().is_none_or(|(known, _)| *known < number) {
                newest = Some((number, header));
            }
        }
    }
    let (_, header) = newest.ok_or(invalid("both of them are damaged"))?;
    if header[48..64].iter().any(|byte| *byte != 0) {
        return Err(ContainerError::Log(Format::Vhdx));
    }
    match (Fields(&header).le_u16(64), Fields(&header).le_u16(66)) {
        (Some(0), Some(1)) => Ok(()),
        _ => Err(invalid("its version is not supported")),
    }
}

fn is_intact(block: &[u8]) -> bool {
    Fields(block).le_u32(4) == Some(checksum(block))
}

/// CRC-32C, with the four bytes of the checksum itself as zeros. This simple form is fast enough for some KiB.
fn checksum(block: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let zeroed = block.iter().enumerate().map(|(at, byte)| if (4..8).contains(&at) { 0 } else { *byte });
    let crc = zeroed.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(crc & 1)))
    });
    !crc
}

/// Corrects the checksums of the headers and of the region table in `file`.
#[cfg(any(test, fuzzing))]
pub(crate) fn seal(file: &std::fs::File, len: u64) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let tables =
        [(HEADERS[0], HEADER_LEN, b"head"), (HEADERS[1], HEADER_LEN, b"head"), (REGIONS, REGIONS_LEN, b"regi")];
    for (start, size, magic) in tables.into_iter().filter(|(start, size, _)| start + size <= len) {
        let mut block = vec![0; usize::try_from(size).map_err(std::io::Error::other)?];
        file.read_exact_at(&mut block, start)?;
        if block.starts_with(magic) {
            file.write_all_at(&checksum(&block).to_le_bytes(), start + 4)?;
        }
    }
    Ok(())
}

/// A part of the file, in bytes.
#[derive(Clone, Copy)]
struct Region {
    start: u64,
    len: u64,
}

impl Region {
    fn end(self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// Whether the region begins after the headers, and is aligned to MiB.
    fn is_placed(self) -> bool {
        self.start >= MIB && self.start.is_multiple_of(MIB) && self.len.is_multiple_of(MIB)
    }
}

/// The regions of the block table and of the metadata.
fn regions(image: &Image<'_>) -> Result<(Region, Region), ContainerError> {
    let table = image.read(REGIONS, REGIONS_LEN)?;
    let fields = Fields(&table);
    let count = fields.le_u32(8).unwrap_or_default();
    if !table.starts_with(b"regi") || !is_intact(&table) || count > 2047 {
        return Err(invalid("its region table is damaged"));
    }
    let (mut bat, mut metadata) = (None, None);
    for at in (16..).step_by(32).take(usize::try_from(count).unwrap_or_default()) {
        let place = fields.le_u64(at + 16).zip(fields.le_u32(at + 24));
        let place = place.map(|(start, len)| Region { start, len: len.into() });
        let required = fields.le_u32(at + 28).is_some_and(|bits| bits & REQUIRED != 0);
        match fields.bytes(at).map(u128::from_le_bytes) {
            Some(BAT) if bat.is_none() => bat = place,
            Some(METADATA) if metadata.is_none() => metadata = place,
            Some(BAT | METADATA) => return Err(invalid("its region table names a region twice")),
            _ if required => return Err(invalid("it needs a region of an unknown kind")),
            _ => {}
        }
    }
    let (bat, metadata) = bat.zip(metadata).ok_or(invalid("a region is missing"))?;
    let overlap = bat.start < metadata.end() && metadata.start < bat.end();
    if overlap || !bat.is_placed() || !metadata.is_placed() {
        return Err(invalid("its regions are at invalid offsets"));
    }
    Ok((bat, metadata))
}

impl Metadata {
    fn read(image: &Image<'_>, region: Region) -> Result<Self, ContainerError> {
        let table = image.read(region.start, METADATA_LEN.min(region.len))?;
        let fields = Fields(&table);
        let count = fields.le_u16(10).unwrap_or_default();
        if !table.starts_with(b"metadata") || count > 2047 {
            return Err(invalid("its metadata are damaged"));
        }
        let mut found = Metadata::default();
        for at in (32..).step_by(32).take(count.into()) {
            let place = u64::from(fields.le_u32(at + 16).unwrap_or_default());
            let item = image.read(region.start.saturating_add(place), 8)?;
            let (word, long) =
                (Fields(&item).le_u32(0).unwrap_or_default(), Fields(&item).le_u64(0).unwrap_or_default());
            match fields.bytes(at).map(u128::from_le_bytes) {
                Some(PARENT) => return Err(ContainerError::Parent(Format::Vhdx)),
                Some(PARAMETERS) if (long >> 32) & HAS_PARENT != 0 => {
                    return Err(ContainerError::Parent(Format::Vhdx));
                }
                Some(PARAMETERS) => found.block = word.into(),
                Some(DISK_SIZE) => found.size = long,
                Some(SECTOR_SIZE) => found.sector = word.into(),
                Some(PHYSICAL_SECTOR_SIZE | IDENTIFIER) => {}
                _ if fields.le_u32(at + 24).is_some_and(|bits| bits & METADATA_REQUIRED != 0) => {
                    return Err(invalid("it needs metadata of an unknown kind"));
                }
                _ => {}
            }
        }
        found.check()
    }

    fn check(self) -> Result<Self, ContainerError> {
        let block = (MIB..=256 * MIB).contains(&self.block) && self.block.is_power_of_two();
        let size = (1..=MAX_SIZE).contains(&self.size) && self.size.is_multiple_of(512);
        if !block || !size || !matches!(self.sector, 512 | 4096) {
            return Err(invalid("its sizes are out of range"));
        }
        // QEMU reads only images with 512-byte sectors.
        match self.sector {
            512 => Ok(self),
            _ => Err(ContainerError::Unsupported { format: Format::Vhdx, what: "one of 4096-byte sectors" }),
        }
    }
}

/// Checks that every allocated block is in the file.
fn check_blocks(image: &Image<'_>, disk: &Metadata, bat: Region) -> Result<(), ContainerError> {
    // After `chunk` entries there is one for a bitmap, which only images with a parent use.
    let chunk = (disk.sector << 23) / disk.block;
    let blocks = disk.size.div_ceil(disk.block);
    let entries = blocks + (blocks - 1) / chunk;
    if entries * 8 > bat.len {
        return Err(image.tables("its block table is too small for the virtual size"));
    }
    let table = image.read(bat.start, entries * 8)?;
    let mut block = 0;
    for (number, entry) in (1_u64..).zip(table.as_chunks().0) {
        if number.is_multiple_of(chunk + 1) {
            continue;
        }
        let entry = u64::from_le_bytes(*entry);
        match entry & 7 {
            FULL => image.needs(entry >> 20 << 20, disk.block.min(disk.size - block * disk.block))?,
            PARTIAL => return Err(ContainerError::Parent(Format::Vhdx)),
            _ => {}
        }
        block += 1;
    }
    Ok(())
}
