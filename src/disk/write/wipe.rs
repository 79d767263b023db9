// SPDX-License-Identifier: BSD-2-Clause
//! Decides which part of the disk after the end of the image is zeroed.

use std::ops::Range;

use crate::node::size::MIB;

/// How much [`Wipe::Ends`] zeroes after the image and at the end of the disk, in bytes. After the image this covers
/// what a file system, LUKS, LVM, MD or ZFS keeps at the start of a partition that begins on the next MiB; the farthest
/// is the second header of LUKS2 at 4 MiB. At the end of the disk it covers a backup GPT, the last two labels of ZFS
/// (512 KiB), the superblocks 0.90 and 1.0 of MD (128 KiB), and all BIOS RAIDs (the farthest is Promise's, 3087 sectors
/// from the end).
const END_LEN: u64 = 8 * MIB;

/// The places where btrfs keeps copies of its superblock, in bytes from the start of the disk. It reads no other
/// places.
const BTRFS_COPIES: [u64; 2] = [64 * MIB, 256 << 30];

/// The length of such a copy in bytes.
const BTRFS_COPY_LEN: u64 = 4096;

/// Which part of the disk after the image's end is zeroed. The first MiB and all bytes of the image are always written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wipe {
    /// All of it is zeroed.
    #[default]
    Full,
    /// The places where old metadata would be found are zeroed: from the end of the image to the first MiB boundary
    /// that is at least 8 MiB further on, the last 8 MiB of the disk, and the copies of a btrfs superblock. Other old
    /// bytes stay.
    Ends,
    /// Nothing is zeroed.
    None,
}

impl Wipe {
    /// Returns its word in config.toml.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Wipe::Full => "full",
            Wipe::Ends => "ends",
            Wipe::None => "none",
        }
    }

    /// Returns how many bytes are written for an image of `image_len` bytes, including the image itself. Returns `None`
    /// if that is known only at the end of the image.
    pub(crate) fn total(self, image_len: Option<u64>, disk_len: u64) -> Option<u64> {
        if self == Wipe::Full {
            return Some(disk_len);
        }
        let len = image_len?;
        Some(len + self.ranges(len, disk_len).iter().map(|range| range.end - range.start).sum::<u64>())
    }

    /// Returns the ranges to zero after an image of `image_len` bytes on a disk of `disk_len` bytes, in order. They may
    /// overlap.
    pub(super) fn ranges(self, image_len: u64, disk_len: u64) -> Vec<Range<u64>> {
        let mut all = match self {
            Wipe::Full => std::iter::once(image_len..disk_len).collect(),
            Wipe::Ends => {
                let after_image = image_len..(image_len + END_LEN).next_multiple_of(MIB);
                let [first, second] = BTRFS_COPIES.map(|start| start..start + BTRFS_COPY_LEN);
                vec![after_image, first, second, disk_len.saturating_sub(END_LEN)..disk_len]
            }
            Wipe::None => Vec::new(),
        };
        for range in &mut all {
            *range = range.start.max(image_len)..range.end.min(disk_len);
        }
        all.retain(|range| !range.is_empty());
        all
    }
}

#[cfg(test)]
mod tests {
    use super::Wipe;

    const M: u64 = 1 << 20;

    #[test]
    fn full_is_all_and_none_is_nothing() {
        let all = Wipe::Full.ranges(5, 7);
        assert_eq!((all.len(), all.first()), (1, Some(&(5..7))));
        assert_eq!(Wipe::Full.ranges(7, 7), []);
        assert_eq!(Wipe::None.ranges(5, 1 << 50), []);
    }

    #[test]
    fn ends_stay_inside_the_disk_and_off_the_image() {
        let copy = |at| at..at + 4096;
        assert_eq!(Wipe::Ends.ranges(10 * M, 50 * M), [10 * M..18 * M, 42 * M..50 * M]);
        assert_eq!(Wipe::Ends.ranges(10 * M + 1, 50 * M), [10 * M + 1..19 * M, 42 * M..50 * M]);
        assert_eq!(Wipe::Ends.ranges(10 * M, 12 * M), [10 * M..12 * M, 10 * M..12 * M]);
        assert_eq!(Wipe::Ends.ranges(10 * M, 10 * M), []);
        let huge = 512 << 30;
        let ranges = [10 * M..18 * M, copy(64 * M), copy(256 << 30), huge - 8 * M..huge];
        assert_eq!(Wipe::Ends.ranges(10 * M, huge), ranges);
        assert_eq!(Wipe::Ends.ranges(64 * M + 512, 100 * M)[1], 64 * M + 512..64 * M + 4096);
    }
}
