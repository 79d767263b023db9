// SPDX-License-Identifier: BSD-2-Clause
//! One entry of the cache: its files, and the order in which they change.
//!
//! A sidecar exists only together with the image that it describes. Publishing removes the old sidecar, renames the new
//! image into place, and writes the new sidecar. Each step is on the disk before the next. A process killed in between, or
//! a power cut, leaves an image without a sidecar, which is no entry.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::CacheError;
use super::lock::EntryLock;
use super::{folder, lock};
use crate::store::http::{Conditions, ImageUrl};

/// A sidecar has a few hundred bytes. A longer file is no sidecar.
const MAX_SIDECAR: u64 = 64 << 10;

/// What is known about a cached image, stored as TOML beside it. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sidecar {
    /// URL of the image without secrets.
    pub(super) url: String,
    /// URLs of its redirects without secrets. A later policy is checked against them too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) via: Vec<String>,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    /// Length in bytes.
    pub(super) length: u64,
    /// SHA-256 as hex digits.
    pub(super) sha256: String,
    /// Time of the download.
    pub(crate) fetched_at: u64,
    /// Time when the server last said that the image is current.
    pub(crate) checked_at: u64,
    /// The proof of [`super::Cache::mark_verified`].
    pub(super) verified: Option<String>,
}

impl Sidecar {
    /// Conditions for a request that asks whether the image has changed.
    pub(super) fn conditions(&self) -> Conditions {
        Conditions { if_none_match: self.etag.clone(), if_modified_since: self.last_modified.clone() }
    }
}

/// The files of one entry.
pub(crate) struct EntryFiles {
    dir: PathBuf,
    /// Created once, never replaced.
    pub(super) lock: PathBuf,
    /// A download in progress, or what is left of one.
    pub(super) part: PathBuf,
    /// The checkpoint of `part`.
    pub(super) mark: PathBuf,
    /// A sidecar or a checkpoint while it is written.
    pub(super) tmp: PathBuf,
    /// The image.
    pub(super) img: PathBuf,
    /// The sidecar.
    pub(super) toml: PathBuf,
}

/// A complete entry. Its image is marked as in use.
pub(super) struct Entry {
    pub(super) file: File,
    pub(super) sidecar: Sidecar,
}

impl EntryFiles {
    /// The files for `url`. The key is the SHA-256 of the whole URL with its secrets.
    pub(super) fn of_url(dir: &Path, url: &ImageUrl) -> Self {
        Self::of_key(dir, &hex(&Sha256::digest(url.as_url().as_str())))
    }

    pub(super) fn of_key(dir: &Path, key: &str) -> Self {
        let file = |suffix: &str| dir.join(format!("{key}.{suffix}"));
        EntryFiles {
            dir: dir.to_owned(),
            lock: file("lock"),
            part: file("part"),
            mark: file("mark"),
            tmp: file("tmp"),
            img: file("img"),
            toml: file("toml"),
        }
    }

    /// The key in a file name that the cache may have written.
    pub(crate) fn key_of(name: &str) -> Option<&str> {
        let (key, suffix) = name.split_once('.')?;
        let is_key = key.len() == 64 && key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (is_key && matches!(suffix, "lock" | "part" | "mark" | "tmp" | "img" | "toml")).then_some(key)
    }

