// SPDX-License-Identifier: BSD-2-Clause
//! Resuming an interrupted download: which range may be asked for, and which answer is the rest of the same image.
//!
//! A download is resumed only where it can't mix two versions of an image. The range is asked for with If-Range and a
//! strong validator, only at the URL that sent the validator. A 206 is appended only if it has exactly the missing
//! bytes. In every other case the download starts again.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use ureq::http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::url::ImageUrl;

/// A Last-Modified must be this much older than the answer. Then the file can't have changed twice within the same
/// second, even if the server's clocks differ (RFC 7232, section 2.2.2).
const MIN_AGE: Duration = Duration::from_secs(60);

/// Tells one version of an image from every other, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Validator {
    /// The URL, after redirects and without secrets, that sent it. It means nothing to another server.
    source: String,
    /// A strong ETag or a Last-Modified, as sent.
    if_range: String,
}

/// A request for all bytes of an image from `from` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RangeRequest {
    /// Not zero.
    pub(crate) from: u64,
    /// Length of the image in bytes, if known.
    pub(crate) total: Option<u64>,
    /// The version of the image.
    pub(crate) validator: Validator,
}

impl Validator {
    /// The validator in the answer to a request for `url`, if it is a strong one (RFC 9110, section 13.1.5). That is an
    /// ETag that is not weak. From a server without ETags it is a Last-Modified well before the answer's own date.
    pub(crate) fn of(url: &ImageUrl, headers: &HeaderMap) -> Option<Self> {
        let text = |name: HeaderName| headers.get(name)?.to_str().ok();
        let if_range = if headers.contains_key(header::ETAG) {
            text(header::ETAG).filter(|tag| is_strong(tag))?
        } else {
            let modified = text(header::LAST_MODIFIED)?;
            let date = httpdate::parse_http_date(text(header::DATE)?).ok()?;
            let age = date.duration_since(httpdate::parse_http_date(modified).ok()?).ok()?;
            if age < MIN_AGE {
                return None;
            }
            modified
        };
        Some(Validator { source: url.to_string(), if_range: if_range.to_owned() })
    }

    /// Whether `headers` belong to another version.
    fn is_contradicted(&self, headers: &HeaderMap) -> bool {
        let name = if self.if_range.starts_with('"') { header::ETAG } else { header::LAST_MODIFIED };
        headers.get(name).is_some_and(|value| value.as_bytes() != self.if_range.as_bytes())
    }
}

impl RangeRequest {
    /// Whether the range can be asked for at `url`, which must be the URL that sent the validator.
    pub(crate) fn is_at(&self, url: &ImageUrl) -> bool {
        self.validator.source == url.to_string()
    }

    /// Headers that ask for the range, or for the whole image if it has changed.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let range = format!("bytes={}-", self.from);
        [(header::RANGE, range), (header::IF_RANGE, self.validator.if_range.clone())]
            .into_iter()
            .filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?)))
    }

    /// Checks that a 206 with `headers` brings exactly the bytes asked for, and gives the length of the image.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<u64, &'static str> {
        let mut ranges = headers.get_all(header::CONTENT_RANGE).iter();
        let (Some(range), None) = (ranges.next(), ranges.next()) else {
            return Err("it sent a part without saying which");
        };
        let range = range.to_str().ok().and_then(ContentRange::parse).ok_or("it named no range of bytes")?;
        if self.validator.is_contradicted(headers) {
            return Err("it sent a part of a changed image");
        }
        let total = range.total.or(self.total).ok_or("it did not say how long the image is")?;
        if self.total.is_some_and(|known| known != total) {
            return Err("it sent a part of an image of another length");
        }
        if range.first != self.from || range.last.checked_add(1) != Some(total) {
            return Err("it sent other bytes than those asked for");
        }
        Ok(total)
    }
}

/// Whether a 206 with `headers` brings all of the image.
pub(super) fn is_whole(headers: &HeaderMap) -> bool {
    let range = headers.get(header::CONTENT_RANGE).and_then(|range| ContentRange::parse(range.to_str().ok()?));
    range.is_some_and(|range| range.first == 0 && range.last.checked_add(1) == range.total)
}

/// The value of a Content-Range header: `bytes FIRST-LAST/TOTAL`, with `*` for an unknown total.
struct ContentRange {
    first: u64,
    last: u64,
    total: Option<u64>,
}

impl ContentRange {
    fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let total = if total == "*" { None } else { Some(digits(total)?) };
        Some(ContentRange { first: digits(first)?, last: digits(last)?, total })
    }
}

/// `u64::from_str` would also take a sign.
fn digits(text: &str) -> Option<u64> {
    if text.starts_with('+') { None } else { text.parse().ok() }
}

/// Whether `tag` is an entity tag without `W/` (RFC 9110, section 8.8.3).
fn is_strong(tag: &str) -> bool {
    let inner = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.is_some_and(|inner| inner.bytes().all(|byte| byte != b'"' && byte > b' '))
}

