// SPDX-License-Identifier: BSD-2-Clause
//! Gets an image from a URL: from the cache or from its server, with a second try if the cached image is wrong.
//!
//! The cache hashes what it downloads, so that checking a SHA-256 costs nothing. A cached image that fails its
//! verification is read again. If it is damaged, it is downloaded again, once. If it is intact, it stays in the
//! cache, because other instances may ask for it, and the server is asked once, with the cached image's validators: a
//! new body replaces the cached image only if it is a disk image, and the right one. So a wrong checksum never costs a
//! run more than one download, and costs nobody else anything. Neither does a server that answers with a web page for
//! a while.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::SystemTime;

use anyhow::{Context as _, anyhow};

use super::job::Checks;
use super::progress::ProgressDisplay;
use super::verify::{Verification, WrongImage, mark};
use crate::disk::device::FileBytes;
use crate::disk::partition::{self, ImageExtent, Incomplete};
use crate::disk::write::WriteError;
use crate::image::checksum::{Algorithm, Digest};
use crate::image::error::ImageError;
use crate::image::gate::Expected;
use crate::image::reader::{ImageBytes, ImageReader};
use crate::image::reference::ImageRef;
use crate::image::stored::{Download, StoredImage};
use crate::node::run::Run;
use crate::store::cache::{
    Cache, CacheError, CacheSettings, CachedImage, CachedImageInfo, DownloadId, DownloadReader, SharedDownload,
};
use crate::store::http::{Client, HttpError, HttpSettings, ImageUrl};

/// An image's URL, with everything that decides how the image is fetched, cached and verified.
#[derive(Clone, Copy)]
pub(super) struct RemoteImage<'r> {
    pub(super) url: &'r ImageUrl,
    pub(super) http: &'r HttpSettings,
    pub(super) cache: &'r CacheSettings,
    pub(super) checks: &'r Checks,
    pub(super) expected: Expected,
    pub(super) run: &'r Run,
}

/// Everything that is needed to fetch an image.
pub(super) struct FetchTools {
    pub(super) client: Client,
    pub(super) cache: Cache,
    pub(super) verification: Verification,
    expected: Expected,
    /// The reason why a new image did not replace a cached one.
    refusal: Mutex<Option<anyhow::Error>>,
}

impl FetchTools {
    fn discard(&self, id: &DownloadId) -> anyhow::Result<()> {
        self.cache.discard(id).context("taking a wrong image out of the cache")
    }

    /// Returns whether a new image from `url` is a disk image and passes the verification. If not, it does not replace the
    /// cached image, which another run may use. The reason is stored.
    fn accepts(&self, url: &ImageUrl, image: CachedImage, run: &Run) -> bool {
        let image = StoredImage::cached(url, image);
        let judged = self.verification.judge(&image, None, run).map_err(anyhow::Error::new);
        let checked = judged.and_then(|_words| check_kept(&image, self.expected).map(drop));
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = checked.err();
        !self.refused()
    }

    fn refused(&self) -> bool {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Returns the stored reason of a refusal if there is one, and otherwise `error`.
    fn reason(&self, error: anyhow::Error) -> anyhow::Error {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(error)
    }
}

/// An image that was fetched, and the result of its use.
pub(super) type UsedImage<T> = (StoredImage, anyhow::Result<T>);

impl RemoteImage<'_> {
    /// Calls `fetch` to get the image and use it.
    ///
    /// If the cached image turns out to be wrong, there is a second try. If what the verification needs can't be
    /// fetched, then `reuse` uses a cached image that passed the same verification before. The image stays in the
    /// cache as long as its file is open.
    pub(super) fn with_image<T>(
        &self,
        fetch: impl Fn(&FetchTools) -> anyhow::Result<UsedImage<T>>,
        reuse: impl Fn(&StoredImage, &Verification) -> anyhow::Result<T>,
    ) -> anyhow::Result<(StoredImage, T)> {
        let cache = Cache::open(self.cache)?;
        let (image, client) = (ImageRef::Url(self.url.clone()), Client::new(self.http)?);
        let verification = match Verification::gather(self.checks, &image, self.http, self.run) {
            Ok(verification) => verification,
            Err(error) => {
                let image = StoredImage::cached(self.url, self.verified_before(&cache, &client, error)?);
                let used = reuse(&image, &Verification::offline(self.checks))?;
                return Ok((image, used));
            }
        };
        let expected = self.expected;
        let tools = FetchTools { client, cache, verification, expected, refusal: Mutex::default() };
        let (image, used) = fetch(&tools).map_err(|error| tools.reason(error))?;
        let (image, used) = match (image.download(), used) {
            (Some(Download { id, hit: true, .. }), Err(error)) if is_wrong(&error) => {
                let id = id.clone();
                // An open file would keep the wrong image in the cache.
                drop(image);
                self.second_try(&tools, &id, error, fetch, reuse)?
            }
            (_, used) => (image, used),
        };
        let download = image.download().cloned().context("the image is not in the cache")?;
        match used {
            Ok(used) => {
                self.note(&tools.cache, &download.id);
                Ok((image, used))
            }
            Err(error) => {
                drop(image);
                // The image was just downloaded, so another try would get the same bytes.
                if is_wrong(&error) && !download.hit {
                    tools.discard(&download.id)?;
                }
                Err(error)
            }
        }
    }

