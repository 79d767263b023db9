// SPDX-License-Identifier: BSD-2-Clause
//! An image from a URL: from the cache or its server, with one more try where the cache has a wrong one.
//!
//! The cache hashes what it downloads, so that a SHA-256 costs nothing. A cached image that is not the right one is read
//! again. If it is damaged, it is downloaded again, once. If it is not, it stays, for it is what others may ask for,
//! and the server is asked once, with its validators: a new body takes its place only if it is right. So a wrong
//! checksum never costs a run more than one download.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::SystemTime;

use anyhow::{Context as _, anyhow};

use super::job::Checks;
use super::progress::Watch;
use super::verify::{Verification, WrongImage, mark};
use crate::disk::partition::Incomplete;
use crate::disk::write::WriteError;
use crate::image::checksum::{Algorithm, Digest};
use crate::image::error::ImageError;
use crate::image::reference::ImageRef;
use crate::image::stored::{Download, StoredImage};
use crate::node::run::Run;
use crate::store::cache::{
    Cache, CacheError, CacheSettings, CachedImage, CachedImageInfo, DownloadId, DownloadReader, SharedDownload,
};
use crate::store::http::{Client, HttpError, HttpSettings, ImageUrl};

/// An image's URL, and all that says how it is fetched, cached and verified.
#[derive(Clone, Copy)]
pub(super) struct RemoteImage<'r> {
    pub(super) url: &'r ImageUrl,
    pub(super) http: &'r HttpSettings,
    pub(super) cache: &'r CacheSettings,
    pub(super) checks: &'r Checks,
    pub(super) run: &'r Run,
}

/// What it takes to fetch an image.
pub(super) struct FetchTools {
    pub(super) client: Client,
    pub(super) cache: Cache,
    pub(super) verification: Verification,
    /// Why a new image did not take the place of a cached one.
    refusal: Mutex<Option<WrongImage>>,
}

impl FetchTools {
    fn discard(&self, id: &DownloadId) -> anyhow::Result<()> {
        self.cache.discard(id).context("taking a wrong image out of the cache")
    }

    /// Whether a new image of `url` is the one that was meant. If not, it does not take the place of a cached one, which
    /// may be another run's.
    fn accepts(&self, url: &ImageUrl, image: CachedImage, run: &Run) -> bool {
        let checked = self.verification.judge(&StoredImage::cached(url, image), None, run);
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = checked.err();
        !self.refused()
    }

