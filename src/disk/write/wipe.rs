// SPDX-License-Identifier: BSD-2-Clause
//! Which part of the disk after the image's end is zeroed.

use std::ops::Range;

use crate::node::size::MIB;

/// How much [`Wipe::Ends`] zeroes after the image and at the disk's end, in bytes. After the image that covers what a file
/// system, LUKS, LVM, MD or ZFS keeps at the start of a partition that begins on the next MiB; the farthest is LUKS2's
/// second header at 4 MiB. At the disk's end it covers a backup GPT, ZFS's last two labels (512 KiB), MD's superblocks
/// 0.90 and 1.0 (128 KiB), and all BIOS RAIDs (the farthest is Promise's, 3087 sectors from the end).
const END_LEN: u64 = 8 * MIB;

/// Where btrfs keeps copies of its superblock, in bytes from the disk's start. It reads no others.
const BTRFS_COPIES: [u64; 2] = [64 * MIB, 256 << 30];

/// Length of a copy in bytes.
const BTRFS_COPY_LEN: u64 = 4096;

/// Which part of the disk after the image's end is zeroed. The first MiB and all bytes of the image are always written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wipe {
    /// All of it.
    #[default]
    Full,
    /// The places where old metadata would be found: from the image's end to the first MiB boundary that is at least
    /// 8 MiB further on, the disk's last 8 MiB, and the copies of a btrfs superblock. Other old bytes stay.
    Ends,
    /// Nothing.
    None,
}

impl Wipe {
    /// Its word in config.toml.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Wipe::Full => "full",
            Wipe::Ends => "ends",
            Wipe::None => "none",
        }
    }

    /// How many bytes are written for an image of `image_len` bytes, with the image itself. None if that is known only at
    /// the image's end.
    pub(crate) fn total(self, image_len: Option<u64>, disk_len: u64) -> Option<u64> {
        if self == Wipe::Full {
            return Some(disk_len);
        }
        let len = image_len?;
        Some(len + self.ranges(len, disk_len).iter().map(|range| range.end - range.start).sum::<u64>())
    }

    /// The ranges to zero after an image of `image_len` bytes on a disk of `disk_len` bytes, in order. They may overlap.
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