    /// Gets another image after the cached image `id` failed its verification. If that image is damaged, then it is
    /// downloaded once more. If it is intact, then it stays in the cache for other users, and the server is asked
    /// once for a newer one.
    fn second_try<T>(
        &self,
        tools: &FetchTools,
        id: &DownloadId,
        error: anyhow::Error,
        fetch: impl Fn(&FetchTools) -> anyhow::Result<UsedImage<T>>,
        reuse: impl Fn(&StoredImage, &Verification) -> anyhow::Result<T>,
    ) -> anyhow::Result<UsedImage<T>> {
        let RemoteImage { url, run, .. } = *self;
        let report = &run.report;
        match verify_open(&tools.cache, tools.cache.open_download(id)?)? {
            Verdict::Intact => {}
            Verdict::Damaged(_) => {
                report.warn(format_args!("{error:#}; the kept image is damaged; downloading it again"));
                return fetch(tools).map_err(|error| tools.reason(error));
            }
            Verdict::Gone => {
                report.warn(format_args!("{error:#}; downloading it again"));
                return fetch(tools).map_err(|error| tools.reason(error));
            }
        }
        report.warn(format_args!("{error:#}; the kept image is intact; asking the server for another one"));
        let accept = |image| tools.accepts(url, image, run);
        match tools.cache.renew(url, &tools.client, SystemTime::now(), report, &accept) {
            Ok(Some(image)) => {
                let image = StoredImage::cached(url, image);
                let used = reuse(&image, &tools.verification);
                Ok((image, used))
            }
            Ok(None) => Err(error.context("the kept image is intact, and the server has no other one")),
            Err(failed) if tools.refused() => Err(tools.reason(failed.into())),
            Err(failed) => {
                report.warn(format_args!("asking for another image: {failed}"));
                Err(error)
            }
        }
    }

    /// Returns the cached image that passed this verification before, if `error` says that a server is down.
    fn verified_before(&self, cache: &Cache, client: &Client, error: anyhow::Error) -> anyhow::Result<CachedImage> {
        let down = error.downcast_ref::<HttpError>().is_some_and(HttpError::is_unavailable);
        if !down || !self.cache.stale_if_error {
            return Err(error);
        }
        let Some(mark) = mark(self.checks) else { return Err(error) };
        let Some(cached) = cache.verified(self.url, client, &mark, self.run.began)? else { return Err(error) };
        self.run.report.warn(format_args!("{error:#}; using the kept image, which agreed with it before"));
        Ok(cached)
    }

    /// Records in the cache that the image was verified. A failure matters only to a later run without a network.
    fn note(&self, cache: &Cache, id: &DownloadId) {
        let Some(mark) = mark(self.checks) else { return };
        if let Err(error) = cache.mark_verified(id, &mark) {
            self.run.report.warn(format_args!("noting that the image was checked: {error}"));
        }
    }
}

