// SPDX-License-Identifier: BSD-2-Clause
//! Getting an image: from the cache if it is recent, else from its server.
//!
//! An image serves without a word of its server only those who got it, or that word, by the same means before: see
//! `access`. All others ask first, even if the server can't be reached.

use std::cell::Cell;
use std::fmt::Display;
use std::io;
use std::time::SystemTime;

use serde_json::json;

use super::access::{Access, Requester};
use super::download::{Download, Outcome};
use super::entry::{Entry, EntryFiles};
use super::error::CacheError;
use super::lock::EntryLock;
use super::room::Room;
use super::shared_download::{EndOnDrop, SharedDownload};
use super::sidecar::Sidecar;
use super::{Cache, CachedImage, Clock, seconds};
use crate::node::report::Report;
use crate::store::http::{Client, Conditions, HttpError, ImageUrl, Response};

/// Decides whether a new image, which is not published yet, may replace a cached one.
type Accept<'a> = &'a (dyn Fn(CachedImage) -> bool + Sync);

impl Cache {
    /// Gets the image of `url`. The cached one is used if it is recent enough, or if the server says that it is current.
    /// Else the image is downloaded. While another process downloads it, this call waits and shares the result. `now` is
    /// the current time.
    pub fn fetch(
        &self,
        url: &ImageUrl,
        client: &Client,
        now: SystemTime,
        report: &Report,
    ) -> Result<CachedImage, CacheError> {
        self.fetch_shared(url, client, now, report, &SharedDownload::default(), &|_| true)
    }

    /// Gets the image like [`Cache::fetch`]. A thread can read a download through `shared` meanwhile. If `accept` refuses
    /// a new image, that is an error, and the cached image stays.
    pub(crate) fn fetch_shared(
        &self,
        url: &ImageUrl,
        client: &Client,
        now: SystemTime,
        report: &Report,
        shared: &SharedDownload,
        accept: Accept<'_>,
    ) -> Result<CachedImage, CacheError> {
        let _end = EndOnDrop(shared);
        let fetch = Fetch { accept, ..Fetch::new(self, url, client, now, report, shared) };
        let image = fetch.run();
        // After a failure too, or what many failed downloads leave would only grow.
        let pruned = self.prune_expired(fetch.clock.time());
        // If the image is there, a failure to make room for others is only a warning. Else the failure of the download
        // matters more.
        if let (Ok(_), Err(error)) = (&image, pruned) {
            report.warn(format_args!("making room in the cache: {error}"));
        }
        image
    }

    /// The cached image of `url`, if [`Cache::fetch`] would use it without asking its server. This is no use of the image.
    /// It is none while another process works on the entry.
    pub(crate) fn fresh(
        &self,
        url: &ImageUrl,
        client: &Client,
        now: SystemTime,
        report: &Report,
    ) -> Result<Option<CachedImage>, CacheError> {
        let shared = SharedDownload::default();
        let fetch = Fetch::new(self, url, client, now, report, &shared);
        if let Some(mut lock) = EntryLock::existing(&fetch.files.lock)?
            && !lock.try_shared()?
        {
            return Ok(None);
        }
        let entry = fetch.files.unlocked_entry()?.filter(|entry| fetch.is_fresh(&entry.sidecar, None));
        Ok(entry.map(|entry| CachedImage::of_entry(&fetch.files, entry, true)))
    }

    /// Asks the server once for another image than the cached one, even if that is recent. It is none if the server has no
    /// other, or, where it gives no validators, one that is as long and begins in the same way. If `accept` refuses a new
    /// image, that is an error, and the cached image stays.
    pub(crate) fn renew(
        &self,
        url: &ImageUrl,
        client: &Client,
        now: SystemTime,
        report: &Report,
        accept: Accept<'_>,
    ) -> Result<Option<CachedImage>, CacheError> {
        Fetch { accept, ..Fetch::new(self, url, client, now, report, &SharedDownload::default()) }.renew()
    }
}

/// One call of [`Cache::fetch`].
struct Fetch<'a> {
    cache: &'a Cache,
    url: &'a ImageUrl,
    client: &'a Client,
    report: &'a Report,
    clock: Clock,
    files: EntryFiles,
    shared: &'a SharedDownload,
    accept: Accept<'a>,
    requester: Requester<'a>,
}

impl<'a> Fetch<'a> {
    fn new(
        cache: &'a Cache,
        url: &'a ImageUrl,
        client: &'a Client,
        now: SystemTime,
        report: &'a Report,
        shared: &'a SharedDownload,
    ) -> Self {
        Fetch {
            cache,
            url,
            client,
            report,
            clock: Clock::new(now),
            files: EntryFiles::of_url(cache.dir(), url),
            shared,
            accept: &|_| true,
            requester: Requester::new(client, url, cache.dir()),
        }
    }

