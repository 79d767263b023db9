// SPDX-License-Identifier: BSD-2-Clause
//! One image from the network to the entry's `.part` file.

use std::fs::File;
use std::io::Write;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use sha2::{Digest, Sha256};

use super::entry::{EntryFiles, Sidecar, hex, remove_if_there};
use super::error::CacheError;
use super::follow::Follow;
use crate::http::{Attempts, Client, Conditions, Content, ImageUrl, Response};
use crate::report::Report;
use crate::size::{ByteSize, MIB};
use crate::sys;

/// Bytes taken from the network at once, at most.
const BUFFER: usize = 256 << 10;

/// The disk begins to write the download every so many bytes: else all of it waits for the sync at the end.
const FLUSH_STEP: u64 = 8 * MIB;

/// What came of asking the server.
pub(super) enum Download {
    /// `.part` holds the image, complete and on the disk. The sidecar's times are not set yet.
    Complete(Sidecar),
    /// The kept image is current.
    NotModified,
}

/// Downloads `url` to the `.part` file of `files`, again after transient failures. The caller holds the entry's lock
/// alone.
pub(super) fn download(
    files: &EntryFiles,
    url: &ImageUrl,
    client: &Client,
    conditions: &Conditions,
    report: &Report,
    follow: &Follow,
) -> Result<Download, CacheError> {
    let mut attempts = client.attempts(url, report);
    loop {
        match attempt(files, url, &attempts, conditions, report, follow) {
            Err(CacheError::Http(error)) if attempts.retry(&error) => {}
            Err(error) => {
                // It would only take space: nothing continues a download yet.
                let _ = remove_if_there(&files.part);
                return Err(error);
            }
            done => return done,
        }
    }
}

fn attempt(
    files: &EntryFiles,
    url: &ImageUrl,
    attempts: &Attempts,
    conditions: &Conditions,
    report: &Report,
    follow: &Follow,
) -> Result<Download, CacheError> {
    let mut content = match attempts.get(conditions)? {
        Response::NotModified => return Ok(Download::NotModified),
        Response::Content(content) => content,
    };
    let part = files.create_part()?;
    match content.content_length {
        Some(length) => {
            report.info(format_args!("downloading {url} ({})", ByteSize(length)));
            reserve(&part, length, files)?;
        }
        None => report.info(format_args!("downloading {url}")),
    }
    follow.begin(&part, content.content_length).map_err(CacheError::io("opening", &files.part))?;
    let (length, sha256) = receive(&mut content, part, files, follow)?;
    if length == 0 {
        return Err(CacheError::Empty { url: url.to_string() });
    }
    let Content { etag, last_modified, .. } = *content;
    let url = url.to_string();
    Ok(Download::Complete(Sidecar {
        url,
        etag,
        last_modified,
        length,
        sha256,
        fetched_at: 0,
        checked_at: 0,
        verified: None,
    }))
}

/// Takes the space first: a full disk shows before the download instead of near its end. Not every file system can.
fn reserve(part: &File, length: u64, files: &EntryFiles) -> Result<(), CacheError> {
    let no_space = || CacheError::Full { length, dir: files.dir().to_owned() };
    if length == 0 {
        return Ok(());
    }
    let size = i64::try_from(length).ok().ok_or_else(no_space)?;
    match fallocate(part, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, size) {
        Err(Errno::ENOSPC | Errno::EFBIG | Errno::EDQUOT) => Err(no_space()),
        _ => Ok(()),
    }
}

/// Writes the body to `part` and gives its length and SHA-256.
fn receive(
    content: &mut Content,
    mut part: File,
    files: &EntryFiles,
    follow: &Follow,
) -> Result<(u64, String), CacheError> {
    let mut buffer = vec![0; BUFFER];
    let mut hash = Sha256::new();
    let (mut length, mut flushed) = (0, 0);
    loop {
        let count = content.body.receive(&mut buffer)?;
        if count == 0 {
            break;
        }
        let data = &buffer[..count];
        hash.update(data);
        part.write_all(data).map_err(CacheError::io("writing", &files.part))?;
        length += count as u64;
        if !follow.advance(count) {
            return Err(CacheError::Abandoned);
        }
        if length - flushed >= FLUSH_STEP {
            sys::start_writeback(&part, flushed, length - flushed);
            flushed = length;
        }
    }
    // The body had its promised length: who reads along may finish while this waits for the disk.
    follow.end(length > 0);
    part.sync_all().map_err(CacheError::io("writing", &files.part))?;
    Ok((length, hex(&hash.finalize())))
}
