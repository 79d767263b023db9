// SPDX-License-Identifier: BSD-2-Clause
//! What has to hold for an image that may have been cut.

use super::disk::Disk;
use super::partitions::seal_gpt;
use crate::disk::device::ReadAt;
use crate::disk::partition::{
    ImageExtent, Incomplete, MBR_TOLERANCE, StreamedDisk, Table, check_complete, read_boot_area,
};
use crate::node::size::MIB;

/// A longer disk is not read as a stream, in bytes.
const MAX_STREAM: u64 = 4 * MIB;

/// The disk, and if the first byte is odd with checksums that fit what its GPT says.
pub(super) fn truncated(data: &[u8]) {
    let Some((flags, Some(mut disk))) = data.split_first().map(|(flags, rest)| (flags, Disk::parse(rest))) else {
        return;
    };
    if flags & 1 == 1 {
        seal_gpt(&mut disk);
    }
    let len = disk.len();
    for (image, room, mbr_tolerance) in
        [(len, None, MBR_TOLERANCE), (len, Some(len), 0), (len / 2, Some(len), u64::MAX), (len + 1, None, 0)]
    {
        let extent = ImageExtent { image, disk: room, mbr_tolerance };
        let judged = check_complete(&disk, extent);
        match &judged {
            Ok(()) | Err(Incomplete::Read(_)) => {}
            Err(Incomplete::Cut { needed, end, .. }) => assert!(needed.0 > image && end.0 == image, "{judged:?}"),
            Err(Incomplete::BeyondDisk { needed, disk, .. }) => assert!(needed.0 > disk.0, "{judged:?}"),
        }
        // One that comes whole from memory can be read.
        assert!(!matches!(judged, Err(Incomplete::Read(_))), "{judged:?}");
        if image == len && len <= MAX_STREAM {
            same_as_a_stream(&disk, extent, judged.is_ok());
        }
    }
}

/// Only logical partitions may be missed.
fn same_as_a_stream(disk: &Disk, extent: ImageExtent, taken: bool) {
    let all = disk.head(disk.len());
    let (head, rest) = all.split_at(all.len().min(usize::try_from(MIB).unwrap_or(usize::MAX)));
    let passing = StreamedDisk::read(head.to_vec(), &mut &*rest).expect("memory does not fail");
    assert_eq!(passing.len(), disk.len());
    let table = Table::parse(&read_boot_area(disk).expect("memory does not fail"));
    let logical = table.is_ok_and(|table| table.partitions().iter().any(|partition| partition.extended));
    let passed = check_complete(&passing, extent).is_ok();
    assert!(passed == taken || (logical && passed), "a stream is judged otherwise");
}
