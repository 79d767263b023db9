// SPDX-License-Identifier: BSD-2-Clause
//! Numbers at fixed places of a header.

/// The bytes of a header. Every getter gives none behind their end.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'b>(pub(crate) &'b [u8]);

impl Fields<'_> {
    /// The `N` bytes at `at`.
    pub(crate) fn bytes<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    /// A big-endian number of 4 bytes.
    pub(crate) fn be_u32(self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_be_bytes)
    }

    /// A big-endian number of 8 bytes.
    pub(crate) fn be_u64(self, at: usize) -> Option<u64> {
        self.bytes(at).map(u64::from_be_bytes)
    }

    /// A little-endian number of 2 bytes.
    pub(crate) fn le_u16(self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    /// A little-endian number of 4 bytes.
    pub(crate) fn le_u32(self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    /// A little-endian number of 8 bytes.
    pub(crate) fn le_u64(self, at: usize) -> Option<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }
}
