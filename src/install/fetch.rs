// SPDX-License-Identifier: BSD-2-Clause
//! fetch: an image into the cache, checked as create would check it.

use std::path::PathBuf;

use anyhow::Context as _;

use super::along;
use super::job::FetchJob;
use super::remote::{Remote, Used};
use super::verify_image::Proof;
use crate::disk::device::FileBytes;
use crate::disk::partition::{self, ImageExtent};
use crate::image::disk_size::DiskSize;
use crate::image::format::ImageType;
use crate::image::source::{Body, ImageFile, stream_contents};
use crate::node::run::Run;
use crate::store::cache::{Cache, CacheSettings, CachedImage, DownloadReader};
use crate::store::http::ImageUrl;

/// An image that is in the cache.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Whether it was there before.
    pub(crate) hit: bool,
    /// What it is.
    pub(crate) image_type: ImageType,
    /// Its length in bytes, as published.
    pub(crate) len: u64,
    /// The SHA-256 of that, as hex digits.
    pub(crate) sha256: String,
    /// The size of the disk in it, as far as that is known before all is decoded.
    pub(crate) disk_size: DiskSize,
    /// The file that is kept.
    pub(crate) path: PathBuf,
}

/// Gets the image, and holds it against all that create would hold it against.
pub(crate) fn fetch(job: &FetchJob, run: &Run) -> anyhow::Result<Fetched> {
    let FetchJob { url, http, cache, checks, expected } = job;
    tell_what_is_left(url, cache, run);
    let examine = |image: CachedImage, proof: &Proof| {
        let (hit, len, sha256, path) = (image.hit, image.len, image.sha256.clone(), image.path.clone());
        let image = ImageFile::cached(url, image);
        proof.check(&image, None, run)?;
        let contents = image.contents(*expected, None)?;
        let (image_type, disk_size) = (contents.image_type, contents.body.disk_size());
        if let Body::RawFile(file, len) = contents.body {
            let extent = ImageExtent { image: len, disk: None, mbr_tolerance: expected.mbr_tolerance };
            let checked = partition::check_complete(&FileBytes::new(file, len), extent);
            checked.with_context(|| format!("image {url}"))?;
        }
        anyhow::Ok(Fetched { hit, image_type, len, sha256, disk_size, path })
    };
    let remote = Remote { url, http, cache, checks, run };
    remote.with_image(
        |means| {
            // A wrong type shows in the first bytes.
            let look = |growing: DownloadReader<'_>| {
                let length = growing.info().length;
                stream_contents(&url.to_string(), growing, length, *expected).map(drop).map_err(Into::into)
            };
            let image = along::download(url, means, run, look)?.image;
            Ok(Used { id: image.id.clone(), kept: image.hit, outcome: examine(image, &means.proof) })
        },
        examine,
    )
}

/// Has a signal say what it leaves of the image.
pub(super) fn tell_what_is_left(url: &ImageUrl, cache: &CacheSettings, run: &Run) {
    let (url, cache) = (url.clone(), cache.clone());
    run.final_message.set(move || Cache::existing(&cache).ok()??.describe_partial(&url));
}
