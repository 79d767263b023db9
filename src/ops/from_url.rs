// SPDX-License-Identifier: BSD-2-Clause
//! An image from its URL onto the disk: from the cache, or in one pass with its first download.

use std::thread;

use anyhow::{Context as _, anyhow};

use super::install::{Copied, Job, copy, install};
use crate::cache::{Cache, Follow};
use crate::http::{Client, ImageUrl};
use crate::image::format::Format;
use crate::image::source::{ImageFile, stream_contents};

/// What became of reading along with a download.
enum Followed<'j> {
    /// There was nothing to read along with, or it needs a whole file.
    NotInstalled,
    /// All of the image is on the disk, which can't boot yet.
    Copied(Copied<'j>),
}

/// Installs what the URL names. While an image comes over the network for the first time, a new instance's disk is
/// written at the same time; the disk becomes bootable only when the download was whole. A reinstall waits for the whole
/// image first: its disk holds a system until then.
pub(super) fn install_url(url: &ImageUrl, job: &Job<'_>) -> anyhow::Result<()> {
    let client = Client::new(&job.request.http)?;
    let cache = Cache::open(&job.request.cache)?;
    let follow = Follow::default();
    let (now, report) = (job.context.now, &job.context.report);
    if job.request.reinstall {
        return install(&ImageFile::cached(url, cache.fetch(url, &client, now, report)?), job);
    }
    let (fetched, followed) = thread::scope(|scope| {
        let following = scope.spawn(|| install_along(url, &follow, job));
        let fetched = cache.fetch_followed(url, &client, now, report, &follow);
        let died = |_panic| Err(anyhow!("the installing thread died"));
        (fetched, following.join().unwrap_or_else(died))
    });
    match (fetched, followed) {
        // The reader gave up, and says why.
        (Err(_), Err(error)) if follow.abandoned() => Err(error),
        // The download failed; the reader only saw it end.
        (Err(error), _) => Err(error.into()),
        (Ok(image), Ok(Followed::Copied(copied))) if !image.hit => {
            copied.finish().with_context(|| format!("installing image {url}"))
        }
        // The download began again, and what was read of it may be another image's; or there was none.
        (Ok(image), Err(_)) if follow.lost() => install(&ImageFile::cached(url, image), job),
        (Ok(_), Err(error)) => Err(error),
        (Ok(image), Ok(_)) => install(&ImageFile::cached(url, image), job),
    }
}

/// Reads along with the download and copies the image; what stops that ends the download too, unless it was the
/// download itself that began again.
fn install_along<'j>(url: &ImageUrl, follow: &Follow, job: &Job<'j>) -> anyhow::Result<Followed<'j>> {
    let followed = copy_along(url, follow, job);
    if followed.is_err() && !follow.lost() {
        follow.abandon();
    }
    followed
}

fn copy_along<'j>(url: &ImageUrl, follow: &Follow, job: &Job<'j>) -> anyhow::Result<Followed<'j>> {
    let Some(growing) = follow.reader().context("reading along with the download")? else {
        return Ok(Followed::NotInstalled);
    };
    let length = growing.length();
    let contents = stream_contents(&url.to_string(), growing, length, job.request.expected)?;
    // qemu-img has to seek in the file that is being downloaded.
    if contents.image_type.format == Format::Qcow2 && contents.image_type.compression.is_none() {
        return Ok(Followed::NotInstalled);
    }
    copy(contents, job).map(Followed::Copied).with_context(|| format!("installing image {url}"))
}
