// SPDX-License-Identifier: BSD-2-Clause
//! Copies a disk to a stream: reading ahead while the other side takes its time.

use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use crate::device::{AlignedBuf, SourceDisk};

/// Length of a piece in bytes.
const PIECE_LEN: usize = 1 << 20;

/// Pieces read ahead.
const PIECES: usize = 8;

/// Why a dump is not whole.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The disk failed, or ended before its size.
    #[error("reading disk {path} at byte {offset}", path = path.display())]
    Read {
        /// The disk.
        path: std::path::PathBuf,
        /// Where.
        offset: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The other side failed or went away.
    #[error("writing the dump after {written} of {size} bytes")]
    Write {
        /// Bytes it took.
        written: u64,
        /// The disk's size in bytes.
        size: u64,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Writes every byte of the disk to `out`.
pub fn dump(disk: &SourceDisk, out: &mut dyn Write) -> Result<(), DumpError> {
    let size = disk.size;
    thread::scope(|scope| {
        let (sender, pieces) = sync_channel(PIECES);
        let (spent, buffers) = sync_channel(PIECES + 2);
        for _ in 0..PIECES + 2 {
            // The receiver lives and the channel has room.
            let _ = spent.send(AlignedBuf::new(PIECE_LEN));
        }
        let reading = scope.spawn(move || read_all(disk, &buffers, &sender));
        let mut written = 0;
        for (buffer, len) in pieces {
            let write_error = |source| DumpError::Write { written, size, source };
            out.write_all(&buffer[..len]).map_err(write_error)?;
            written += len as u64;
            // The reader may be done and gone.
            let _ = spent.send(buffer);
        }
        let died = |_panic| Err(DumpError::Write { written, size, source: io::Error::other("the reader died") });
        reading.join().unwrap_or_else(died)?;
        out.flush().map_err(|source| DumpError::Write { written, size, source })
    })
}

fn read_all(
    disk: &SourceDisk,
    buffers: &std::sync::mpsc::Receiver<AlignedBuf>,
    sender: &SyncSender<(AlignedBuf, usize)>,
) -> Result<(), DumpError> {
    let mut offset = 0;
    while offset < disk.size {
        // A closed channel: the writer failed and says why.
        let Ok(mut buffer) = buffers.recv() else { return Ok(()) };
        let len = usize::try_from(disk.size - offset).unwrap_or(PIECE_LEN).min(PIECE_LEN);
        let read_error = |source| DumpError::Read { path: disk.path.clone(), offset, source };
        disk.file.read_exact_at(&mut buffer[..len], offset).map_err(read_error)?;
        if sender.send((buffer, len)).is_err() {
            return Ok(());
        }
        offset += len as u64;
    }
    Ok(())
}
