// SPDX-License-Identifier: BSD-2-Clause
//! An image from a URL, of which a wrong one in the cache is replaced once.

use anyhow::Context as _;

use super::Context;
use super::verify_image::{Proof, WrongImage, mark};
use crate::cache::{Cache, CacheSettings, CachedImage, DownloadId};
use crate::http::{Client, HttpError, HttpSettings, ImageUrl};
use crate::image::reference::ImageRef;
use crate::image::source::ImageError;
use crate::request::Checks;

/// An image's URL, and all that says how it is fetched, kept and checked.
#[derive(Clone, Copy)]
pub(super) struct Remote<'r> {
    pub(super) url: &'r ImageUrl,
    pub(super) http: &'r HttpSettings,
    pub(super) cache: &'r CacheSettings,
    pub(super) checks: &'r Checks,
    pub(super) context: &'r Context,
}

/// What a use of the image works with.
pub(super) struct Means {
    pub(super) client: Client,
    pub(super) cache: Cache,
    pub(super) proof: Proof,
}

/// Which download was used, and what came of it.
pub(super) type Used<T> = (DownloadId, anyhow::Result<T>);

impl Remote<'_> {
    /// Has `fetch` get the image and use it. When what the cache kept turns out to be wrong it is taken out, and there
    /// is a second try with a new download. When what the checks need is out of reach, `reuse` gets an image that
    /// agreed with it before.
    pub(super) fn with_image<T>(
        &self,
        fetch: impl Fn(&Means) -> anyhow::Result<Used<T>>,
        reuse: impl FnOnce(CachedImage, &Proof) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let cache = Cache::open(self.cache)?;
        let image = ImageRef::Url(self.url.clone());
        let proof = match Proof::gather(self.checks, &image, self.http, self.context) {
            Ok(proof) => proof,
            Err(error) => return reuse(self.kept_before(&cache, error)?, &Proof::offline(self.checks)),
        };
        let means = Means { client: Client::new(self.http)?, cache, proof };
        let (mut id, mut outcome) = fetch(&means)?;
        if let Some(error) = outcome.as_ref().err().filter(|error| is_wrong(error)) {
            means.cache.discard(&id).context("taking a wrong image out of the cache")?;
            // Downloaded in this run, another try would get the same.
            if id.is_before(self.context.began) {
                self.context.report.warn(format_args!("{error:#}; downloading it again"));
                (id, outcome) = fetch(&means)?;
                if outcome.as_ref().is_err_and(is_wrong) {
                    means.cache.discard(&id).context("taking a wrong image out of the cache")?;
                }
            }
        }
        if outcome.is_ok() {
            self.note(&means.cache, &id);
        }
        outcome
    }

    /// The image that agreed before with what now failed to come, if that failed because a server is down.
    fn kept_before(&self, cache: &Cache, error: anyhow::Error) -> anyhow::Result<CachedImage> {
        let down = error.downcast_ref::<HttpError>().is_some_and(HttpError::is_unavailable);
        let Some(mark) = mark(self.checks).filter(|_| down && self.cache.stale_if_error) else { return Err(error) };
        let Some(kept) = cache.verified(self.url, &mark, self.context.began)? else { return Err(error) };
        self.context.report.warn(format_args!("{error:#}; using the kept image, which agreed with it before"));
        Ok(kept)
    }

    /// Nothing depends on it but the next run without a network.
    fn note(&self, cache: &Cache, id: &DownloadId) {
        if let Some(Err(error)) = mark(self.checks).map(|mark| cache.mark_verified(id, &mark)) {
            self.context.report.warn(format_args!("noting that the image was checked: {error}"));
        }
    }
}

/// Whether it is the image that is wrong, and nothing else.
fn is_wrong(error: &anyhow::Error) -> bool {
    error.downcast_ref::<WrongImage>().is_some_and(WrongImage::is_the_images_fault)
        || matches!(error.downcast_ref::<ImageError>(), Some(ImageError::Foreign { .. }))
}
