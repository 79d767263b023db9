// SPDX-License-Identifier: BSD-2-Clause
//! Properties of the room `store`: URLs, the answers of servers and proxies, the files of the cache, and gpgv's status
//! lines.

use std::time::Duration;

use ureq::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::text;
use crate::store::cache::checkpoint::Checkpoint;
use crate::store::cache::entry::EntryFiles;
use crate::store::cache::images::time;
use crate::store::cache::sidecar::Sidecar;
use crate::store::http::client::redirect_to;
use crate::store::http::netrc::Netrc;
use crate::store::http::no_proxy::NoProxy;
use crate::store::http::retry::retry_after;
use crate::store::http::{Backoff, ImageUrl, RangeRequest, UrlPrefix, Validator};
use crate::store::signature;

/// A secret shorter than this, in bytes, may stand in a message by chance.
const SECRET_LEN: usize = 8;

/// Parses a URL, and in the next line the URL to which its server redirects. The text that is shown has no secrets.
pub(super) fn url(data: &[u8]) {
    let text = text(data);
    let (text, location) = text.split_once('\n').unwrap_or((&text, ""));
    let url = match ImageUrl::parse(text) {
        Ok(url) => url,
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains(char::is_control) && hides_secrets(text, &message), "{message}");
            return;
        }
    };
    check(&url);
    let prefix = UrlPrefix::parse(text);
    if let Ok(prefix) = &prefix {
        assert!(prefix.covers(&url));
    }
    if let Ok(next) = redirect_to(&url, location) {
        check(&next);
        assert!(url.as_url().scheme() == "http" || next.as_url().scheme() == "https");
        // A URL of another server is never below this one.
        let same_server = next.as_url().origin() == url.as_url().origin();
        assert!(same_server || prefix.is_err() || prefix.is_ok_and(|prefix| !prefix.covers(&next)));
    }
}

/// Checks that a URL can be written and read again, and that the text that is shown is the same without its secrets.
fn check(url: &ImageUrl) {
    assert_eq!(ImageUrl::parse(url.as_url().as_str()).as_ref(), Ok(url));
    let shown = url.to_string();
    assert!(shown.bytes().all(|byte| byte.is_ascii_graphic()), "{shown}");
    let again = ImageUrl::parse(&shown).expect("what is shown is a URL");
    assert_eq!(again.to_string(), shown);
    let (again, url) = (again.as_url(), url.as_url());
    assert_eq!((again.username(), again.password(), again.query(), again.fragment()), ("", None, None, None));
    assert_eq!((again.origin(), again.path()), (url.origin(), url.path()));
}

/// Returns whether `message` has neither the user nor the password in `text`, if that is a URL.
pub(super) fn hides_secrets(text: &str, message: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return true };
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let plain = format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path());
    let elsewhere = |secret: &str| plain.contains(secret);
    let secrets = [url.password(), url.query(), url.fragment()];
    secrets.into_iter().flatten().all(|secret| {
        secret.len() < SECRET_LEN || elsewhere(secret) || !message.contains(secret) || !message.contains("://")
    })
}

/// Parses an entry of a no-proxy list and, in the next line, a URL.
pub(super) fn no_proxy(data: &[u8]) {
    let text = text(data);
    let (entry, url) = text.split_once('\n').unwrap_or((&text, &text));
    let Ok(url) = Url::parse(url) else { return };
    if let Ok(entry) = entry.parse::<NoProxy>() {
        assert_eq!(entry.to_string().parse(), Ok(entry.clone()));
        // An entry with its subdomains covers everything that the entry covers.
        assert!(!entry.covers(&url) || entry.with_subdomains().covers(&url));
    }
    let Some(host) = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https")) else { return };
    assert!("*".parse::<NoProxy>().is_ok_and(|all| all.covers(&url)));
    if let Ok(own) = host.parse::<NoProxy>() {
        assert!(own.covers(&url), "{host}");
    }
    let port = url.port_or_known_default().unwrap_or_default();
    for (port, covered) in [(port, true), (port ^ 1, false)] {
        if let Ok(own) = format!("{host}:{port}").parse::<NoProxy>() {
            assert_eq!(own.covers(&url), covered, "{host}:{port}");
        }
    }
}