#[cfg(test)]
mod tests {
    use super::{RangeRequest, Validator};
    use crate::store::http::ImageUrl;
    use proptest::prelude::*;
    use ureq::http::header::{HeaderMap, HeaderName, HeaderValue};

    const URL: &str = "http://joe:pw@h/x?k=s3cret";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn validator(pairs: &[(&'static str, &str)]) -> Option<String> {
        let found = Validator::of(&ImageUrl::parse(URL).unwrap(), &headers(pairs))?;
        assert_eq!(found.source, "http://h/x");
        Some(found.if_range)
    }

    const EARLY: &str = "Wed, 21 Oct 2015 07:28:00 GMT";
    const LATE: &str = "Wed, 21 Oct 2015 07:29:00 GMT";

    #[test]
    fn only_strong_validators_count() {
        assert_eq!(validator(&[("etag", "\"a-1\"")]).as_deref(), Some("\"a-1\""));
        assert_eq!(validator(&[("last-modified", EARLY), ("date", LATE)]).as_deref(), Some(EARLY));
        let almost = "Wed, 21 Oct 2015 07:28:59 GMT";
        for weak in [
            &[][..],
            &[("etag", "W/\"a\"")],
            &[("etag", "a")],
            &[("etag", "\"a\"b\"")],
            &[("etag", "\"a b\"")],
            // Who has an ETag must not be asked by date.
            &[("etag", "W/\"a\""), ("last-modified", EARLY), ("date", LATE)],
            &[("last-modified", EARLY)],
            &[("last-modified", EARLY), ("date", almost)],
            &[("last-modified", LATE), ("date", EARLY)],
            &[("last-modified", "yesterday"), ("date", LATE)],
        ] {
            assert_eq!(validator(weak), None, "{weak:?}");
        }
    }

    fn rest(from: u64, total: Option<u64>) -> RangeRequest {
        let url = ImageUrl::parse(URL).unwrap();
        RangeRequest { from, total, validator: Validator::of(&url, &headers(&[("etag", "\"a\"")])).unwrap() }
    }

    #[test]
    fn asks_by_range_and_only_where_the_validator_comes_from() {
        let rest = rest(5, None);
        let sent: Vec<_> = rest.headers().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert_eq!(sent, ["range: bytes=5-", "if-range: \"a\""]);
        for (url, is_at) in [("http://h/x?k=other", true), ("http://h/y", false), ("http://mirror/x", false)] {
            assert_eq!(rest.is_at(&ImageUrl::parse(url).unwrap()), is_at, "{url}");
        }
    }

    #[test]
    fn exactly_the_missing_bytes_are_the_rest() {
        let check = |total, pairs: &[(&'static str, &str)]| rest(5, total).check(&headers(pairs));
        assert_eq!(check(Some(10), &[("content-range", "bytes 5-9/10")]), Ok(10));
        assert_eq!(check(None, &[("content-range", "bytes 5-9/10"), ("etag", "\"a\"")]), Ok(10));
        assert_eq!(check(Some(10), &[("content-range", "bytes 5-9/*")]), Ok(10));
        let other_bytes = "it sent other bytes than those asked for";
        let no_range = "it named no range of bytes";
        for (pairs, reason) in [
            (&[][..], "it sent a part without saying which"),
            (
                &[("content-range", "bytes 5-9/10"), ("content-range", "bytes 5-9/10")],
                "it sent a part without saying which",
            ),
            (&[("content-range", "bytes 4-9/10")], other_bytes),
            (&[("content-range", "bytes 6-9/10")], other_bytes),
            (&[("content-range", "bytes 5-8/10")], other_bytes),
            (&[("content-range", "bytes 5-18446744073709551615/10")], other_bytes),
            (&[("content-range", "bytes 5-9/11")], "it sent a part of an image of another length"),
            (&[("content-range", "bytes 5-9/10"), ("etag", "\"b\"")], "it sent a part of a changed image"),
            (&[("content-range", "bytes 5-9/10"), ("etag", "W/\"a\"")], "it sent a part of a changed image"),
            (&[("content-range", "bytes */10")], no_range),
            (&[("content-range", "lines 5-9/10")], no_range),
            (&[("content-range", "bytes +5-9/10")], no_range),
            (&[("content-range", "bytes 5-9/99999999999999999999")], no_range),
        ] {
            assert_eq!(check(Some(10), pairs), Err(reason), "{pairs:?}");
        }
        assert_eq!(check(None, &[("content-range", "bytes 5-9/*")]), Err("it did not say how long the image is"));
    }

    proptest! {
        #[test]
        fn no_answer_panics(text in "bytes [0-9*]{0,22}-[0-9]{0,22}/[0-9*]{0,22}|[ -~]{0,20}") {
            let _ = rest(5, None).check(&headers(&[("content-range", &text)]));
            let _ = validator(&[("etag", &text)]);
            let _ = validator(&[("last-modified", &text), ("date", LATE)]);
        }
    }
}