    fn renew(&self) -> Result<Option<CachedImage>, CacheError> {
        let mut lock = EntryLock::open(&self.files.lock)?;
        lock.exclusive(|| ())?;
        let renewed = self.renew_locked();
        self.files.release(lock);
        renewed
    }

    fn renew_locked(&self) -> Result<Option<CachedImage>, CacheError> {
        let cached = self.files.entry()?;
        match (self.download(cached.as_ref(), cached.as_ref())?, cached) {
            (Outcome::NotModified { redirects }, Some(entry)) => self.confirm(entry, &redirects).map(|_image| None),
            (Outcome::NotModified { .. } | Outcome::Alike, _) => Ok(None),
            (Outcome::Complete(sidecar), cached) => self.publish(sidecar, cached).map(Some),
        }
    }

    fn run(&self) -> Result<CachedImage, CacheError> {
        let mut lock = match EntryLock::open(&self.files.lock) {
            Ok(lock) => lock,
            Err(error) if error.is_unwritable() => return self.run_without_lock(error),
            Err(error) => return Err(error),
        };
        // What was recorded before a wait tells what is new after it.
        let mut before = None;
        lock.shared(|| before = Some(self.wait()))?;
        if let Some(entry) = self.files.entry()?.filter(|entry| self.is_fresh(&entry.sidecar, before.as_ref())) {
            return Ok(self.hit(entry));
        }
        lock.exclusive(|| {
            before.get_or_insert_with(|| self.wait());
        })?;
        let image = self.run_locked(before.as_ref());
        self.files.release(lock);
        image
    }

    /// The caller holds the entry's lock alone.
    fn run_locked(&self, before: Option<&Waited>) -> Result<CachedImage, CacheError> {
        if let Err(error) = self.files.take_over_former() {
            self.report.warn(format_args!("taking over the image that an earlier version kept: {error}"));
        }
        match self.files.entry()? {
            Some(entry) if self.is_fresh(&entry.sidecar, before) => Ok(self.hit(entry)),
            cached => self.ask_server(cached),
        }
    }

    /// Uses what is kept where nothing can be written. Nothing can be downloaded either, so that this gives `error` if the
    /// image is missing or has changed.
    fn run_without_lock(&self, error: CacheError) -> Result<CachedImage, CacheError> {
        let Some(entry) = self.files.unlocked_entry()? else { return Err(error) };
        if self.is_fresh(&entry.sidecar, None) {
            return Ok(self.hit(entry));
        }
        let conditions = entry.sidecar.conditions();
        if conditions == Conditions::default() {
            return Err(error);
        }
        match self.client.get(self.url, &conditions, self.report) {
            Ok(Response::NotModified { redirects }) => self.confirm(entry, &redirects),
            Ok(Response::Content(_)) => Err(error),
            Err(failed) => self.use_stale(entry, failed.into()),
        }
    }

    /// Says that this call waits for another process, and gives this one's record as it is then.
    fn wait(&self) -> Waited {
        self.report.info(format_args!("waiting for another download of {}", self.url));
        let sidecar = self.files.sidecar().ok().flatten();
        Waited(sidecar.and_then(|sidecar| self.requester.find(&sidecar.access).cloned()))
    }

    /// Whether the server need not be asked. If this call waited for another process, that one's answer counts even if
    /// nothing older would.
    fn is_fresh(&self, sidecar: &Sidecar, waited: Option<&Waited>) -> bool {
        let Some(record) = self.requester.find(&sidecar.access) else { return false };
        // A time in the future means that the clock was set back, so that the age is unknown.
        let Some(age) = seconds(self.clock.time()).checked_sub(record.checked_at()) else { return false };
        age < self.cache.settings.max_age.as_secs()
            || waited.is_some_and(|Waited(before)| before.as_ref() != Some(record))
    }

    fn hit(&self, entry: Entry) -> CachedImage {
        self.report_hit(format_args!("{} is in the cache", self.url));
        self.image(entry, true)
    }

    fn report_hit(&self, message: impl Display) {
        self.report.event("cached", json!({ "image": self.url.to_string(), "cache": "hit" }), message);
    }

    fn image(&self, entry: Entry, hit: bool) -> CachedImage {
        CachedImage::used(&self.files, entry, hit, self.clock.time())
    }

