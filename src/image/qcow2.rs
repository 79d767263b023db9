// SPDX-License-Identifier: BSD-2-Clause
//! The gate before qemu-img: a qcow2 header that could make it read other files, or nonsense, is refused here.
//!
//! The layout is QEMU's docs/interop/qcow2.rst. All numbers are big-endian.

use crate::size::ByteSize;

/// Bytes from the start of the file that [`virtual_size`] needs: the fixed header of version 3.
pub const HEADER_LEN: usize = 104;

/// The largest virtual size that makes sense in bytes: 8 EiB - 1, what file offsets can express.
const MAX_SIZE: u64 = i64::MAX as u64;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// Why a qcow2 image is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Qcow2Error {
    /// Shorter than its header.
    #[error("the qcow2 image is truncated: it ends inside its header")]
    Truncated,
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
}

/// Checks the header that `head` (at least [`HEADER_LEN`] bytes, or the whole file) begins with, and gives the virtual
/// size in bytes.
pub fn virtual_size(head: &[u8]) -> Result<u64, Qcow2Error> {
    let word = |at: usize| {
        head.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes).ok_or(Qcow2Error::Truncated)
    };
    let long = |at: usize| {
        head.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes).ok_or(Qcow2Error::Truncated)
    };
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
    if !(9..=21).contains(&word(20)?) {
        return Err(Qcow2Error::Header("the cluster size is out of range"));
    }
    if word(32)? != 0 {
        return Err(Qcow2Error::Encrypted);
    }
    check_features(incompatible)?;
    match long(24)? {
        0 => Err(Qcow2Error::Header("the virtual size is 0")),
        size if size > MAX_SIZE => Err(Qcow2Error::Size(ByteSize(size))),
        size => Ok(size),
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

#[cfg(test)]
mod tests {
    use super::{HEADER_LEN, Qcow2Error, virtual_size};
    use crate::size::ByteSize;
    use proptest::prelude::{any, proptest};

    fn header(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut head = vec![0; HEADER_LEN];
        head[..4].copy_from_slice(b"QFI\xfb");
        head[7] = 3;
        head[23] = 16;
        head[24..32].copy_from_slice(&(10_u64 << 30).to_be_bytes());
        head[103] = 104;
        change(&mut head);
        head
    }

    #[test]
    fn a_plain_image_gives_its_size() {
        assert_eq!(virtual_size(&header(|_| {})), Ok(10 << 30));
        assert_eq!(virtual_size(&header(|head| head[7] = 2)[..72]), Ok(10 << 30));
        // Dirty, compression type and extended L2 entries are qemu-img's to handle.
        assert_eq!(virtual_size(&header(|head| head[79] = 0b1_1001)), Ok(10 << 30));
    }

    /// Defect 4 of the predecessor, and its relatives.
    #[test]
    fn what_reaches_for_other_files_is_refused() {
        let refused = [
            (header(|head| head[15] = 1), Qcow2Error::BackingFile),
            (header(|head| head[19] = 1), Qcow2Error::BackingFile),
            (header(|head| head[79] = 4), Qcow2Error::DataFile),
            (header(|head| head[35] = 2), Qcow2Error::Encrypted),
            (header(|head| head[79] = 2), Qcow2Error::Corrupt),
            (header(|head| head[78] = 1), Qcow2Error::Features(0x100)),
            (header(|head| head[7] = 1), Qcow2Error::Version(1)),
            (header(|head| head[23] = 22), Qcow2Error::Header("the cluster size is out of range")),
            (header(|head| head[24] = 0x80), Qcow2Error::Size(ByteSize((1 << 63) + (10 << 30)))),
            (header(|head| head[24..32].fill(0)), Qcow2Error::Header("the virtual size is 0")),
            (header(|_| {})[..60].to_vec(), Qcow2Error::Truncated),
        ];
        for (head, error) in refused {
            assert_eq!(virtual_size(&head), Err(error));
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
