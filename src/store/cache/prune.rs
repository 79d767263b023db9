// SPDX-License-Identifier: BSD-2-Clause
//! Removing images that are too old or too many, and what killed processes and power cuts left.
//!
//! Only files with names of the cache are ever touched, and only in entries that no other process works on. Names of
//! version 0.1.0 count only if a lock file or a sidecar tells that they are the cache's: anybody may have called an image
//! so.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::entry::{EntryFiles, Naming};
use super::error::CacheError;
use super::lock::EntryLock;
use super::scan::{Names, scan};
use super::sidecar::Sidecar;
use super::{Cache, folder, lock, partial_download, seconds};

/// How long an image stays after its server has to be asked again. In this time it can serve while the server is down,
/// and saves a download if the server says that it is still current.
pub const STALE_RETENTION: Duration = Duration::from_secs(30 * 86400);

/// How many interrupted downloads wait to be resumed. Beyond that the oldest go.
const MAX_PARTIAL: usize = 4;

/// No run of a program lasts so long. When this version has been installed for that time, no run of the version before
/// it can be left.
const LONGEST_RUN: Duration = Duration::from_secs(7 * 86400);

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
        self.prune_beside(None, now)
    }

    /// The same, when the image with the key `beside` is to have so many bytes. What is kept of that one is left alone.
    pub(super) fn prune_beside(&self, beside: Option<(&str, u64)>, now: SystemTime) -> Result<usize, CacheError> {
        let now = seconds(now);
        let retention = self.settings.max_age.saturating_add(STALE_RETENTION).as_secs();
        let is_former_gone = is_former_version_gone(now);
        let mut removed = 0;
        let entries = scan(self.dir())?;
        for (files, names) in &entries {
            if beside.is_some_and(|(key, _)| key == files.key()) {
                continue;
            }
            // A time in the future means that the clock was set back. The next fetch asks the server and corrects it.
            let is_recent = |sidecar: Sidecar| now.saturating_sub(sidecar.checked_at) <= retention;
            let is_kept = names.has("img") && files.regular_sidecar()?.is_some_and(is_recent);
            if is_kept && !names.has("part") && !names.has("tmp") && !names.has("mark") {
                continue;
            }
            with_idle(files, |files| {
                partial_download::remove_leftovers(files, now)?;
                if !files.regular_sidecar()?.is_some_and(is_recent) {
                    removed += usize::from(files.remove_unused()?);
                }
                Ok(())
            })?;
            if is_former_gone && names.is_only_a_lock() {
                remove_former_lock(files)?;
            }
        }
        self.bound_partial_downloads(&entries)?;
        if let Some(max_size) = self.settings.max_size {
            removed += shrink(&entries, max_size.0, beside)?;
        }
        Ok(removed)
    }

    /// Removes the oldest of the interrupted downloads that wait to be resumed, if there are too many of them, or if they
    /// have more than `max_size` bytes together. Downloads that are going on do not count.
    fn bound_partial_downloads(&self, entries: &[(EntryFiles, Names)]) -> Result<(), CacheError> {
        let mut partial = Vec::new();
        for (files, names) in entries {
            if names.has("part")
                && let Some(part) = folder::regular_file(&files.part)
            {
                partial.push((part.modified().unwrap_or(SystemTime::UNIX_EPOCH), part.len(), files));
            }
        }
        partial.sort_by(|(a, ..), (b, ..)| b.cmp(a));
        let (mut count, mut bytes) = (0, 0);
        for (_, len, files) in partial {
            with_idle(files, |files| {
                (count, bytes) = (count + 1, bytes + len);
                let is_too_much = count > MAX_PARTIAL || self.settings.max_size.is_some_and(|max| bytes > max.0);
                if is_too_much { files.discard_part() } else { Ok(()) }
            })?;
        }
        Ok(())
    }

    /// Removes what processes left that were killed before `now`, and tells what it was. Complete images stay, no matter
    /// how old they are.
    pub(crate) fn clean(&self, now: SystemTime, options: CleanupOptions) -> Result<Vec<Leftover>, CacheError> {
        let mut found = Vec::new();
        for (files, names) in scan(self.dir())? {
            if names.is_only_a_lock() && options.dry_run {
                continue;
            }
            with_idle(&files, |files| {
                found.extend(clean_download(files, seconds(now), options)?);
                found.extend(clean_image(files, options)?);
                Ok(())
            })?;
        }
        Ok(found)
    }
}

/// Calls `act` if the entry is the cache's and no other process works on it, and holds its lock meanwhile.
fn with_idle(files: &EntryFiles, act: impl FnOnce(&EntryFiles) -> Result<(), CacheError>) -> Result<(), CacheError> {
    if !files.are_ours()? {
        return Ok(());
    }
    let Some(lock) = files.try_lock()? else { return Ok(()) };
    let done = act(files);
    files.release(lock);
    done
}

/// Whether no run of version 0.1.0 can be left, as this one has been here for so long.
fn is_former_version_gone(now: u64) -> bool {
    let installed = fs::metadata("/proc/self/exe").ok().and_then(|program| u64::try_from(program.ctime()).ok());
    installed.is_some_and(|installed| now.saturating_sub(installed) > LONGEST_RUN.as_secs())
}

/// Removes a lock file that version 0.1.0 left.
fn remove_former_lock(files: &EntryFiles) -> Result<(), CacheError> {
    if files.naming() == Naming::Former
        && let Some(mut lock) = EntryLock::existing(&files.lock)?
        && lock.try_exclusive()?
        && files.is_empty()
    {
        lock.remove();
    }
    Ok(())
}

/// Removes the images that were not used for the longest time, until all others have at most `max_size` bytes together
/// with the image `beside`, of which the key and the length are given. Gives the number of images removed. Images in use
/// stay.
fn shrink(entries: &[(EntryFiles, Names)], max_size: u64, beside: Option<(&str, u64)>) -> Result<usize, CacheError> {
    let mut images = Vec::new();
    for (files, names) in entries {
        let is_other = beside.is_none_or(|(key, _)| key != files.key());
        // The steps before, or another process that makes room, may have removed the image.
        if names.has("img")
            && is_other
            && let Some(image) = folder::regular_file(&files.img)
            && let Ok(used_at) = image.modified()
            && files.are_ours()?
        {
            images.push((used_at, image.len(), files));
        }
    }
    images.sort_by_key(|(used_at, ..)| *used_at);
    let mut total = beside.map_or(0, |(_, length)| length);
    total = images.iter().fold(total, |total, (_, len, _)| total.saturating_add(*len));
    let mut removed = 0;
    for (_, len, files) in images {
        if total <= max_size {
            break;
        }
        with_idle(files, |files| {
            if files.remove_unused()? {
                (total, removed) = (total.saturating_sub(len), removed + 1);
            }
            Ok(())
        })?;
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
    if files.regular_sidecar()?.is_some_and(|sidecar| Some(sidecar.length) == len) || !is_unused(files)? {
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

fn leftover(path: &Path, reason: &'static str) -> Option<Leftover> {
    let metadata = folder::regular_file(path)?;
    Some(Leftover { path: path.to_owned(), bytes: metadata.blocks() * BLOCK, reason })
}
