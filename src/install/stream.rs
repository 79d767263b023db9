// SPDX-License-Identifier: BSD-2-Clause
//! Installs an image from its URL: from the cache, or in one pass with its first download.
//!
//! One thread downloads to the `.part` file, and another one reads the same bytes and copies them to the disk. If the
//! download begins again, then the installation begins again from the cached file. If the download continues after it
//! was interrupted, then the reader only waits. A reinstall reads the first download only as far as it needs to see
//! what the image is. So do `fetch`, and plain images in which qemu-img has to seek. A wrong image type ends the
//! download at that point. So does a disk that is too small, if the first bytes show the size, or the index of an
//! .xz, whose end is requested at once if the server gives ranges of that very version.

use std::io::{self, Cursor, Read};
use std::time::Instant;

use anyhow::Context as _;
use serde_json::json;

use super::copy::{InstallAnswer, Installation, check_size, copy, finish, install_stored, installing};
use super::download::{FetchTools, RemoteImage, UsedImage, download};
use super::job::Job;
use super::progress::{ProgressDisplay, seconds};
use crate::disk::write::DiskWriter;
use crate::image::compression::Compression;
use crate::image::disk_size::DiskSize;
use crate::image::format::{Format, ImageType};
use crate::image::gate::{self, stream_reader};
use crate::image::reader::{ImageBytes, ImageReader};
use crate::image::stored::StoredImage;
use crate::node::run::Run;
use crate::store::cache::{DownloadInfo, DownloadReader};
use crate::store::http::{ImageUrl, RangeReader};

/// Installs the image from the URL, and returns it. The image stays in the cache while its file is open.
///
/// A new instance's disk is written while the image is downloaded for the first time. The disk is made bootable only
/// when the download is complete and the image has passed its verification. A reinstall waits for all of that first,
/// because its disk contains a system until then.
pub(super) fn install_url(
    url: &ImageUrl,
    installation: &Installation<'_>,
) -> anyhow::Result<(StoredImage, InstallAnswer)> {
    let Job { http, cache, checks, expected, reinstall, .. } = installation.job;
    let remote = RemoteImage { url, http, cache, checks, expected: *expected, run: installation.run };
    remote.with_image(
        |tools| {
            if *reinstall {
                fetch_first(url, tools, installation)
            } else {
                stream_first_download(url, tools, installation)
            }
        },
        |image, verification| install_stored(image, verification, installation),
    )
}

fn fetch_first(
    url: &ImageUrl,
    tools: &FetchTools,
    installation: &Installation<'_>,
) -> anyhow::Result<UsedImage<InstallAnswer>> {
    let (started, run) = (Instant::now(), installation.run);
    // An error that the first bytes show ends the download early.
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
) -> anyhow::Result<UsedImage<InstallAnswer>> {
    let run = installation.run;
    let (image, streamed) = download(url, tools, run, |growing| stream(url, growing, tools, installation))?;
    let hit = image.download().is_some_and(|download| download.hit);
    let installed = match streamed {
        Some(Ok(Some(streamed))) if !hit => {
            let verified = tools.verification.check(&image, None, run).map_err(anyhow::Error::new);
            verified.and_then(|verified| finish(streamed, verified, &image, installation))
        }
        // If the image is the wrong one, then that is the cause of the error, so it is reported instead.
        Some(Err(error)) => match tools.verification.check(&image, None, run) {
            Err(wrong) => Err(wrong.into()),
            Ok(_) => Err(error),
        },
        _ => install_stored(&image, &tools.verification, installation),
    };
    Ok((image, installed))
}

/// Copies an image while it is downloaded. Returns `None` if the image can only be copied from a complete file.
fn stream<'j>(
    url: &ImageUrl,
    growing: DownloadReader<'_>,
    tools: &FetchTools,
    installation: &Installation<'j>,
) -> anyhow::Result<Option<(DiskWriter<'j>, ProgressDisplay)>> {
    let (name, file) = (url.to_string(), growing.file()?);
    let mut reader = growing_reader(url, growing, tools, installation)?;
    let ImageType { format, archive, compression } = reader.image_type;
    if format != Format::Raw && archive.is_none() && compression.is_none() {
        // qemu-img has to seek in the file, which is not complete yet.
        let Some(file) = file.filter(|_| format == Format::Qcow2) else { return Ok(None) };
        let Some(decoded) = gate::growing_reader(&name, file, installation.job.expected)? else { return Ok(None) };
        reader = decoded;
    }
    copy(reader, &name, None, installation).map(Some).with_context(|| installing(&name))
}

/// Returns a reader of the image that is being downloaded. Fails if the image is already known to be too large.
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
    let mut reader = stream_reader((&name, url.member()), bytes, promise.length, None, installation.job.expected)?;
    if let (Some(compression), ImageBytes::RawStream(_), DiskSize::Unknown) =
        (reader.image_type.compression, &reader.bytes, reader.size)
    {
        reader.size = size_at_the_end(url, compression, &first, &promise, (tools, installation.run));
    }
    check_size(&reader, installation.target).with_context(|| installing(&name))?;
    Ok(reader)
}

/// Fills `first` as far as there are bytes, and returns how many there are.
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

/// Requests the end of an archive, which tells the size of the disk in it. If the server does not give it, then a
/// disk that is too small is only found later.
fn size_at_the_end(
    url: &ImageUrl,
    compression: Compression,
    first: &[u8],
    promise: &DownloadInfo,
    (tools, run): (&FetchTools, &Run),
) -> DiskSize {
    let DownloadInfo { length: Some(total), validator: Some(validator) } = promise else { return DiskSize::Unknown };
    if !DiskSize::is_at_end(compression) {
        return DiskSize::Unknown;
    }
    let pieces = RangeReader::new(*total, validator.clone(), url, &tools.client, &run.report);
    DiskSize::at_server(compression, first, &pieces, *total)
}
