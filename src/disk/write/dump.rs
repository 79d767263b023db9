// SPDX-License-Identifier: BSD-2-Clause
//! Copies a disk to a stream. Threads read ahead while the receiver of the stream is slow.
//!
//! A thread that others wait for owns its ends of the channels between them, so the others notice its end, whatever the
//! reason is. An export once hung because the waiting thread itself kept a sender open.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::THREADS;
use crate::disk::device::{AlignedBuf, DirectReader, SourceDisk};

/// The length of a piece in bytes.
const PIECE_LEN: usize = 2 << 20;

/// The number of pieces in memory. One is being written, and the others are read ahead.
const PIECES: usize = 8;

/// Why a dump is not complete.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DumpError {
    /// The disk failed, or it ended before its size.
    #[error("reading disk {path} at byte {offset}", path = path.display())]
    Read { path: PathBuf, offset: u64, source: io::Error },
    /// The receiver failed or closed the stream.
    #[error("writing the dump after {written} of {size} bytes")]
    Write {
        /// The number of bytes that were written to the stream.
        written: u64,
        /// The disk's size in bytes.
        size: u64,
        source: io::Error,
    },
}

/// The index of a piece of the disk, and its bytes with their number, or the error.
type Piece = (u64, Result<(AlignedBuf, usize), DumpError>);

/// Writes every byte of the disk to `out`.
pub(crate) fn dump(disk: &SourceDisk, out: &mut dyn Write) -> Result<(), DumpError> {
    let (spent, buffers) = sync_channel(PIECES);
    for _ in 0..PIECES {
        // This can't fail, because the receiver lives and the channel has room.
        let _ = spent.send(AlignedBuf::new(PIECE_LEN));
    }
    let reading = Reading { disk, reader: disk.reader(), next: AtomicU64::new(0), buffers: Mutex::new(buffers) };
    thread::scope(|scope| {
        let (sender, pieces) = sync_channel(PIECES);
        for _ in 0..THREADS {
            let (reading, sender) = (&reading, sender.clone());
            scope.spawn(move || reading.read_all(&sender));
        }
        drop(sender);
        // Both channels close when the writer ends. Otherwise a reader could wait for ever for a buffer.
        write_all(pieces, spent, disk.size, out)
    })
}

/// Writes the pieces in their order until the first error. This function owns its ends of both channels, so they are
/// closed then, and the readers notice it.
#[expect(clippy::needless_pass_by_value)]
fn write_all(
    pieces: Receiver<Piece>,
    spent: SyncSender<AlignedBuf>,
    size: u64,
    out: &mut dyn Write,
) -> Result<(), DumpError> {
    let mut early = BTreeMap::new();
    let (mut written, mut next) = (0, 0);
    for (index, piece) in pieces {
        early.insert(index, piece);
        while let Some(piece) = early.remove(&next) {
            let (buffer, len) = piece?;
            out.write_all(&buffer[..len]).map_err(|source| DumpError::Write { written, size, source })?;
            written += len as u64;
            next += 1;
            // This fails if the readers have ended.
            let _ = spent.send(buffer);
        }
    }
    let ended = if written == size { out.flush() } else { Err(io::Error::other("a reading thread died")) };
    ended.map_err(|source| DumpError::Write { written, size, source })
}

/// The state that the reading threads share.
struct Reading<'d> {
    disk: &'d SourceDisk,
    reader: DirectReader<'d>,
    /// The index of the next piece.
    next: AtomicU64,
    buffers: Mutex<Receiver<AlignedBuf>>,
}

