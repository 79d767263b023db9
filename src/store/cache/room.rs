// SPDX-License-Identifier: BSD-2-Clause
//! The room that a download may take: within `max_size`, and never the last of the file system.
//!
//! A server need not say how long its image is. So the limits hold for every piece that comes, and not only before the
//! first one. What is too old or too much goes when its room is needed, and not only after a download that succeeded.

use std::cell::Cell;

use super::entry::EntryFiles;
use super::error::CacheError;
use super::{Cache, Clock, folder};
use crate::node::report::Report;
use crate::node::size::{ByteSize, MIB};
use crate::store::http::ImageUrl;

/// When nobody knows how many bytes are to come, other images make room for as many again as have come, but at least for
/// so many. So they are not looked at for every piece, and an image costs others no more than twice its length.
const STEP: u64 = MIB;

/// Where `min_free` is not set, one part in so many of the file system stays free, ...
const RESERVED_PART: u64 = 20;

/// ... but no more than this.
const MAX_RESERVE: u64 = 1024 * MIB;

/// The room for one download.
pub(super) struct Room<'a> {
    pub(super) cache: &'a Cache,
    pub(super) files: &'a EntryFiles,
    pub(super) url: &'a ImageUrl,
    pub(super) clock: Clock,
    pub(super) report: &'a Report,
    /// Other images have made room for one of this length.
    pub(super) made: Cell<u64>,
}

impl Room<'_> {
    /// Makes room for an image of `length` bytes, of which `missing` are still to come.
    pub(super) fn announce(&self, length: u64, missing: u64) -> Result<(), CacheError> {
        self.keep_within_max_size(length, length)?;
        self.keep_reserve(missing, || self.full(missing))
    }

    /// Makes room for an image that has `length` bytes by now, and may become longer.
    pub(super) fn grow(&self, length: u64) -> Result<(), CacheError> {
        self.keep_within_max_size(length, length.saturating_add(length.max(STEP)))?;
        self.keep_reserve(0, || self.stopped(length))
    }

    /// The error that there is no room for the `needed` bytes that are still to come.
    pub(super) fn full(&self, needed: u64) -> CacheError {
        let free = folder::free_space(self.cache.dir());
        CacheError::Full { needed, free, reserve: self.reserve(), dir: self.cache.dir().to_owned() }
    }

    /// The error that nothing more can be written, because the disk is full or a quota is used up.
    pub(super) fn stopped(&self, length: u64) -> CacheError {
        CacheError::Stopped {
            url: self.url.to_string(),
            received: length,
            free: folder::free_space(self.cache.dir()),
            reserve: self.reserve(),
            dir: self.cache.dir().to_owned(),
        }
    }

    /// The image may soon have `later` bytes.
    fn keep_within_max_size(&self, length: u64, later: u64) -> Result<(), CacheError> {
        let Some(ByteSize(max_size)) = self.cache.settings.max_size else { return Ok(()) };
        if length > max_size {
            return Err(CacheError::BeyondMaxSize { url: self.url.to_string(), max_size });
        }
        if length > self.made.get() {
            let made = later.min(max_size);
            self.prune(made);
            self.made.set(made);
        }
        Ok(())
    }

    fn keep_reserve(&self, missing: u64, full: impl Fn() -> CacheError) -> Result<(), CacheError> {
        let fits = || {
            let free = folder::free_space(self.cache.dir());
            free.is_none_or(|free| free >= missing.saturating_add(self.reserve()))
        };
        if !fits() {
            self.prune(self.made.get().max(missing));
        }
        if fits() { Ok(()) } else { Err(full()) }
    }

    /// Removes what is too old or too much beside an image of `length` bytes.
    fn prune(&self, length: u64) {
        let pruned = self.cache.prune_beside(Some((self.files.key(), length)), self.clock.time());
        if let Err(error) = pruned {
            self.report.warn(format_args!("making room in the cache: {error}"));
        }
    }

    /// Bytes of the file system that no download takes.
    fn reserve(&self) -> u64 {
        match self.cache.settings.min_free {
            Some(ByteSize(reserve)) => reserve,
            None => (folder::total_space(self.cache.dir()).unwrap_or(0) / RESERVED_PART).min(MAX_RESERVE),
        }
    }
}
