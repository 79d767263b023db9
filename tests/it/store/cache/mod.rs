// SPDX-License-Identifier: BSD-2-Clause
//! Keeping images: what is kept, shared and served again, and what is not.

mod access;
mod fetch;
mod full;
mod many;
mod prune;
mod resume;
mod together;
mod usage;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use simpleimage::store::cache::{Cache, CacheError, CacheSettings, CachedImage};
use simpleimage::store::http::{Backoff, Client, HttpSettings, ImageUrl};
use tempfile::TempDir;

use crate::support::log::Log;

const HOUR: Duration = Duration::from_secs(3600);

/// Nothing of the cache's own naming.
const NOTHING: [&str; 0] = [];

/// Images serve for an hour without a word of their server.
fn settings(dir: PathBuf) -> CacheSettings {
    CacheSettings { dir, max_age: HOUR, stale_if_error: true, max_size: None, min_free: None }
}

/// A cache in a folder of its own, one hour by default, with its log.
struct Fixture {
    base: TempDir,
    settings: CacheSettings,
    log: Log,
}

impl Fixture {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let settings = settings(base.path().join("cache"));
        Fixture { base, settings, log: Log::new() }
    }

    fn cache(&self) -> Cache {
        Cache::open(&self.settings).unwrap()
    }

    fn fetch(&self, url: &ImageUrl, now: SystemTime) -> Result<CachedImage, CacheError> {
        self.cache().fetch(url, &client(), now, &self.log.report())
    }

    /// One attempt, and no other.
    fn fetch_once(&self, url: &ImageUrl, now: SystemTime) -> Result<CachedImage, CacheError> {
        self.cache().fetch(
            url,
            &client_with(HttpSettings { retries: 0, ..HttpSettings::default() }),
            now,
            &self.log.report(),
        )
    }

    fn failure(&self, url: &ImageUrl, now: SystemTime) -> String {
        self.fetch(url, now).unwrap_err().to_string()
    }

    /// The file of the cache with this suffix, of which there is exactly one.
    fn file(&self, suffix: &str) -> PathBuf {
        let mut found = files(&self.settings.dir);
        found.retain(|path| path.extension().is_some_and(|found| found == suffix));
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// The suffixes of all files of the cache's own naming, sorted.
    fn suffixes(&self) -> Vec<String> {
        let found = files(&self.settings.dir);
        let own = found.iter().filter(|path| {
            path.file_stem().and_then(|stem| stem.to_str()?.strip_suffix(".v2")).is_some_and(|key| key.len() == 64)
        });
        let mut suffixes: Vec<_> = own.map(|path| path.extension().unwrap().to_str().unwrap().to_owned()).collect();
        suffixes.sort();
        suffixes
    }
}

/// A client that tries twice more, without pauses worth mentioning.
fn client() -> Client {
    client_with(HttpSettings { retries: 2, ..HttpSettings::default() })
}

fn client_with(settings: HttpSettings) -> Client {
    let backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(1) };
    Client::with_backoff(&settings, backoff).unwrap()
}

fn read(image: &mut CachedImage) -> Vec<u8> {
    let mut data = Vec::new();
    image.file.read_to_end(&mut data).unwrap();
    assert_eq!(data.len() as u64, image.len);
    data
}

fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// A time that no other step of a test is near.
fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}
