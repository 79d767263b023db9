// SPDX-License-Identifier: BSD-2-Clause
//! The errors of the cache.

use std::io;
use std::path::{Path, PathBuf};

use crate::node::size::ByteSize;
use crate::store::http::HttpError;

/// A failure of the cache or of the download into it. URLs are without their secrets.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant shows what its fields hold")]
pub enum CacheError {
    #[error("cache folder {}: {reason}", dir.display())]
    Folder { dir: PathBuf, reason: String },
    #[error("{doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "the download needs {} in the cache folder {}, {}",
        ByteSize(*needed), dir.display(), room(*free, *reserve)
    )]
    Full { needed: u64, free: Option<u64>, reserve: u64, dir: PathBuf },
    #[error(
        "{url}: the download was stopped after {}: there is no room for more in the cache folder {}, {}",
        ByteSize(*received), dir.display(), room(*free, *reserve)
    )]
    Stopped { url: String, received: u64, free: Option<u64>, reserve: u64, dir: PathBuf },
    #[error(
        "{url}: the download was stopped: the image is larger than {}, and kept images may not have more together (raise cache.max_size)",
        ByteSize(*max_size)
    )]
    BeyondMaxSize { url: String, max_size: u64 },
    #[error("writing a sidecar of the cache: {reason}")]
    Sidecar { reason: String },
    #[error("{url}: the server sent an empty image")]
    Empty { url: String },
    #[error("{url}: what the server has now is not the image that was asked for (the kept one stays in the cache)")]
    NotAccepted { url: String },
    #[error("no image of {what} is in the cache")]
    NotCached { what: String },
    #[error("{url} is in use")]
    InUse { url: String },
    #[error("{count} images have a key that begins with {key} (give more digits)")]
    AmbiguousKey { key: String, count: usize },
    #[error(
        "'{what}' is not an entry of the cache (give the image's name, its URL, or at least 4 digits of its key; simpleimage cache list shows them)"
    )]
    InvalidKey { what: String },
    #[error("the download was given up")]
    Abandoned,
    #[error(transparent)]
    Http(#[from] HttpError),
}

/// What room there is, and the ways out. `free` is none if the system does not tell.
fn room(free: Option<u64>, reserve: u64) -> String {
    const WAYS_OUT: &str = "simpleimage cache list shows what can be removed; or lower cache.min_free";
    match free {
        Some(free) => {
            format!("which has {} free, and {} have to stay free ({WAYS_OUT})", ByteSize(free), ByteSize(reserve))
        }
        None => format!("which is full ({WAYS_OUT})"),
    }
}

impl CacheError {
    /// Whether nothing can be written: the file system is full or read-only, or a quota is used up.
    pub(super) fn is_unwritable(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        matches!(self, CacheError::Io { source, .. }
            if matches!(source.kind(), QuotaExceeded | ReadOnlyFilesystem | StorageFull))
    }

    /// For `map_err`: the error of doing something to `path`.
    pub(super) fn io<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> CacheError + 'a {
        move |source| CacheError::Io { doing, path: path.to_owned(), source }
    }
}
