// SPDX-License-Identifier: BSD-2-Clause
//! Memory that direct I/O accepts.

use std::ops::{Deref, DerefMut};

/// Alignment of direct I/O in bytes, in memory and on disk: covers 512-byte and 4096-byte sectors.
pub const ALIGNMENT: usize = 4096;

/// A buffer of fixed length whose first byte lies on an [`ALIGNMENT`] boundary.
#[derive(Debug)]
pub struct AlignedBuf {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// `len` zero bytes.
    pub fn new(len: usize) -> Self {
        let memory = vec![0; len + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        AlignedBuf { memory, start, len }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}