    pub(super) fn key(&self) -> &str {
        self.img.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The entry, if it is complete. The caller holds the entry's lock.
    pub(super) fn entry(&self) -> Result<Option<Entry>, CacheError> {
        let Some(sidecar) = self.sidecar()? else { return Ok(None) };
        let Some(file) = folder::open_file(&self.img, false)? else { return Ok(None) };
        let metadata = file.metadata().map_err(CacheError::io("looking at", &self.img))?;
        let is_complete = metadata.is_file() && metadata.len() == sidecar.length;
        let is_ours = is_complete && lock::mark_used(&file, &self.img)?;
        Ok(is_ours.then_some(Entry { file, sidecar }))
    }

    /// The entry, if it is complete. Waits for the entry's lock, but makes no lock file.
    pub(super) fn wait_for_entry(&self) -> Result<Option<Entry>, CacheError> {
        let Some(lock) = EntryLock::existing(&self.lock)? else { return Ok(None) };
        lock.shared(|| ())?;
        self.entry()
    }

    /// The entry's lock, held alone. It is none if there is no lock file, or another process holds the lock.
    pub(super) fn try_lock(&self) -> Result<Option<EntryLock>, CacheError> {
        match EntryLock::existing(&self.lock)? {
            Some(lock) if lock.try_exclusive()? => Ok(Some(lock)),
            _ => Ok(None),
        }
    }

    /// The sidecar, if there is a valid one.
    pub(super) fn sidecar(&self) -> Result<Option<Sidecar>, CacheError> {
        Ok(read_text(&self.toml)?.and_then(|text| toml::from_str(&text).ok()))
    }

    /// The text of the checkpoint, if there is one.
    pub(super) fn checkpoint_text(&self) -> Result<Option<String>, CacheError> {
        read_text(&self.mark)
    }

    /// Creates a new, empty part file. It never empties the old file, which somebody may still read.
    pub(super) fn create_part(&self) -> Result<File, CacheError> {
        folder::remove(&self.part)?;
        folder::create_file(&self.part)
    }

    /// Opens the part file for reading and writing, if there is one.
    pub(super) fn open_part(&self) -> Result<Option<File>, CacheError> {
        folder::open_file(&self.part, true)
    }

    /// Length of the part file in bytes, if there is one.
    pub(super) fn part_length(&self) -> Option<u64> {
        folder::regular_file(&self.part).map(|metadata| metadata.len())
    }

    /// Removes the part file. Its checkpoint, which means nothing without it, is removed first.
    pub(super) fn discard_part(&self) -> Result<(), CacheError> {
        self.discard_checkpoint()?;
        folder::remove_regular(&self.part)
    }

    pub(super) fn discard_checkpoint(&self) -> Result<(), CacheError> {
        folder::remove_regular(&self.mark)
    }

    pub(super) fn discard_tmp(&self) -> Result<(), CacheError> {
        folder::remove_regular(&self.tmp)
    }

    /// Removes an image that nobody uses, with its sidecar, and tells whether it did. The caller holds the entry's lock
    /// alone.
    pub(super) fn remove_unused(&self) -> Result<bool, CacheError> {
        if folder::regular_file(&self.img).is_none() {
            folder::remove_regular(&self.toml)?;
            return Ok(false);
        }
        let Some(image) = folder::open_file(&self.img, false)? else { return Ok(false) };
        if !lock::claim_unused(&image, &self.img)? {
            return Ok(false);
        }
        folder::remove_regular(&self.toml)?;
        folder::remove(&self.img)?;
        Ok(true)
    }

    /// Makes the complete part file the image that `sidecar` describes. The caller holds the entry's lock alone.
    pub(super) fn publish(&self, sidecar: &Sidecar) -> Result<(), CacheError> {
        self.discard_checkpoint()?;
        folder::remove(&self.toml)?;
        folder::sync(&self.dir)?;
        fs::rename(&self.part, &self.img).map_err(CacheError::io("renaming", &self.part))?;
        folder::sync(&self.dir)?;
        self.write_sidecar(sidecar)
    }

    /// Replaces the sidecar. The caller holds the entry's lock alone.
    pub(super) fn write_sidecar(&self, sidecar: &Sidecar) -> Result<(), CacheError> {
        let text = toml::to_string(sidecar).map_err(io::Error::other).map_err(CacheError::io("writing", &self.toml))?;
        self.replace(&self.toml, &text)?;
        folder::sync(&self.dir)
    }

    /// Replaces the content of the file at `path` with `text`. After a failure the old content is still there.
    pub(super) fn replace(&self, path: &Path, text: &str) -> Result<(), CacheError> {
        let mut file = folder::create_file(&self.tmp)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&self.tmp, path))
            .map_err(CacheError::io("writing", path))
    }
}

/// Hex digits of a hash.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text of a small file; none if there is no file, or it is no text.
fn read_text(path: &Path) -> Result<Option<String>, CacheError> {
    let Some(file) = folder::open_file(path, false)? else { return Ok(None) };
    let mut text = Vec::new();
    file.take(MAX_SIDECAR).read_to_end(&mut text).map_err(CacheError::io("reading", path))?;
    Ok(String::from_utf8(text).ok())
}