/// Returns whether the error says that the image itself is wrong.
fn is_wrong(error: &anyhow::Error) -> bool {
    let incomplete = match error.downcast_ref() {
        Some(WriteError::Incomplete(incomplete)) => Some(incomplete),
        _ => error.downcast_ref(),
    };
    error.downcast_ref::<WrongImage>().is_some_and(WrongImage::is_the_images_fault)
        || matches!(error.downcast_ref(), Some(ImageError::Foreign { .. }))
        || matches!(incomplete, Some(Incomplete::Cut { .. }))
}

/// Opens a cached image, which has to be a disk image, and a whole one if its first bytes tell how long it is.
pub(super) fn check_kept(image: &StoredImage, expected: Expected) -> anyhow::Result<ImageReader<'_>> {
    let reader = image.reader(expected, None)?;
    if let ImageBytes::RawFile(file, len) = &reader.bytes {
        let extent = ImageExtent { image: *len, disk: None, mbr_tolerance: expected.mbr_tolerance };
        let checked = partition::check_complete(&FileBytes::new(file, *len), extent);
        checked.with_context(|| format!("image {}", image.name()))?;
    }
    Ok(reader)
}

/// Gets the image into the cache and shows the progress. During a download, `read` reads the same bytes from the
/// first one on, and an error of `read` ends the download.
///
/// Returns the image and the result of `read`. There is no result if nothing was downloaded, or if the download began
/// again, because `read` may then have seen the bytes of another image.
pub(super) fn download<T: Send>(
    url: &ImageUrl,
    tools: &FetchTools,
    run: &Run,
    read: impl FnOnce(DownloadReader<'_>) -> anyhow::Result<T> + Send,
) -> anyhow::Result<(StoredImage, Option<anyhow::Result<T>>)> {
    let (follow, now) = (Arc::new(SharedDownload::default()), SystemTime::now());
    let shown = Arc::clone(&follow);
    let watch = ProgressDisplay::start(run, "fetching", move || shown.progress());
    let accept = |image| tools.accepts(url, image, run);
    let (fetched, read) = thread::scope(|scope| {
        let reading = scope.spawn(|| read_along(&follow, read));
        let fetched = tools.cache.fetch_shared(url, &tools.client, now, &run.report, &follow, &accept);
        (fetched, reading.join().unwrap_or_else(|_panic| Err(anyhow!("the installing thread died"))))
    });
    drop(watch);
    match (fetched, read) {
        // The reader ended the download, so its error is the cause.
        (Err(_), Err(error)) if follow.abandoned() => Err(error),
        // The download failed, and the reader only saw the bytes end.
        (Err(error), _) => Err(error.into()),
        (Ok(image), read) => {
            let read = if follow.lost() { None } else { read.transpose() };
            Ok((StoredImage::cached(url, image), read))
        }
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

/// Makes a run that a signal ends report how much of the image is already downloaded.
pub(super) fn tell_what_is_left(url: &ImageUrl, cache: &CacheSettings, run: &Run) {
    let (url, cache) = (url.clone(), cache.clone());
    run.final_message.set(move || Cache::existing(&cache).ok()??.describe_partial(&url));
}

/// The verdict on a cached image that was read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every byte is as it was downloaded.
    Intact,
    /// The image has this checksum now. It was removed from the cache.
    Damaged(Digest),
    /// Another process removed the image in the meantime.
    Gone,
}

/// Reads all of a cached image. Removes a damaged one from the cache, so that the next `create` downloads it again.
pub(crate) fn verify_kept(cache: &Cache, image: &CachedImageInfo) -> anyhow::Result<Verdict> {
    verify_open(cache, cache.open_image(image)?)
}

fn verify_open(cache: &Cache, image: Option<CachedImage>) -> anyhow::Result<Verdict> {
    let Some(open) = image else { return Ok(Verdict::Gone) };
    let reading = |source| CacheError::Io { doing: "reading", path: open.path.clone(), source };
    let found = Digest::of_file(&open.file, Algorithm::Sha256).map_err(reading)?;
    if found.hex() == open.sha256 {
        return Ok(Verdict::Intact);
    }
    let id = open.id.clone();
    drop(open);
    cache.discard(&id)?;
    Ok(Verdict::Damaged(found))
}
