// SPDX-License-Identifier: BSD-2-Clause
//! Checks VMDK images that are one file with a descriptor in it: monolithicSparse and streamOptimized.
//!
//! The layout is that of VMware's "Virtual Disk Format 5.0" and of QEMU's block/vmdk.c. All numbers are
//! little-endian, offsets and sizes are in sectors of 512 bytes.
//!
//! The descriptor is checked strictly. QEMU opens the extents that it names only if the header has a size of 0, but it
//! reads the name of a parent at a fixed offset, whatever the header says. So the descriptor has to be at that offset. It
//! must have one sparse extent without a folder in its name, and no parent. The name of the extent may be another one than
//! that of the file, because images are renamed.

use super::{ContainerError, Image};
use crate::image::detect::Fields;
use crate::image::format::Format;

const SECTOR: u64 = 512;
/// The offset of the descriptor in bytes, where QEMU looks for the name of a parent.
const DESCRIPTOR: usize = 512;
/// How many bytes of the descriptor QEMU reads.
const DESCRIPTOR_LEN: usize = 20 * 512;
/// The number of entries of a grain table.
const TABLE_ENTRIES: u64 = 512;
/// This offset of the grain directory means that the header in the footer has the offset.
const AT_END: u64 = u64::MAX;

const FLAG_NEWLINES: u32 = 1;
const FLAG_ZERO_GRAINS: u32 = 1 << 2;
/// The bytes that the header has with FLAG_NEWLINES. A transfer in text mode changes them.
const NEWLINES: [u8; 4] = *b"\n \r\n";

const MARKER_END: u32 = 0;
const MARKER_FOOTER: u32 = 3;

fn invalid(what: &'static str) -> ContainerError {
    ContainerError::Header { format: Format::Vmdk, what }
}

/// The fields of a header that are used, in sectors.
struct Header {
    flags: u32,
    capacity: u64,
    grain: u64,
    directory: u64,
    compressed: bool,
}

/// Checks the header and the descriptor. Gives the virtual size in bytes.
pub(super) fn check_head(head: &[u8]) -> Result<u64, ContainerError> {
    parse(head).map(|header| header.capacity * SECTOR)
}

/// Checks the header and the descriptor, and that every grain is in the file. Gives the virtual size in bytes.
pub(super) fn check_file(image: &Image<'_>) -> Result<u64, ContainerError> {
    let mut header = parse(image.head)?;
    if header.directory == AT_END {
        let capacity = header.capacity;
        header = footer(image)?;
        if header.capacity != capacity || header.directory == AT_END {
            return Err(invalid("its footer contradicts its header"));
        }
    }
    check_grains(image, &header)?;
    Ok(header.capacity * SECTOR)
}

fn parse(head: &[u8]) -> Result<Header, ContainerError> {
    let header = Header::parse(head)?;
    let fields = Fields(head);
    let (place, sectors) = (fields.le_u64(28).unwrap_or_default(), fields.le_u64(36).unwrap_or_default());
    if place != DESCRIPTOR as u64 / SECTOR || !(1..=DESCRIPTOR_LEN as u64 / SECTOR).contains(&sectors) {
        return Err(invalid("its descriptor is at an invalid offset"));
    }
    let window = &head[DESCRIPTOR..head.len().min(DESCRIPTOR + DESCRIPTOR_LEN)];
    if window.windows(14).any(|part| part.eq_ignore_ascii_case(b"parentFileName")) {
        return Err(ContainerError::Parent(Format::Vmdk));
    }
    let text = window.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(|_err| invalid("its descriptor is not text"))?;
    check_descriptor(text, header.capacity)?;
    Ok(header)
}

