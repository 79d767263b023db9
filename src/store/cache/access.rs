// SPDX-License-Identifier: BSD-2-Clause
//! Who may have a kept image without a word of its server.
//!
//! The image of a URL is kept once, but not everybody may have it: one variant has a password that the server asks for,
//! another one believes no certificate and took the image from whoever answered. So the sidecar has a record for each way
//! in which the image was had: the credential, whom the client believed, where the server redirected to, and when that
//! was. Who asks by the same means gets the image as long as its record is recent. Who has no record asks the server
//! first, with a conditional request. If the server answers that the image is current, that one gets a record too. A
//! sidecar of version 0.1.0 has none, so that each asks once.
//!
//! A credential is recorded as a keyed hash. Without the key nobody can try passwords with it. The key lies in the
//! cache folder and never leaves it. If it is lost, the records tell nothing any more, and the servers are asked again.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::folder;
use super::sidecar::time;
use crate::store::http::{Client, ImageUrl, Means, Trust};

/// The file with the key of the hashes.
pub(super) const KEY_FILE: &str = "access.key";

/// How many records a sidecar has at most. The one that was of use least recently goes first.
const MAX_RECORDS: usize = 16;

/// One way in which an image was had, as the sidecar stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    /// The keyed hash of the credential, as hex digits; none if anybody could have asked so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
    /// Whom the client believed; see [`words`].
    tls: String,
    /// URLs of the redirects without secrets. The policy of who asks is checked against them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    via: Vec<String>,
    /// When the server gave the image or said that it is current. Seconds since 1970.
    #[serde(deserialize_with = "time")]
    checked_at: u64,
}

/// No connection was encrypted, so that nobody had to be believed.
const NO_TLS: &str = "none";

fn words(trust: &Trust) -> &str {
    match trust {
        Trust::Anybody => "unverified",
        Trust::System => "system",
        Trust::Authorities(digest) => digest,
    }
}

impl Access {
    pub(super) fn checked_at(&self) -> u64 {
        self.checked_at
    }
}

/// Who asks for an image.
pub(super) struct Requester<'c> {
    client: &'c Client,
    url: &'c ImageUrl,
    credential: Option<String>,
    trust: Trust,
}

impl<'c> Requester<'c> {
    /// Who asks for `url` with `client`, as it is recorded in the cache folder `dir`.
    pub(super) fn new(client: &'c Client, url: &'c ImageUrl, dir: &Path) -> Self {
        let Means { identification, trust } = client.means(url);
        // Where there is no key, and none can be made, no record is ever the right one.
        let key = || key(dir).unwrap_or_else(|_error| random_key().unwrap_or_default());
        let credential = identification.map(|shown| blake3::keyed_hash(&key(), shown.as_bytes()).to_hex().to_string());
        Requester { client, url, credential, trust }
    }

    /// The record of this one's access at `now`, when the server redirected to these URLs.
    pub(super) fn record(&self, redirects: &[ImageUrl], now: u64) -> Access {
        let via = redirects.iter().map(ToString::to_string).collect();
        self.record_via(via, redirects.iter().any(ImageUrl::is_https), now)
    }

    /// The same, for redirects of which only the texts are left.
    pub(super) fn record_of_texts(&self, via: Vec<String>, now: u64) -> Access {
        let is_https = |text: &String| ImageUrl::parse(text).is_ok_and(|url| url.is_https());
        let encrypted = via.iter().any(is_https);
        self.record_via(via, encrypted, now)
    }

    fn record_via(&self, via: Vec<String>, redirected_to_tls: bool, checked_at: u64) -> Access {
        let encrypted = self.url.is_https() || redirected_to_tls;
        let tls = if encrypted { words(&self.trust) } else { NO_TLS }.to_owned();
        Access { credential: self.credential.clone(), tls, via, checked_at }
    }

    /// The record that is this one's own, if what it tells of is also allowed to this one.
    pub(super) fn find<'a>(&self, records: &'a [Access]) -> Option<&'a Access> {
        let is_allowed = |url: &String| ImageUrl::parse(url).is_ok_and(|url| self.client.allows(&url));
        let found = records.iter().filter(|record| self.is_own(record) && record.via.iter().all(is_allowed));
        found.max_by_key(|record| record.checked_at).filter(|_| self.client.allows(self.url))
    }

    fn is_own(&self, record: &Access) -> bool {
        record.credential == self.credential && (record.tls == NO_TLS || record.tls == words(&self.trust))
    }

    /// Notes `record`, which replaces what was known of the same means.
    pub(super) fn note(&self, records: &mut Vec<Access>, record: Access) {
        records.retain(|known| !self.is_own(known));
        records.insert(0, record);
        records[1..].sort_by_key(|known| std::cmp::Reverse(known.checked_at));
        records.truncate(MAX_RECORDS);
    }

    /// Whether an interrupted download was begun by the same means. Nobody goes on with what another one got.
    pub(super) fn may_resume(&self, begun: &Access) -> bool {
        self.is_own(begun)
    }
}

/// The key of the hashes of credentials. It is made when it is missing or damaged.
fn key(dir: &Path) -> io::Result<[u8; 32]> {
    let path = dir.join(KEY_FILE);
    if let Some(key) = read_key(&path)? {
        return Ok(key);
    }
    let _ = fs::remove_file(&path);
    let mut file =
        tempfile::Builder::new().prefix(KEY_FILE).permissions(Permissions::from_mode(0o600)).tempfile_in(dir)?;
    file.write_all(&random_key()?)?;
    file.as_file().sync_all()?;
    // Another process may have made one meanwhile. Then that one counts.
    match fs::hard_link(file.path(), &path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => read_key(&path)?.ok_or_else(|| io::ErrorKind::InvalidData.into()),
    }
}

