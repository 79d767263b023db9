// SPDX-License-Identifier: BSD-2-Clause
//! Copies a stream. One thread reads (and decodes) while another writes.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::{DiskWriter, WriteError};
use crate::disk::device::AlignedBuf;
use crate::disk::fingerprint::is_zero;
use crate::node::size::ByteSize;

/// The length of a buffer in bytes. With gzip, 256 KiB were measured to be 1.8 times and 4 MiB 1.2 times as slow.
const BUFFER_LEN: usize = 1 << 20;

/// The number of buffers. Their 8 MiB let the writer go on while the decoder is slow, and the reverse.
const BUFFERS: usize = 8;

/// A part of the image on its way to the writer.
enum Part {
    /// The first `len` bytes of the buffer.
    Filled { buffer: AlignedBuf, len: usize, offset: u64 },
    /// A run of `len` zero bytes needs no buffer.
    Zeros { offset: u64, len: u64 },
}

/// Writes everything that `reader` returns to the disk, from its start on. The calling thread reads, and another one
/// writes. If the stream is longer than the disk, this fails after everything that fits was written.
pub fn stream(reader: &mut dyn Read, writer: &mut DiskWriter<'_>) -> Result<(), WriteError> {
    let (parts_sender, parts) = sync_channel(BUFFERS);
    let (empty_sender, empty) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // This can't fail, because the receiver lives and the channel has room.
        let _ = empty_sender.send(AlignedBuf::new(BUFFER_LEN));
    }
    let shared = &*writer;
    writer.image_len = thread::scope(|scope| {
        let writing = scope.spawn(move || write_all(&parts, &empty_sender, shared));
        let read = read_all(reader, shared, &empty, &parts_sender, || writing.is_finished());
        drop(parts_sender);
        let written =
            writing.join().unwrap_or_else(|_panic| Err(WriteError::Image(io::Error::other("the writer died"))));
        // If the writer failed, its error is the cause, because the reader only saw that its channel was closed.
        written.and(read)
    })?;
    Ok(())
}

fn write_all(
    parts: &Receiver<Part>,
    empty: &SyncSender<AlignedBuf>,
    writer: &DiskWriter<'_>,
) -> Result<(), WriteError> {
    for part in parts {
        match part {
            Part::Zeros { offset, len } => writer.zero(offset, len)?,
            Part::Filled { buffer, len, offset } => {
                writer.data_with_zeros(&buffer[..len], offset)?;
                // This fails if the reader has ended.
                let _ = empty.send(buffer);
            }
        }
    }
    Ok(())
}

/// Reads until the end of the stream. A buffer of zeros is not handed over but filled again while it is in the cache of
/// the processor, and a run of such buffers becomes one range. Most of a disk image is zeros, and neither thread should
/// move them through memory.
fn read_all(
    reader: &mut dyn Read,
    writer: &DiskWriter<'_>,
    empty: &Receiver<AlignedBuf>,
    parts: &SyncSender<Part>,
    writer_ended: impl Fn() -> bool,
) -> Result<u64, WriteError> {
    let target = writer.target();
    let (mut offset, mut zeros_start) = (0, 0);
    // Sending fails if the writer has failed. Then its error is reported.
    let hand_over = |part| parts.send(part).is_ok();
    let hand_over_zeros = |start, end| start == end || hand_over(Part::Zeros { offset: start, len: end - start });
    let mut spare = None;
    while let Some(mut buffer) = spare.take().or_else(|| empty.recv().ok()) {
        let len = fill(reader, &mut buffer).map_err(WriteError::Image)?;
        let start = offset;
        offset += len as u64;
        if offset > target.size() {
            return Err(WriteError::TooLong { disk: ByteSize(target.size()), path: target.path().to_owned() });
        }
        let is_last = len < buffer.len();
        if writer_ended() {
            // This is checked for each buffer, because a long run of zeros is handed over only at its end.
            break;
        }
        if is_zero(&buffer[..len]) {
            spare = Some(buffer);
        } else if hand_over_zeros(zeros_start, start) && hand_over(Part::Filled { buffer, len, offset: start }) {
            zeros_start = offset;
        } else {
            break;
        }
        if is_last {
            hand_over_zeros(zeros_start, offset);
            break;
        }
    }
    Ok(offset)
}

