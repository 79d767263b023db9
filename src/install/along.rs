// SPDX-License-Identifier: BSD-2-Clause
//! A download, with somebody who reads along from its first byte on and may end it.

use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use anyhow::{Context as _, anyhow};

use super::remote::Means;
use super::watch::Watch;
use crate::node::run::Run;
use crate::store::cache::{CachedImage, DownloadReader, SharedDownload};
use crate::store::http::ImageUrl;

/// A download that is over.
pub(super) struct Along<T> {
    /// The image, which is in the cache.
    pub(super) image: CachedImage,
    /// What the reader made of it; none where there was nothing to read along with.
    pub(super) read: anyhow::Result<Option<T>>,
    /// Whether it was the download that stopped the reader.
    pub(super) lost: bool,
}

/// Gets the image into the cache, shows how far that is, and has `read` read along in case it is downloaded. What stops
/// the reader ends the download too, unless it was the download itself that began again.
pub(super) fn download<T: Send>(
    url: &ImageUrl,
    means: &Means,
    run: &Run,
    read: impl FnOnce(DownloadReader<'_>) -> anyhow::Result<T> + Send,
) -> anyhow::Result<Along<T>> {
    let (follow, now) = (Arc::new(SharedDownload::default()), SystemTime::now());
    let shown = Arc::clone(&follow);
    let watch = Watch::start(run, "fetching", move || shown.progress());
    let accept = |image| means.accepts(url, image, run);
    let (fetched, read) = thread::scope(|scope| {
        let reading = scope.spawn(|| read_along(&follow, read));
        let fetched = means.cache.fetch_shared(url, &means.client, now, &run.report, &follow, &accept);
        (fetched, reading.join().unwrap_or_else(|_panic| Err(anyhow!("the installing thread died"))))
    });
    drop(watch);
    match (fetched, read) {
        // The reader gave up, and says why.
        (Err(_), Err(error)) if follow.abandoned() => Err(error),
        // The download failed; the reader only saw it end.
        (Err(error), _) => Err(error.into()),
        (Ok(image), read) => Ok(Along { image, read, lost: follow.lost() }),
    }
}

fn read_along<T>(
    follow: &SharedDownload,
    read: impl FnOnce(DownloadReader<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<Option<T>> {
    let done = match follow.reader().context("reading along with the download") {
        Ok(Some(growing)) => read(growing).map(Some),
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    if done.is_err() && !follow.lost() {
        follow.abandon();
    }
    done
}
