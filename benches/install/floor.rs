// SPDX-License-Identifier: BSD-2-Clause
//! What an installation can't be faster than: its parts, each alone and in a process of its own.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Context as _;
use simpleimage::disk::device::AlignedBuf;
use simpleimage::image::format::DeclaredType;
use simpleimage::node::size::MIB;

use crate::disk::old_data;
use crate::extents;

/// The first argument that makes this program one of the floors.
pub(crate) const STAGE: &str = "__floor";

/// The buffer of those that read a stream: the provider's.
const BUFFER: usize = 1 << 20;

/// One direct write or read, in bytes: in the study behind the provider's own 8 MiB, no other length was faster.
const STEP: u64 = 8 * MIB;

/// More threads brought nothing.
const THREADS: usize = 2;

/// Runs the floor that is named first.
pub(crate) fn run(args: &[OsString]) -> anyhow::Result<ExitCode> {
    let words: Vec<&OsStr> = args.iter().map(OsString::as_os_str).collect();
    match words.first().and_then(|word| word.to_str()) {
        Some("decode") => decode_alone(words[1], words[2]),
        Some("write") => write_alone(words[1], words[2]),
        Some("read") => read_alone(words[1]),
        Some("drain") => drain(&mut io::stdin().lock()).map_err(Into::into),
        other => anyhow::bail!("no such floor: {other:?}"),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// The provider's decoder of a type (`raw+gz`), from a file to nowhere.
fn decode_alone(image_type: &OsStr, image: &OsStr) -> anyhow::Result<()> {
    let image_type = DeclaredType::parse(&image_type.to_string_lossy())?;
    let compression = image_type.and_then(|parsed| parsed.compression).context("this type needs no decoder")?;
    Ok(drain(&mut compression.reader(File::open(image)?))?)
}

fn drain(reader: &mut dyn Read) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    while reader.read(&mut buffer)? > 0 {}
    Ok(())
}

/// As many bytes as the raw image has data, to the same places of the disk. What they are makes no difference to it,
/// so they come from memory; the holes are left alone.
fn write_alone(raw: &OsStr, disk: &OsStr) -> anyhow::Result<()> {
    let disk = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(disk)?;
    let pieces = extents::data(&File::open(raw)?)?.into_iter().flat_map(steps).collect();
    in_parallel(pieces, |buffer, offset| disk.write_all_at(buffer, offset))
}

/// All of the disk, to nowhere.
fn read_alone(disk: &OsStr) -> anyhow::Result<()> {
    let disk = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(disk)?;
    let size = io::Seek::seek(&mut &disk, io::SeekFrom::End(0))?;
    in_parallel(steps(0..size), |buffer, offset| disk.read_exact_at(buffer, offset))
}

/// Cuts at multiples of [`STEP`].
fn steps(range: Range<u64>) -> Vec<Range<u64>> {
    let mut steps = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let end = (at / STEP + 1) * STEP;
        steps.push(at..end.min(range.end));
        at = end;
    }
    steps
}

fn in_parallel(pieces: Vec<Range<u64>>, work: impl Fn(&mut [u8], u64) -> io::Result<()> + Sync) -> anyhow::Result<()> {
    let pieces = Mutex::new(pieces.into_iter());
    let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
    let worker = || -> io::Result<()> {
        let mut buffer = AlignedBuf::new(usize::try_from(STEP).map_err(io::Error::other)?);
        let pattern = old_data();
        buffer.chunks_mut(pattern.len()).for_each(|part| part.copy_from_slice(&pattern[..part.len()]));
        while let Some(piece) = next() {
            let len = usize::try_from(piece.end - piece.start).map_err(io::Error::other)?;
            work(&mut buffer[..len], piece.start)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            worker.join().map_err(|_panic| anyhow::anyhow!("a thread died"))??;
        }
        Ok(())
    })
}
