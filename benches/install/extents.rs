// SPDX-License-Identifier: BSD-2-Clause
//! Data and holes of files, and whether two files have the same bytes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};

/// Bytes compared at once.
const STEP: usize = 256 << 10;

/// Where the first data at or behind `at` begins; none when only a hole follows.
pub(crate) fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    seek(file, at, Whence::SeekData)
}

/// All data of `file`, in order.
pub(crate) fn data(file: &File) -> io::Result<Vec<Range<u64>>> {
    let len = file.metadata()?.len();
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Some(start) = next_data(file, at)? {
        at = seek(file, start, Whence::SeekHole)?.unwrap_or(len);
        ranges.push(start..at);
    }
    Ok(ranges)
}

fn seek(file: &File, at: u64, whence: Whence) -> io::Result<Option<u64>> {
    match lseek64(file, i64::try_from(at).map_err(io::Error::other)?, whence) {
        Ok(found) => u64::try_from(found).map(Some).map_err(io::Error::other),
        Err(Errno::ENXIO) => Ok(None),
        Err(err) => Err(err.into()),
    }
}

/// The first byte at which `disk` differs from `image`, or from zero behind the image's end. Holes read zero, so they
/// are only looked at where the other file has data.
pub(crate) fn first_difference(disk: &File, image: &File) -> io::Result<Option<u64>> {
    let len = disk.metadata()?.len();
    let (mut mine, mut theirs) = (vec![0; STEP], vec![0; STEP]);
    let mut at = 0;
    loop {
        let next = [next_data(disk, at)?, next_data(image, at)?].into_iter().flatten().min();
        let Some(start) = next.filter(|start| *start < len) else { return Ok(None) };
        let count = usize::try_from(len - start).unwrap_or(STEP).min(STEP);
        disk.read_exact_at(&mut mine[..count], start)?;
        read_or_zero(image, &mut theirs[..count], start)?;
        if mine[..count] != theirs[..count] {
            let same = mine.iter().zip(&theirs).take_while(|(mine, theirs)| mine == theirs).count();
            return Ok(Some(start + same as u64));
        }
        at = start + count as u64;
    }
}

/// Behind its end a file reads zero.
pub(crate) fn read_or_zero(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64)? {
            0 => break,
            read => done += read,
        }
    }
    buffer[done..].fill(0);
    Ok(())
}