#[cfg(test)]
mod tests {
    use super::{EntryFiles, Sidecar};
    use crate::store::http::ImageUrl;
    use std::fs;
    use std::path::Path;

    fn sidecar(content: &str) -> Sidecar {
        Sidecar {
            url: "http://h/x".to_owned(),
            via: Vec::new(),
            etag: Some("\"v1\"".to_owned()),
            last_modified: None,
            length: content.len() as u64,
            sha256: "00".repeat(32),
            fetched_at: 1,
            checked_at: 2,
            verified: None,
        }
    }

    fn entry_bytes(files: &EntryFiles) -> Option<String> {
        let mut text = String::new();
        let mut entry = files.entry().unwrap()?;
        std::io::Read::read_to_string(&mut entry.file, &mut text).unwrap();
        Some(text)
    }

    #[test]
    fn the_key_is_the_hash_of_the_whole_url() {
        let key = |text: &str| {
            let files = EntryFiles::of_url(Path::new("/c"), &ImageUrl::parse(text).unwrap());
            files.img.to_str().unwrap().to_owned()
        };
        assert_eq!(key("http://h/x"), "/c/86ca99740210faa002c7e540649a2601947e24afbb48775eddb3870bc9b97601.img");
        assert_ne!(key("http://h/x"), key("http://h/x?token=1"));
    }

    #[test]
    fn only_own_names_have_a_key() {
        let key = "0123456789abcdef".repeat(4);
        for suffix in ["lock", "part", "mark", "tmp", "img", "toml"] {
            assert_eq!(EntryFiles::key_of(&format!("{key}.{suffix}")), Some(key.as_str()));
        }
        for name in ["golden.img", "CACHEDIR.TAG", &key, &format!("{key}.raw"), &format!("{}.img", key.to_uppercase())]
        {
            assert_eq!(EntryFiles::key_of(name), None, "{name}");
        }
        assert_eq!(EntryFiles::key_of(&format!("{key}.img.bak")), None);
    }

    #[test]
    fn a_publication_killed_at_any_step_leaves_an_old_entry_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let files = EntryFiles::of_key(dir.path(), "k");
        fs::write(&files.part, "old").unwrap();
        files.publish(&sidecar("old")).unwrap();
        // The same length on purpose: nothing but the order of the steps tells old from new.
        fs::write(&files.part, "new").unwrap();
        assert_eq!(entry_bytes(&files).as_deref(), Some("old"));
        fs::remove_file(&files.toml).unwrap();
        assert_eq!(entry_bytes(&files), None);
        fs::rename(&files.part, &files.img).unwrap();
        assert_eq!(entry_bytes(&files), None);
        fs::write(&files.tmp, "half a sidec").unwrap();
        assert_eq!(entry_bytes(&files), None);
        files.write_sidecar(&sidecar("new")).unwrap();
        assert_eq!(entry_bytes(&files).as_deref(), Some("new"));
        assert_eq!(files.sidecar().unwrap(), Some(sidecar("new")));
    }

    #[test]
    fn what_does_not_fit_together_is_no_entry() {
        let dir = tempfile::tempdir().unwrap();
        let files = EntryFiles::of_key(dir.path(), "k");
        fs::write(&files.part, "image").unwrap();
        files.publish(&sidecar("image")).unwrap();
        fs::write(&files.img, "imag").unwrap();
        assert_eq!(entry_bytes(&files), None);
        fs::write(&files.img, "image").unwrap();
        assert_eq!(entry_bytes(&files).as_deref(), Some("image"));
        for broken in ["", "length = 5\n", "\u{0}\u{0}\u{0}"] {
            fs::write(&files.toml, broken).unwrap();
            assert_eq!(entry_bytes(&files), None, "{broken:?}");
        }
        files.write_sidecar(&sidecar("image")).unwrap();
        fs::remove_file(&files.img).unwrap();
        assert_eq!(entry_bytes(&files), None);
    }
}
