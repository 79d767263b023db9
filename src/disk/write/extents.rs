// SPDX-License-Identifier: BSD-2-Clause
//! Copies an image whose parts can be read in any order, with several threads.

use std::io;
use std::num::NonZero;
use std::thread;

use super::{DiskWriter, WriteError, check_fits, in_threads};
use crate::disk::device::AlignedBuf;

/// The largest number of threads that decode. Their buffers take 32 MiB in all.
const MAX_DECODERS: usize = 8;

/// Threads for each processor: while one waits for the image or the disk, another decodes.
const PER_PROCESSOR: usize = 2;

/// A part of the disk in an image, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Data { offset: u64, len: usize },
    Zeros { offset: u64, len: u64 },
}

/// The disk in an image, as extents that cover it once. Several threads use it at the same time.
pub(crate) trait Extents: Sync {
    /// The largest length of an extent with data, in bytes.
    fn longest(&self) -> usize;

    /// Takes the next extent, which no other thread gets. `None` means that none is left.
    fn next(&self) -> io::Result<Option<Extent>>;

    /// Reads the data of an extent into the first `len` bytes of `buffer`.
    fn read(&self, buffer: &mut AlignedBuf, offset: u64, len: usize) -> io::Result<()>;

    /// After this there are no more extents for any thread, because one of them has failed.
    fn stop(&self);
}

/// Writes the image of `len` bytes to the disk, and decodes it on all processors.
pub(crate) fn decoded_extents(source: &impl Extents, len: u64, writer: &mut DiskWriter<'_>) -> Result<(), WriteError> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    copy(source, len, writer, (processors * PER_PROCESSOR).min(MAX_DECODERS))
}

/// Writes the image of `len` bytes to the disk with `threads` threads.
pub(super) fn copy(
    source: &impl Extents,
    len: u64,
    writer: &mut DiskWriter<'_>,
    threads: usize,
) -> Result<(), WriteError> {
    check_fits(len, writer.target())?;
    writer.image_len = len;
    let writer = &*writer;
    in_threads(threads, "a copying thread died", || {
        let copied = copy_all(source, writer);
        if copied.is_err() {
            source.stop();
        }
        copied
    })
}

fn copy_all(source: &impl Extents, writer: &DiskWriter<'_>) -> Result<(), WriteError> {
    let mut buffer = AlignedBuf::new(source.longest());
    while let Some(extent) = source.next().map_err(WriteError::Image)? {
        match extent {
            Extent::Zeros { offset, len } => writer.zero(offset, len)?,
            Extent::Data { offset, len } => {
                source.read(&mut buffer, offset, len).map_err(WriteError::Image)?;
                writer.data_with_zeros(&buffer[..len], offset)?;
            }
        }
    }
    Ok(())
}
