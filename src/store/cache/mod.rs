// SPDX-License-Identifier: BSD-2-Clause
//! The cache of downloaded images.
//!
//! Every URL has an entry of files named after the SHA-256 of the URL: `KEY.v2.img`, the image; `KEY.v2.toml`, the sidecar
//! with what is known about it, and who may have it; `KEY.v2.lock`, locked shared while an entry is looked at and
//! exclusively while its image is downloaded or removed; `KEY.v2.part` and `KEY.v2.tmp`, the first two while they are
//! written; `KEY.v2.mark`, the checkpoint from which a later run resumes a download. The user of an image holds a shared
//! lock on the image itself. `access.key` is the key of the hashes of credentials in sidecars.

mod access;
pub(crate) mod checkpoint;
mod download;
pub(crate) mod entry;
mod error;
mod fetch;
mod folder;
pub(crate) mod images;
mod lock;
mod partial_download;
mod prune;
mod room;
mod scan;
mod shared_download;
pub(crate) mod sidecar;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::node::file::descriptor_path;
use crate::node::size::ByteSize;
use crate::store::http::ImageUrl;
use checkpoint::SavedCheckpoint;
use entry::{Entry, EntryFiles, Naming};
pub use error::CacheError;
pub(crate) use images::CachedImageInfo;
pub use prune::STALE_RETENTION;
pub(crate) use prune::{CleanupOptions, Leftover};
pub(crate) use shared_download::{DownloadFile, DownloadInfo, DownloadReader, SharedDownload};
use sidecar::Sidecar;

/// The settings of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSettings {
    /// The folder, which is the cache's own.
    pub dir: PathBuf,
    /// How long an image is used without asking its server. Zero asks every time.
    pub max_age: Duration,
    /// Use a cached image of any age when its server is down or out of reach.
    pub stale_if_error: bool,
    /// Bytes that all images may have together. None means no limit.
    pub max_size: Option<ByteSize>,
    /// Bytes of the file system that no download takes. None means a part of it.
    pub min_free: Option<ByteSize>,
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    settings: CacheSettings,
}

/// A cached image. Nothing removes it while `file` is open.
#[derive(Debug)]
pub struct CachedImage {
    /// Open for reading at its start, with a shared lock. Its bytes never change.
    pub file: File,
    /// Path of the image. A later download may put another image there. `/proc/self/fd` always names these bytes.
    pub path: PathBuf,
    /// Whether it was in the cache already, so that no byte was downloaded for this call.
    pub hit: bool,
    /// Length in bytes.
    pub len: u64,
    /// SHA-256 of the downloaded bytes as hex digits.
    pub sha256: String,
    /// Names this download.
    pub id: DownloadId,
}

/// Names one download of one URL, without keeping it from being removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadId {
    key: String,
    naming: Naming,
    sha256: String,
    fetched_at: u64,
}

impl DownloadId {
    fn new(files: &EntryFiles, sidecar: &Sidecar) -> Self {
        DownloadId {
            key: files.key().to_owned(),
            naming: files.naming(),
            sha256: sidecar.sha256.clone(),
            fetched_at: sidecar.fetched_at,
        }
    }
}

impl CachedImage {
    /// The image of an entry that is used now. The modification time of an image is the time of its last use: it is set
    /// in one step without a lock, and the bytes of an image never change.
    fn used(files: &EntryFiles, entry: Entry, hit: bool, now: SystemTime) -> Self {
        // A failure changes only the order in which images are removed. A worker may set no times: see `note_use`.
        let _ = entry.file.set_modified(now);
        Self::of_entry(files, entry, hit)
    }

    /// The image of an entry, without a use of it.
    fn of_entry(files: &EntryFiles, Entry { file, sidecar }: Entry, hit: bool) -> Self {
        let id = DownloadId::new(files, &sidecar);
        CachedImage { file, path: files.img.clone(), hit, len: sidecar.length, sha256: sidecar.sha256, id }
    }
}

impl Cache {
    /// Notes that a worker has used `image` now. Only an image of this cache is changed, because a worker may answer with any file.
    pub(crate) fn note_use(&self, image: &File) {
        let path = std::fs::read_link(descriptor_path(image));
        let folder = self.dir().canonicalize();
        if path.is_ok_and(|path| folder.is_ok_and(|folder| path.parent() == Some(&folder))) {
            let _ = image.set_modified(SystemTime::now());
        }
    }

    /// Opens the cache, and makes its folder (mode 0700) if it is missing.
    ///
    /// # Errors
    /// The folder is a symbolic link, belongs to another user, or others may write to it.
    pub fn open(settings: &CacheSettings) -> Result<Self, CacheError> {
        let dir = folder::open(&settings.dir)?;
        Ok(Cache { settings: CacheSettings { dir, ..settings.clone() } })
    }

    /// Opens the cache if its folder exists.
    pub(crate) fn existing(settings: &CacheSettings) -> Result<Option<Self>, CacheError> {
        match std::fs::symlink_metadata(&settings.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => Self::open(settings).map(Some),
        }
    }

    /// The cache's folder. It is also used for temporary files that no other user may see.
    pub(crate) fn dir(&self) -> &Path {
        &self.settings.dir
    }

    /// The message about what a run leaves of the image of `url` when it is stopped. None if there is nothing.
    pub(crate) fn describe_partial(&self, url: &ImageUrl) -> Option<String> {
        let files = EntryFiles::of_url(self.dir(), url);
        if let Some(saved) = SavedCheckpoint::read(&files).filter(SavedCheckpoint::is_usable) {
            return Some(download::resumable_text(url, saved.length()));
        }
        if files.part_length().is_some_and(|bytes| bytes > 0) {
            return Some(format!(
                "nothing of the download of {url} is kept: it is too little, or its server gives no validator"
            ));
        }
        files.sidecar().ok()?.map(|_sidecar| format!("{url} is in the cache: the next run need not download it"))
    }
}

/// The current time, computed from a time that was given earlier. Waiting for another download can take long.
#[derive(Clone, Copy)]
struct Clock {
    now: SystemTime,
    read_at: Instant,
}

impl Clock {
    fn new(now: SystemTime) -> Self {
        Clock { now, read_at: Instant::now() }
    }

    fn time(&self) -> SystemTime {
        self.now + self.read_at.elapsed()
    }
}

/// Whole seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
