// SPDX-License-Identifier: BSD-2-Clause
//! The images in the cache: listing, opening, marking as verified, and removing them.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::access::Requester;
use super::entry::{Entry, EntryFiles, Naming};
use super::error::CacheError;
use super::lock::{self, EntryLock, LockedFiles};
use super::scan::scan;
use super::sidecar::{LAST_TIME, Sidecar};
use super::{Cache, CachedImage, DownloadId, folder};
use crate::node::parallel;
use crate::store::http::{Client, ImageUrl};

/// A user has to give at least this many digits of a key. Fewer are too easily a typing error.
const MIN_KEY_DIGITS: usize = 4;

/// A description of a cached image. Times are exact to the second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedImageInfo {
    /// SHA-256 of the URL as hex digits, which is in the names of the files.
    pub(crate) key: String,
    pub(super) naming: Naming,
    /// URL of the image without secrets.
    pub url: String,
    pub(crate) path: PathBuf,
    /// Length in bytes.
    pub(crate) len: u64,
    /// SHA-256 of the downloaded bytes.
    pub(crate) sha256: String,
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
    pub(crate) fetched_at: SystemTime,
    /// Time when its server last said that it is current.
    pub(crate) checked_at: SystemTime,
    pub(crate) used_at: SystemTime,
    /// Whether a process uses the image now.
    pub in_use: bool,
}

impl Cache {
    /// All complete images, beginning with the one that was used last.
    pub fn list(&self) -> Result<Vec<CachedImageInfo>, CacheError> {
        let mut entries = scan(self.dir())?;
        entries.retain(|(_, names)| names.has("img") && names.has("toml"));
        let locked = LockedFiles::read();
        let mut images = Vec::new();
        for image in parallel::map(&entries, |(files, names)| info(files, locked.may_have_any(names))) {
            images.extend(image?);
        }
        // Of one image this version and the former one may both have a file. The newer name is told.
        images.dedup_by(|a, b| a.key == b.key);
        images.sort_by(|a, b| b.used_at.cmp(&a.used_at).then_with(|| a.key.cmp(&b.key)));
        Ok(images)
    }

    /// Describes the image of `url`, if it is complete.
    pub(crate) fn info(&self, url: &ImageUrl) -> Result<Option<CachedImageInfo>, CacheError> {
        let files = EntryFiles::of_url(self.dir(), url);
        info(&files, true)?.map_or_else(|| info(&files.former(), true), |image| Ok(Some(image)))
    }

