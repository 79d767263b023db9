// SPDX-License-Identifier: BSD-2-Clause
//! fetch: an image into the cache, checked as create would check it.

use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::anyhow;

use super::Context;
use super::remote::{Means, Remote};
use super::verify_image::Proof;
use crate::cache::{CachedImage, Follow};
use crate::http::ImageUrl;
use crate::image::disk_size::DiskSize;
use crate::image::format::ImageType;
use crate::image::source::ImageFile;
use crate::request::FetchRequest;

/// How often it is looked how far a download is.
const POLL: Duration = Duration::from_millis(100);

/// An image that is in the cache.
#[derive(Debug)]
pub struct Fetched {
    /// Whether it was there before.
    pub hit: bool,
    /// What it is.
    pub image_type: ImageType,
    /// Its length in bytes, as published.
    pub len: u64,
    /// The SHA-256 of that, as hex digits.
    pub sha256: String,
    /// The size of the disk in it, as far as that is known before all is decoded.
    pub disk_size: DiskSize,
}

/// Gets the image, and holds it against all that create would hold it against.
pub fn fetch(request: &FetchRequest, context: &Context) -> anyhow::Result<Fetched> {
    let FetchRequest { url, http, cache, checks, expected } = request;
    let examine = |image: CachedImage, proof: &Proof| {
        let (hit, len, sha256) = (image.hit, image.len, image.sha256.clone());
        let image = ImageFile::cached(url, image);
        proof.check(&image, context)?;
        let contents = image.contents(*expected)?;
        let (image_type, disk_size) = (contents.image_type, contents.body.disk_size());
        anyhow::Ok(Fetched { hit, image_type, len, sha256, disk_size })
    };
    let remote = Remote { url, http, cache, checks, context };
    remote.with_image(
        |means| {
            let image = download(url, means, context)?;
            Ok((image.id.clone(), examine(image, &means.proof)))
        },
        examine,
    )
}

/// Gets the image into the cache, and shows how far that is.
pub(super) fn download(url: &ImageUrl, means: &Means, context: &Context) -> anyhow::Result<CachedImage> {
    let Context { report, progress, .. } = context;
    let now = SystemTime::now();
    let Some(progress) = progress else { return Ok(means.cache.fetch(url, &means.client, now, report)?) };
    let follow = Follow::default();
    let fetched = thread::scope(|scope| {
        let fetching = scope.spawn(|| means.cache.fetch_followed(url, &means.client, now, report, &follow));
        while !fetching.is_finished() {
            let (received, promised) = follow.progress();
            progress.update(received, promised);
            thread::sleep(POLL);
        }
        fetching.join().map_err(|_panic| anyhow!("the downloading thread died"))
    });
    progress.finish();
    Ok(fetched??)
}
