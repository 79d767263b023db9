// SPDX-License-Identifier: BSD-2-Clause
//! cleanup: what killed runs and power cuts left on the node.
//!
//! It needs no record. What is left is found by the same rules by which the next run would not use it: a lock that
//! somebody holds is a run that lives, for the kernel ends it with the process. A loop device tells by the name that
//! we gave it that it is ours, and by the disk's lock that its run is over.

use std::time::SystemTime;

use anyhow::Context as _;

use crate::disk::device::{self, StaleLoop};
use crate::store::cache::{Cache, CacheSettings, CleanupOptions, Leftover};

/// What was left.
#[derive(Debug)]
pub(crate) struct Cleaned {
    /// Files that were removed, or would be.
    pub(crate) files: Vec<Leftover>,
    /// Loop devices that only their users can let go.
    pub(crate) devices: Vec<StaleLoop>,
}

/// Cleans these caches, of which some may not be there, and looks for loop devices.
pub(crate) fn cleanup(caches: &[CacheSettings], now: SystemTime, cleaning: CleanupOptions) -> anyhow::Result<Cleaned> {
    // Whatever may be wrong shows before anything is removed.
    let devices = device::stale_loops().context("looking at the loop devices")?;
    let caches = caches.iter().filter_map(|settings| Cache::existing(settings).transpose());
    let caches: Vec<Cache> = caches.collect::<Result<_, _>>()?;
    let mut files = Vec::new();
    for cache in caches {
        files.extend(cache.clean(now, cleaning)?);
    }
    Ok(Cleaned { files, devices })
}
