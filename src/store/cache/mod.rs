// SPDX-License-Identifier: BSD-2-Clause
//! Keeping downloaded images.
//!
//! Every URL has an entry of files named after the SHA-256 of the URL: `KEY.img`, the image; `KEY.toml`, what is known
//! about it; `KEY.lock`, held shared while looking at the entry and alone while downloading or removing it; `KEY.part`
//! and `KEY.tmp`, on their way to the first two; `KEY.mark`, from where a later run goes on with a cut download. Who uses
//! an image holds a shared lock on the image itself.

pub(crate) mod checkpoint;
mod download;
pub(crate) mod entry;
mod error;
mod folder;
pub(crate) mod inventory;
mod leftovers;
mod lock;
mod partial_download;
mod prune;
mod shared_download;
mod usage;

use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::node::report::Report;
use crate::node::size::ByteSize;
use crate::store::http::{Client, HttpError, ImageUrl};
use checkpoint::SavedCheckpoint;
use download::{Download, Outcome};
use entry::{Entry, EntryFiles, Sidecar};
pub use error::CacheError;
pub(crate) use inventory::CachedImageInfo;
pub(crate) use leftovers::{CleanupOptions, Leftover};
use lock::EntryLock;
use shared_download::EndOnDrop;
pub(crate) use shared_download::{DownloadInfo, DownloadReader, SharedDownload};
pub(crate) use usage::DownloadId;

/// How long an image stays after it has to be asked about again: so long it can serve while its server is down, and
/// spares a download when the server says that it is still current.
pub const STALE_RETENTION: Duration = Duration::from_secs(30 * 86400);

/// How images are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSettings {
    /// The folder, of the cache's own.
    pub dir: PathBuf,
    /// How long an image is used without asking the server; zero asks every time.
    pub max_age: Duration,
    /// Use a kept image of any age when the server is down or out of reach.
    pub stale_if_error: bool,
    /// Bytes that all images may have together; none means no bound.
    pub max_size: Option<ByteSize>,
}

/// The kept images.
#[derive(Debug)]
pub struct Cache {
    settings: CacheSettings,
}

/// A kept image, which nothing removes while `file` is open.
#[derive(Debug)]
pub struct CachedImage {
    /// Open for reading at its start, with a shared lock. Its bytes never change.
    pub file: File,
    /// Its name. A later download may put another image there: whoever needs a name for exactly these bytes uses
    /// `/proc/self/fd`.
    pub path: PathBuf,
    /// Whether it was there already: no byte of it was downloaded for this call.
    pub hit: bool,
    /// Its length in bytes.
    pub len: u64,
    /// The SHA-256, as hex digits, of the bytes as they were downloaded.
    pub sha256: String,
    /// Which download it is.
    pub id: DownloadId,
}

impl Cache {
    /// Opens the cache, making its folder (0700) when missing.
    ///
    /// # Errors
    /// A folder that is a symbolic link, that another user owns, or that others may write to.
    pub fn open(settings: &CacheSettings) -> Result<Self, CacheError> {
        let dir = folder::open(&settings.dir)?;
        Ok(Cache { settings: CacheSettings { dir, ..settings.clone() } })
    }

    /// Opens the cache if its folder is there, and makes nothing.
    pub(crate) fn existing(settings: &CacheSettings) -> Result<Option<Self>, CacheError> {
        match std::fs::symlink_metadata(&settings.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            _ => Self::open(settings).map(Some),
        }
    }

    /// The cache's folder: for temporary files too, which no other user may see.
    pub(crate) fn dir(&self) -> &Path {
        &self.settings.dir
    }

    /// The image of `url`: the kept one if it is recent enough or the server says that it is current, else downloaded.
    /// While another process downloads it, waits and shares. `now` is the current time.
    pub fn fetch(
        &self,
        url: &ImageUrl,
        client: &Client,
        now: SystemTime,
        report: &Report,
    ) -> Result<CachedImage, CacheError> {
        self.fetch_shared(url, client, now, report, &SharedDownload::default(), &|_| true)
    }

    /// The same, for a thread that reads along through `follow` in case it is downloaded. A kept image stays when the one
    /// that the server has by now is not what `accept` asks for, which is an error.
    pub(crate) fn fetch_shared(
        &self,
        url: &ImageUrl,
        client: &Client,
        now: SystemTime,
        report: &Report,
        follow: &SharedDownload,
        accept: Accept<'_>,
    ) -> Result<CachedImage, CacheError> {
        let _end = EndOnDrop(follow);
        let clock = Clock { now, read_at: Instant::now() };
        let files = EntryFiles::of_url(&self.settings.dir, url);
        let image = Fetch { settings: &self.settings, url, client, report, clock, files, follow, accept }.run()?;
        // The image is there: room for others is not a reason to fail.
        if let Err(error) = self.prune_expired(clock.time()) {
            report.warn(format_args!("making room in the cache: {error}"));
        }
        Ok(image)
    }

