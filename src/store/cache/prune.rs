// SPDX-License-Identifier: BSD-2-Clause
//! Making room: what is too old and what killed downloads left, but nothing that is in use or not the cache's own.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::entry::{EntryFiles, is_regular, open_if_there, remove_if_regular, remove_if_there};
use super::error::CacheError;
use super::lock::{self, EntryLock};
use super::partial_download;

/// Removes what [`super::Cache::prune_expired`] says, and gives the number of images removed.
pub(super) fn prune(dir: &Path, kept_for: Duration, now: u64) -> Result<usize, CacheError> {
    let mut removed = 0;
    each_idle_entry(dir, |files| {
        partial_download::remove_leftovers(files, now)?;
        removed += usize::from(prune_image(files, kept_for, now)?);
        Ok(())
    })?;
    Ok(removed)
}

/// Has `act` look at every entry that nobody else is at, whose lock is held alone meanwhile.
pub(super) fn each_idle_entry(
    dir: &Path,
    mut act: impl FnMut(&EntryFiles) -> Result<(), CacheError>,
) -> Result<(), CacheError> {
    for key in own_keys(dir)? {
        let files = EntryFiles::of_key(dir, &key);
        // No lock file of ours: the cache never made this entry.
        if !is_regular(&files.lock) {
            continue;
        }
        let Some(lock) = EntryLock::existing(&files.lock).map_err(CacheError::io("opening", &files.lock))? else {
            continue;
        };
        // Somebody looks at the entry or downloads it.
        if lock.try_exclusive().map_err(CacheError::io("locking", &files.lock))? {
            act(&files)?;
        }
    }
    Ok(())
}

/// The keys of all files with names of the cache's own.
pub(super) fn own_keys(dir: &Path) -> Result<BTreeSet<String>, CacheError> {
    let mut keys = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(CacheError::io("reading", dir))? {
        let entry = entry.map_err(CacheError::io("reading", dir))?;
        let name = entry.file_name();
        keys.extend(name.to_str().and_then(EntryFiles::key_of).map(str::to_owned));
    }
    Ok(keys)
}

/// Removes an image that is too old and that nobody uses, and says whether it did.
fn prune_image(files: &EntryFiles, kept_for: Duration, now: u64) -> Result<bool, CacheError> {
    let sidecar = if is_regular(&files.toml) { files.sidecar()? } else { None };
    // A time of the future is a clock set back, not age: the next fetch asks the server and sets it right.
    if sidecar.is_some_and(|sidecar| now.saturating_sub(sidecar.checked_at) <= kept_for.as_secs()) {
        return Ok(false);
    }
    remove_unused(files)
}

/// Removes an image that nobody uses, and says whether it did. The caller holds the entry's lock alone.
pub(super) fn remove_unused(files: &EntryFiles) -> Result<bool, CacheError> {
    if !is_regular(&files.img) {
        remove_if_regular(&files.toml)?;
        return Ok(false);
    }
    let Some(image) = open_if_there(&files.img)? else { return Ok(false) };
    if !lock::claim_unused(&image).map_err(CacheError::io("locking", &files.img))? {
        return Ok(false);
    }
    remove_if_regular(&files.toml)?;
    remove_if_there(&files.img)?;
    Ok(true)
}
