// SPDX-License-Identifier: BSD-2-Clause
//! An image from its URL onto the disk: from the cache, or in one pass with its first download.

use std::thread;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, anyhow};
use serde_json::json;

use super::fetch::download;
use super::install::{Copied, Installed, Job, copy, install_checked};
use super::remote::{Means, Remote, Used};
use super::summary::seconds;
use crate::cache::Follow;
use crate::http::ImageUrl;
use crate::image::format::Format;
use crate::image::source::{ImageFile, stream_contents};
use crate::request::CreateRequest;
use crate::write;

/// What became of reading along with a download.
enum Followed<'j> {
    /// There was nothing to read along with, or it needs a whole file.
    NotInstalled,
    /// All of the image is on the disk, which can't boot yet.
    Copied(Copied<'j>),
}

/// Installs what the URL names. While an image comes over the network for the first time, a new instance's disk is
/// written at the same time; there is something to make bootable only when the download was whole and is the image that
/// was meant. A reinstall waits for all of that first: its disk holds a system until then. Gives the image too, which
/// stays in the cache while its file is open.
pub(super) fn install_url<'j>(url: &ImageUrl, job: &Job<'j>) -> anyhow::Result<(ImageFile, Installed<'j>)> {
    let CreateRequest { http, cache, checks, .. } = job.request;
    let remote = Remote { url, http, cache, checks, context: job.context };
    remote.with_image(
        |means| if job.request.reinstall { fetch_first(url, means, job) } else { fetch_along(url, means, job) },
        |kept, proof| {
            let (hit, image) = (kept.hit, ImageFile::cached(url, kept));
            install_checked(&image, proof, job).map(|installed| (image, installed.with_cache(hit)))
        },
    )
}

fn fetch_first<'j>(url: &ImageUrl, means: &Means, job: &Job<'j>) -> anyhow::Result<Used<(ImageFile, Installed<'j>)>> {
    let started = Instant::now();
    let image = download(url, means, job.context)?;
    let took = started.elapsed();
    let fields = json!({ "seconds": took.as_secs_f64() });
    job.context.report.event("fetched", fields, format_args!("the image is at hand after {}", seconds(took)));
    let (id, hit, image) = (image.id.clone(), image.hit, ImageFile::cached(url, image));
    let outcome = install_checked(&image, &means.proof, job);
    Ok((id, outcome.map(|installed| (image, installed.with_cache(hit)))))
}

fn fetch_along<'j>(url: &ImageUrl, means: &Means, job: &Job<'j>) -> anyhow::Result<Used<(ImageFile, Installed<'j>)>> {
    let follow = Follow::default();
    let (now, report) = (SystemTime::now(), &job.context.report);
    let (fetched, followed) = thread::scope(|scope| {
        let following = scope.spawn(|| install_along(url, &follow, job));
        let fetched = means.cache.fetch_followed(url, &means.client, now, report, &follow);
        let died = |_panic| Err(anyhow!("the installing thread died"));
        (fetched, following.join().unwrap_or_else(died))
    });
    let image = match (fetched, &followed) {
        // The reader gave up, and says why.
        (Err(_), Err(_)) if follow.abandoned() => return followed.and(Err(anyhow!("the reader gave up"))),
        // The download failed; the reader only saw it end.
        (Err(error), _) => return Err(error.into()),
        (Ok(image), _) => image,
    };
    let (id, hit, image) = (image.id.clone(), image.hit, ImageFile::cached(url, image));
    let outcome = match followed {
        Ok(Followed::Copied(copied)) if !hit => {
            let checked = means.proof.check(&image, job.context).map_err(anyhow::Error::new);
            checked.and_then(|()| copied.finish().with_context(|| format!("installing image {url}")))
        }
        // A wrong image is the better reason for whatever came of it.
        Err(error) if !follow.lost() => means.proof.check(&image, job.context).map_err(Into::into).and(Err(error)),
        // The download failed once, and what was read of it may be another image's; or there was none.
        _ => install_checked(&image, &means.proof, job),
    };
    Ok((id, outcome.map(|installed| (image, installed.with_cache(hit)))))
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
    let copied = if contents.image_type.format != Format::Raw && contents.image_type.compression.is_none() {
        // But there is no need to wait for one that is too large.
        let size = contents.body.disk_size().least();
        size.map_or(Ok(()), |size| write::check_fits(size, job.target))
            .map(|()| Followed::NotInstalled)
            .map_err(Into::into)
    } else {
        copy(contents, job).map(Followed::Copied)
    };
    copied.with_context(|| format!("installing image {url}"))
}