    /// Finds the image that `text` names by its URL, or by at least 4 digits of its key.
    pub(crate) fn find(&self, text: &str) -> Result<CachedImageInfo, CacheError> {
        if let Ok(url) = ImageUrl::parse(text) {
            return self.info(&url)?.ok_or_else(|| CacheError::NotCached { what: url.to_string() });
        }
        if text.len() < MIN_KEY_DIGITS || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let may_be_secret = ImageUrl::looks_like_url(text) || text.contains(['@', '?', '=']);
            return Err(CacheError::InvalidKey { what: if may_be_secret { "..." } else { text }.to_owned() });
        }
        let mut images = self.list()?;
        images.retain(|image| image.key.starts_with(&text.to_ascii_lowercase()));
        match images.len() {
            0 => Err(CacheError::NotCached { what: text.to_owned() }),
            1 => Ok(images.remove(0)),
            count => Err(CacheError::AmbiguousKey { key: text.to_owned(), count }),
        }
    }

    /// Opens a listed image, if it is still there. Nothing removes it while it is open. This is no use of the image.
    pub(crate) fn open_image(&self, image: &CachedImageInfo) -> Result<Option<CachedImage>, CacheError> {
        let files = EntryFiles::of_key(self.dir(), &image.key, image.naming);
        Ok(files.wait_for_entry()?.map(|entry| CachedImage::of_entry(&files, entry, true)))
    }

    /// Opens the image of a download again; none if it is gone, or replaced by another download. This is no use of the
    /// image.
    pub(crate) fn open_download(&self, id: &DownloadId) -> Result<Option<CachedImage>, CacheError> {
        let files = EntryFiles::of_key(self.dir(), &id.key, id.naming);
        let entry = files.wait_for_entry()?.filter(|entry| DownloadId::new(&files, &entry.sidecar) == *id);
        Ok(entry.map(|entry| CachedImage::of_entry(&files, entry, true)))
    }

    /// The cached image of `url`, of any age, if it was [marked](Cache::mark_verified) with `proof`, and who asks with
    /// `client` had it before.
    pub fn verified(
        &self,
        url: &ImageUrl,
        client: &Client,
        proof: &str,
        now: SystemTime,
    ) -> Result<Option<CachedImage>, CacheError> {
        let files = EntryFiles::of_url(self.dir(), url);
        let requester = Requester::new(client, url, self.dir());
        let is_verified = |entry: &Entry| {
            entry.sidecar.verified.as_deref() == Some(proof) && requester.find(&entry.sidecar.access).is_some()
        };
        let entry = files.wait_for_entry()?.filter(is_verified);
        Ok(entry.map(|entry| CachedImage::used(&files, entry, true, now)))
    }

    /// Notes in the sidecar that the image agreed with `proof`, which may be out of reach later. Does nothing if another
    /// process works on the entry, or another download has replaced the image.
    pub fn mark_verified(&self, id: &DownloadId, proof: &str) -> Result<(), CacheError> {
        let files = EntryFiles::of_key(self.dir(), &id.key, id.naming);
        let Some(lock) = files.try_lock()? else { return Ok(()) };
        let sidecar = files.sidecar()?.filter(|sidecar| DownloadId::new(&files, sidecar) == *id);
        let noted = match sidecar {
            Some(sidecar) if sidecar.verified.as_deref() != Some(proof) => {
                files.write_sidecar(&Sidecar { verified: Some(proof.to_owned()), ..sidecar })
            }
            _ => Ok(()),
        };
        files.release(lock);
        noted
    }

    /// Removes a download that turned out to be wrong, unless another download has replaced it. If the image is in use,
    /// only its sidecar is removed, so that it is no entry any more.
    pub fn discard(&self, id: &DownloadId) -> Result<(), CacheError> {
        let files = EntryFiles::of_key(self.dir(), &id.key, id.naming);
        let mut lock = EntryLock::open(&files.lock)?;
        lock.exclusive(|| ())?;
        let discarded = self.discard_locked(&files, id);
        files.release(lock);
        discarded
    }

    fn discard_locked(&self, files: &EntryFiles, id: &DownloadId) -> Result<(), CacheError> {
        if files.sidecar()?.is_some_and(|sidecar| DownloadId::new(files, &sidecar) == *id) {
            folder::remove(&files.toml)?;
            folder::sync(self.dir())?;
            files.remove_unused()?;
        }
        Ok(())
    }

    /// Removes a listed image. It is an error if the image is in use.
    pub(crate) fn remove(&self, image: &CachedImageInfo) -> Result<(), CacheError> {
        let current = EntryFiles::of_key(self.dir(), &image.key, Naming::Current);
        for files in [current.former(), current] {
            if folder::regular_file(&files.img).is_none() || !files.are_ours()? {
                continue;
            }
            let Some(lock) = files.try_lock()? else { return Err(CacheError::InUse { url: image.url.clone() }) };
            let removed = files.remove_unused();
            files.release(lock);
            if !removed? && folder::regular_file(&files.img).is_some() {
                return Err(CacheError::InUse { url: image.url.clone() });
            }
        }
        Ok(())
    }
}

/// Describes an entry, if it is complete. This needs no lock, because publishing removes the sidecar before it touches
/// the image. The locks are looked at only if the image `may_be_used`.
fn info(files: &EntryFiles, may_be_used: bool) -> Result<Option<CachedImageInfo>, CacheError> {
    let Some(sidecar) = files.regular_sidecar()? else { return Ok(None) };
    let Some(metadata) = folder::regular_file(&files.img).filter(|image| image.len() == sidecar.length) else {
        return Ok(None);
    };
    Ok(Some(CachedImageInfo {
        key: files.key().to_owned(),
        naming: files.naming(),
        url: sidecar.url,
        path: files.img.clone(),
        len: sidecar.length,
        sha256: sidecar.sha256,
        etag: sidecar.etag,
        last_modified: sidecar.last_modified,
        fetched_at: time(sidecar.fetched_at),
        checked_at: time(sidecar.checked_at),
        used_at: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        in_use: may_be_used && in_use(files)?,
    }))
}

/// The time that is `seconds` after 1970.
pub(crate) fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_TIME))
}

/// Whether a process uses the image or works on the entry. The image may be locked alone only under the entry's lock.
/// Otherwise a process that is about to use the image would think that it is being removed.
fn in_use(files: &EntryFiles) -> Result<bool, CacheError> {
    let mut lock = EntryLock::existing(&files.lock)?;
    if let Some(lock) = &mut lock
        && !lock.try_exclusive()?
    {
        return Ok(true);
    }
    let Some(image) = folder::open_file(&files.img, false)? else { return Ok(false) };
    let is_free = lock::claim_unused(&image, &files.img)?;
    // The image has to be unlocked before the entry.
    image.unlock().map_err(CacheError::io("unlocking", &files.img))?;
    Ok(!is_free)
}
