// SPDX-License-Identifier: BSD-2-Clause
//! An image from its URL onto the disk: from the cache, or in one pass with its first download.
//!
//! One thread downloads to the `.part` file, and another reads along (`cache::SharedDownload`) and copies. If the download
//! begins again, the install begins again from the cached file; one that goes on where it was cut only makes the
//! reader wait. A reinstall reads along no further than to see what the image is; so do `fetch`, and plain qcow2, in
//! which qemu-img has to seek. A wrong type ends the download there. So does a disk that is too small, where the first
//! bytes tell it, or the index of an .xz, whose end is asked for at once if the server gives parts of that very
//! version.

use std::io::{self, Cursor, Read};
use std::time::Instant;

use anyhow::Context as _;
use serde_json::json;

use super::along::{self, Along};
use super::copy::{Copied, Installed, Work, copy, install_checked};
use super::job::Job;
use super::remote::{Means, Remote, Used};
use super::summary::seconds;
use crate::disk::write;
use crate::image::compression::Compression;
use crate::image::disk_size::DiskSize;
use crate::image::format::Format;
use crate::image::source::{Body, Contents, ImageFile, stream_contents};
use crate::node::run::Run;
use crate::store::cache::{DownloadInfo, DownloadReader};
use crate::store::http::{ImageUrl, RangeReader};

/// What became of reading along with a download.
enum Followed<'j> {
    /// It needs a whole file.
    NotInstalled,
    /// All of the image is on the disk, which can't boot yet.
    Copied(Box<Copied<'j>>),
}

/// Installs what the URL names. While an image comes over the network for the first time, a new instance's disk is
/// written at the same time; there is something to make bootable only when the download was whole and is the image that
/// was meant. A reinstall waits for all of that first: its disk holds a system until then. Gives the image too, which
/// stays in the cache while its file is open.
pub(super) fn install_url<'j>(url: &ImageUrl, work: &Work<'j>) -> anyhow::Result<(ImageFile, Installed<'j>)> {
    let Job { http, cache, checks, .. } = work.job;
    let remote = Remote { url, http, cache, checks, run: work.run };
    remote.with_image(
        |means| if work.job.reinstall { fetch_first(url, means, work) } else { fetch_along(url, means, work) },
        |kept, proof| {
            let (hit, image) = (kept.hit, ImageFile::cached(url, kept));
            install_checked(&image, proof, work).map(|installed| (image, installed.with_cache(hit)))
        },
    )
}

fn fetch_first<'j>(url: &ImageUrl, means: &Means, work: &Work<'j>) -> anyhow::Result<Used<(ImageFile, Installed<'j>)>> {
    let started = Instant::now();
    // What the first bytes tell need not wait for the rest.
    let look = |growing: DownloadReader<'_>| contents_along(url, growing, means, work).map(drop);
    let image = along::download(url, means, work.run, look)?.image;
    let took = started.elapsed();
    let fields = json!({ "seconds": took.as_secs_f64() });
    work.run.report.event("fetched", fields, format_args!("the image is at hand after {}", seconds(took)));
    let (id, hit, image) = (image.id.clone(), image.hit, ImageFile::cached(url, image));
    let outcome = install_checked(&image, &means.proof, work);
    Ok(Used { id, kept: hit, outcome: outcome.map(|installed| (image, installed.with_cache(hit))) })
}

fn fetch_along<'j>(url: &ImageUrl, means: &Means, work: &Work<'j>) -> anyhow::Result<Used<(ImageFile, Installed<'j>)>> {
    let Along { image, read, lost } =
        along::download(url, means, work.run, |growing| copy_along(url, growing, means, work))?;
    let (id, hit, image) = (image.id.clone(), image.hit, ImageFile::cached(url, image));
    let outcome = match read {
        Ok(Some(Followed::Copied(copied))) if !hit => {
            let checked = means.proof.check(&image, None, work.run).map_err(anyhow::Error::new);
            checked.and_then(|()| copied.finish().with_context(|| format!("installing image {url}")))
        }
        // A wrong image is the better reason for whatever came of it.
        Err(error) if !lost => means.proof.check(&image, None, work.run).map_err(Into::into).and(Err(error)),
        // The download failed once, and what was read of it may be another image's; or there was none.
        _ => install_checked(&image, &means.proof, work),
    };
    Ok(Used { id, kept: hit, outcome: outcome.map(|installed| (image, installed.with_cache(hit))) })
}

fn copy_along<'j>(
    url: &ImageUrl,
    growing: DownloadReader<'_>,
    means: &Means,
    work: &Work<'j>,
) -> anyhow::Result<Followed<'j>> {
    let contents = contents_along(url, growing, means, work)?;
    // qemu-img has to seek in the file that is being downloaded.
    if contents.image_type.format != Format::Raw && contents.image_type.compression.is_none() {
        return Ok(Followed::NotInstalled);
    }
    copy(contents, work, None).map(Box::new).map(Followed::Copied).with_context(|| format!("installing image {url}"))
}

/// What the image is that is being downloaded; an error where it already shows that it is too large.
fn contents_along<'g>(
    url: &ImageUrl,
    mut growing: DownloadReader<'g>,
    means: &Means,
    work: &Work<'_>,
) -> anyhow::Result<Contents<'g>> {
    let promise = growing.info().clone();
    let mut first = [0; DiskSize::FIRST];
    let read = read_first(&mut growing, &mut first);
    let count = read.with_context(|| format!("reading image {url}"))?;
    let bytes = Cursor::new(first).take(count as u64).chain(growing);
    let mut contents = stream_contents(&url.to_string(), bytes, promise.length, work.job.expected)?;
    if let (Some(compression), Body::RawStream(_, size @ DiskSize::Unknown)) =
        (contents.image_type.compression, &mut contents.body)
    {
        *size = size_at_the_end(url, compression, &first, &promise, (means, work.run));
    }
    let size = contents.body.disk_size().least();
    size.map_or(Ok(()), |size| write::check_fits(size, work.target))
        .with_context(|| format!("installing image {url}"))?;
    Ok(contents)
}

/// As many bytes as there are, and fit.
fn read_first(growing: &mut DownloadReader<'_>, first: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < first.len() {
        match growing.read(&mut first[count..])? {
            0 => break,
            some => count += some,
        }
    }
    Ok(count)
}

/// The size of the disk in an archive, asked of its end, where the server gives that: nothing depends on it but how soon
/// a disk that is too small is found.
fn size_at_the_end(
    url: &ImageUrl,
    compression: Compression,
    first: &[u8],
    promise: &DownloadInfo,
    (means, run): (&Means, &Run),
) -> DiskSize {
    let DownloadInfo { length: Some(total), validator: Some(validator) } = promise else { return DiskSize::Unknown };
    if compression != Compression::Xz {
        return DiskSize::Unknown;
    }
    let pieces = RangeReader::new(*total, validator.clone(), url, &means.client, &run.report);
    DiskSize::at_server(compression, first, &pieces, *total)
}
