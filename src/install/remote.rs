// SPDX-License-Identifier: BSD-2-Clause
//! An image from a URL, of which a wrong one in the cache is replaced once.
//!
//! The cache hashes what it downloads, so that a SHA-256 costs nothing. A kept image that is not the right one is read
//! again. If it is damaged, it is downloaded again, once. If it is not, it stays, for it is what others may ask for,
//! and the server is asked once, with its validators: a new body takes its place only if it is right. So a wrong
//! checksum never costs a run more than one download.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::Context as _;

use super::job::Checks;
use super::kept::{Verdict, verify_download};
use super::verify_image::{Proof, WrongImage, mark};
use crate::disk::partition::Incomplete;
use crate::disk::write::WriteError;
use crate::image::reference::ImageRef;
use crate::image::source::{ImageError, ImageFile};
use crate::node::run::Run;
use crate::store::cache::{Cache, CacheSettings, CachedImage, DownloadId};
use crate::store::http::{Client, HttpError, HttpSettings, ImageUrl};

/// An image's URL, and all that says how it is fetched, kept and checked.
#[derive(Clone, Copy)]
pub(super) struct Remote<'r> {
    pub(super) url: &'r ImageUrl,
    pub(super) http: &'r HttpSettings,
    pub(super) cache: &'r CacheSettings,
    pub(super) checks: &'r Checks,
    pub(super) run: &'r Run,
}

/// What a use of the image works with.
pub(super) struct Means {
    pub(super) client: Client,
    pub(super) cache: Cache,
    pub(super) proof: Proof,
    /// Why a new image did not take the place of a kept one.
    refusal: Mutex<Option<WrongImage>>,
}

impl Means {
    /// Takes a wrong image out of the cache.
    fn discard(&self, id: &DownloadId) -> anyhow::Result<()> {
        self.cache.discard(id).context("taking a wrong image out of the cache")
    }

    /// Whether a new image of `url` is the one that was meant; if not it does not take the place of a kept one, which
    /// may be another run's.
    pub(super) fn accepts(&self, url: &ImageUrl, image: CachedImage, run: &Run) -> bool {
        let checked = self.proof.judge(&ImageFile::cached(url, image), None, run);
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = checked.err();
        !self.refused()
    }

    fn refused(&self) -> bool {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// `error`, unless it only says that a new image was refused: then why that was.
    fn reason(&self, error: anyhow::Error) -> anyhow::Error {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(error, Into::into)
    }
}

/// What came of using an image.
pub(super) struct Used<T> {
    /// Which download it is.
    pub(super) id: DownloadId,
    /// Whether the cache had it before: no byte of it was downloaded for this run.
    pub(super) kept: bool,
    pub(super) outcome: anyhow::Result<T>,
}

impl Remote<'_> {
    /// Has `fetch` get the image and use it. When what the cache kept turns out to be wrong there is a second try. When
    /// what the checks need is out of reach, `reuse` gets an image that agreed with it before.
    pub(super) fn with_image<T>(
        &self,
        fetch: impl Fn(&Means) -> anyhow::Result<Used<T>>,
        reuse: impl Fn(CachedImage, &Proof) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let cache = Cache::open(self.cache)?;
        let image = ImageRef::Url(self.url.clone());
        let proof = match Proof::gather(self.checks, &image, self.http, self.run) {
            Ok(proof) => proof,
            Err(error) => return reuse(self.kept_before(&cache, error)?, &Proof::offline(self.checks)),
        };
        let means = Means { client: Client::new(self.http)?, cache, proof, refusal: Mutex::default() };
        let used = match fetch(&means).map_err(|error| means.reason(error))? {
            Used { id, kept: true, outcome: Err(error) } if is_wrong(&error) => {
                self.second_try(&means, id, error, fetch, reuse)?
            }
            used => used,
        };
        match &used.outcome {
            Ok(_) => self.note(&means.cache, &used.id),
            // Another try would get the same.
            Err(error) if is_wrong(error) && !used.kept => means.discard(&used.id)?,
            Err(_) => {}
        }
        used.outcome
    }

    /// The kept image `id` is not the one that is asked for. If it is not what it was when it was downloaded either, it is
    /// downloaded once more. Else it stays, for whoever asks for it, and the server is asked once for a newer one.
    fn second_try<T>(
        &self,
        means: &Means,
        id: DownloadId,
        error: anyhow::Error,
        fetch: impl Fn(&Means) -> anyhow::Result<Used<T>>,
        reuse: impl Fn(CachedImage, &Proof) -> anyhow::Result<T>,
    ) -> anyhow::Result<Used<T>> {
        let Remote { url, run, .. } = *self;
        let report = &run.report;
        let damage = match error.downcast_ref() {
            Some(WrongImage::Checksum { .. } | WrongImage::Signature(_)) => verify_download(&means.cache, &id)?,
            // That it is damaged was just found; what is no image at all is of no use to anybody.
            _ => Verdict::Gone,
        };
        match damage {
            Verdict::Intact => {}
            Verdict::Damaged(_) => {
                report.warn(format_args!("{error:#}; the kept image is damaged; downloading it again"));
                return fetch(means).map_err(|error| means.reason(error));
            }
            Verdict::Gone => {
                means.discard(&id)?;
                report.warn(format_args!("{error:#}; downloading it again"));
                return fetch(means).map_err(|error| means.reason(error));
            }
        }
        report.warn(format_args!("{error:#}; the kept image is intact; asking the server for another one"));
        let accept = |image| means.accepts(url, image, run);
        match means.cache.renew(url, &means.client, SystemTime::now(), report, &accept) {
            Ok(Some(image)) => Ok(Used { id: image.id.clone(), kept: false, outcome: reuse(image, &means.proof) }),
            Ok(None) => Err(error.context("the kept image is intact, and the server has no other one")),
            Err(failed) if means.refused() => Err(means.reason(failed.into())),
            Err(failed) => {
                report.warn(format_args!("asking for another image: {failed}"));
                Err(error)
            }
        }
    }

    /// The image that agreed before with what now failed to come, if that failed because a server is down.
    fn kept_before(&self, cache: &Cache, error: anyhow::Error) -> anyhow::Result<CachedImage> {
        let down = error.downcast_ref::<HttpError>().is_some_and(HttpError::is_unavailable);
        let Some(mark) = mark(self.checks).filter(|_| down && self.cache.stale_if_error) else { return Err(error) };
        let Some(kept) = cache.verified(self.url, &mark, self.run.began)? else { return Err(error) };
        self.run.report.warn(format_args!("{error:#}; using the kept image, which agreed with it before"));
        Ok(kept)
    }

    /// Nothing depends on it but the next run without a network.
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
