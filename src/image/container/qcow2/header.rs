// SPDX-License-Identifier: BSD-2-Clause
//! The header of a qcow2 image: where the tables are, and which features this program takes.

use super::clusters::ClusterCompression;
use crate::image::container::ContainerError;
use crate::image::detect::Fields;
use crate::image::format::Format;
use crate::node::size::ByteSize;

/// The largest virtual size in bytes: 8 EiB - 1, the largest file offset.
const MAX_SIZE: u64 = i64::MAX as u64;

/// The largest L1 table in bytes (QCOW_MAX_L1_SIZE).
const MAX_L1: u64 = 32 << 20;
/// The largest refcount table in bytes (QCOW_MAX_REFTABLE_SIZE).
const MAX_REFTABLE: u64 = 8 << 20;
/// The largest number of snapshots (QCOW_MAX_SNAPSHOTS).
pub(super) const MAX_SNAPSHOTS: u64 = 65536;
/// The least length of an entry of the snapshot table, in bytes.
pub(super) const SNAPSHOT_LEN: usize = 40;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// The autoclear feature of an external data file that can be read without the image. QEMU refuses it without such a file.
const DATA_FILE_RAW: u64 = 1 << 1;

/// Header extensions, by their magic numbers.
const EXTENSION_END: u32 = 0;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_BITMAPS: u32 = 0x2385_2875;

/// The longest name of a format that QEMU takes, in bytes. It is read without a backing file too.
const MAX_BACKING_FORMAT: u64 = 15;

const TRUNCATED: ContainerError = ContainerError::TruncatedHeader(Format::Qcow2);

fn invalid(what: &'static str) -> ContainerError {
    ContainerError::Header { format: Format::Qcow2, what }
}

/// A header that has passed the checks.
#[derive(Debug)]
pub(super) struct Header {
    /// The virtual size in bytes.
    pub(super) size: u64,
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) extended_l2: bool,
    pub(super) compression: ClusterCompression,
    pub(super) l1: Region,
    /// The regions with a fixed place in the file: the header's cluster, L1 table, refcount table, snapshot table.
    pub(super) regions: Vec<Region>,
    /// The place of the snapshot table in bytes, and how many snapshots there are.
    pub(super) snapshots: (u64, u64),
    pub(super) has_bitmaps: bool,
}

/// A part of the file, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Region {
    pub(super) fn overlaps(&self, other: Region) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// Checks the header at the beginning of `head` (64 KiB, or the whole file). Returns the virtual size in bytes.
pub(crate) fn virtual_size(head: &[u8]) -> Result<u64, ContainerError> {
    Header::parse(head).map(|header| header.size)
}

