// SPDX-License-Identifier: BSD-2-Clause
//! An image from its URL onto the disk: from the cache, or in one pass with its first download.
//!
//! One thread downloads to the `.part` file, and another reads along and copies. If the download begins again, the
//! install begins again from the cached file; one that goes on where it was cut only makes the reader wait. A reinstall
//! reads along no further than to see what the image is; so do `fetch`, and plain qcow2, in which qemu-img has to seek. A
//! wrong type ends the download there. So does a disk that is too small, where the first bytes tell it, or the index of
//! an .xz, whose end is asked for at once if the server gives parts of that very version.

use std::io::{self, Cursor, Read};
use std::time::Instant;

use anyhow::Context as _;
use serde_json::json;

use super::copy::{InstallAnswer, Installation, check_size, copy, finish, install_stored, installing};
use super::download::{FetchTools, Fetched, RemoteImage, download};
use super::job::Job;
use super::progress::{Watch, seconds};
use crate::disk::write::DiskWriter;
use crate::image::compression::Compression;
use crate::image::disk_size::DiskSize;
use crate::image::format::Format;
use crate::image::gate::stream_reader;
use crate::image::reader::{ImageBytes, ImageReader};
use crate::image::stored::StoredImage;
use crate::node::run::Run;
use crate::store::cache::{DownloadInfo, DownloadReader};
use crate::store::http::{ImageUrl, RangeReader};

/// Installs what the URL names. While an image comes over the network for the first time, a new instance's disk is
/// written at the same time; there is something to make bootable only when the download was whole and is the image that
/// was meant. A reinstall waits for all of that first: its disk holds a system until then. Gives the image too, which
/// stays in the cache while its file is open.
pub(super) fn install_url(
    url: &ImageUrl,
    installation: &Installation<'_>,
) -> anyhow::Result<(StoredImage, InstallAnswer)> {
    let Job { http, cache, checks, reinstall, .. } = installation.job;
    let remote = RemoteImage { url, http, cache, checks, run: installation.run };
    remote.with_image(
        |tools| match reinstall {
            true => fetch_first(url, tools, installation),
            false => stream_first_download(url, tools, installation),
        },
        |image, verification| install_stored(image, verification, installation),
    )
}

fn fetch_first(
    url: &ImageUrl,
    tools: &FetchTools,
    installation: &Installation<'_>,
) -> anyhow::Result<Fetched<InstallAnswer>> {
    let (started, run) = (Instant::now(), installation.run);
    // What the first bytes tell need not wait for the rest.
    let look = |growing: DownloadReader<'_>| growing_reader(url, growing, tools, installation).map(drop);
    let (image, _) = download(url, tools, run, look)?;
    let took = started.elapsed();
    let fields = json!({ "seconds": took.as_secs_f64() });
    run.report.event("fetched", fields, format_args!("the image is at hand after {}", seconds(took)));
    let installed = install_stored(&image, &tools.verification, installation);
    Ok((image, installed))
}

fn stream_first_download(
    url: &ImageUrl,
    tools: &FetchTools,
    installation: &Installation<'_>,
) -> anyhow::Result<Fetched<InstallAnswer>> {
    let run = installation.run;
    let (image, streamed) = download(url, tools, run, |growing| stream(url, growing, tools, installation))?;
    let hit = image.download().is_some_and(|download| download.hit);
    let installed = match streamed {
        Some(Ok(Some(streamed))) if !hit => {
            let verified = tools.verification.check(&image, None, run).map_err(anyhow::Error::new);
            verified.and_then(|verified| finish(streamed, verified, &image, installation))
        }
        // A wrong image is the better reason for whatever came of it.
        Some(Err(error)) => tools.verification.check(&image, None, run).map_err(Into::into).and(Err(error)),
        _ => install_stored(&image, &tools.verification, installation),
    };
    Ok((image, installed))
}

/// Copies an image while it is downloaded; none where it needs a whole file.
fn stream<'j>(
    url: &ImageUrl,
    growing: DownloadReader<'_>,
    tools: &FetchTools,
    installation: &Installation<'j>,
) -> anyhow::Result<Option<(DiskWriter<'j>, Watch)>> {
    let reader = growing_reader(url, growing, tools, installation)?;
    // qemu-img has to seek in the file that is being downloaded.
    if reader.image_type.format != Format::Raw && reader.image_type.compression.is_none() {
        return Ok(None);
    }
    copy(reader, &url.to_string(), None, installation).map(Some).with_context(|| installing(&url.to_string()))
}

/// What the image is that is being downloaded; an error where it already shows that it is too large.
fn growing_reader<'g>(
    url: &ImageUrl,
    mut growing: DownloadReader<'g>,
    tools: &FetchTools,
    installation: &Installation<'_>,
) -> anyhow::Result<ImageReader<'g>> {
    let (promise, name) = (growing.info().clone(), url.to_string());
    let mut first = [0; DiskSize::FIRST];
    let read = read_first(&mut growing, &mut first);
    let count = read.with_context(|| format!("reading image {url}"))?;
    let bytes = Cursor::new(first).take(count as u64).chain(growing);
    let mut reader = stream_reader(&name, bytes, promise.length, None, installation.job.expected)?;
    if let (Some(compression), ImageBytes::RawStream(_), DiskSize::Unknown) =
        (reader.image_type.compression, &reader.bytes, reader.size)
    {
        reader.size = size_at_the_end(url, compression, &first, &promise, (tools, installation.run));
    }
    check_size(&reader, installation.target).with_context(|| installing(&name))?;
    Ok(reader)
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
    (tools, run): (&FetchTools, &Run),
) -> DiskSize {
    let DownloadInfo { length: Some(total), validator: Some(validator) } = promise else { return DiskSize::Unknown };
    if compression != Compression::Xz {
        return DiskSize::Unknown;
    }
    let pieces = RangeReader::new(*total, validator.clone(), url, &tools.client, &run.report);
    DiskSize::at_server(compression, first, &pieces, *total)
}
