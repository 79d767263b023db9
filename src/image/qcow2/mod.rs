// SPDX-License-Identifier: BSD-2-Clause
//! The gate before qemu-img: a qcow2 header that could make it read other files, or nonsense, is refused here.
//!
//! The layout is QEMU's docs/interop/qcow2.rst, the limits are those of its block/qcow2.h. All numbers are big-endian.

mod tables;

use std::fs::File;
use std::io;

use super::fields::Fields;
use crate::node::size::ByteSize;

/// The largest virtual size that makes sense in bytes: 8 EiB - 1, what file offsets can express.
const MAX_SIZE: u64 = i64::MAX as u64;

/// Largest L1 table in bytes (QCOW_MAX_L1_SIZE).
const MAX_L1: u64 = 32 << 20;
/// Largest refcount table in bytes (QCOW_MAX_REFTABLE_SIZE).
const MAX_REFTABLE: u64 = 8 << 20;
/// Most snapshots (QCOW_MAX_SNAPSHOTS).
const MAX_SNAPSHOTS: u64 = 65536;
/// The least that a snapshot's entry takes in its table, in bytes.
const SNAPSHOT_LEN: u64 = 40;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// Header extensions, by their magic numbers.
const EXTENSION_END: u32 = 0;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// Why a qcow2 image is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Qcow2Error {
    /// Shorter than its header.
    #[error("the qcow2 image is truncated: it ends inside its header")]
    Truncated,
    /// Shorter than its tables say. qemu-img would read zeros there.
    #[error("the qcow2 image is truncated: it has {len} but needs at least {needed} (copy or publish it again)")]
    Cut {
        /// What it has.
        len: ByteSize,
        /// The end of what was found missing.
        needed: ByteSize,
    },
    /// Version 1, or one of the future.
    #[error("qcow2 version {0} is not supported (2 and 3 are; convert it with qemu-img convert -O qcow2)")]
    Version(u32),
    /// It names another file, whose content would end up in the guest.
    #[error("the qcow2 image needs a backing file, which is not allowed (flatten it with qemu-img convert -O qcow2)")]
    BackingFile,
    /// It keeps its data in another file.
    #[error(
        "the qcow2 image keeps its data in another file, which is not allowed (flatten it with qemu-img convert -O qcow2)"
    )]
    DataFile,
    /// It needs a key.
    #[error("the qcow2 image is encrypted, which is not supported (decrypt it with qemu-img convert)")]
    Encrypted,
    /// QEMU marked it as broken.
    #[error("the qcow2 image is marked as corrupt (repair it with qemu-img check -r all)")]
    Corrupt,
    /// Feature bits that nobody knows yet.
    #[error("the qcow2 image has unknown incompatible features ({0:#x})")]
    Features(u64),
    /// Numbers that can't be.
    #[error("the qcow2 header is invalid: {0}")]
    Header(&'static str),
    /// More than file offsets can express.
    #[error("the qcow2 header is invalid: a virtual size of {0}")]
    Size(ByteSize),
    /// Tables that can't be.
    #[error("the qcow2 image is corrupt: {0} (see qemu-img check)")]
    Tables(&'static str),
    /// The tables can't be read.
    #[error("reading the tables of the qcow2 image")]
    Read(#[source] io::Error),
}

/// A header in which nothing was wrong.
#[derive(Debug)]
struct Header {
    /// The virtual size in bytes.
    size: u64,
    version: u32,
    cluster_bits: u32,
    extended_l2: bool,
    l1: Region,
    /// Everything in the file that is in a fixed place: the header's cluster, L1, refcount table, snapshot table.
    regions: Vec<Region>,
}

/// A part of the file, in bytes.
#[derive(Debug, Clone, Copy)]
struct Region {
    start: u64,
    end: u64,
}

impl Region {
    fn overlaps(&self, other: Region) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// Checks the header that `head` (its first 64 KiB, or the whole file) begins with, and gives the virtual size in bytes.
pub(crate) fn virtual_size(head: &[u8]) -> Result<u64, Qcow2Error> {
    Header::parse(head).map(|header| header.size)
}

/// The same for a `file` of `len` bytes, of which `head` was read. Checks all tables that lead to data too: a file that
/// was cut is an error, where qemu-img reads zeros.
pub(crate) fn check_file(head: &[u8], file: &File, len: u64) -> Result<u64, Qcow2Error> {
    let header = Header::parse(head)?;
    tables::check(&header, file, len).map(|()| header.size)
}

impl Header {
    fn parse(head: &[u8]) -> Result<Self, Qcow2Error> {
        let fields = Fields(head);
        let word = |at| fields.be_u32(at).ok_or(Qcow2Error::Truncated);
        let long = |at| fields.be_u64(at).ok_or(Qcow2Error::Truncated);
        if head.get(..4) != Some(b"QFI\xfb") {
            return Err(Qcow2Error::Header("the magic bytes are missing"));
        }
        let version = word(4)?;
        let incompatible = match version {
            2 => 0,
            3 => long(72)?,
            other => return Err(Qcow2Error::Version(other)),
        };
        if long(8)? != 0 || word(16)? != 0 {
            return Err(Qcow2Error::BackingFile);
        }
        let cluster_bits = word(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(Qcow2Error::Header("the cluster size is out of range"));
        }
        if word(32)? != 0 {
            return Err(Qcow2Error::Encrypted);
        }
        check_features(incompatible)?;
        let header_len = if version == 2 { 72 } else { check_version_3(fields, cluster_bits, incompatible)? };
        check_extensions(fields, header_len, cluster_bits)?;
        let size = match long(24)? {
            0 => return Err(Qcow2Error::Header("the virtual size is 0")),
            size if size > MAX_SIZE => return Err(Qcow2Error::Size(ByteSize(size))),
            size if !size.is_multiple_of(512) => {
                return Err(Qcow2Error::Header("the virtual size is no multiple of 512"));
            }
            size => size,
        };
        let extended_l2 = incompatible & EXTENDED_L2 != 0;
        let (l1, regions) = regions(fields, cluster_bits)?;
        let header = Header { size, version, cluster_bits, extended_l2, l1, regions };
        if (l1.end - l1.start) / 8 < header.l2_tables() {
            return Err(Qcow2Error::Header("its L1 table is too small for the virtual size"));
        }
        Ok(header)
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of an entry of an L2 table.
    fn l2_entry_len(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Bytes of the disk that one L2 table stands for.
    fn l2_reach(&self) -> u64 {
        self.cluster() / self.l2_entry_len() * self.cluster()
    }

    /// How many L2 tables the disk has room for.
    fn l2_tables(&self) -> u64 {
        self.size.div_ceil(self.l2_reach())
    }
}

fn check_features(incompatible: u64) -> Result<(), Qcow2Error> {
    if incompatible & DATA_FILE != 0 {
        return Err(Qcow2Error::DataFile);
    }
    if incompatible & CORRUPT != 0 {
        return Err(Qcow2Error::Corrupt);
    }
    match incompatible & !(DIRTY | COMPRESSION_TYPE | EXTENDED_L2) {
        0 => Ok(()),
        unknown => Err(Qcow2Error::Features(unknown)),
    }
}

/// What version 3 adds to the header; gives its length in bytes.
fn check_version_3(fields: Fields<'_>, cluster_bits: u32, incompatible: u64) -> Result<u64, Qcow2Error> {
    let invalid = |what| Err(Qcow2Error::Header(what));
    let header_len = fields.be_u32(100).ok_or(Qcow2Error::Truncated)?;
    if fields.be_u32(96).is_none_or(|order| order > 6) {
        return invalid("its refcount width is out of range");
    }
    if header_len < 104 || !header_len.is_multiple_of(8) || u64::from(header_len) > 1 << cluster_bits {
        return invalid("its length is out of range");
    }
    let compression = if header_len > 104 { fields.bytes::<1>(104).ok_or(Qcow2Error::Truncated)?[0] } else { 0 };
    match (compression, incompatible & COMPRESSION_TYPE != 0) {
        // zlib needs no feature bit, zstd does.
        (0, false) | (1, true) => {}
        _ => return invalid("its compression type does not fit its features"),
    }
    if incompatible & EXTENDED_L2 != 0 && cluster_bits < 14 {
        return invalid("its clusters are too small for extended L2 entries");
    }
    Ok(header_len.into())
}

/// Looks through the header extensions, which end with one of type 0 or with the first cluster.
fn check_extensions(fields: Fields<'_>, header_len: u64, cluster_bits: u32) -> Result<(), Qcow2Error> {
    const TOO_LONG: Qcow2Error = Qcow2Error::Header("its extensions are too long");
    // Those that there are take some hundred bytes.
    let end = (1_u64 << cluster_bits).min(1 << 16);
    let mut at = header_len;
    while at + 8 <= end {
        let place = usize::try_from(at).map_err(|_large| TOO_LONG)?;
        let magic = fields.be_u32(place).ok_or(Qcow2Error::Truncated)?;
        let len = fields.be_u32(place + 4).ok_or(Qcow2Error::Truncated)?;
        match magic {
            EXTENSION_END => return Ok(()),
            EXTENSION_ENCRYPTION => return Err(Qcow2Error::Encrypted),
            EXTENSION_DATA_FILE => return Err(Qcow2Error::DataFile),
            _ => at += 8 + u64::from(len).next_multiple_of(8),
        }
        if at > end {
            return Err(TOO_LONG);
        }
    }
    Ok(())
}

/// The L1 table, and all regions in fixed places, none over another.
fn regions(fields: Fields<'_>, cluster_bits: u32) -> Result<(Region, Vec<Region>), Qcow2Error> {
    let word = |at| fields.be_u32(at).map(u64::from).ok_or(Qcow2Error::Truncated);
    let long = |at| fields.be_u64(at).ok_or(Qcow2Error::Truncated);
    let (l1_len, reftable_len, snapshots) = (word(36)? * 8, word(56)? << cluster_bits, word(60)?);
    if l1_len > MAX_L1 || reftable_len > MAX_REFTABLE || snapshots > MAX_SNAPSHOTS {
        return Err(Qcow2Error::Header("its tables are too large"));
    }
    if reftable_len == 0 {
        return Err(Qcow2Error::Header("it has no refcount table"));
    }
    let cluster = 1_u64 << cluster_bits;
    let mut regions = vec![Region { start: 0, end: cluster }];
    for (start, len) in [(long(40)?, l1_len), (long(48)?, reftable_len), (long(64)?, snapshots * SNAPSHOT_LEN)] {
        if len > 0 {
            let end = start.checked_add(len).filter(|end| *end <= MAX_SIZE && start.is_multiple_of(cluster));
            let region = Region { start, end: end.ok_or(Qcow2Error::Header("its tables are in impossible places"))? };
            if regions.iter().any(|other| other.overlaps(region)) {
                return Err(Qcow2Error::Header("its tables overlap"));
            }
            regions.push(region);
        }
    }
    let l1 = if l1_len > 0 { regions[1] } else { Region { start: 0, end: 0 } };
    Ok((l1, regions))
}

#[cfg(test)]
mod tests {
    use super::virtual_size;
    use proptest::prelude::{any, proptest};

    /// An image of 10 GiB: refcount table at 64 KiB, L1 table of 20 entries at 192 KiB.
    fn header(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut head = vec![0; 1024];
        head[..4].copy_from_slice(b"QFI\xfb");
        head[7] = 3;
        head[23] = 16;
        head[24..32].copy_from_slice(&(10_u64 << 30).to_be_bytes());
        head[39] = 20;
        head[45] = 3;
        head[53] = 1;
        head[59] = 1;
        head[99] = 4;
        head[103] = 104;
        change(&mut head);
        head
    }

    #[test]
    fn a_plain_image_gives_its_size() {
        let size = |head: &[u8]| virtual_size(head).unwrap();
        assert_eq!(size(&header(|_| {})), 10 << 30);
        assert_eq!(size(&header(|head| head[7] = 2)[..80]), 10 << 30);
        // Dirty, zstd and extended L2 entries, of which two tables stand for a GiB.
        let features = |head: &mut [u8]| (head[79], head[103], head[104], head[39]) = (0b1_1001, 112, 1, 40);
        assert_eq!(size(&header(features)), 10 << 30);
        // A feature name table, and an extension that nobody knows.
        let extensions = |head: &mut [u8]| {
            head[104..112].copy_from_slice(b"\x68\x03\xf8\x57\0\0\0\x30");
            head[160..168].copy_from_slice(b"what\0\0\0\x05");
        };
        assert_eq!(size(&header(extensions)), 10 << 30);
    }

    /// Defect 4 of the predecessor, and its relatives.
    #[test]
    fn what_reaches_for_other_files_or_can_not_be_is_refused() {
        let extension = |name: &[u8; 4]| header(|head| head[104..108].copy_from_slice(name));
        let refused = [
            (header(|head| head[15] = 1), "needs a backing file"),
            (header(|head| head[19] = 1), "needs a backing file"),
            (header(|head| head[79] = 4), "keeps its data in another file"),
            (extension(b"DATA"), "keeps its data in another file"),
            (header(|head| head[35] = 2), "is encrypted"),
            (extension(b"\x05\x37\xbe\x77"), "is encrypted"),
            (header(|head| head[79] = 2), "is marked as corrupt"),
            (header(|head| head[78] = 1), "unknown incompatible features (0x100)"),
            (header(|head| head[7] = 1), "qcow2 version 1 is not supported"),
            (header(|head| head[23] = 22), "the cluster size is out of range"),
            (header(|head| head[24] = 0x80), "a virtual size of 8388608"),
            (header(|head| head[24..32].fill(0)), "the virtual size is 0"),
            (header(|_| {})[..60].to_vec(), "it ends inside its header"),
            (header(|head| head[103] = 96), "its length is out of range"),
            (header(|head| head[99] = 7), "its refcount width is out of range"),
            (header(|head| head[79] = 8), "its compression type does not fit"),
            (header(|head| (head[103], head[104]) = (112, 1)), "its compression type does not fit"),
            (header(|head| (head[79], head[23]) = (16, 13)), "its clusters are too small for extended L2"),
            (header(|head| head[104..112].fill(0xff)), "its extensions are too long"),
            (header(|head| head[36] = 1), "its tables are too large"),
            (header(|head| head[58] = 1), "its tables are too large"),
            (header(|head| head[61] = 2), "its tables are too large"),
            (header(|head| head[39] = 19), "its L1 table is too small"),
            (header(|head| head[59] = 0), "it has no refcount table"),
            (header(|head| head[46] = 1), "its tables are in impossible places"),
            (header(|head| head[40] = 0xff), "its tables are in impossible places"),
            (header(|head| head[45] = 1), "its tables overlap"),
            (header(|head| head[45] = 0), "its tables overlap"),
            (header(|head| (head[63], head[69]) = (1, 3)), "its tables overlap"),
        ];
        for (head, words) in refused {
            let message = virtual_size(&head).unwrap_err().to_string();
            assert!(message.contains(words), "'{words}' is not in: {message}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(mut head in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = virtual_size(&head);
            head.splice(..head.len().min(8), *b"QFI\xfb\0\0\0\x03");
            let _ = virtual_size(&head);
        }
    }
}
