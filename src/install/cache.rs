// SPDX-License-Identifier: BSD-2-Clause
//! `fetch` puts an image into the cache, checked as create would check it. `cleanup` finds what killed runs and power cuts
//! left on the node.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Context as _;

use super::download::{RemoteImage, download, tell_what_is_left};
use super::job::FetchJob;
use super::verify::Verification;
use crate::disk::device::{self, FileBytes, StaleLoop};
use crate::disk::partition::{self, ImageExtent};
use crate::image::disk_size::DiskSize;
use crate::image::format::ImageType;
use crate::image::gate::stream_reader;
use crate::image::reader::ImageBytes;
use crate::image::stored::{Download, StoredImage};
use crate::node::run::Run;
use crate::store::cache::{Cache, CacheSettings, CleanupOptions, DownloadReader, Leftover};

/// An image that is in the cache.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Whether it was there before.
    pub(crate) hit: bool,
    pub(crate) image_type: ImageType,
    /// Its length in bytes, as published.
    pub(crate) len: u64,
    /// The SHA-256 of that, as hex digits.
    pub(crate) sha256: String,
    /// The size of the disk in it, as far as that is known before all is decoded.
    pub(crate) disk_size: DiskSize,
    /// Its file in the cache.
    pub(crate) path: PathBuf,
}

/// Gets the image, and checks all that create would check.
pub(crate) fn fetch(job: &FetchJob, run: &Run) -> anyhow::Result<Fetched> {
    let FetchJob { url, http, cache, checks, expected } = job;
    tell_what_is_left(url, cache, run);
    let examine = |image: &StoredImage, verification: &Verification| {
        verification.check(image, None, run)?;
        let reader = image.reader(*expected, None)?;
        if let ImageBytes::RawFile(file, len) = reader.bytes {
            let extent = ImageExtent { image: len, disk: None, mbr_tolerance: expected.mbr_tolerance };
            let checked = partition::check_complete(&FileBytes::new(file, len), extent);
            checked.with_context(|| format!("image {url}"))?;
        }
        Ok((reader.image_type, reader.size))
    };
    let remote = RemoteImage { url, http, cache, checks, run };
    let fetched = remote.with_image(
        |tools| {
            // A wrong type shows in the first bytes.
            let look = |growing: DownloadReader<'_>| {
                let length = growing.info().length;
                stream_reader(&url.to_string(), growing, length, None, *expected).map(drop).map_err(Into::into)
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

/// What was left.
#[derive(Debug)]
pub(crate) struct Cleaned {
    /// Files that were removed, or would be.
    pub(crate) files: Vec<Leftover>,
    /// Loop devices that only their users can let go.
    pub(crate) devices: Vec<StaleLoop>,
}

/// Cleans these caches, of which some may not be there, and looks for loop devices.
///
/// It needs no record. What is left is found by the same rules by which the next run would not use it: a lock that
/// somebody holds is a run that lives, for the kernel ends it with the process. A loop device tells by the name that
/// we gave it that it is ours, and by the disk's lock that its run is over.
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