    /// Downloads the image unless the server says that `cached` is current.
    fn ask_server(&self, cached: Option<Entry>) -> Result<CachedImage, CacheError> {
        if cached.as_ref().is_some_and(|entry| self.requester.find(&entry.sidecar.access).is_none()) {
            self.report.debug(format_args!(
                "{} is in the cache, but was not fetched by the means of this run: its server is asked",
                self.url
            ));
        }
        match (self.download(cached.as_ref(), None), cached) {
            (Ok(Outcome::Complete(sidecar)), cached) => self.publish(sidecar, cached),
            (Ok(Outcome::NotModified { redirects }), Some(entry)) => self.confirm(entry, &redirects),
            // Without conditions the client takes a 304 for an error.
            (Ok(Outcome::NotModified { .. } | Outcome::Alike), _) => Err(self.vanished()),
            (Err(error), Some(entry)) => self.use_stale(entry, error),
            (Err(error), None) => Err(error),
        }
    }

    /// Downloads the image, unless the server says that `cached` is current, or what it sends is like `unlike`.
    fn download(&self, cached: Option<&Entry>, unlike: Option<&Entry>) -> Result<Outcome, CacheError> {
        let conditions = cached.map(|entry| entry.sidecar.conditions()).unwrap_or_default();
        let Fetch { cache, files, url, client, report, clock, shared, requester, .. } = self;
        let room = Room { cache, files, url, clock: *clock, report, made: Cell::new(0) };
        Download { files, url, client, report, clock: *clock, shared, requester, room: &room, unlike }.run(&conditions)
    }

    /// The server has said that the image is current. A record that can't be written only means that it is asked again.
    fn confirm(&self, mut entry: Entry, redirects: &[ImageUrl]) -> Result<CachedImage, CacheError> {
        self.report_hit(format_args!("{} is in the cache and current", self.url));
        let now = seconds(self.clock.time());
        entry.sidecar.checked_at = now;
        self.requester.note(&mut entry.sidecar.access, self.requester.record(redirects, now));
        if let Err(error) = self.files.write_sidecar(&entry.sidecar) {
            self.report.warn(format_args!("noting that {} is current: {error}", self.url));
        }
        Ok(self.image(entry, true))
    }

    /// Uses a kept image after `error`, if that tells that the server is down, and this one had the image before.
    fn use_stale(&self, entry: Entry, error: CacheError) -> Result<CachedImage, CacheError> {
        let record = self.requester.find(&entry.sidecar.access).filter(|_| self.cache.settings.stale_if_error);
        match (error, record) {
            (CacheError::Http(error), Some(record)) if error.is_unavailable() => {
                self.warn_stale(record, &error);
                Ok(self.image(entry, true))
            }
            (error, _) => Err(error),
        }
    }

    fn warn_stale(&self, record: &Access, error: &HttpError) {
        let age = seconds(self.clock.time()).saturating_sub(record.checked_at());
        self.report.warn(format_args!("{error}; using the kept image, last checked {} hours ago", age / 3600));
    }

    /// Publishes the download. If it would replace a cached image, it has to be accepted first. If it is that image, byte
    /// for byte, those who could have that one still can.
    fn publish(&self, mut sidecar: Sidecar, replaced: Option<Entry>) -> Result<CachedImage, CacheError> {
        if let Some(old) = replaced {
            let file = self.files.open_part()?.ok_or_else(|| self.vanished())?;
            let new = CachedImage::of_entry(&self.files, Entry { file, sidecar: sidecar.clone() }, false);
            if !(self.accept)(new) {
                self.files.discard_part()?;
                return Err(CacheError::NotAccepted { url: self.url.to_string() });
            }
            if old.sidecar.sha256 == sidecar.sha256 && old.sidecar.length == sidecar.length {
                let new = std::mem::replace(&mut sidecar.access, old.sidecar.access);
                new.into_iter().for_each(|record| self.requester.note(&mut sidecar.access, record));
            }
        }
        if let Err(error) = self.files.publish(&sidecar) {
            // Nothing would find it any more.
            let _ = self.files.discard_part();
            let _ = self.files.discard_tmp();
            return Err(error);
        }
        let entry = self.files.entry()?.ok_or_else(|| self.vanished())?;
        Ok(self.image(entry, false))
    }

    /// The error that a file is gone, which happens only if somebody ignores the locks.
    fn vanished(&self) -> CacheError {
        CacheError::io("opening", &self.files.img)(io::ErrorKind::NotFound.into())
    }
}

/// What was recorded of who asks when the wait for another process began.
struct Waited(Option<Access>);
