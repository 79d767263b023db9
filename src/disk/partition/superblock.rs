// SPDX-License-Identifier: BSD-2-Clause
//! Recognises file systems that have their size at their beginning, by the layouts that their own tools write.
//!
//! Only the bytes that the file system needs of its partition count: a squashfs in a larger partition is complete if
//! its own bytes are there.

use std::io;
use std::ops::Range;

use crate::disk::device::ReadAt;

/// How many bytes of a partition are read. btrfs has its superblock at 64 KiB.
pub(super) const READ_LEN: u64 = 68 << 10;

/// The largest number of partitions that are read. No disk in use has more, and some readers need a process for each.
pub(super) const MAX_PARTITIONS: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileSystem {
    /// The name in messages.
    pub(super) name: &'static str,
    /// How many bytes the file system needs from its beginning on.
    pub(super) len: u64,
}

/// Recognises a file system of one kind by its first bytes.
type Parser = fn(&[u8]) -> Option<FileSystem>;

/// The parsers of all kinds. Each of them gets the first [`READ_LEN`] bytes, or fewer.
const PARSERS: [Parser; 10] = [btrfs, exfat, ext, f2fs, fat, jfs, lvm, ntfs, squashfs, xfs];

/// Returns the file system at the beginning of `range` (bytes) of `disk`. Bytes outside of the range do not count.
pub(super) fn find(disk: &dyn ReadAt, range: Range<u64>) -> io::Result<Option<FileSystem>> {
    let len = range.end.saturating_sub(range.start).min(READ_LEN);
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    if len > 0 {
        disk.read_at(&mut bytes, range.start)?;
    }
    Ok(parse(&bytes))
}

/// Returns the file system that begins with `bytes`, if there is only one. Of two superblocks one is a remnant, and
/// nobody can say which.
fn parse(bytes: &[u8]) -> Option<FileSystem> {
    let mut found = PARSERS.iter().filter_map(|parser| parser(bytes));
    match (found.next(), found.next()) {
        (Some(one), None) => Some(one),
        _ => None,
    }
}

/// Returns whether a disk begins with the boot sector of a file system, whose bytes may look like a partition table.
pub(super) fn is_boot_sector(head: &[u8]) -> bool {
    [exfat, fat, ntfs].iter().any(|parser| parser(head).is_some())
}

fn file_system(name: &'static str, count: u64, unit: u64) -> Option<FileSystem> {
    let len = count.checked_mul(unit)?;
    (len > 0).then_some(FileSystem { name, len })
}

fn has(bytes: &[u8], at: usize, magic: &[u8]) -> bool {
    bytes.get(at..at + magic.len()) == Some(magic)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn le16(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u16::from_le_bytes).map(u64::from)
}

fn le32(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u32::from_le_bytes).map(u64::from)
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// The layout is in fs/ext4/ext4.h of Linux.
fn ext(bytes: &[u8]) -> Option<FileSystem> {
    const FEATURE_64BIT: u64 = 0x80;
    let sb = bytes.get(1024..2048).filter(|sb| has(sb, 56, &[0x53, 0xef]))?;
    let log_block = le32(sb, 24).filter(|log| *log <= 6)?;
    let has_64bit = le32(sb, 96)? & FEATURE_64BIT != 0;
    let high = if has_64bit { le32(sb, 0x150)? } else { 0 };
    // A real file system has inodes, and blocks in each group.
    le32(sb, 0).filter(|inodes| *inodes > 0).and(le32(sb, 32)).filter(|blocks| *blocks > 0)?;
    file_system("ext2/3/4 file system", high << 32 | le32(sb, 4)?, 1024 << log_block)
}

/// The layout is in fs/xfs/libxfs/xfs_format.h of Linux, and it is big-endian.
fn xfs(bytes: &[u8]) -> Option<FileSystem> {
    let block = array(bytes, 4).map(u32::from_be_bytes)?;
    let sound = has(bytes, 0, b"XFSB") && block.is_power_of_two() && (512..=65536).contains(&block);
    let blocks = array(bytes, 8).map(u64::from_be_bytes)?;
    if sound { file_system("xfs file system", blocks, block.into()) } else { None }
}

/// The layout is in include/uapi/linux/btrfs_tree.h of Linux. The size is that of this device, and there may be others.
fn btrfs(bytes: &[u8]) -> Option<FileSystem> {
    const SUPERBLOCK: usize = 64 << 10;
    let sb = bytes.get(SUPERBLOCK..)?;
    let sound = has(sb, 64, b"_BHRfS_M") && le64(sb, 48)? == SUPERBLOCK as u64;
    if sound { file_system("btrfs file system", le64(sb, 209)?, 1) } else { None }
}