    /// What a run that ends in the middle leaves of the image of `url`, in words; nothing where it leaves nothing, and had
    /// nothing.
    pub(crate) fn describe_partial(&self, url: &ImageUrl) -> Option<String> {
        let files = EntryFiles::of_url(&self.settings.dir, url);
        if let Some(found) = SavedCheckpoint::read(&files).filter(SavedCheckpoint::is_usable) {
            return Some(download::kept_words(url, found.length()));
        }
        if files.part_length().is_some_and(|bytes| bytes > 0) {
            return Some(format!(
                "nothing of the download of {url} is kept: it is too little, or its server gives no validator"
            ));
        }
        files.sidecar().ok()?.map(|_sidecar| format!("{url} is in the cache: the next run need not download it"))
    }

    /// The kept image of `url`, if it would be used now without asking its server. Looking at it is no use of it. There is
    /// none while another process is at the entry.
    pub(crate) fn fresh(
        &self,
        url: &ImageUrl,
        client: &Client,
        now: SystemTime,
        report: &Report,
    ) -> Result<Option<CachedImage>, CacheError> {
        let files = EntryFiles::of_url(&self.settings.dir, url);
        let Some(lock) = EntryLock::existing(&files.lock).map_err(CacheError::io("opening", &files.lock))? else {
            return Ok(None);
        };
        if !lock.try_shared().map_err(CacheError::io("locking", &files.lock))? {
            return Ok(None);
        }
        let (clock, follow) = (Clock { now, read_at: Instant::now() }, &SharedDownload::default());
        let fetch = Fetch { settings: &self.settings, url, client, report, clock, files, follow, accept: &|_| true };
        let entry = fetch.usable_entry()?.filter(|entry| fetch.is_fresh(&entry.sidecar, false));
        Ok(entry.map(|entry| CachedImage::of_entry(&fetch.files, entry, true)))
    }

    /// Asks the server once for another image than the kept one, however recent that is: none if it has no other. What is
    /// not as `accept` asks for is an error, and the kept image stays.
    pub(crate) fn renew(
        &self,
        url: &ImageUrl,
        client: &Client,
        now: SystemTime,
        report: &Report,
        accept: Accept<'_>,
    ) -> Result<Option<CachedImage>, CacheError> {
        let clock = Clock { now, read_at: Instant::now() };
        let files = EntryFiles::of_url(&self.settings.dir, url);
        let follow = &SharedDownload::default();
        Fetch { settings: &self.settings, url, client, report, clock, files, follow, accept }.renew()
    }

    /// Removes images that the server was last asked about more than `max_age` and [`STALE_RETENTION`] before `now` and
    /// that nobody uses, and what killed downloads left, but for a day what one can go on from; then, of those that nobody
    /// uses, the ones used longest ago until the rest keeps within `max_size`. Gives the number of images removed. Files that are not of the
    /// cache's own naming, or without its lock file beside them, are never touched.
    pub fn prune_expired(&self, now: SystemTime) -> Result<usize, CacheError> {
        let kept_for = self.settings.max_age.saturating_add(STALE_RETENTION);
        let expired = prune::prune(&self.settings.dir, kept_for, seconds(now))?;
        let surplus = self.settings.max_size.map_or(Ok(0), |max| usage::shrink(&self.settings.dir, max.0))?;
        Ok(expired + surplus)
    }
}

/// Whether a new image, which is not in its place yet, may take that of a kept one.
pub(crate) type Accept<'a> = &'a (dyn Fn(CachedImage) -> bool + Sync);

/// The current time, from the time when it was told. Waiting for another download takes long.
#[derive(Clone, Copy)]
struct Clock {
    now: SystemTime,
    read_at: Instant,
}

impl Clock {
    fn time(&self) -> SystemTime {
        self.now + self.read_at.elapsed()
    }
}

/// Whole seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// One call of [`Cache::fetch`].
struct Fetch<'a> {
    settings: &'a CacheSettings,
    url: &'a ImageUrl,
    client: &'a Client,
    report: &'a Report,
    clock: Clock,
    files: EntryFiles,
    follow: &'a SharedDownload,
    accept: Accept<'a>,
}