impl Header {
    fn parse(head: &[u8]) -> Result<Self, ContainerError> {
        let head = head.get(..DESCRIPTOR).filter(|_| head.len() > DESCRIPTOR);
        let fields = Fields(head.ok_or(invalid("the image ends inside it"))?);
        let word = |at| fields.le_u32(at).unwrap_or_default();
        let long = |at| fields.le_u64(at).unwrap_or_default();
        let (flags, capacity, grain) = (word(8), long(12), long(20));
        if !(1..=3).contains(&word(4)) {
            return Err(invalid("its version is not supported"));
        }
        if flags & FLAG_NEWLINES != 0 && fields.bytes(73) != Some(NEWLINES) {
            return Err(invalid("it was damaged by a transfer in text mode"));
        }
        // If the header has no size, QEMU opens the files that the descriptor names.
        if capacity == 0 {
            return Err(ContainerError::OtherFiles(Format::Vmdk));
        }
        if i64::try_from(capacity).is_err() || capacity > i64::MAX as u64 / SECTOR {
            return Err(invalid("its virtual size is out of range"));
        }
        let compression = fields.le_u16(77).unwrap_or_default();
        if !(8..=2048).contains(&grain)
            || !grain.is_power_of_two()
            || u64::from(word(44)) != TABLE_ENTRIES
            || compression > 1
        {
            return Err(invalid("its grains are not supported"));
        }
        Ok(Header { flags, capacity, grain, directory: long(56), compressed: compression == 1 })
    }
}

/// Checks that the image consists of this one file, and that it has no parent.
fn check_descriptor(text: &str, capacity: u64) -> Result<(), ContainerError> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (mut kind, mut parent, mut extents) = (None, None, 0);
    for line in lines {
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        if ["RW", "RDONLY", "NOACCESS"].iter().any(|access| first.eq_ignore_ascii_case(access)) {
            check_extent(line, capacity)?;
            extents += 1;
        } else if let Some((key, value)) = line.split_once('=') {
            let value = value.trim().trim_matches('"').to_ascii_lowercase();
            match key.trim().to_ascii_lowercase().as_str() {
                "createtype" if kind.is_none() => kind = Some(value),
                "parentcid" if parent.is_none() => parent = Some(value),
                "createtype" | "parentcid" => return Err(invalid("its descriptor has createType or parentCID twice")),
                _ => {}
            }
        } else {
            return Err(invalid("its descriptor has a line of an unknown kind"));
        }
    }
    match kind.as_deref() {
        Some("monolithicsparse" | "streamoptimized") => {}
        Some(_) => return Err(ContainerError::OtherFiles(Format::Vmdk)),
        None => return Err(invalid("its descriptor has no createType")),
    }
    match parent.as_deref() {
        Some("ffffffff") => {}
        Some(_) => return Err(ContainerError::Parent(Format::Vmdk)),
        None => return Err(invalid("its descriptor has no parentCID")),
    }
    if extents == 1 { Ok(()) } else { Err(ContainerError::OtherFiles(Format::Vmdk)) }
}

/// Checks a line such as `RW 18432 SPARSE "disk.vmdk"`.
fn check_extent(line: &str, capacity: u64) -> Result<(), ContainerError> {
    let mut words = line.splitn(4, ' ').skip(1);
    let (sectors, kind, name) = (words.next(), words.next(), words.next());
    if kind != Some("SPARSE") || name.is_none_or(|name| name.contains(['/', '\\'])) {
        return Err(ContainerError::OtherFiles(Format::Vmdk));
    }
    match sectors.and_then(|sectors| sectors.parse().ok()) == Some(capacity) {
        true => Ok(()),
        false => Err(invalid("its descriptor gives another size")),
    }
}

