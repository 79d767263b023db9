// SPDX-License-Identifier: BSD-2-Clause
//! What is kept, for people to look at, check and remove.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::entry::{EntryFiles, is_regular, open_if_there};
use super::error::CacheError;
use super::lock::{self, EntryLock};
use super::{Cache, CachedImage, prune, usage};
use crate::store::http::ImageUrl;

/// How many digits of a key are needed at least to mean an entry: fewer are easily a typing error.
const MIN_KEY_DIGITS: usize = 4;

/// A kept image, as its sidecar describes it. Times are to the second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedImageInfo {
    /// The SHA-256 of its URL, as hex digits: the name of its files.
    pub(crate) key: String,
    /// Where it came from, without secrets.
    pub url: String,
    /// The file.
    pub(crate) path: PathBuf,
    /// Its length in bytes.
    pub(crate) len: u64,
    /// Its SHA-256 when it was downloaded.
    pub(crate) sha256: String,
    /// The server's ETag.
    pub(crate) etag: Option<String>,
    /// The server's Last-Modified.
    pub(crate) last_modified: Option<String>,
    /// When it was downloaded.
    pub(crate) fetched_at: SystemTime,
    /// When its server last said that it is current.
    pub(crate) checked_at: SystemTime,
    /// When it was last used.
    pub(crate) used_at: SystemTime,
    /// Whether somebody is using it.
    pub in_use: bool,
}

impl Cache {
    /// All images that are whole, the one used last first.
    pub fn list(&self) -> Result<Vec<CachedImageInfo>, CacheError> {
        let keys = prune::own_keys(self.dir())?;
        let kept = keys.iter().map(|key| kept(&EntryFiles::of_key(self.dir(), key)));
        let mut images: Vec<_> = kept.filter_map(Result::transpose).collect::<Result<_, _>>()?;
        images.sort_by(|a, b| b.used_at.cmp(&a.used_at).then_with(|| a.key.cmp(&b.key)));
        Ok(images)
    }

    /// The image of `url`, if it is whole.
    pub(crate) fn kept(&self, url: &ImageUrl) -> Result<Option<CachedImageInfo>, CacheError> {
        kept(&EntryFiles::of_url(self.dir(), url))
    }

    /// The image that `text` names: its URL, or at least 4 digits of its key.
    pub(crate) fn find(&self, text: &str) -> Result<CachedImageInfo, CacheError> {
        if let Ok(url) = ImageUrl::parse(text) {
            return self.kept(&url)?.ok_or_else(|| CacheError::NotCached { what: url.to_string() });
        }
        let digits = text.len() >= MIN_KEY_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !digits {
            let what = if ImageUrl::looks_like_url(text) || text.contains(['@', '?', '=']) { "..." } else { text };
            return Err(CacheError::InvalidKey { what: what.to_owned() });
        }
        let mut images = self.list()?;
        images.retain(|image| image.key.starts_with(&text.to_ascii_lowercase()));
        match images.len() {
            0 => Err(CacheError::NotCached { what: text.to_owned() }),
            1 => Ok(images.remove(0)),
            count => Err(CacheError::AmbiguousKey { key: text.to_owned(), count }),
        }
    }

    /// Opens a listed image, which nothing removes while it is open; none when it is gone. That is no use of it.
    pub(crate) fn open_image(&self, image: &CachedImageInfo) -> Result<Option<CachedImage>, CacheError> {
        let files = EntryFiles::of_key(self.dir(), &image.key);
        let Some(lock) = EntryLock::existing(&files.lock).map_err(CacheError::io("opening", &files.lock))? else {
            return Ok(None);
        };
        lock.shared(|| ()).map_err(CacheError::io("locking", &files.lock))?;
        Ok(files.entry()?.map(|entry| CachedImage::of_entry(&files, entry, true)))
    }

    /// Removes a listed image, unless it is in use.
    pub(crate) fn remove(&self, image: &CachedImageInfo) -> Result<(), CacheError> {
        let files = EntryFiles::of_key(self.dir(), &image.key);
        let in_use = || CacheError::InUse { url: image.url.clone() };
        let Some(lock) = EntryLock::existing(&files.lock).map_err(CacheError::io("opening", &files.lock))? else {
            return Ok(());
        };
        if !lock.try_exclusive().map_err(CacheError::io("locking", &files.lock))? {
            return Err(in_use());
        }
        if !prune::remove_unused(&files)? && is_regular(&files.img) {
            return Err(in_use());
        }
        Ok(())
    }
}

/// What is known about an entry, if it is whole. Publishing takes the sidecar away before it touches the image, so that
/// this needs no lock.
fn kept(files: &EntryFiles) -> Result<Option<CachedImageInfo>, CacheError> {
    if ![&files.lock, &files.toml, &files.img].into_iter().all(|path| is_regular(path)) {
        return Ok(None);
    }
    let (Some(sidecar), Some(file)) = (files.sidecar()?, open_if_there(&files.img)?) else { return Ok(None) };
    let len = file.metadata().map_err(CacheError::io("looking at", &files.img))?.len();
    if len != sidecar.length {
        return Ok(None);
    }
    Ok(Some(CachedImageInfo {
        key: files.key().to_owned(),
        url: sidecar.url,
        path: files.img.clone(),
        len,
        sha256: sidecar.sha256,
        etag: sidecar.etag,
        last_modified: sidecar.last_modified,
        fetched_at: time(sidecar.fetched_at),
        checked_at: time(sidecar.checked_at),
        used_at: usage::last_use(&file),
        in_use: in_use(files, &file)?,
    }))
}

/// So many seconds after 1970.
pub(crate) fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Whether somebody holds the image or is at the entry. An image is only ever locked alone under the entry's lock:
/// otherwise who is about to use it would take it for one that is being removed.
fn in_use(files: &EntryFiles, image: &std::fs::File) -> Result<bool, CacheError> {
    let Some(lock) = EntryLock::existing(&files.lock).map_err(CacheError::io("opening", &files.lock))? else {
        return Ok(false);
    };
    let free = lock.try_exclusive().map_err(CacheError::io("locking", &files.lock))?
        && lock::claim_unused(image).map_err(CacheError::io("locking", &files.img))?;
    // The image's lock goes before the entry's.
    image.unlock().map_err(CacheError::io("unlocking", &files.img))?;
    Ok(!free)
}
