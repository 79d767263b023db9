// SPDX-License-Identifier: BSD-2-Clause
//! What a killed process or a power cut left in the cache, and why it is of no use any more.
//!
//! Only files of the cache's own naming, with the lock file that goes with them, and only those of entries that nobody
//! is at: their locks end with the process that held them. The lock files themselves stay, for two processes must not
//! hold locks on two files of one name.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::entry::{EntryFiles, is_regular, open_if_there};
use super::error::CacheError;
use super::lock;
use super::{Cache, partial_download, prune, seconds};

/// `st_blocks` counts in these (stat(2)), in bytes.
const BLOCK: u64 = 512;

/// A file that is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leftover {
    /// The file.
    pub(crate) path: PathBuf,
    /// The room that it takes, in bytes.
    pub(crate) bytes: u64,
    /// What it is.
    pub(crate) reason: &'static str,
}

/// Which leftovers go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CleanupOptions {
    /// Cut downloads too that a later run could go on with.
    pub(crate) all: bool,
    /// None: only tell which ones would.
    pub(crate) dry_run: bool,
}

impl Cache {
    /// Removes what is left of processes that were killed before `now`, and says what that was. Whole images stay,
    /// however old they are, and what anybody is at.
    pub(crate) fn clean(&self, now: SystemTime, cleaning: CleanupOptions) -> Result<Vec<Leftover>, CacheError> {
        let mut found = Vec::new();
        prune::each_idle_entry(self.dir(), |files| {
            found.extend(download(files, seconds(now), cleaning)?);
            found.extend(image(files, cleaning)?);
            Ok(())
        })?;
        Ok(found)
    }
}

/// What there is of a download, and of a file that was being written.
fn download(files: &EntryFiles, now: u64, cleaning: CleanupOptions) -> Result<Vec<Leftover>, CacheError> {
    let mut found = leftover(&files.tmp, "a description that was not written to its end");
    if !cleaning.dry_run {
        files.discard_tmp()?;
    }
    let resumable =
        || (cleaning.all && files.part_length().is_some()).then_some("a cut download that could be gone on with");
    if let Some(reason) = partial_download::useless(files, now).or_else(resumable) {
        found.extend(leftover(&files.part, reason));
        found.extend(leftover(&files.mark, "how much of that download counts"));
        if !cleaning.dry_run {
            files.discard_part()?;
        }
    }
    Ok(found)
}

/// An image or a description that was not published with its other half.
fn image(files: &EntryFiles, cleaning: CleanupOptions) -> Result<Vec<Leftover>, CacheError> {
    let len = fs::symlink_metadata(&files.img).ok().filter(fs::Metadata::is_file).map(|image| image.len());
    let sidecar = if is_regular(&files.toml) { files.sidecar()? } else { None };
    if sidecar.is_some_and(|sidecar| Some(sidecar.length) == len) || !is_unused(files)? {
        return Ok(Vec::new());
    }
    let mut found = leftover(&files.img, "an image that was not published to its end");
    found.extend(leftover(&files.toml, "the description of an image that is not there"));
    if !cleaning.dry_run {
        prune::remove_unused(files)?;
    }
    Ok(found)
}

/// Whether nobody has the image open, as the cache's users do.
fn is_unused(files: &EntryFiles) -> Result<bool, CacheError> {
    let Some(image) = (if is_regular(&files.img) { open_if_there(&files.img)? } else { None }) else { return Ok(true) };
    // Given back when the file is closed, which is before the entry's lock.
    lock::claim_unused(&image).map_err(CacheError::io("locking", &files.img))
}

fn leftover(path: &Path, reason: &'static str) -> Vec<Leftover> {
    let metadata = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file);
    let found = metadata.map(|data| Leftover { path: path.to_owned(), bytes: data.blocks() * BLOCK, reason });
    found.into_iter().collect()
}
