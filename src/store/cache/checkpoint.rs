// SPDX-License-Identifier: BSD-2-Clause
//! The mark beside a `.part` file: how much of the file counts.
//!
//! It says that the first so many bytes have this SHA-256 and belong to this version of the image. Those bytes are on the
//! disk before that is written. Behind it stands a note of how far the download has come since, which is written over
//! without waiting for the disk: it holds when a process is killed, and a power cut that tears it, or the bytes that it
//! speaks of, takes no more than the note.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::entry::{EntryFiles, hex};
use super::error::CacheError;
use crate::store::http::Validator;

/// Bytes read back from the disk at once, at most.
const BUFFER: usize = 256 << 10;

/// Where the note begins: a table of the same TOML document, if nothing has torn it.
const NOTE: &str = "[latest]\n";

/// What is known of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// Where its server redirected to, secrets left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) via: Vec<String>,
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
    /// Its length in bytes.
    pub(crate) total: Option<u64>,
    /// Without it nobody can go on.
    pub(crate) validator: Option<Validator>,
}

/// So many bytes, and their hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HashedPrefix {
    pub(crate) length: u64,
    /// As hex digits.
    pub(crate) sha256: String,
}

/// What a mark says that waited for the disk, as TOML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// What is there even after a power cut.
    #[serde(flatten)]
    pub(crate) safe: HashedPrefix,
    /// When it was written, in seconds since 1970.
    pub(crate) written_at: u64,
    pub(crate) origin: Origin,
}

impl Checkpoint {
    /// Puts it onto the disk; gives where notes go.
    pub(crate) fn write(&self, files: &EntryFiles) -> Result<CheckpointFile, CacheError> {
        let failed = CacheError::io("writing", &files.mark);
        let text = toml::to_string(self).map_err(io::Error::other).map_err(&failed)?;
        files.replace(&files.mark, &text)?;
        let file = files.open_mark()?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        Ok(CheckpointFile { file, at: text.len() as u64 })
    }
}

/// A mark that notes are added to.
pub(crate) struct CheckpointFile {
    file: File,
    at: u64,
}

impl CheckpointFile {
    /// Replaces the note. Each has the same length, in one page of the file: it is there as a whole or not at all.
    pub(crate) fn note(&self, latest: &HashedPrefix) -> io::Result<()> {
        let HashedPrefix { length, sha256 } = latest;
        self.file.write_all_at(format!("{NOTE}length = {length:<20}\nsha256 = \"{sha256}\"\n").as_bytes(), self.at)
    }
}

/// A mark as an earlier run left it.
pub(crate) struct SavedCheckpoint {
    pub(crate) mark: Checkpoint,
    latest: Option<HashedPrefix>,
}

impl SavedCheckpoint {
    /// The mark, if there is one.
    pub(crate) fn read(files: &EntryFiles) -> Option<Self> {
        let text = files.mark_text().ok()??;
        let (safe, note) = text.split_once(NOTE).unwrap_or((&text, ""));
        let mark: Checkpoint = toml::from_str(safe).ok()?;
        let latest: Option<HashedPrefix> = toml::from_str(note).ok();
        let latest = latest.filter(|latest| latest.length > mark.safe.length);
        Some(SavedCheckpoint { mark, latest })
    }

    /// How many bytes it speaks of.
    pub(crate) fn length(&self) -> u64 {
        self.latest.as_ref().map_or(self.mark.safe.length, |latest| latest.length)
    }

    /// Whether there is something to go on from, something missing, and a way to ask for it.
    pub(crate) fn is_usable(&self) -> bool {
        let missing = self.mark.origin.total.is_none_or(|total| self.length() < total);
        self.mark.origin.validator.is_some() && self.length() > 0 && missing
    }

    /// How many bytes of `part` it vouches for, and their hash; none where what was safe is not.
    pub(crate) fn intact(&self, part: &File) -> Option<(u64, Sha256)> {
        let SavedCheckpoint { mark: Checkpoint { safe, .. }, latest } = self;
        let mut reader = part;
        let mut hash = Sha256::new();
        extend(&mut hash, &mut reader, safe.length).ok()?;
        if hex(&hash.clone().finalize()) != safe.sha256 {
            return None;
        }
        let further = latest.as_ref().and_then(|latest| {
            let mut hash = hash.clone();
            extend(&mut hash, &mut reader, latest.length - safe.length).ok()?;
            (hex(&hash.clone().finalize()) == latest.sha256).then_some((latest.length, hash))
        });
        Some(further.unwrap_or((safe.length, hash)))
    }
}

/// Takes the next `length` bytes in; an error when there are fewer.
fn extend(hash: &mut Sha256, file: &mut &File, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut rest = file.take(length);
    while rest.limit() > 0 {
        match rest.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