impl Reading<'_> {
    /// Reads pieces until none is left, or until the writer has ended. A thread that gets a buffer reads the lowest
    /// piece, so the piece that the writer waits for always has a buffer.
    fn read_all(&self, sender: &SyncSender<Piece>) {
        loop {
            let (buffer, index) = {
                let buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
                let Ok(buffer) = buffers.recv() else { return };
                (buffer, self.next.fetch_add(1, Ordering::Relaxed))
            };
            let offset = index * PIECE_LEN as u64;
            if offset >= self.disk.size {
                return;
            }
            let piece = self.read(buffer, offset);
            let failed = piece.is_err();
            if sender.send((index, piece)).is_err() || failed {
                return;
            }
        }
    }

    fn read(&self, mut buffer: AlignedBuf, offset: u64) -> Result<(AlignedBuf, usize), DumpError> {
        let len = usize::try_from(self.disk.size - offset).unwrap_or(PIECE_LEN).min(PIECE_LEN);
        match self.reader.read(&mut buffer, offset, len) {
            Ok(()) => Ok((buffer, len)),
            Err(source) => Err(DumpError::Read { path: self.disk.path.clone(), offset, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::dump;
    use crate::disk::device::SourceDisk;
    use std::io::{self, Write};
    use std::time::Duration;

    const MIB: u64 = 1 << 20;

    /// A dump that has failed never takes as long as this.
    const LONG: Duration = Duration::from_secs(120);

    /// Returns a disk of `size` bytes that reads zero up to `readable`, and ends there.
    fn disk(size: u64, readable: u64) -> (tempfile::NamedTempFile, SourceDisk) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        let disk = SourceDisk::open(file.path()).unwrap();
        file.as_file().set_len(readable).unwrap();
        (file, disk)
    }

    /// A stream whose receiver takes `room` bytes and then closes it.
    struct Leaves {
        room: u64,
    }

    impl Write for Leaves {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let len = self.room.min(data.len() as u64);
            self.room -= len;
            if len == 0 { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(usize::try_from(len).unwrap()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns the error of a dump of `size` bytes whose disk can be read up to `readable`, and whose receiver takes
    /// `room` bytes.
    fn failure(size: u64, readable: u64, room: u64) -> String {
        let (sender, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let (_file, disk) = disk(size, readable);
            let result = dump(&disk, &mut Leaves { room });
            let _ = sender.send(result.err().map(|err| err.to_string()).unwrap_or_default());
        });
        ended.recv_timeout(LONG).unwrap_or_else(|_| panic!("{size} {readable} {room}: the dump does not end"))
    }

    #[test]
    fn whatever_fails_at_any_stage_ends_it() {
        for size in [1, 2 * MIB, 16 * MIB, 20 * MIB + 1, 256 * MIB] {
            // The places are before the first piece, in it, with all buffers in use, in the middle, and at the last
            // byte.
            for at in [0, 1, 2 * MIB, 15 * MIB, 17 * MIB, size / 2, size - 1].into_iter().filter(|at| *at < size) {
                let message = failure(size, size, at);
                assert!(message.starts_with("writing the dump after "), "{size} {at}: {message}");
                let message = failure(size, at, u64::MAX);
                assert!(message.starts_with("reading disk "), "{size} {at}: {message}");
                // Either of the two errors may come first.
                assert_ne!(failure(size, at, at / 2), "", "{size} {at}");
            }
            assert_eq!(failure(size, size, size), "", "{size}");
        }
    }

    /// A pipe that takes a few bytes at a time, is interrupted by a signal in between, and is full after `room` bytes.
    struct Pipe {
        taken: Vec<u8>,
        room: usize,
        interrupt: bool,
    }

    impl Write for Pipe {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.interrupt = !self.interrupt;
            if self.interrupt {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let len = data.len().min(12_345).min(self.room - self.taken.len());
            self.taken.extend_from_slice(&data[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn short_and_interrupted_writes_lose_nothing() {
        let content: Vec<u8> = (0..1_500_000_u32).flat_map(u32::to_le_bytes).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &content).unwrap();
        let disk = SourceDisk::open(file.path()).unwrap();
        let mut pipe = Pipe { taken: Vec::new(), room: usize::MAX, interrupt: false };
        dump(&disk, &mut pipe).unwrap();
        assert!(pipe.taken == content);
        let mut full = Pipe { taken: Vec::new(), room: 3_000_000, interrupt: false };
        let message = dump(&disk, &mut full).unwrap_err().to_string();
        assert_eq!(message, "writing the dump after 2097152 of 6000000 bytes");
    }
}