impl Fetch<'_> {
    fn renew(&self) -> Result<Option<CachedImage>, CacheError> {
        let lock = EntryLock::open(&self.files.lock).map_err(CacheError::io("opening", &self.files.lock))?;
        lock.exclusive(|| ()).map_err(CacheError::io("locking", &self.files.lock))?;
        let kept = self.files.entry()?;
        match self.download(kept.as_ref())? {
            Outcome::NotModified => Ok(None),
            Outcome::Complete(sidecar) => self.publish(sidecar, kept.is_some()).map(Some),
        }
    }

    fn run(&self) -> Result<CachedImage, CacheError> {
        let lock = EntryLock::open(&self.files.lock).map_err(CacheError::io("opening", &self.files.lock))?;
        let mut waited = false;
        let locking = CacheError::io("locking", &self.files.lock);
        lock.shared(|| self.tell_waiting(&mut waited)).map_err(&locking)?;
        if let Some(entry) = self.usable_entry()?.filter(|entry| self.is_fresh(&entry.sidecar, waited)) {
            return Ok(self.kept(entry));
        }
        lock.exclusive(|| self.tell_waiting(&mut waited)).map_err(&locking)?;
        match self.usable_entry()? {
            Some(entry) if self.is_fresh(&entry.sidecar, waited) => Ok(self.kept(entry)),
            kept => self.ask_server(kept),
        }
    }

    /// The entry, unless it came from where we may not get it: somebody to whom more is allowed may have fetched it.
    fn usable_entry(&self) -> Result<Option<Entry>, CacheError> {
        let allowed = |url: &String| ImageUrl::parse(url).is_ok_and(|url| self.client.allows(&url));
        let entry = self.files.entry()?.filter(|entry| entry.sidecar.via.iter().all(allowed));
        Ok(entry.filter(|_| self.client.allows(self.url)))
    }

    fn tell_waiting(&self, waited: &mut bool) {
        if !*waited {
            self.report.info(format_args!("waiting for another download of {}", self.url));
        }
        *waited = true;
    }

    /// Whether the server need not be asked. What another process was just told while we waited for it serves us too,
    /// even where nothing older would.
    fn is_fresh(&self, sidecar: &Sidecar, waited: bool) -> bool {
        let (asked, now) = (seconds(self.clock.now), seconds(self.clock.time()));
        // A check in the future means that the clock was set back: nobody knows how old it is.
        let Some(age) = now.checked_sub(sidecar.checked_at) else { return false };
        age < self.settings.max_age.as_secs() || (waited && sidecar.checked_at >= asked)
    }

    fn tell_hit(&self, message: impl Display) {
        self.report.event("cached", json!({ "image": self.url.to_string(), "cache": "hit" }), message);
    }

    fn kept(&self, entry: Entry) -> CachedImage {
        self.tell_hit(format_args!("{} is in the cache", self.url));
        self.image(entry, true)
    }

    fn image(&self, entry: Entry, hit: bool) -> CachedImage {
        CachedImage::used(&self.files, entry, hit, self.clock.time())
    }

    /// Downloads the image unless the server says that `kept` is current.
    fn ask_server(&self, kept: Option<Entry>) -> Result<CachedImage, CacheError> {
        match (self.download(kept.as_ref()), kept) {
            (Ok(Outcome::Complete(sidecar)), kept) => self.publish(sidecar, kept.is_some()),
            (Ok(Outcome::NotModified), Some(entry)) => self.confirm(entry),
            // The client takes a 304 that nobody asked for as an error already.
            (Ok(Outcome::NotModified), None) => Err(self.vanished()),
            (Err(CacheError::Http(error)), Some(entry)) if self.settings.stale_if_error && error.is_unavailable() => {
                self.warn_stale(&entry.sidecar, &error);
                Ok(self.image(entry, true))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Downloads the image, unless the server says that `kept` is current.
    fn download(&self, kept: Option<&Entry>) -> Result<Outcome, CacheError> {
        let conditions = kept.map(|entry| entry.sidecar.conditions()).unwrap_or_default();
        let Fetch { files, url, client, report, clock, follow, .. } = self;
        Download { files, url, client, report, clock: *clock, follow }.run(&conditions)
    }

    fn confirm(&self, mut entry: Entry) -> Result<CachedImage, CacheError> {
        self.tell_hit(format_args!("{} is in the cache and current", self.url));
        entry.sidecar.checked_at = seconds(self.clock.time());
        self.files.write_sidecar(&entry.sidecar)?;
        Ok(self.image(entry, true))
    }

    fn warn_stale(&self, sidecar: &Sidecar, error: &HttpError) {
        let age = seconds(self.clock.time()).saturating_sub(sidecar.checked_at);
        self.report.warn(format_args!("{error}; using the kept image, last checked {} hours ago", age / 3600));
    }

    /// Puts what was downloaded into its place; into that of a kept image only if it is the one that was asked for.
    fn publish(&self, mut sidecar: Sidecar, in_place_of_another: bool) -> Result<CachedImage, CacheError> {
        sidecar.fetched_at = seconds(self.clock.time());
        sidecar.checked_at = sidecar.fetched_at;
        if in_place_of_another {
            let new = self.files.open_part()?.ok_or_else(|| self.vanished())?;
            let accepted =
                (self.accept)(CachedImage::of_entry(&self.files, Entry { file: new, sidecar: sidecar.clone() }, false));
            if !accepted {
                self.files.discard_part()?;
                return Err(CacheError::NotAccepted { url: self.url.to_string() });
            }
        }
        self.files.publish(&sidecar)?;
        match self.files.entry()? {
            Some(entry) => Ok(self.image(entry, false)),
            None => Err(self.vanished()),
        }
    }

    /// Only somebody who ignores the locks can take away what was just there.
    fn vanished(&self) -> CacheError {
        CacheError::io("opening", &self.files.img)(std::io::ErrorKind::NotFound.into())
    }
}