/// The header in the footer, which an image has that was written as a stream.
fn footer(image: &Image<'_>) -> Result<Header, ContainerError> {
    const WRONG: ContainerError = ContainerError::Header {
        format: Format::Vmdk,
        what: "its footer is missing (the image is truncated, or has trailing data after its end)",
    };
    let start = image.len.checked_sub(3 * SECTOR).filter(|start| start.is_multiple_of(SECTOR)).ok_or(WRONG)?;
    let tail = image.read(start, 3 * SECTOR)?;
    let marker = |at: usize| [8, 12].map(|field| Fields(&tail).le_u32(at + field));
    let value = Fields(&tail).le_u64(1024);
    if marker(0) != [Some(0), Some(MARKER_FOOTER)] || marker(1024) != [Some(0), Some(MARKER_END)] || value != Some(0) {
        return Err(WRONG);
    }
    if tail.get(512..516) != Some(b"KDMV") {
        return Err(WRONG);
    }
    Header::parse(&tail[512..])
}

/// Checks the grain directory and its tables.
fn check_grains(image: &Image<'_>, header: &Header) -> Result<(), ContainerError> {
    let tables = header.capacity.div_ceil(TABLE_ENTRIES * header.grain);
    let directory = image.read(sectors(header.directory), tables * 4)?;
    let mut used = Vec::new();
    for (index, entry) in (0_u64..).zip(directory.as_chunks().0) {
        let table = u32::from_le_bytes(*entry);
        if table != 0 {
            used.push((u64::from(table), index * TABLE_ENTRIES * header.grain));
        }
    }
    used.sort_unstable();
    // No program writes such an image, and a small file with many such entries would take for ever to check.
    if used.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(image.tables("two entries point to the same grain table"));
    }
    for (table, guest) in used {
        check_grain_table(image, header, &image.read(sectors(table), TABLE_ENTRIES * 4)?, guest)?;
    }
    Ok(())
}

/// Checks a grain table that describes the disk from its sector `guest` on.
fn check_grain_table(image: &Image<'_>, header: &Header, table: &[u8], mut guest: u64) -> Result<(), ContainerError> {
    for entry in table.as_chunks().0 {
        let start = u32::from_le_bytes(*entry);
        let is_zero = start == 0 || (start == 1 && header.flags & FLAG_ZERO_GRAINS != 0);
        if !is_zero && guest < header.capacity {
            // The length of a compressed grain is known only when it is decoded, but it has at least a sector.
            let useful = if header.compressed { 1 } else { header.grain.min(header.capacity - guest) };
            image.needs(sectors(start.into()), useful * SECTOR)?;
        }
        guest = guest.saturating_add(header.grain);
    }
    Ok(())
}

fn sectors(count: u64) -> u64 {
    count.saturating_mul(SECTOR)
}

#[cfg(test)]
mod tests {
    use super::check_descriptor;

    const GOOD: &str = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\
                        RW 8 SPARSE \"a b.vmdk\"\n\nddb.adapterType = \"ide\"\n";

    #[test]
    fn only_one_extent_that_is_the_file_itself() {
        assert!(check_descriptor(GOOD, 8).is_ok());
        assert!(check_descriptor(&GOOD.replace("RW", "RDONLY").replace('\n', "\r\n"), 8).is_ok());
        for (from, to, words) in [
            ("RW 8", "RW 9", "gives another size"),
            ("SPARSE", "FLAT", "keeps its data in other files"),
            ("RW 8", "rw\t8", "keeps its data in other files"),
            ("a b.vmdk", "/etc/shadow", "keeps its data in other files"),
            ("RW 8 SPARSE \"a b.vmdk\"", "", "keeps its data in other files"),
            ("\n\n", "\nRW 8 SPARSE \"b.vmdk\"\n", "keeps its data in other files"),
            ("monolithicSparse", "twoGbMaxExtentFlat", "keeps its data in other files"),
            ("createType", "kind", "no createType"),
            ("ffffffff", "12345678", "needs a parent image"),
            ("parentCID=ffffffff", "", "no parentCID"),
            ("CID=1\n", "CID=1\nparentcid=1\n", "createType or parentCID twice"),
            ("version=1", "what", "a line of an unknown kind"),
        ] {
            let message = check_descriptor(&GOOD.replace(from, to), 8).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