fn read_key(path: &Path) -> io::Result<Option<[u8; 32]>> {
    if folder::regular_file(path).is_none() {
        return Ok(None);
    }
    Ok(fs::read(path)?.try_into().ok())
}

fn random_key() -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::{Access, KEY_FILE, MAX_RECORDS, Requester};
    use crate::store::http::{Client, HttpSettings, ImageUrl, Secret, UrlPrefix};
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    struct Asked {
        url: ImageUrl,
        client: Client,
    }

    fn asked(url: &str, settings: HttpSettings) -> Asked {
        Asked { url: ImageUrl::parse(url).unwrap(), client: Client::new(&settings).unwrap() }
    }

    fn with_password(password: &str) -> HttpSettings {
        let secret = |text: &str| Secret(text.to_owned());
        HttpSettings { user: Some(secret("joe")), password: secret(password), ..HttpSettings::default() }
    }

    fn insecure() -> HttpSettings {
        HttpSettings { insecure_tls: true, ..HttpSettings::default() }
    }

    /// Whether a record of `one` is one of `other`, when the image came by way of `redirects`.
    fn serves(dir: &Path, one: &Asked, other: &Asked, redirects: &[&str]) -> bool {
        let redirects: Vec<_> = redirects.iter().map(|url| ImageUrl::parse(url).unwrap()).collect();
        let record = Requester::new(&one.client, &one.url, dir).record(&redirects, 5);
        Requester::new(&other.client, &other.url, dir).find(&[record]).is_some()
    }

    #[test]
    fn a_record_is_for_those_who_ask_by_the_same_means() {
        let dir = tempfile::tempdir().unwrap();
        let https = |settings| asked("https://h/x", settings);
        let http = |settings| asked("http://h/x", settings);
        let (plain, secret) = (HttpSettings::default, || with_password("hunter2"));
        let all = [
            (https(plain()), https(plain()), true),
            (https(secret()), https(secret()), true),
            (https(secret()), https(plain()), false),
            (https(plain()), https(secret()), false),
            (https(secret()), https(with_password("other")), false),
            (https(insecure()), https(plain()), false),
            (https(insecure()), https(insecure()), true),
            (https(plain()), https(insecure()), false),
            // There was nothing to be believed.
            (http(insecure()), http(plain()), true),
            (http(plain()), http(insecure()), true),
            (http(secret()), http(plain()), false),
        ];
        for (at, (one, other, expected)) in all.iter().enumerate() {
            assert_eq!(serves(dir.path(), one, other, &[]), *expected, "{at}");
        }
        // There was, behind a redirect.
        assert!(!serves(dir.path(), &http(insecure()), &http(plain()), &["http://m/x", "https://m/x"]));
        assert!(serves(dir.path(), &http(insecure()), &http(insecure()), &["https://m/x"]));
    }

    #[test]
    fn a_record_is_for_those_whose_policy_allows_every_redirect() {
        let dir = tempfile::tempdir().unwrap();
        let allowed = |urls: &[&str]| {
            let allowed = Some(urls.iter().map(|url| UrlPrefix::parse(url).unwrap()).collect());
            asked("http://h/x", HttpSettings { allowed, ..HttpSettings::default() })
        };
        let anybody = asked("http://h/x", HttpSettings::default());
        let by_way_of = |other: &Asked| serves(dir.path(), &anybody, other, &["http://m/y"]);
        assert!(by_way_of(&allowed(&["http://h", "http://m"])));
        assert!(!by_way_of(&allowed(&["http://h"])) && !by_way_of(&allowed(&["http://m"])));
    }

    #[test]
    fn the_key_is_made_once_and_no_secret_stays() {
        let dir = tempfile::tempdir().unwrap();
        let nobody = asked("https://h/x", HttpSettings::default());
        let _ = Requester::new(&nobody.client, &nobody.url, dir.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing has to be hashed");
        let joe = asked("https://h/x", with_password("hunter2"));
        let record = |dir: &Path| toml::to_string(&Requester::new(&joe.client, &joe.url, dir).record(&[], 5)).unwrap();
        let first = record(dir.path());
        assert_eq!(record(dir.path()), first);
        let key = dir.path().join(KEY_FILE);
        let metadata = fs::metadata(&key).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.len()), (0o600, 32));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(!first.contains("hunter2") && !first.contains("joe"), "{first}");
        let elsewhere = tempfile::tempdir().unwrap();
        assert_ne!(record(elsewhere.path()), first, "each cache has its own key");
        fs::write(&key, "damaged").unwrap();
        assert_ne!(record(dir.path()), first);
        assert_eq!(record(dir.path()), record(dir.path()));
        // Where no key can be kept, no record is ever found.
        let gone = dir.path().join("gone");
        assert_ne!(record(&gone), record(&gone));
    }

    #[test]
    fn records_are_replaced_by_newer_ones_of_the_same_means_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut records: Vec<Access> = Vec::new();
        let all: Vec<_> = (0..40).map(|at| asked("https://h/x", with_password(&at.to_string()))).collect();
        for (at, one) in (1..).zip(&all) {
            let requester = Requester::new(&one.client, &one.url, dir.path());
            for now in [at, at + 1000] {
                let record = requester.record(&[], now);
                requester.note(&mut records, record);
                assert_eq!(requester.find(&records).map(Access::checked_at), Some(now));
            }
        }
        assert_eq!(records.len(), MAX_RECORDS);
        let first = Requester::new(&all[0].client, &all[0].url, dir.path());
        assert_eq!(first.find(&records), None);
    }
}