/// Reads until `buffer` is full or the stream ends, and returns the number of bytes.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match reader.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::stream;
    use crate::disk::device::Target;
    use crate::disk::write::{DiskWriter, WriteOptions};
    use crate::node::file::descriptor_path;
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use proptest::prelude::{ProptestConfig, prop, prop_assert, prop_assert_eq, proptest};
    use std::fs::File;
    use std::io::{self, Read, Write};
    use std::os::unix::fs::FileExt;
    use std::time::Duration;

    const DISK_LEN: usize = 24 << 20;
    const MIB: u64 = 1 << 20;

    /// A copy that has failed never takes as long as this.
    const LONG: Duration = Duration::from_secs(120);

    /// The fault that happens when a reader comes to a place.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fault {
        Source,
        Sink,
        None,
    }

    /// A stream of `len` bytes with a fault in it. If `data` is true, one byte in each MiB is not zero.
    struct Faulty {
        at: u64,
        len: u64,
        data: bool,
        fault: (Fault, u64),
        disk: File,
    }

    impl Read for Faulty {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let until = if self.at < self.fault.1 { self.fault.1 } else { self.len };
            let len = buf.len().min(usize::try_from(until - self.at).unwrap()).min(70_000);
            match self.fault.0 {
                Fault::Source if self.at == self.fault.1 => return Err(io::Error::other("the source failed")),
                // After this no write succeeds, and no hole is punched.
                Fault::Sink if self.at == self.fault.1 => {
                    // The call may fail if it was made before, which does no harm.
                    let _ = fcntl(&self.disk, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE));
                }
                _ => {}
            }
            buf[..len].fill(0);
            let next = usize::try_from(self.at.next_multiple_of(MIB) - self.at).unwrap();
            if let Some(byte) = buf[..len].get_mut(next).filter(|_| self.data) {
                *byte = 1;
            }
            self.at += len as u64;
            Ok(len)
        }
    }

    /// Returns the error of a copy of `len` bytes with a fault, or `None` if the copy is complete.
    fn outcome(len: u64, data: bool, fault: (Fault, u64)) -> Option<String> {
        let (sender, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let disk = File::from(memfd_create(c"disk", MFdFlags::MFD_ALLOW_SEALING).unwrap());
            disk.set_len(len).unwrap();
            let target = Target::open(&descriptor_path(&disk)).unwrap();
            let mut writer = DiskWriter::begin(&target, WriteOptions::default()).unwrap();
            let copied = stream(&mut Faulty { at: 0, len, data, fault, disk }, &mut writer);
            let whole = copied.and_then(|()| writer.fill(|_| Ok(()))?.sync()?.commit());
            let _ =
                sender.send(whole.err().map(|err| anyhow::Error::new(err).chain().map(ToString::to_string).collect()));
        });
        let words = ended.recv_timeout(LONG);
        words
            .unwrap_or_else(|_| panic!("{len} {data} {fault:?}: the copy does not end"))
            .map(|all: Vec<_>| all.join(": "))
    }

    #[test]
    fn whatever_fails_at_any_stage_ends_it() {
        for (len, data) in [1, 2 * MIB, 20 * MIB + 1, 256 * MIB].into_iter().flat_map(|len| [(len, true), (len, false)])
        {
            for at in [0, 1, 2 * MIB, 9 * MIB, len / 2, len - 1].into_iter().filter(|at| *at < len) {
                assert_eq!(outcome(len, data, (Fault::Source, at)).as_deref(), Some("the source failed"), "{len} {at}");
                let failed = outcome(len, data, (Fault::Sink, at)).unwrap_or_default();
                assert!(failed.contains("writing to disk "), "{len} {data} {at}: {failed}");
            }
            assert_eq!(outcome(len, data, (Fault::None, 0)), None, "{len} {data}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn data_and_zeros_come_over_old_data(runs in prop::collection::vec((1..6_000_000_usize, 0..3_u8), 1..8)) {
            let image: Vec<u8> = runs.iter().flat_map(|(len, value)| vec![*value; *len]).collect();
            let mut disk = tempfile::NamedTempFile::new().unwrap();
            disk.write_all(&vec![0xAA; DISK_LEN]).unwrap();
            let target = Target::open(disk.path()).unwrap();
            let mut writer = DiskWriter::begin(&target, WriteOptions::default()).unwrap();
            let result = stream(&mut image.as_slice(), &mut writer);
            if image.len() > DISK_LEN {
                prop_assert!(result.unwrap_err().to_string().starts_with("the image is larger than disk"));
                return Ok(());
            }
            result.unwrap();
            prop_assert_eq!(writer.image_len(), image.len() as u64);
            writer.fill(|_| Ok(())).unwrap().sync().unwrap().commit().unwrap();
            let mut written = vec![1; DISK_LEN];
            disk.as_file().read_exact_at(&mut written, 0).unwrap();
            prop_assert!(written[..image.len()] == image[..]);
            prop_assert!(written[image.len()..].iter().all(|byte| *byte == 0));
        }
    }
}
