// SPDX-License-Identifier: BSD-2-Clause
//! One kept image: its files, and the order in which they change.
//!
//! A sidecar is only ever there together with the image it describes. Publishing removes the old sidecar, puts the new
//! image in place, and puts the new sidecar beside it, each step on the disk before the next: a process killed in
//! between, or a power cut, leaves an image without a sidecar, which is no entry.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::CacheError;
use super::{folder, lock};
use crate::store::http::{Conditions, ImageUrl};

/// A sidecar is a few hundred bytes; a longer file is none.
const MAX_SIDECAR: u64 = 64 << 10;

/// What is known about a kept image, as TOML beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sidecar {
    /// Where it came from, secrets left out.
    pub(crate) url: String,
    /// Where its server redirected to, secrets left out: a policy that comes later holds for these too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) via: Vec<String>,
    /// The server's ETag.
    pub(crate) etag: Option<String>,
    /// The server's Last-Modified.
    pub(crate) last_modified: Option<String>,
    /// Its bytes.
    pub(crate) length: u64,
    /// Its SHA-256 as hex digits.
    pub(crate) sha256: String,
    /// When it was downloaded, in seconds since 1970.
    pub(crate) fetched_at: u64,
    /// When the server last said that it is current, in seconds since 1970.
    pub(crate) checked_at: u64,
    /// What it was last found to agree with, where that had to be fetched: see [`super::Cache::mark_verified`].
    pub(crate) verified: Option<String>,
}

impl Sidecar {
    /// What to ask the server for to learn whether the image changed.
    pub(crate) fn conditions(&self) -> Conditions {
        Conditions { if_none_match: self.etag.clone(), if_modified_since: self.last_modified.clone() }
    }
}

/// The files of one entry.
pub(crate) struct EntryFiles {
    dir: PathBuf,
    /// Created once, never replaced.
    pub(crate) lock: PathBuf,
    /// A download going on, or left by a killed one.
    pub(crate) part: PathBuf,
    /// How much of `part` counts.
    pub(crate) mark: PathBuf,
    /// A sidecar or a mark being written.
    pub(crate) tmp: PathBuf,
    /// The image.
    pub(crate) img: PathBuf,
    /// The sidecar.
    pub(crate) toml: PathBuf,
}

/// An entry that is whole, its image marked as in use.
pub(crate) struct Entry {
    pub(crate) file: File,
    pub(crate) sidecar: Sidecar,
}

impl EntryFiles {
    /// The files for `url`: the key is the SHA-256 of all of it, secrets included.
    pub(crate) fn of_url(dir: &Path, url: &ImageUrl) -> Self {
        Self::of_key(dir, &hex(&Sha256::digest(url.as_url().as_str())))
    }

    /// The files for a key.
    pub(crate) fn of_key(dir: &Path, key: &str) -> Self {
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

    /// The key in the name of a file, if it is one that the cache may have written.
    pub(crate) fn key_of(name: &str) -> Option<&str> {
        let (key, suffix) = name.split_once('.')?;
        let own = key.len() == 64 && key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (own && matches!(suffix, "lock" | "part" | "mark" | "tmp" | "img" | "toml")).then_some(key)
    }

    /// The key.
    pub(crate) fn key(&self) -> &str {
        self.img.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
    }

    /// The folder they are in.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The entry, if it is whole. The caller holds the entry's lock.
    pub(crate) fn entry(&self) -> Result<Option<Entry>, CacheError> {
        let Some(sidecar) = self.sidecar()? else { return Ok(None) };
        let Some(file) = open_if_there(&self.img)? else { return Ok(None) };
        let metadata = file.metadata().map_err(CacheError::io("looking at", &self.img))?;
        let whole = metadata.is_file() && metadata.len() == sidecar.length;
        let ours = whole && lock::mark_used(&file).map_err(CacheError::io("locking", &self.img))?;
        Ok(ours.then_some(Entry { file, sidecar }))
    }

    /// The sidecar, if there is a valid one.
    pub(crate) fn sidecar(&self) -> Result<Option<Sidecar>, CacheError> {
        Ok(read_text(&self.toml)?.and_then(|text| toml::from_str(&text).ok()))
    }

    /// The text of the mark, if there is one.
    pub(crate) fn mark_text(&self) -> Result<Option<String>, CacheError> {
        read_text(&self.mark)
    }

    /// The empty file that a download goes to: another one each time, for somebody may still read the last.
    pub(crate) fn create_part(&self) -> Result<File, CacheError> {
        remove_if_there(&self.part)?;
        create(&self.part)
    }

    /// The file that a download went to, for reading and writing, if there is one.
    pub(crate) fn open_part(&self) -> Result<Option<File>, CacheError> {
        let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&self.part);
        if_there(opened).map_err(CacheError::io("opening", &self.part))
    }

