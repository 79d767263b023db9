// SPDX-License-Identifier: BSD-2-Clause
//! One entry of the cache: its files, and the order in which they change.
//!
//! A sidecar exists only together with the image that it describes. Publishing writes the new sidecar beside the old one,
//! which is all that needs room on the disk. Then it removes the old sidecar, renames the new image into place, and
//! renames the new sidecar. Each step is on the disk before the next. A process killed in between, or a power cut, leaves
//! an image without a sidecar, which is no entry.
//!
//! The files have other names than those of version 0.1.0 (`KEY.img`, ...), see [`Naming`]. That version never removes a
//! lock file, and does not look whether the file that it locked still has its name. While a package is upgraded, a run of
//! it may go on beside runs of this version. Had the two versions the same lock files, such a run could hold a file that
//! this version has removed, and both would write one image. With names of their own they share nothing but the entries
//! that this version takes over, which it does under the lock of the former one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::CacheError;
use super::lock::EntryLock;
use super::sidecar::{Sidecar, read_text};
use super::{folder, lock};
use crate::store::hex;
use crate::store::http::ImageUrl;

/// The endings of an entry's names.
const SUFFIXES: [&str; 6] = ["lock", "part", "mark", "tmp", "img", "toml"];

/// Which version of this program made the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Naming {
    /// `KEY.v2.img`, ...
    Current,
    /// `KEY.img`, ...: version 0.1.0.
    Former,
}