    fn refused(&self) -> bool {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Why a new image was refused, if that is what `error` says without the reason; else `error`.
    fn reason(&self, error: anyhow::Error) -> anyhow::Error {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(error, Into::into)
    }
}

/// An image that was fetched, and what came of its use.
pub(super) type Fetched<T> = (StoredImage, anyhow::Result<T>);

impl RemoteImage<'_> {
    /// Has `fetch` get the image and use it. When the cached image turns out to be wrong there is a second try. When what
    /// the verification needs is out of reach, `reuse` gets an image that agreed with it before. The image stays in the
    /// cache as long as its file is open.
    pub(super) fn with_image<T>(
        &self,
        fetch: impl Fn(&FetchTools) -> anyhow::Result<Fetched<T>>,
        reuse: impl Fn(&StoredImage, &Verification) -> anyhow::Result<T>,
    ) -> anyhow::Result<(StoredImage, T)> {
        let cache = Cache::open(self.cache)?;
        let image = ImageRef::Url(self.url.clone());
        let verification = match Verification::gather(self.checks, &image, self.http, self.run) {
            Ok(verification) => verification,
            Err(error) => {
                let image = StoredImage::cached(self.url, self.verified_before(&cache, error)?);
                let used = reuse(&image, &Verification::offline(self.checks))?;
                return Ok((image, used));
            }
        };
        let tools = FetchTools { client: Client::new(self.http)?, cache, verification, refusal: Mutex::default() };
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
                // Another try would get the same.
                if is_wrong(&error) && !download.hit {
                    tools.discard(&download.id)?;
                }
                Err(error)
            }
        }
    }

    /// The cached image `id` is not the one that is asked for. If it is not what it was when it was downloaded either, it
    /// is downloaded once more. Else it stays, for whoever asks for it, and the server is asked once for a newer one.
    fn second_try<T>(
        &self,
        tools: &FetchTools,
        id: &DownloadId,
        error: anyhow::Error,
        fetch: impl Fn(&FetchTools) -> anyhow::Result<Fetched<T>>,
        reuse: impl Fn(&StoredImage, &Verification) -> anyhow::Result<T>,
    ) -> anyhow::Result<Fetched<T>> {
        let RemoteImage { url, run, .. } = *self;
        let report = &run.report;
        let damage = match error.downcast_ref() {
            Some(WrongImage::Checksum { .. } | WrongImage::Signature(_)) => {
                verify_open(&tools.cache, tools.cache.open_download(id)?)?
            }
            // That it is damaged was just found; what is no image at all is of no use to anybody.
            _ => Verdict::Gone,
        };
        match damage {
            Verdict::Intact => {}
            Verdict::Damaged(_) => {
                report.warn(format_args!("{error:#}; the kept image is damaged; downloading it again"));
                return fetch(tools).map_err(|error| tools.reason(error));
            }
            Verdict::Gone => {
                tools.discard(id)?;
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

    /// The image that agreed before with what now failed to come, if that failed because a server is down.
    fn verified_before(&self, cache: &Cache, error: anyhow::Error) -> anyhow::Result<CachedImage> {
        let down = error.downcast_ref::<HttpError>().is_some_and(HttpError::is_unavailable);
        let Some(mark) = mark(self.checks).filter(|_| down && self.cache.stale_if_error) else { return Err(error) };
        let Some(cached) = cache.verified(self.url, &mark, self.run.began)? else { return Err(error) };
        self.run.report.warn(format_args!("{error:#}; using the kept image, which agreed with it before"));
        Ok(cached)
    }

    /// Only the next run without a network depends on this note.
    fn note(&self, cache: &Cache, id: &DownloadId) {
        if let Some(Err(error)) = mark(self.checks).map(|mark| cache.mark_verified(id, &mark)) {
            self.run.report.warn(format_args!("noting that the image was checked: {error}"));
        }
    }
}

/// Whether it is the image that is wrong, and nothing else.
fn is_wrong(error: &anyhow::Error) -> bool {
    let incomplete = match error.downcast_ref() {
        Some(WriteError::Incomplete(incomplete)) => Some(incomplete),
        _ => error.downcast_ref(),
    };
    error.downcast_ref::<WrongImage>().is_some_and(WrongImage::is_the_images_fault)
        || matches!(error.downcast_ref(), Some(ImageError::Foreign { .. }))
        || matches!(incomplete, Some(Incomplete::Cut { .. }))
}

/// Gets the image into the cache and shows how far that is. If it is downloaded, `read` reads along from its first byte on,
/// and an error of `read` ends the download. Gives what came of reading along too: none where there was nothing to read,
/// or where the download failed once, so that it may have been another image's bytes.
pub(super) fn download<T: Send>(
    url: &ImageUrl,
    tools: &FetchTools,
    run: &Run,
    read: impl FnOnce(DownloadReader<'_>) -> anyhow::Result<T> + Send,
) -> anyhow::Result<(StoredImage, Option<anyhow::Result<T>>)> {
    let (follow, now) = (Arc::new(SharedDownload::default()), SystemTime::now());
    let shown = Arc::clone(&follow);
    let watch = Watch::start(run, "fetching", move || shown.progress());
    let accept = |image| tools.accepts(url, image, run);
    let (fetched, read) = thread::scope(|scope| {
        let reading = scope.spawn(|| read_along(&follow, read));
        let fetched = tools.cache.fetch_shared(url, &tools.client, now, &run.report, &follow, &accept);
        (fetched, reading.join().unwrap_or_else(|_panic| Err(anyhow!("the installing thread died"))))
    });
    drop(watch);
    match (fetched, read) {
        // The reader gave up, and says why.
        (Err(_), Err(error)) if follow.abandoned() => Err(error),
        // The download failed; the reader only saw it end.
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

/// Has a signal say what it leaves of the image.
pub(super) fn tell_what_is_left(url: &ImageUrl, cache: &CacheSettings, run: &Run) {
    let (url, cache) = (url.clone(), cache.clone());
    run.final_message.set(move || Cache::existing(&cache).ok()??.describe_partial(&url));
}

/// What became of a cached image that was read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every byte is as it was downloaded.
    Intact,
    /// It is not, and was taken out of the cache; with what its checksum is now.
    Damaged(Digest),
    /// Somebody removed it meanwhile.
    Gone,
}

/// Reads all of a cached image. A damaged one is removed, so that the next create downloads it again.
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
