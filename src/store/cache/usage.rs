// SPDX-License-Identifier: BSD-2-Clause
//! What became of a kept image: when it was last used, whether it was found to be the right one, and which images go
//! when the cache grows too large.
//!
//! The time of the last use is the image's modification time: setting it is one step that needs no lock and can't be
//! half done, and an image's bytes never change anyway.

use std::fs::File;
use std::path::Path;
use std::time::SystemTime;

use super::entry::{Entry, EntryFiles, Sidecar, is_regular};
use super::error::CacheError;
use super::lock::EntryLock;
use super::{Cache, CachedImage, folder, prune};
use crate::store::http::ImageUrl;

/// One download of one URL: speaks of a kept image without holding it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadId {
    key: String,
    sha256: String,
    fetched_at: u64,
}

impl DownloadId {
    fn new(files: &EntryFiles, sidecar: &Sidecar) -> Self {
        DownloadId { key: files.key().to_owned(), sha256: sidecar.sha256.clone(), fetched_at: sidecar.fetched_at }
    }
}

impl CachedImage {
    /// The image of an entry that is used now.
    pub(super) fn used(files: &EntryFiles, entry: Entry, hit: bool, now: SystemTime) -> Self {
        // Only the order of removal depends on it.
        let _ = entry.file.set_modified(now);
        Self::of_entry(files, entry, hit)
    }

    pub(super) fn of_entry(files: &EntryFiles, Entry { file, sidecar }: Entry, hit: bool) -> Self {
        let id = DownloadId::new(files, &sidecar);
        CachedImage { file, path: files.img.clone(), hit, len: sidecar.length, sha256: sidecar.sha256, id }
    }
}

impl Cache {
    /// The kept image of `url`, of any age, if it was [marked](Cache::mark_verified) with `proof`.
    pub fn verified(&self, url: &ImageUrl, proof: &str, now: SystemTime) -> Result<Option<CachedImage>, CacheError> {
        let files = EntryFiles::of_url(self.dir(), url);
        let Some(lock) = open_lock(&files)? else { return Ok(None) };
        lock.shared(|| ()).map_err(CacheError::io("locking", &files.lock))?;
        let entry = files.entry()?.filter(|entry| entry.sidecar.verified.as_deref() == Some(proof));
        Ok(entry.map(|entry| CachedImage::used(&files, entry, true, now)))
    }

    /// Notes in the sidecar that the image was found to be what `proof` says, should that not be had again later. An
    /// entry that somebody is at, or that is another download's by now, stays as it is.
    pub fn mark_verified(&self, id: &DownloadId, proof: &str) -> Result<(), CacheError> {
        let files = EntryFiles::of_key(self.dir(), &id.key);
        let Some(lock) = open_lock(&files)? else { return Ok(()) };
        if !lock.try_exclusive().map_err(CacheError::io("locking", &files.lock))? {
            return Ok(());
        }
        match files.sidecar()?.filter(|sidecar| DownloadId::new(&files, sidecar) == *id) {
            Some(sidecar) if sidecar.verified.as_deref() != Some(proof) => {
                files.write_sidecar(&Sidecar { verified: Some(proof.to_owned()), ..sidecar })
            }
            _ => Ok(()),
        }
    }

    /// Opens a download again, which nothing removes while it is open; none when it is gone, or another is in its place.
    pub(crate) fn open_download(&self, id: &DownloadId) -> Result<Option<CachedImage>, CacheError> {
        let files = EntryFiles::of_key(self.dir(), &id.key);
        let Some(lock) = open_lock(&files)? else { return Ok(None) };
        lock.shared(|| ()).map_err(CacheError::io("locking", &files.lock))?;
        let entry = files.entry()?.filter(|entry| DownloadId::new(&files, &entry.sidecar) == *id);
        Ok(entry.map(|entry| CachedImage::of_entry(&files, entry, true)))
    }

    /// Makes a download that turned out wrong no entry any more. Who uses it keeps the file; otherwise it is removed.
    /// What was downloaded in its place meanwhile stays.
    pub fn discard(&self, id: &DownloadId) -> Result<(), CacheError> {
        let files = EntryFiles::of_key(self.dir(), &id.key);
        let Some(lock) = open_lock(&files)? else { return Ok(()) };
        lock.exclusive(|| ()).map_err(CacheError::io("locking", &files.lock))?;
        if files.sidecar()?.is_some_and(|sidecar| DownloadId::new(&files, &sidecar) == *id) {
            super::entry::remove_if_there(&files.toml)?;
            folder::sync(self.dir())?;
            prune::remove_unused(&files)?;
        }
        Ok(())
    }
}

fn open_lock(files: &EntryFiles) -> Result<Option<EntryLock>, CacheError> {
    EntryLock::existing(&files.lock).map_err(CacheError::io("opening", &files.lock))
}

/// Removes the images that were not used for the longest time until all together have at most `max_size` bytes, and
/// gives their number. Images in use stay, and so does one that is just being looked at.
pub(super) fn shrink(dir: &Path, max_size: u64) -> Result<usize, CacheError> {
    let mut images = Vec::new();
    for key in prune::own_keys(dir)? {
        let files = EntryFiles::of_key(dir, &key);
        if is_regular(&files.lock) && is_regular(&files.img) {
            // Gone by now: somebody else makes room too.
            images.extend(size_and_use(&files.img).map(|(len, used)| (used, len, files)));
        }
    }
    images.sort_by_key(|(used, ..)| *used);
    let mut total: u64 = images.iter().map(|(_, len, _)| len).sum();
    let mut removed = 0;
    for (_, len, files) in images {
        if total <= max_size {
            break;
        }
        let Some(lock) = open_lock(&files)? else { continue };
        if lock.try_exclusive().map_err(CacheError::io("locking", &files.lock))? && prune::remove_unused(&files)? {
            total -= len;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Length in bytes, and the time of the last use.
fn size_and_use(image: &Path) -> Option<(u64, SystemTime)> {
    let metadata = std::fs::symlink_metadata(image).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

/// When an image was last used.
pub(super) fn last_use(image: &File) -> SystemTime {
    image.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}