impl Header {
    pub(super) fn parse(head: &[u8]) -> Result<Self, ContainerError> {
        let fields = Fields(head);
        let word = |at| fields.be_u32(at).ok_or(TRUNCATED);
        let long = |at| fields.be_u64(at).ok_or(TRUNCATED);
        if head.get(..4) != Some(b"QFI\xfb") {
            return Err(invalid("the magic bytes are missing"));
        }
        let version = word(4)?;
        let (incompatible, autoclear) = match version {
            2 => (0, 0),
            3 => (long(72)?, long(88)?),
            other => return Err(ContainerError::Qcow2Version(other)),
        };
        if long(8)? != 0 || word(16)? != 0 {
            return Err(ContainerError::BackingFile(Format::Qcow2));
        }
        let cluster_bits = word(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(invalid("the cluster size is out of range"));
        }
        if word(32)? != 0 {
            return Err(ContainerError::Encrypted(Format::Qcow2));
        }
        check_features(incompatible)?;
        if autoclear & DATA_FILE_RAW != 0 {
            return Err(ContainerError::DataFile(Format::Qcow2));
        }
        let header_len = if version == 2 { 72 } else { check_version_3(fields, cluster_bits, incompatible)? };
        let has_bitmaps = check_extensions(fields, header_len, cluster_bits)?;
        let size = check_size(long(24)?)?;
        let extended_l2 = incompatible & EXTENDED_L2 != 0;
        let (l1, regions) = regions(fields, cluster_bits)?;
        let zstd = incompatible & COMPRESSION_TYPE != 0;
        let compression = if zstd { ClusterCompression::Zstd } else { ClusterCompression::Zlib };
        let snapshots = (long(64)?, word(60)?.into());
        let header =
            Header { size, version, cluster_bits, extended_l2, compression, l1, regions, snapshots, has_bitmaps };
        if (l1.end - l1.start) / 8 < header.l2_tables() {
            return Err(invalid("its L1 table is too small for the virtual size"));
        }
        Ok(header)
    }

    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Returns the length of an entry of an L2 table, in bytes.
    pub(super) fn l2_entry_len(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Returns how many bytes of the disk one L2 table describes.
    pub(super) fn l2_reach(&self) -> u64 {
        self.cluster() / self.l2_entry_len() * self.cluster()
    }

    /// Returns how many L2 tables describe the whole disk.
    pub(super) fn l2_tables(&self) -> u64 {
        self.size.div_ceil(self.l2_reach())
    }
}

fn check_size(size: u64) -> Result<u64, ContainerError> {
    match size {
        0 => Err(invalid("the virtual size is 0")),
        size if size > MAX_SIZE => Err(ContainerError::Size(Format::Qcow2, ByteSize(size))),
        size if !size.is_multiple_of(512) => Err(invalid("the virtual size is no multiple of 512")),
        size => Ok(size),
    }
}

fn check_features(incompatible: u64) -> Result<(), ContainerError> {
    if incompatible & DATA_FILE != 0 {
        return Err(ContainerError::DataFile(Format::Qcow2));
    }
    if incompatible & CORRUPT != 0 {
        return Err(ContainerError::MarkedCorrupt(Format::Qcow2));
    }
    match incompatible & !(DIRTY | COMPRESSION_TYPE | EXTENDED_L2) {
        0 => Ok(()),
        unknown => Err(ContainerError::Features(Format::Qcow2, unknown)),
    }
}

/// Checks the fields that version 3 adds to the header. Returns the length of the header in bytes.
fn check_version_3(fields: Fields<'_>, cluster_bits: u32, incompatible: u64) -> Result<u64, ContainerError> {
    let header_len = fields.be_u32(100).ok_or(TRUNCATED)?;
    if fields.be_u32(96).is_none_or(|order| order > 6) {
        return Err(invalid("its refcount width is out of range"));
    }
    if header_len < 104 || !header_len.is_multiple_of(8) || u64::from(header_len) > 1 << cluster_bits {
        return Err(invalid("its length is out of range"));
    }
    let compression = if header_len > 104 { fields.bytes::<1>(104).ok_or(TRUNCATED)?[0] } else { 0 };
    match (compression, incompatible & COMPRESSION_TYPE != 0) {
        // zlib needs no feature bit, zstd does.
        (0, false) | (1, true) => {}
        _ => return Err(invalid("its compression type does not fit its features")),
    }
    if incompatible & EXTENDED_L2 != 0 && cluster_bits < 14 {
        return Err(invalid("its clusters are too small for extended L2 entries"));
    }
    Ok(header_len.into())
}

/// Checks the header extensions, which end with one of type 0 or with the first cluster. Returns whether one of them
/// describes bitmaps.
fn check_extensions(fields: Fields<'_>, header_len: u64, cluster_bits: u32) -> Result<bool, ContainerError> {
    const TOO_LONG: ContainerError =
        ContainerError::Header { format: Format::Qcow2, what: "its extensions are too long" };
    // The extensions that QEMU writes take some hundred bytes.
    let end = (1_u64 << cluster_bits).min(1 << 16);
    let mut at = header_len;
    let mut has_bitmaps = false;
    while at < end {
        let place = usize::try_from(at).map_err(|_large| TOO_LONG)?;
        let magic = fields.be_u32(place).ok_or(TRUNCATED)?;
        let len = u64::from(fields.be_u32(place + 4).ok_or(TRUNCATED)?);
        at += 8;
        if at > end || len > end - at {
            return Err(TOO_LONG);
        }
        match magic {
            EXTENSION_END => break,
            EXTENSION_ENCRYPTION => return Err(ContainerError::Encrypted(Format::Qcow2)),
            EXTENSION_DATA_FILE => return Err(ContainerError::DataFile(Format::Qcow2)),
            EXTENSION_BACKING_FORMAT if len > MAX_BACKING_FORMAT => return Err(TOO_LONG),
            EXTENSION_BITMAPS => has_bitmaps = true,
            _ => {}
        }
        at += len.next_multiple_of(8);
    }
    Ok(has_bitmaps)
}

/// Returns the L1 table, and all regions with a fixed place. They must not overlap.
fn regions(fields: Fields<'_>, cluster_bits: u32) -> Result<(Region, Vec<Region>), ContainerError> {
    let word = |at| fields.be_u32(at).map(u64::from).ok_or(TRUNCATED);
    let long = |at| fields.be_u64(at).ok_or(TRUNCATED);
    let (l1_len, reftable_len, snapshots) = (word(36)? * 8, word(56)? << cluster_bits, word(60)?);
    if l1_len > MAX_L1 || reftable_len > MAX_REFTABLE || snapshots > MAX_SNAPSHOTS {
        return Err(invalid("its tables are too large"));
    }
    if reftable_len == 0 {
        return Err(invalid("it has no refcount table"));
    }
    let cluster = 1_u64 << cluster_bits;
    let mut regions = vec![Region { start: 0, end: cluster }];
    for (start, len) in [(long(40)?, l1_len), (long(48)?, reftable_len), (long(64)?, snapshots * SNAPSHOT_LEN as u64)] {
        // QEMU wants a valid place of an empty table too.
        let end = start.checked_add(len).filter(|end| *end <= MAX_SIZE && start.is_multiple_of(cluster));
        let region = Region { start, end: end.ok_or(invalid("its tables are at invalid offsets"))? };
        if len > 0 {
            if regions.iter().any(|other| other.overlaps(region)) {
                return Err(invalid("its tables overlap"));
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

    /// Returns an image of 10 GiB: refcount table at 64 KiB, L1 table of 20 entries at 192 KiB.
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

    /// With such a header the predecessor copied any file of the node into the guest (its defect 4).
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
            (header(|head| head[46] = 1), "its tables are at invalid offsets"),
            (header(|head| head[40] = 0xff), "its tables are at invalid offsets"),
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
