// SPDX-License-Identifier: BSD-2-Clause
//! Why an image is not to be had from the cache.

use std::io;
use std::path::{Path, PathBuf};

use crate::node::size::ByteSize;
use crate::store::http::HttpError;

/// A failure of the cache or of the download into it.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The folder is not one to trust.
    #[error("cache folder {}: {reason}", dir.display())]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the cache could not be used.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done: "writing", ...
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The image does not fit; known before its first byte came.
    #[error(
        "the download needs {} in the cache folder {}{} (simpleimage cache list shows what can be removed)",
        ByteSize(*needed), dir.display(), free_text(*free)
    )]
    Full {
        /// Bytes that are still to come.
        needed: u64,
        /// Bytes free, where the system tells.
        free: Option<u64>,
        /// The folder.
        dir: PathBuf,
    },
    /// The server sent an image of no bytes.
    #[error("{url}: the server sent an empty image")]
    Empty {
        /// The image, secrets left out.
        url: String,
    },
    /// What the server has by now is not what was asked for; the kept image stays.
    #[error("{url}: what the server has now is not the image that was asked for (the kept one stays in the cache)")]
    NotAccepted {
        /// The image, secrets left out.
        url: String,
    },
    /// There is no such image.
    #[error("no image of {what} is in the cache")]
    NotCached {
        /// The URL, secrets left out, or digits of a key.
        what: String,
    },
    /// It can't be removed.
    #[error("{url} is in use")]
    InUse {
        /// The image, secrets left out.
        url: String,
    },
    /// Digits that several keys begin with.
    #[error("{count} images have a key that begins with {key} (give more digits)")]
    AmbiguousKey {
        /// The digits.
        key: String,
        /// How many keys.
        count: usize,
    },
    /// Neither a URL nor digits of a key.
    #[error(
        "'{what}' is not an entry of the cache (give the image's name, its URL, or at least 4 digits of its key; simpleimage cache list shows them)"
    )]
    InvalidKey {
        /// What was given, unless it may hold a password.
        what: String,
    },
    /// Who read along had no use for the rest.
    #[error("the download was given up")]
    Abandoned,
    /// The download failed.
    #[error(transparent)]
    Http(#[from] HttpError),
}

fn free_text(free: Option<u64>) -> String {
    free.map_or_else(|| ", which is full".to_owned(), |free| format!(", which has {} free", ByteSize(free)))
}

impl CacheError {
    /// For `map_err`: the error of doing something to `path`.
    pub(super) fn io<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> CacheError + 'a {
        move |source| CacheError::Io { doing, path: path.to_owned(), source }
    }
}
