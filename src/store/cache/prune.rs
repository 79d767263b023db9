// SPDX-License-Identifier: BSD-2-Clause
//! Removing images that are too old or too many, and what killed processes and power cuts left.
//!
//! Only files with names of the cache and with their lock file are ever touched, and only in entries that no other process
//! works on. The lock files stay, because two processes must not lock two files of one name.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::entry::{EntryFiles, Sidecar};
use super::error::CacheError;
use super::{Cache, folder, lock, partial_download, seconds};

/// How long an image stays after its server has to be asked again. In this time it can serve while the server is down,
/// and saves a download if the server says that it is still current.
pub const STALE_RETENTION: Duration = Duration::from_secs(30 * 86400);

/// The unit of `st_blocks` (stat(2)) in bytes.
const BLOCK: u64 = 512;

/// A file that a killed process left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leftover {
    pub(crate) path: PathBuf,
    /// Disk space in bytes.
    pub(crate) bytes: u64,
    /// Why it is left.
    pub(crate) reason: &'static str,
}

/// Options of [`Cache::clean`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CleanupOptions {
    /// Also remove downloads that a later run could resume.
    pub(crate) all: bool,
    /// Remove nothing.
    pub(crate) dry_run: bool,
}

impl Cache {
    /// Makes room, and gives the number of images removed. It removes images that their server was last asked about more
    /// than `max_age` and [`STALE_RETENTION`] before `now`, and downloads that were not resumed for a day. Then it removes
    /// the images that were not used for the longest time, until the others keep within `max_size`. Images in use stay.
    pub fn prune_expired(&self, now: SystemTime) -> Result<usize, CacheError> {
        let now = seconds(now);
        let retention = self.settings.max_age.saturating_add(STALE_RETENTION).as_secs();
        let mut removed = 0;
        each_idle_entry(self.dir(), |files| {
            partial_download::remove_leftovers(files, now)?;
            // A time in the future means that the clock was set back. The next fetch asks the server and corrects it.
            let is_recent = |sidecar: Sidecar| now.saturating_sub(sidecar.checked_at) <= retention;
            if !regular_sidecar(files)?.is_some_and(is_recent) {
                removed += usize::from(files.remove_unused()?);
            }
            Ok(())
        })?;
        match self.settings.max_size {
            Some(max_size) => Ok(removed + shrink(self.dir(), max_size.0)?),
            None => Ok(removed),
        }
    }

    /// Removes what processes left that were killed before `now`, and tells what it was. Complete images stay, no matter
    /// how old they are.
    pub(crate) fn clean(&self, now: SystemTime, options: CleanupOptions) -> Result<Vec<Leftover>, CacheError> {
        let mut found = Vec::new();
        each_idle_entry(self.dir(), |files| {
            found.extend(clean_download(files, seconds(now), options)?);
            found.extend(clean_image(files, options)?);
            Ok(())
        })?;
        Ok(found)
    }
}

/// Calls `act` for every entry that no other process works on, and holds its lock meanwhile.
fn each_idle_entry(dir: &Path, mut act: impl FnMut(&EntryFiles) -> Result<(), CacheError>) -> Result<(), CacheError> {
    for key in own_keys(dir)? {
        let files = EntryFiles::of_key(dir, &key);
        // Without a lock file the cache has not made these files.
        if folder::regular_file(&files.lock).is_some()
            && let Some(_lock) = files.try_lock()?
        {
            act(&files)?;
        }
    }
    Ok(())
}

/// The keys in all file names of the cache.
pub(super) fn own_keys(dir: &Path) -> Result<BTreeSet<String>, CacheError> {
    let mut keys = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(CacheError::io("reading", dir))? {
        let name = entry.map_err(CacheError::io("reading", dir))?.file_name();
        keys.extend(name.to_str().and_then(EntryFiles::key_of).map(str::to_owned));
    }
    Ok(keys)
}

/// Removes the images that were not used for the longest time, until all others have at most `max_size` bytes together.
/// Gives the number of images removed. Images in use stay.
fn shrink(dir: &Path, max_size: u64) -> Result<usize, CacheError> {
    let mut images = Vec::new();
    for key in own_keys(dir)? {
        let files = EntryFiles::of_key(dir, &key);
        // Another process that makes room may have removed the image.
        if let Some(image) = folder::regular_file(&files.img)
            && let Ok(used_at) = image.modified()
            && folder::regular_file(&files.lock).is_some()
        {
            images.push((used_at, image.len(), files));
        }
    }
    images.sort_by_key(|(used_at, ..)| *used_at);
    let mut total: u64 = images.iter().map(|(_, len, _)| len).sum();
    let mut removed = 0;
    for (_, len, files) in images {
        if total <= max_size {
            break;
        }
        if let Some(_lock) = files.try_lock()?
            && files.remove_unused()?
        {
            total -= len;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Cleans up a download, and a file that was being written.
fn clean_download(files: &EntryFiles, now: u64, options: CleanupOptions) -> Result<Vec<Leftover>, CacheError> {
    let mut found = Vec::new();
    found.extend(leftover(&files.tmp, "an incomplete sidecar"));
    if !options.dry_run {
        files.discard_tmp()?;
    }
    let is_unwanted = options.all && files.part_length().is_some();
    let resumable = is_unwanted.then_some("an interrupted download that could be resumed");
    if let Some(reason) = partial_download::useless(files, now).or(resumable) {
        found.extend(leftover(&files.part, reason));
        found.extend(leftover(&files.mark, "the checkpoint of that download"));
        if !options.dry_run {
            files.discard_part()?;
        }
    }
    Ok(found)
}

/// Cleans up an image without its sidecar, or a sidecar without its image.
fn clean_image(files: &EntryFiles, options: CleanupOptions) -> Result<Vec<Leftover>, CacheError> {
    let len = folder::regular_file(&files.img).map(|image| image.len());
    if regular_sidecar(files)?.is_some_and(|sidecar| Some(sidecar.length) == len) || !is_unused(files)? {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    found.extend(leftover(&files.img, "an image without its sidecar"));
    found.extend(leftover(&files.toml, "a sidecar without its image"));
    if !options.dry_run {
        files.remove_unused()?;
    }
    Ok(found)
}

/// Whether no process uses the image.
fn is_unused(files: &EntryFiles) -> Result<bool, CacheError> {
    if folder::regular_file(&files.img).is_none() {
        return Ok(true);
    }
    match folder::open_file(&files.img, false)? {
        // The lock ends when the file is closed, which is before the caller gives up the entry's lock.
        Some(image) => lock::claim_unused(&image, &files.img),
        None => Ok(true),
    }
}

fn regular_sidecar(files: &EntryFiles) -> Result<Option<Sidecar>, CacheError> {
    if folder::regular_file(&files.toml).is_some() { files.sidecar() } else { Ok(None) }
}

fn leftover(path: &Path, reason: &'static str) -> Option<Leftover> {
    let metadata = folder::regular_file(path)?;
    Some(Leftover { path: path.to_owned(), bytes: metadata.blocks() * BLOCK, reason })
}