    /// The mark, for writing, if there is one.
    pub(crate) fn open_mark(&self) -> Result<Option<File>, CacheError> {
        let opened = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(&self.mark);
        if_there(opened).map_err(CacheError::io("opening", &self.mark))
    }

    /// The length in bytes of the file that a download went to, if there is one.
    pub(crate) fn part_length(&self) -> Option<u64> {
        fs::symlink_metadata(&self.part).ok().filter(fs::Metadata::is_file).map(|metadata| metadata.len())
    }

    /// Whether there is a mark.
    pub(crate) fn has_mark(&self) -> bool {
        is_regular(&self.mark)
    }

    /// Removes what there is of a download; the mark first, which means nothing without the file.
    pub(crate) fn discard_part(&self) -> Result<(), CacheError> {
        self.discard_mark()?;
        remove_if_regular(&self.part)
    }

    /// Removes the mark.
    pub(crate) fn discard_mark(&self) -> Result<(), CacheError> {
        remove_if_regular(&self.mark)
    }

    /// Removes what was being written.
    pub(crate) fn discard_tmp(&self) -> Result<(), CacheError> {
        remove_if_regular(&self.tmp)
    }

    /// Makes the complete `.part` file the image that `sidecar` describes. The caller holds the entry's lock alone.
    pub(crate) fn publish(&self, sidecar: &Sidecar) -> Result<(), CacheError> {
        self.discard_mark()?;
        remove_if_there(&self.toml)?;
        folder::sync(&self.dir)?;
        fs::rename(&self.part, &self.img).map_err(CacheError::io("renaming", &self.part))?;
        folder::sync(&self.dir)?;
        self.write_sidecar(sidecar)
    }

    /// Replaces the sidecar. The caller holds the entry's lock alone.
    pub(crate) fn write_sidecar(&self, sidecar: &Sidecar) -> Result<(), CacheError> {
        let text = toml::to_string(sidecar).map_err(io::Error::other).map_err(CacheError::io("writing", &self.toml))?;
        self.replace(&self.toml, &text)?;
        folder::sync(&self.dir)
    }

    /// Makes `text` all that is in the file at `path`, or leaves it as it is.
    pub(crate) fn replace(&self, path: &Path, text: &str) -> Result<(), CacheError> {
        let mut file = create(&self.tmp)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&self.tmp, path))
            .map_err(CacheError::io("writing", path))
    }
}

/// Hex digits of a hash.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Removes a file, or finds that it is gone.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), CacheError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CacheError::io("removing", path)(error)),
        _ => Ok(()),
    }
}

/// Opens a file for reading, if there is one.
pub(crate) fn open_if_there(path: &Path) -> Result<Option<File>, CacheError> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path);
    if_there(opened).map_err(CacheError::io("opening", path))
}

fn if_there(opened: io::Result<File>) -> io::Result<Option<File>> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The text of a small file; none when there is none, or when it is something else.
fn read_text(path: &Path) -> Result<Option<String>, CacheError> {
    let Some(file) = open_if_there(path)? else { return Ok(None) };
    let mut text = Vec::new();
    file.take(MAX_SIDECAR).read_to_end(&mut text).map_err(CacheError::io("reading", path))?;
    Ok(String::from_utf8(text).ok())
}

/// Whether there is a file as the cache makes them: never a link or a folder.
pub(crate) fn is_regular(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// Removes a file as the cache makes them, if there is one.
pub(crate) fn remove_if_regular(path: &Path) -> Result<(), CacheError> {
    if is_regular(path) { remove_if_there(path) } else { Ok(()) }
}

fn create(path: &Path) -> Result<File, CacheError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path).map_err(CacheError::io("creating", path))
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
