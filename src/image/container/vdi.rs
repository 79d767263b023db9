// SPDX-License-Identifier: BSD-2-Clause
//! Checks VDI images, which VirtualBox writes. The layout is that of QEMU's block/vdi.c; all numbers are little-endian.

use super::{ContainerError, Image};
use crate::image::detect::Fields;
use crate::image::format::Format;

/// The length of the header in bytes.
const HEADER_LEN: usize = 512;
/// The length of a block in bytes. VirtualBox writes, and QEMU reads, no other length.
const BLOCK_LEN: u64 = 1 << 20;
/// An entry of the block map from this number on means that the block does not exist or was discarded.
const NO_BLOCK: u32 = 0xffff_fffe;

const DYNAMIC: u32 = 1;
const STATIC: u32 = 2;

/// The fields of a checked header that are used.
struct Header {
    /// The virtual size in bytes.
    size: u64,
    map: u64,
    data: u64,
}

fn invalid(what: &'static str) -> ContainerError {
    ContainerError::Header { format: Format::Vdi, what }
}

/// Checks the header. Returns the virtual size in bytes.
pub(super) fn check_head(head: &[u8]) -> Result<u64, ContainerError> {
    Header::parse(head).map(|header| header.size)
}

/// Checks the header, and that every block is in the file. Returns the virtual size in bytes.
pub(super) fn check_file(image: &Image<'_>) -> Result<u64, ContainerError> {
    let header = Header::parse(image.head)?;
    let blocks = header.size.div_ceil(BLOCK_LEN);
    let map = image.read(header.map, blocks * 4)?;
    for (index, entry) in (0_u64..).zip(map.as_chunks().0) {
        let block = u32::from_le_bytes(*entry);
        if block < NO_BLOCK {
            if u64::from(block) >= blocks {
                return Err(image.tables("its block map has an entry that is too large"));
            }
            let useful = BLOCK_LEN.min(header.size - index * BLOCK_LEN);
            image.needs(header.data + u64::from(block) * BLOCK_LEN, useful)?;
        }
    }
    Ok(header.size)
}

impl Header {
    fn parse(head: &[u8]) -> Result<Self, ContainerError> {
        let head = head.get(..HEADER_LEN).ok_or(invalid("the image ends inside it"))?;
        let fields = Fields(head);
        let word = |at| fields.le_u32(at).unwrap_or_default();
        if word(68) != 0x0001_0001 {
            return Err(invalid("its version is not 1.1"));
        }
        if !matches!(word(76), DYNAMIC | STATIC) {
            return Err(ContainerError::Parent(Format::Vdi));
        }
        // The UUIDs of the parent image and of its last change.
        if head[424..456].iter().any(|byte| *byte != 0) {
            return Err(ContainerError::Parent(Format::Vdi));
        }
        let (map, data) = (u64::from(word(340)), u64::from(word(344)));
        let blocks = u64::from(word(384));
        let size = fields.le_u64(368).unwrap_or_default();
        if word(360) != 512 || u64::from(word(376)) != BLOCK_LEN || word(380) != 0 {
            return Err(invalid("its sector or block size is not supported"));
        }
        if size == 0 || size.div_ceil(BLOCK_LEN) > blocks || u64::from(word(388)) > blocks {
            return Err(invalid("its sizes contradict each other"));
        }
        if !size.is_multiple_of(512) {
            return Err(invalid("the virtual size is no multiple of 512"));
        }
        let in_order = map >= HEADER_LEN as u64 && map + blocks * 4 <= data;
        if !in_order || !map.is_multiple_of(512) || !data.is_multiple_of(512) {
            return Err(invalid("its tables are at invalid offsets"));
        }
        Ok(Header { size, map, data })
    }
}

#[cfg(test)]
mod tests {
    use super::check_head;

    #[test]
    fn what_is_cut_or_nonsense_is_refused() {
        assert_eq!(
            check_head(&[0; 511]).unwrap_err().to_string(),
            "the vdi header is invalid: the image ends inside it"
        );
        assert_eq!(check_head(&[0; 512]).unwrap_err().to_string(), "the vdi header is invalid: its version is not 1.1");
    }
}