/// The layout is in include/linux/f2fs_fs.h of Linux.
fn f2fs(bytes: &[u8]) -> Option<FileSystem> {
    let sb = bytes.get(1024..2048).filter(|sb| has(sb, 0, &[0x10, 0x20, 0xf5, 0xf2]))?;
    let log_block = le32(sb, 16).filter(|log| (12..=16).contains(log))?;
    file_system("f2fs file system", le64(sb, 36)?, 1 << log_block)
}

/// The layout is in fs/jfs/jfs_superblock.h of Linux. What jfs keeps after its data is not counted.
fn jfs(bytes: &[u8]) -> Option<FileSystem> {
    let sb = bytes.get(0x8000..0x8200).filter(|sb| has(sb, 0, b"JFS1"))?;
    let block = le32(sb, 24).filter(|block| (512..=4096).contains(block) && block.is_power_of_two())?;
    file_system("jfs file system", le64(sb, 8)?, block)
}

/// The layout is in fs/squashfs/squashfs_fs.h of Linux.
fn squashfs(bytes: &[u8]) -> Option<FileSystem> {
    let sound = has(bytes, 0, b"hsqs") && le16(bytes, 28)? == 4;
    if sound { file_system("squashfs file system", le64(bytes, 40)?, 1) } else { None }
}

/// The layout is in section 3 of Microsoft's FAT specification.
fn fat(bytes: &[u8]) -> Option<FileSystem> {
    let (sector, per_cluster) = (le16(bytes, 11)?, u64::from(*bytes.get(13)?));
    let sizes = [sector, per_cluster].into_iter().all(u64::is_power_of_two) && (512..=4096).contains(&sector);
    let reserved = le16(bytes, 14)? > 0 && (1..=2).contains(bytes.get(16)?) && *bytes.get(21)? >= 0xf0;
    let jumps = matches!(bytes.first()?, 0xeb | 0xe9);
    let sectors = le16(bytes, 19).filter(|sectors| *sectors > 0).or_else(|| le32(bytes, 32))?;
    let sound = sizes && reserved && jumps && has(bytes, 510, &[0x55, 0xaa]);
    if sound { file_system("FAT file system", sectors, sector) } else { None }
}

/// The layout is in section 3.1 of Microsoft's exFAT specification.
fn exfat(bytes: &[u8]) -> Option<FileSystem> {
    let shift = bytes.get(108).filter(|shift| (9..=12).contains(*shift))?;
    let sound = has(bytes, 3, b"EXFAT   ") && has(bytes, 510, &[0x55, 0xaa]);
    if sound { file_system("exFAT file system", le64(bytes, 72)?, 1 << shift) } else { None }
}

/// The layout is in fs/ntfs3/ntfs.h of Linux. The copy of the boot sector after the last sector is not counted.
fn ntfs(bytes: &[u8]) -> Option<FileSystem> {
    let sector = le16(bytes, 11).filter(|sector| (512..=4096).contains(sector) && sector.is_power_of_two())?;
    let sound = has(bytes, 3, b"NTFS    ") && has(bytes, 510, &[0x55, 0xaa]);
    if sound { file_system("NTFS file system", le64(bytes, 40)?, sector) } else { None }
}

/// The layout is in lib/format_text/layout.h of LVM2: one of the first four sectors has a label, which has the place of
/// the header.
fn lvm(bytes: &[u8]) -> Option<FileSystem> {
    const UUID_LEN: usize = 32;
    let label = bytes.chunks_exact(512).take(4).find(|sector| sector.starts_with(b"LABELONE"))?;
    let header = usize::try_from(le32(label, 20)?).ok().filter(|_| has(label, 24, b"LVM2 001"))?;
    file_system("LVM physical volume", le64(label, header.checked_add(UUID_LEN)?)?, 1)
}

#[cfg(test)]
mod tests {
    use super::{FileSystem, READ_LEN, is_boot_sector, parse};
    use proptest::prelude::{any, prop, proptest};

    #[test]
    fn two_at_once_say_nothing() {
        let mut bytes = vec![0; usize::try_from(READ_LEN).unwrap()];
        bytes[..4].copy_from_slice(b"XFSB");
        bytes[4..8].copy_from_slice(&4096_u32.to_be_bytes());
        bytes[8..16].copy_from_slice(&1000_u64.to_be_bytes());
        assert_eq!(parse(&bytes), Some(FileSystem { name: "xfs file system", len: 4_096_000 }));
        bytes[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xef]);
        for at in [0, 4, 32] {
            bytes[1024 + at] = 8;
        }
        assert_eq!(parse(&bytes), None);
        assert_eq!(parse(&[]), None);
    }

    proptest! {
        /// No bytes and no length may lead to a panic.
        #[test]
        fn no_superblock_panics(bytes in prop::collection::vec(any::<u8>(), 0..600), at in 0..3_usize) {
            let mut all = vec![0; [0, 1024, 0x8000][at]];
            all.extend(bytes);
            let _ = parse(&all);
            let _ = is_boot_sector(&all);
        }
    }
}
