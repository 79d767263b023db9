// SPDX-License-Identifier: BSD-2-Clause
//! The checkpoint of an interrupted download: the `.mark` file beside a `.part` file.
//!
//! A checkpoint says which version of the image the first bytes of the file belong to, how many they are, and their
//! SHA-256. Those bytes are on the disk before the checkpoint is written. A note at its end says how far the download has
//! come since. The note is overwritten without waiting for the disk, so that it holds when the process is killed. A power
//! cut may damage the note or its bytes, but then only the note is lost.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::access::Access;
use super::entry::EntryFiles;
use super::error::CacheError;
use super::folder;
use crate::store::hex;
use crate::store::http::Validator;

/// Bytes read from the disk at once, at most.
const BUFFER: usize = 256 << 10;

/// The note begins with this header of a table in the same TOML document, if no power cut has damaged it.
const NOTE: &str = "[latest]\n";

/// The version of the image that is downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// URLs of the redirects without secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) via: Vec<String>,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    /// Length in bytes.
    pub(super) total: Option<u64>,
    /// Without it the download can't be resumed.
    pub(super) validator: Option<Validator>,
    /// By what means the bytes were had.
    pub(super) access: Access,
}

/// The length in bytes and the SHA-256 of the beginning of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HashedPrefix {
    pub(super) length: u64,
    /// As hex digits.
    pub(super) sha256: String,
}

/// A checkpoint without its note, stored as TOML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// Bytes that survive a power cut.
    #[serde(flatten)]
    pub(super) safe: HashedPrefix,
    /// Seconds since 1970.
    pub(super) written_at: u64,
    pub(super) origin: Origin,
}

impl Checkpoint {
    /// Writes the checkpoint to the disk, and opens its file for notes.
    pub(super) fn write(&self, files: &EntryFiles) -> Result<CheckpointFile, CacheError> {
        let failed = CacheError::io("writing", &files.mark);
        let text = toml::to_string(self).map_err(io::Error::other).map_err(&failed)?;
        files.replace(&files.mark, &text)?;
        let file = folder::open_file(&files.mark, true)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        Ok(CheckpointFile { file, note_at: text.len() as u64 })
    }
}

/// The open file of a checkpoint.
pub(super) struct CheckpointFile {
    file: File,
    note_at: u64,
}

impl CheckpointFile {
    /// Overwrites the note. All notes have the same length and lie in one page of the file, so that each is written as a
    /// whole or not at all.
    pub(super) fn write_note(&self, latest: &HashedPrefix) -> io::Result<()> {
        let HashedPrefix { length, sha256 } = latest;
        let text = format!("{NOTE}length = {length:<20}\nsha256 = \"{sha256}\"\n");
        self.file.write_all_at(text.as_bytes(), self.note_at)
    }
}

/// A checkpoint that an earlier run left.
pub(super) struct SavedCheckpoint {
    pub(super) checkpoint: Checkpoint,
    latest: Option<HashedPrefix>,
}

impl SavedCheckpoint {
    /// Reads the checkpoint, if there is a valid one.
    pub(super) fn read(files: &EntryFiles) -> Option<Self> {
        let text = files.checkpoint_text().ok()??;
        let (safe, note) = text.split_once(NOTE).unwrap_or((&text, ""));
        let checkpoint: Checkpoint = toml::from_str(safe).ok()?;
        let latest: Option<HashedPrefix> = toml::from_str(note).ok();
        let latest = latest.filter(|latest| latest.length > checkpoint.safe.length);
        Some(SavedCheckpoint { checkpoint, latest })
    }

    /// Bytes that the note, or else the checkpoint, tells of.
    pub(super) fn length(&self) -> u64 {
        self.latest.as_ref().map_or(self.checkpoint.safe.length, |latest| latest.length)
    }

    /// Whether the download can be resumed and has bytes missing.
    pub(super) fn is_usable(&self) -> bool {
        let is_incomplete = self.checkpoint.origin.total.is_none_or(|total| self.length() < total);
        self.checkpoint.origin.validator.is_some() && self.length() > 0 && is_incomplete
    }

    /// Reads `part` and compares the hashes. Gives the number of bytes that hold, and their hash; none if not even the
    /// safe bytes hold.
    pub(super) fn verify(&self, part: &File) -> Option<(u64, Sha256)> {
        let safe = &self.checkpoint.safe;
        let mut reader = part;
        let hash = hash_on(&Sha256::new(), &mut reader, safe.length, &safe.sha256)?;
        if let Some(latest) = &self.latest
            && let Some(hash) = hash_on(&hash, &mut reader, latest.length - safe.length, &latest.sha256)
        {
            return Some((latest.length, hash));
        }
        Some((safe.length, hash))
    }
}

/// Adds the next `length` bytes of `file` to `hash`; none if there are fewer, or the result is not `expected`.
fn hash_on(hash: &Sha256, file: &mut &File, length: u64, expected: &str) -> Option<Sha256> {
    let mut hash = hash.clone();
    let mut buffer = vec![0; BUFFER];
    let mut rest = file.take(length);
    while rest.limit() > 0 {
        match rest.read(&mut buffer) {
            Ok(0) => return None,
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    (hex(&hash.clone().finalize()) == expected).then_some(hash)
}