/// Parses a netrc file.
pub(super) fn netrc(data: &[u8]) {
    match Netrc::parse(&text(data)) {
        Err(reason) => assert!(reason.starts_with("line ") && !reason.contains(char::is_control), "{reason}"),
        Ok(netrc) => {
            assert_eq!(Netrc::parse(&netrc.to_text()), Ok(netrc.clone()));
            netrc.credentials("host.example");
        }
    }
}

/// Parses the headers of an answer, one in each line. `x-from` and `x-total` say which part of an image is missing.
pub(super) fn http_answer(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]).ok();
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii())) {
            headers.append(name, value);
        }
    }
    let pause = Backoff::default().pause(1, retry_after(&headers));
    assert!((Backoff::default().first..=Duration::from_secs(60)).contains(&pause));
    let url = ImageUrl::parse("https://host.example/image?token=s3cret").expect("a URL");
    let Some(validator) = Validator::of(&url, &headers) else { return };
    let number = |name| headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
    let rest = RangeRequest { from: number("x-from").unwrap_or(1).max(1), total: number("x-total"), validator };
    assert!(rest.is_at(&url));
    let asked: Vec<_> = rest.headers().collect();
    let sent = |name| asked.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_bytes());
    assert_eq!(sent(header::RANGE), Some(format!("bytes={}-", rest.from).as_bytes()));
    let strong = sent(header::IF_RANGE).expect("the condition is always asked for");
    let (tag, date) = (headers.get(header::ETAG), headers.get(header::LAST_MODIFIED));
    match tag {
        Some(tag) => assert!(strong == tag.as_bytes() && strong.starts_with(b"\"") && strong.ends_with(b"\"")),
        None => assert!(date.is_some_and(|date| date.as_bytes() == strong)),
    }
    if let Ok(total) = rest.check(&headers) {
        assert!(total > rest.from && rest.total.is_none_or(|known| known == total));
        let range = headers[header::CONTENT_RANGE].to_str().expect("it was read");
        let numbers: Vec<u64> =
            range.split(|c: char| !c.is_ascii_digit()).filter_map(|text| text.parse().ok()).collect();
        assert!(numbers.starts_with(&[rest.from, total - 1]), "{range}");
    }
}

/// Parses a sidecar or a mark, and takes its first line as the name of a file.
pub(super) fn cache_files(data: &[u8]) {
    let text = text(data);
    if let Ok(sidecar) = toml::from_str::<Sidecar>(&text) {
        let printed = toml::to_string(&sidecar).expect("what was read can be written");
        assert_eq!(toml::from_str(&printed).as_ref(), Ok(&sidecar), "{printed}");
        assert!(time(sidecar.fetched_at) >= time(0) && time(sidecar.checked_at) >= time(0));
    }
    if let Ok(mark) = toml::from_str::<Checkpoint>(&text) {
        let printed = toml::to_string(&mark).expect("what was read can be written");
        assert_eq!(toml::from_str(&printed).as_ref(), Ok(&mark), "{printed}");
    }
    let name = text.lines().next().unwrap_or_default();
    if let Some((key, _, suffix)) = EntryFiles::parse_name(name) {
        assert!(!name.contains('/') && name.starts_with(key) && name.ends_with(suffix));
        assert!(name.len() <= key.len() + ".v2.lock".len());
    }
}

/// Parses gpgv's status lines. They are good only with a good signature and without a bad one.
pub(super) fn gpgv_status(data: &[u8]) {
    let text = text(data);
    let says = |word: &str| text.lines().any(|line| line.starts_with(&format!("[GNUPG:] {word}")));
    for succeeded in [true, false] {
        let verdict = signature::verdict(&text, succeeded);
        if verdict.is_ok() {
            assert!(says("GOODSIG") && says("VALIDSIG") && !says("BADSIG ") && !says("REVKEYSIG "));
            assert!(succeeded || says("ERRSIG"), "gpgv failed, and nobody knows why");
        }
        for bad in ["BADSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "NODATA 1"] {
            let line = format!("[GNUPG:] {bad} 0123456789ABCDEF x\n");
            assert!(signature::verdict(&format!("{line}{text}"), succeeded).is_err(), "{bad}");
            assert!(signature::verdict(&format!("{text}\n{line}"), succeeded).is_err(), "{bad}");
        }
    }
}