/// The files of one entry.
#[derive(Debug, Clone)]
pub(crate) struct EntryFiles {
    dir: PathBuf,
    key: String,
    naming: Naming,
    /// See [`lock`].
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
        Self::of_key(dir, &hex(&Sha256::digest(url.as_url().as_str())), Naming::Current)
    }

    pub(super) fn of_key(dir: &Path, key: &str, naming: Naming) -> Self {
        let version = match naming {
            Naming::Current => ".v2",
            Naming::Former => "",
        };
        let file = |suffix: &str| dir.join(format!("{key}{version}.{suffix}"));
        EntryFiles {
            dir: dir.to_owned(),
            key: key.to_owned(),
            naming,
            lock: file("lock"),
            part: file("part"),
            mark: file("mark"),
            tmp: file("tmp"),
            img: file("img"),
            toml: file("toml"),
        }
    }

    /// The key, the version and the ending of a file name that the cache may have written.
    pub(crate) fn parse_name(name: &str) -> Option<(&str, Naming, &'static str)> {
        let (key, ending) = name.split_once('.')?;
        let (naming, ending) = match ending.strip_prefix("v2.") {
            Some(ending) => (Naming::Current, ending),
            None => (Naming::Former, ending),
        };
        let is_key = key.len() == 64 && key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let suffix = SUFFIXES.into_iter().find(|suffix| *suffix == ending)?;
        is_key.then_some((key, naming, suffix))
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn naming(&self) -> Naming {
        self.naming
    }

    /// The files of the same image that version 0.1.0 made.
    pub(super) fn former(&self) -> Self {
        Self::of_key(&self.dir, &self.key, Naming::Former)
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

    /// The entry, if it is complete, without the entry's lock. A publication removes the sidecar before it touches the
    /// image. So if the sidecar is the same before and after the image was opened, it describes that image.
    pub(super) fn unlocked_entry(&self) -> Result<Option<Entry>, CacheError> {
        let entry = self.entry()?;
        let after = self.sidecar()?;
        Ok(entry.filter(|entry| after.as_ref() == Some(&entry.sidecar)))
    }

    /// The entry, if it is complete. Waits for the entry's lock, but makes no lock file.
    pub(super) fn wait_for_entry(&self) -> Result<Option<Entry>, CacheError> {
        if let Some(mut lock) = EntryLock::existing(&self.lock)? {
            lock.shared(|| ())?;
        }
        self.unlocked_entry()
    }

    /// The entry's lock, held alone. It is none if another process holds the lock, or if the lock file is missing and
    /// none can be made.
    pub(super) fn try_lock(&self) -> Result<Option<EntryLock>, CacheError> {
        match EntryLock::open(&self.lock) {
            Ok(mut lock) => Ok(lock.try_exclusive()?.then_some(lock)),
            Err(error) if error.is_unwritable() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives up the entry's lock, which the caller holds alone. If nothing else is left of the entry, the lock file goes
    /// too. Version 0.1.0 would not notice that, so that its lock files stay.
    pub(super) fn release(&self, lock: EntryLock) {
        if self.naming == Naming::Current && self.is_empty() {
            lock.remove();
        }
    }

    /// Whether there is nothing but the lock file.
    pub(super) fn is_empty(&self) -> bool {
        [&self.part, &self.mark, &self.tmp, &self.img, &self.toml]
            .into_iter()
            .all(|path| path.symlink_metadata().is_err())
    }

    /// Whether the cache has made these files. Version 0.1.0 made no other file without a lock file. But an administrator
    /// may have removed that, and then a sidecar tells.
    pub(super) fn are_ours(&self) -> Result<bool, CacheError> {
        Ok(self.naming == Naming::Current
            || folder::regular_file(&self.lock).is_some()
            || self.regular_sidecar()?.is_some())
    }

    /// The sidecar, if there is a valid one.
    pub(super) fn sidecar(&self) -> Result<Option<Sidecar>, CacheError> {
        Ok(read_text(&self.toml)?.and_then(|text| toml::from_str(&text).ok()))
    }

    /// The sidecar, if there is a valid one in a regular file.
    pub(super) fn regular_sidecar(&self) -> Result<Option<Sidecar>, CacheError> {
        match self.sidecar() {
            // The cache makes neither links nor folders, so that such a thing is somebody else's.
            Err(_) if folder::regular_file(&self.toml).is_none() => Ok(None),
            sidecar => sidecar,
        }
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

    /// Makes the complete part file the image that `sidecar` describes. The caller holds the entry's lock alone. After a
    /// failure there is the old entry, or none.
    pub(super) fn publish(&self, sidecar: &Sidecar) -> Result<(), CacheError> {
        self.write_tmp(&sidecar.to_text()?).map_err(CacheError::io("writing", &self.toml))?;
        self.discard_checkpoint()?;
        self.replace_image(&self.part, &self.toml)
    }

    /// Takes over the entry that version 0.1.0 made of this image, unless a run of that version works on it. If there is
    /// an entry already, the former one is removed. The caller holds the entry's lock alone.
    pub(super) fn take_over_former(&self) -> Result<(), CacheError> {
        let former = self.former();
        if folder::regular_file(&former.toml).is_none() || folder::regular_file(&former.img).is_none() {
            return Ok(());
        }
        let Some(_lock) = former.try_lock()? else { return Ok(()) };
        // The image is closed again at once, because what is open is in use.
        match former.entry()?.map(|entry| entry.sidecar) {
            Some(sidecar) if self.sidecar()?.is_none() => {
                self.write_tmp(&sidecar.to_text()?).map_err(CacheError::io("writing", &self.toml))?;
                self.replace_image(&former.img, &former.toml)
            }
            Some(_) => former.remove_unused().map(drop),
            None => Ok(()),
        }
    }

    /// Renames `image` into place, and the new sidecar beside it. The sidecar `old` is removed first.
    fn replace_image(&self, image: &Path, old: &Path) -> Result<(), CacheError> {
        folder::remove(old)?;
        folder::sync(&self.dir)?;
        fs::rename(image, &self.img).map_err(CacheError::io("renaming", image))?;
        let described = folder::sync(&self.dir)
            .and_then(|()| fs::rename(&self.tmp, &self.toml).map_err(CacheError::io("renaming", &self.tmp)));
        if described.is_err() {
            // Without its sidecar it is no entry.
            let _ = folder::remove(&self.img);
        }
        described.and_then(|()| folder::sync(&self.dir))
    }

    /// Replaces the sidecar. The caller holds the entry's lock alone.
    pub(super) fn write_sidecar(&self, sidecar: &Sidecar) -> Result<(), CacheError> {
        self.replace(&self.toml, &sidecar.to_text()?)?;
        folder::sync(&self.dir)
    }

    /// Replaces the content of the file at `path` with `text`. After a failure the old content is still there.
    pub(super) fn replace(&self, path: &Path, text: &str) -> Result<(), CacheError> {
        self.write_tmp(text).and_then(|()| fs::rename(&self.tmp, path)).map_err(CacheError::io("writing", path))
    }

    /// Writes `text` to the disk under a name that counts for nothing. After a failure there is no such file.
    fn write_tmp(&self, text: &str) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let written = options.open(&self.tmp).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        if written.is_err() {
            let _ = fs::remove_file(&self.tmp);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::{EntryFiles, Naming};
    use crate::store::cache::sidecar::tests::sidecar;
    use crate::store::http::ImageUrl;
    use std::fs;
    use std::path::Path;

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
        assert_eq!(key("http://h/x"), "/c/86ca99740210faa002c7e540649a2601947e24afbb48775eddb3870bc9b97601.v2.img");
        assert_ne!(key("http://h/x"), key("http://h/x?token=1"));
    }

    #[test]
    fn only_own_names_have_a_key() {
        let key = "0123456789abcdef".repeat(4);
        for suffix in ["lock", "part", "mark", "tmp", "img", "toml"] {
            let (former, current) = (format!("{key}.{suffix}"), format!("{key}.v2.{suffix}"));
            assert_eq!(EntryFiles::parse_name(&former), Some((key.as_str(), Naming::Former, suffix)));
            assert_eq!(EntryFiles::parse_name(&current), Some((key.as_str(), Naming::Current, suffix)));
        }
        for name in ["golden.img", "CACHEDIR.TAG", &key, &format!("{key}.raw"), &format!("{}.img", key.to_uppercase())]
        {
            assert_eq!(EntryFiles::parse_name(name), None, "{name}");
        }
        for ending in ["img.bak", "v2", "v2.", "v3.img", "v2.v2.img", "v2.img.bak"] {
            assert_eq!(EntryFiles::parse_name(&format!("{key}.{ending}")), None, "{ending}");
        }
    }

    #[test]
    fn a_sidecar_that_cannot_be_written_leaves_the_old_entry_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let files = EntryFiles::of_key(dir.path(), "k", Naming::Current);
        fs::write(&files.part, "old").unwrap();
        files.publish(&sidecar("old")).unwrap();
        fs::write(&files.part, "new").unwrap();
        // Nothing can be written under this name.
        fs::create_dir(&files.tmp).unwrap();
        let error = files.publish(&sidecar("new")).unwrap_err().to_string();
        assert_eq!(error, format!("writing {}", files.toml.display()));
        assert_eq!(entry_bytes(&files).as_deref(), Some("old"));
    }

    #[test]
    fn what_the_former_version_kept_is_taken_over_under_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let files = EntryFiles::of_key(dir.path(), "k", Naming::Current);
        let former = files.former();
        let lock = fs::File::create(&former.lock).unwrap();
        fs::write(&former.part, "old").unwrap();
        former.publish(&sidecar("old")).unwrap();
        lock.lock().unwrap();
        files.take_over_former().unwrap();
        assert_eq!(entry_bytes(&files), None, "a run of that version works on it");
        lock.unlock().unwrap();
        files.take_over_former().unwrap();
        assert_eq!((entry_bytes(&files).as_deref(), entry_bytes(&former)), (Some("old"), None));
        assert!(former.lock.exists(), "whoever waits for it must find it");
        // That run downloads once more: ours stays, and there is one again.
        fs::write(&former.part, "new").unwrap();
        former.publish(&sidecar("new")).unwrap();
        files.take_over_former().unwrap();
        assert_eq!((entry_bytes(&files).as_deref(), former.is_empty()), (Some("old"), true));
    }

    #[test]
    fn a_publication_killed_at_any_step_leaves_an_old_entry_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let files = EntryFiles::of_key(dir.path(), "k", Naming::Current);
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
        let files = EntryFiles::of_key(dir.path(), "k", Naming::Current);
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
