// SPDX-License-Identifier: BSD-2-Clause
//! Getting an image: from the cache if it is recent, else from its server.

use std::fmt::Display;
use std::io;
use std::time::SystemTime;

use serde_json::json;

use super::download::{Download, Outcome};
use super::entry::{Entry, EntryFiles, Sidecar};
use super::error::CacheError;
use super::lock::EntryLock;
use super::shared_download::{EndOnDrop, SharedDownload};
use super::{Cache, CacheSettings, CachedImage, Clock, seconds};
use crate::node::report::Report;
use crate::store::http::{Client, HttpError, ImageUrl};

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
        let image = fetch.run()?;
        // The image is there, so that a failure to make room for others is only a warning.
        if let Err(error) = self.prune_expired(fetch.clock.time()) {
            report.warn(format_args!("making room in the cache: {error}"));
        }
        Ok(image)
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
        let Some(lock) = EntryLock::existing(&fetch.files.lock)? else { return Ok(None) };
        if !lock.try_shared()? {
            return Ok(None);
        }
        let entry = fetch.usable_entry()?.filter(|entry| fetch.is_fresh(&entry.sidecar, false));
        Ok(entry.map(|entry| CachedImage::of_entry(&fetch.files, entry, true)))
    }

    /// Asks the server once for another image than the cached one, even if that is recent. It is none if the server has no
    /// other. If `accept` refuses a new image, that is an error, and the cached image stays.
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
    settings: &'a CacheSettings,
    url: &'a ImageUrl,
    client: &'a Client,
    report: &'a Report,
    clock: Clock,
    files: EntryFiles,
    shared: &'a SharedDownload,
    accept: Accept<'a>,
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
            settings: &cache.settings,
            url,
            client,
            report,
            clock: Clock::new(now),
            files: EntryFiles::of_url(cache.dir(), url),
            shared,
            accept: &|_| true,
        }
    }

    fn renew(&self) -> Result<Option<CachedImage>, CacheError> {
        let lock = EntryLock::open(&self.files.lock)?;
        lock.exclusive(|| ())?;
        let cached = self.files.entry()?;
        match self.download(cached.as_ref())? {
            Outcome::NotModified => Ok(None),
            Outcome::Complete(sidecar) => self.publish(sidecar, cached.is_some()).map(Some),
        }
    }

    fn run(&self) -> Result<CachedImage, CacheError> {
        let lock = EntryLock::open(&self.files.lock)?;
        let mut waited = false;
        lock.shared(|| self.report_wait(&mut waited))?;
        if let Some(entry) = self.usable_entry()?.filter(|entry| self.is_fresh(&entry.sidecar, waited)) {
            return Ok(self.hit(entry));
        }
        lock.exclusive(|| self.report_wait(&mut waited))?;
        match self.usable_entry()? {
            Some(entry) if self.is_fresh(&entry.sidecar, waited) => Ok(self.hit(entry)),
            cached => self.ask_server(cached),
        }
    }

    /// The entry, unless its image came from a URL that this client may not request. A variant with other settings may
    /// have fetched it.
    fn usable_entry(&self) -> Result<Option<Entry>, CacheError> {
        let is_allowed = |url: &String| ImageUrl::parse(url).is_ok_and(|url| self.client.allows(&url));
        let entry = self.files.entry()?;
        Ok(entry.filter(|entry| self.client.allows(self.url) && entry.sidecar.via.iter().all(is_allowed)))
    }

    fn report_wait(&self, waited: &mut bool) {
        if !*waited {
            self.report.info(format_args!("waiting for another download of {}", self.url));
        }
        *waited = true;
    }

    /// Whether the server need not be asked. If this call `waited` for another process, that one's answer counts even if
    /// nothing older would.
    fn is_fresh(&self, sidecar: &Sidecar, waited: bool) -> bool {
        let (asked, now) = (seconds(self.clock.now), seconds(self.clock.time()));
        // A time in the future means that the clock was set back, so that the age is unknown.
        let Some(age) = now.checked_sub(sidecar.checked_at) else { return false };
        age < self.settings.max_age.as_secs() || (waited && sidecar.checked_at >= asked)
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
        match (self.download(cached.as_ref()), cached) {
            (Ok(Outcome::Complete(sidecar)), cached) => self.publish(sidecar, cached.is_some()),
            (Ok(Outcome::NotModified), Some(entry)) => self.confirm(entry),
            // Without conditions the client takes a 304 for an error.
            (Ok(Outcome::NotModified), None) => Err(self.vanished()),
            (Err(CacheError::Http(error)), Some(entry)) if self.settings.stale_if_error && error.is_unavailable() => {
                self.warn_stale(&entry.sidecar, &error);
                Ok(self.image(entry, true))
            }
            (Err(error), _) => Err(error),
        }
    }

    fn download(&self, cached: Option<&Entry>) -> Result<Outcome, CacheError> {
        let conditions = cached.map(|entry| entry.sidecar.conditions()).unwrap_or_default();
        let Fetch { files, url, client, report, clock, shared, .. } = self;
        Download { files, url, client, report, clock: *clock, shared }.run(&conditions)
    }

    fn confirm(&self, mut entry: Entry) -> Result<CachedImage, CacheError> {
        self.report_hit(format_args!("{} is in the cache and current", self.url));
        entry.sidecar.checked_at = seconds(self.clock.time());
        self.files.write_sidecar(&entry.sidecar)?;
        Ok(self.image(entry, true))
    }

    fn warn_stale(&self, sidecar: &Sidecar, error: &HttpError) {
        let age = seconds(self.clock.time()).saturating_sub(sidecar.checked_at);
        self.report.warn(format_args!("{error}; using the kept image, last checked {} hours ago", age / 3600));
    }

    /// Publishes the download. If it would replace a cached image, it has to be accepted first.
    fn publish(&self, mut sidecar: Sidecar, replaces: bool) -> Result<CachedImage, CacheError> {
        sidecar.fetched_at = seconds(self.clock.time());
        sidecar.checked_at = sidecar.fetched_at;
        if replaces {
            let file = self.files.open_part()?.ok_or_else(|| self.vanished())?;
            let new = CachedImage::of_entry(&self.files, Entry { file, sidecar: sidecar.clone() }, false);
            if !(self.accept)(new) {
                self.files.discard_part()?;
                return Err(CacheError::NotAccepted { url: self.url.to_string() });
            }
        }
        self.files.publish(&sidecar)?;
        let entry = self.files.entry()?.ok_or_else(|| self.vanished())?;
        Ok(self.image(entry, false))
    }

    /// The error that a file is gone, which happens only if somebody ignores the locks.
    fn vanished(&self) -> CacheError {
        CacheError::io("opening", &self.files.img)(io::ErrorKind::NotFound.into())
    }
}
