// SPDX-License-Identifier: BSD-2-Clause
//! A download, with somebody who reads along from its first byte on and may end it.

use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};

use super::Context;
use super::remote::Means;
use crate::cache::{CachedImage, Follow, Growing};
use crate::http::ImageUrl;

/// How often it is looked how far a download is.
const POLL: Duration = Duration::from_millis(100);

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
    context: &Context,
    read: impl FnOnce(Growing<'_>) -> anyhow::Result<T> + Send,
) -> anyhow::Result<Along<T>> {
    let (follow, now) = (Follow::default(), SystemTime::now());
    let (fetched, read) = thread::scope(|scope| {
        let reading = scope.spawn(|| read_along(&follow, read));
        let fetching = scope.spawn(|| means.cache.fetch_followed(url, &means.client, now, &context.report, &follow));
        while let Some(progress) = context.progress.as_ref().filter(|_| !fetching.is_finished()) {
            let (received, promised) = follow.progress();
            progress.update(received, promised);
            thread::sleep(POLL);
        }
        let fetched = fetching.join().map_err(|_panic| anyhow!("the downloading thread died"));
        (fetched, reading.join().unwrap_or_else(|_panic| Err(anyhow!("the installing thread died"))))
    });
    if let Some(progress) = &context.progress {
        progress.finish();
    }
    match (fetched?, read) {
        // The reader gave up, and says why.
        (Err(_), Err(error)) if follow.abandoned() => Err(error),
        // The download failed; the reader only saw it end.
        (Err(error), _) => Err(error.into()),
        (Ok(image), read) => Ok(Along { image, read, lost: follow.lost() }),
    }
}

fn read_along<T>(follow: &Follow, read: impl FnOnce(Growing<'_>) -> anyhow::Result<T>) -> anyhow::Result<Option<T>> {
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
