// SPDX-License-Identifier: BSD-2-Clause
//! The commands `fetch`, which puts an image into the cache after the same checks as `create`, and `cleanup`, which
//! finds what killed runs and power failures left on the node.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Context as _;

use super::download::{RemoteImage, check_kept, download, tell_what_is_left};
use super::job::FetchJob;
use super::verify::Verification;
use crate::disk::device::{self, StaleLoop};
use crate::image::disk_size::DiskSize;
use crate::image::format::ImageType;
use crate::image::gate::stream_reader;
use crate::image::stored::{Download, StoredImage};
use crate::node::run::Run;
use crate::store::cache::{Cache, CacheSettings, CleanupOptions, DownloadReader, Leftover};

/// An image that is in the cache.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Whether the image was already in the cache.
    pub(crate) hit: bool,
    pub(crate) image_type: ImageType,
    /// The length of the published file in bytes.
    pub(crate) len: u64,
    /// The SHA-256 of the published file, as hex digits.
    pub(crate) sha256: String,
    /// The size of the disk in the image, as far as it is known without decoding all of the image.
    pub(crate) disk_size: DiskSize,
    /// The image's file in the cache.
    pub(crate) path: PathBuf,
}

/// Gets the image, and makes the same checks as `create`.
pub(crate) fn fetch(job: &FetchJob, run: &Run) -> anyhow::Result<Fetched> {
    let FetchJob { url, http, cache, checks, expected } = job;
    tell_what_is_left(url, cache, run);
    let examine = |image: &StoredImage, verification: &Verification| {
        verification.check(image, None, run)?;
        let reader = check_kept(image, *expected)?;
        Ok((reader.image_type, reader.size))
    };
    let remote = RemoteImage { url, http, cache, checks, expected: *expected, run };
    let fetched = remote.with_image(
        |tools| {
            // The first bytes show a wrong image type, so that the rest need not be downloaded.
            let look = |growing: DownloadReader<'_>| {
                let length = growing.info().length;
                stream_reader((&url.to_string(), url.member()), growing, length, None, *expected)
                    .map(drop)
                    .map_err(Into::into)
            };
            let (image, _) = download(url, tools, run, look)?;
            let examined = examine(&image, &tools.verification);
            Ok((image, examined))
        },
        examine,
    );
    let (image, (image_type, disk_size)) = fetched?;
    let Download { hit, sha256, path, .. } = image.download().cloned().context("the image is not in the cache")?;
    Ok(Fetched { hit, image_type, len: image.size(), sha256, disk_size, path })
}

/// The result of [`cleanup`].
#[derive(Debug)]
pub(crate) struct Cleaned {
    /// The files that were removed, or that would be removed.
    pub(crate) files: Vec<Leftover>,
    /// The loop devices that only their users can release.
    pub(crate) devices: Vec<StaleLoop>,
}

/// Removes what is left over in these caches, and looks for loop devices that are left over. A cache may be missing.
///
/// This needs no record of earlier runs. What is left over is found by the rules by which the next run would not use
/// it. A lock that somebody holds belongs to a living run, because the kernel releases the lock when the process
/// ends. A loop device is ours if it has the name that we give to loop devices, and its run is over if the disk's
/// lock is free.
pub(crate) fn cleanup(caches: &[CacheSettings], now: SystemTime, cleaning: CleanupOptions) -> anyhow::Result<Cleaned> {
    // All errors shall show before anything is removed.
    let devices = device::stale_loops().context("looking at the loop devices")?;
    let caches = caches.iter().filter_map(|settings| Cache::existing(settings).transpose());
    let caches: Vec<Cache> = caches.collect::<Result<_, _>>()?;
    let mut files = Vec::new();
    for cache in caches {
        files.extend(cache.clean(now, cleaning)?);
    }
    Ok(Cleaned { files, devices })
}
