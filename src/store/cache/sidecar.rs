// SPDX-License-Identifier: BSD-2-Clause
//! The sidecar of an image: what is known about it, as a small text file.

use std::cmp::Reverse;
use std::fmt;
use std::io::Read;
use std::path::Path;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};

use super::access::Access;
use super::error::CacheError;
use super::folder;
use crate::store::http::Conditions;

/// A sidecar has a few hundred bytes. A longer file is no sidecar.
const MAX_SIDECAR: u64 = 64 << 10;

/// Bytes that are read of a sidecar at first.
const USUAL_SIDECAR: usize = 4096;

/// The last second of the year 9999. No clock shows a later time, and with it no arithmetic of times overflows.
pub(crate) const LAST_TIME: u64 = 253_402_300_799;

/// What is known about a cached image, stored as TOML beside it. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sidecar {
    /// URL of the image without secrets.
    pub(super) url: String,
    /// URLs of its redirects without secrets. A later policy is checked against them too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) via: Vec<String>,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    /// Length in bytes.
    pub(super) length: u64,
    /// SHA-256 as hex digits.
    pub(super) sha256: String,
    /// Time of the download.
    #[serde(deserialize_with = "time")]
    pub(crate) fetched_at: u64,
    /// Time when the server last said that the image is current.
    #[serde(deserialize_with = "time")]
    pub(crate) checked_at: u64,
    /// The proof of [`super::Cache::mark_verified`].
    pub(super) verified: Option<String>,
    /// By what means the server gave the image, or said that it is current.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) access: Vec<Access>,
}

/// A time in seconds since 1970. A damaged sidecar may have any number there. One that no clock shows is taken for a time
/// in the future or in the past, of which the cache makes nothing.
pub(super) fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Time;
    impl Visitor<'_> for Time {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of seconds")
        }

        fn visit_i64<E>(self, seconds: i64) -> Result<u64, E> {
            Ok(u64::try_from(seconds).unwrap_or_default().min(LAST_TIME))
        }

        fn visit_u64<E>(self, seconds: u64) -> Result<u64, E> {
            Ok(seconds.min(LAST_TIME))
        }

        fn visit_i128<E>(self, seconds: i128) -> Result<u64, E> {
            Ok(u64::try_from(seconds.max(0)).unwrap_or(LAST_TIME).min(LAST_TIME))
        }

        fn visit_u128<E>(self, seconds: u128) -> Result<u64, E> {
            Ok(u64::try_from(seconds).unwrap_or(LAST_TIME).min(LAST_TIME))
        }
    }
    deserializer.deserialize_any(Time)
}

impl Sidecar {
    /// Conditions for a request that asks whether the image has changed.
    pub(super) fn conditions(&self) -> Conditions {
        Conditions { if_none_match: self.etag.clone(), if_modified_since: self.last_modified.clone() }
    }

    /// The sidecar as TOML. If it would be too long to be read again, it loses the access records that are the oldest.
    pub(super) fn to_text(&self) -> Result<String, CacheError> {
        let mut sidecar = self.clone();
        sidecar.access.sort_by_key(|access| Reverse(access.checked_at()));
        loop {
            let text = toml::to_string(&sidecar).map_err(|error| CacheError::Sidecar { reason: error.to_string() })?;
            if text.len() as u64 <= MAX_SIDECAR || sidecar.access.pop().is_none() {
                return Ok(text);
            }
        }
    }
}

/// The text of a small file; none if there is no file, or it is no text.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, CacheError> {
    let Some(file) = folder::open_file(path, false)? else { return Ok(None) };
    // Nearly all have room in this. Then one read is enough, and a list is quick.
    let mut text = vec![0; USUAL_SIDECAR];
    let count = (&file).read(&mut text).map_err(CacheError::io("reading", path))?;
    text.truncate(count);
    if count == USUAL_SIDECAR {
        let mut rest = file.take(MAX_SIDECAR - USUAL_SIDECAR as u64);
        rest.read_to_end(&mut text).map_err(CacheError::io("reading", path))?;
    }
    Ok(String::from_utf8(text).ok())
}

#[cfg(test)]
pub(super) mod tests {
    use super::{LAST_TIME, Sidecar};

    pub(in crate::store::cache) fn sidecar(content: &str) -> Sidecar {
        Sidecar {
            url: "http://h/x".to_owned(),
            via: Vec::new(),
            etag: Some("\"v1\"".to_owned()),
            last_modified: None,
            length: content.len() as u64,
            sha256: "00".repeat(32),
            fetched_at: 1,
            checked_at: 2,
            verified: None,
            access: Vec::new(),
        }
    }

    #[test]
    fn a_time_that_no_clock_shows_is_read_and_written() {
        let text = toml::to_string(&sidecar("x")).unwrap();
        for (written, read) in [
            ("9223372036854775807", LAST_TIME),
            ("9223372036854775808", LAST_TIME),
            ("18446744073709551615", LAST_TIME),
            ("18446744073709551616", LAST_TIME),
            ("-1", 0),
            ("5", 5),
        ] {
            let changed = text.replace("fetched_at = 1", &format!("fetched_at = {written}"));
            let found: Sidecar = toml::from_str(&changed).unwrap();
            assert_eq!(found.fetched_at, read, "{written}");
            assert_eq!(toml::from_str::<Sidecar>(&found.to_text().unwrap()).unwrap(), found);
        }
    }

    #[test]
    fn a_sidecar_that_would_be_too_long_keeps_the_newest_records() {
        let record = |at: u64| {
            toml::from_str(&format!("tls = 'system'\nchecked_at = {at}\nvia = ['http://h/{}']\n", "x".repeat(9000)))
        };
        let access = (0..20).map(|at| record(at).unwrap()).collect();
        let read: Sidecar = toml::from_str(&Sidecar { access, ..sidecar("x") }.to_text().unwrap()).unwrap();
        let kept: Vec<_> = read.access.iter().map(super::Access::checked_at).collect();
        assert_eq!(kept, [19, 18, 17, 16, 15, 14, 13]);
    }
}
