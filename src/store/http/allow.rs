// SPDX-License-Identifier: BSD-2-Clause
//! Which URLs an administrator allows.

use std::fmt;

use percent_encoding::percent_decode_str;
use url::Url;

use super::url::ImageUrl;

/// A URL that stands for itself and for everything below it: `https://images.example.com/debian` covers
/// `https://images.example.com/debian/13.raw`, but not `https://images.example.com/debian-13.raw`. Scheme, host and port
/// must be the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlPrefix {
    url: Url,
    /// The decoded segments of its path, without an empty one at the end.
    segments: Vec<Vec<u8>>,
}

impl UrlPrefix {
    /// Reads an absolute http or https URL.
    ///
    /// # Errors
    /// Words for what it must not have: it is compared with URLs of which only scheme, host, port and path count.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let url = ImageUrl::parse(text).map_err(|_err| "not an http or https URL")?.as_url().clone();
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a user or password has no meaning here");
        }
        if url.query().is_some() || text.contains('#') {
            return Err("a query or fragment has no meaning here");
        }
        let mut segments = segments(&url).ok_or("its path has encoded characters that servers take for others")?;
        segments.pop_if(|last| last.is_empty());
        Ok(UrlPrefix { url, segments })
    }

    /// Whether `url` is this one or below it.
    pub(crate) fn covers(&self, url: &ImageUrl) -> bool {
        let url = url.as_url();
        let same_server = url.origin() == self.url.origin();
        same_server && (self.segments.is_empty() || segments(url).is_some_and(|path| path.starts_with(&self.segments)))
    }
}

/// As it was read; there is no secret in it.
impl fmt::Display for UrlPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_str())
    }
}

/// The decoded segments of a path, which `Url` has freed of `.` and `..`; none where servers do not agree what they are:
/// with encoded slashes, dots that are only dots for who decodes twice or drops what follows a semicolon, and so on.
fn segments(url: &Url) -> Option<Vec<Vec<u8>>> {
    let plain = |segment: &Vec<u8>| {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        let tricky = |byte: &u8| matches!(byte, b'/' | b'\\' | b'%') || byte.is_ascii_control();
        !segment.iter().any(tricky) && name != b"." && name != b".."
    };
    let decoded = url.path_segments()?.map(|segment| percent_decode_str(segment).collect::<Vec<u8>>());
    decoded.map(|segment| plain(&segment).then_some(segment)).collect()
}

#[cfg(test)]
mod tests {
    use super::UrlPrefix;
    use crate::store::http::ImageUrl;
    use proptest::prelude::*;

    fn covers(prefix: &str, url: &str) -> bool {
        UrlPrefix::parse(prefix).unwrap().covers(&ImageUrl::parse(url).unwrap())
    }

    #[test]
    fn a_prefix_covers_what_is_below_it() {
        for (prefix, url) in [
            ("https://h/images", "https://h/images"),
            ("https://h/images", "https://h/images/"),
            ("https://h/images/", "https://h/images/a/b.raw?x=../../y#z"),
            ("https://h/images/", "https://h/images"),
            ("https://H:443/im%61ges", "https://h/i%6dages/a"),
            ("https://h/a%20b", "https://h/a b/c"),
            ("https://h", "https://h/anything/%2e%2e%2f"),
            ("http://h:8080/", "http://h:8080/x"),
            ("http://[2001:db8::1]/x", "http://[2001:db8:0::1]/x/y"),
            // The user is not where it goes.
            ("https://h/images", "https://joe:pw@h/images/x"),
            ("https://h/images", "https://h/other/../images/x"),
            ("https://h/images", "https://h/images/...x;v=1"),
        ] {
            assert!(covers(prefix, url), "{prefix} {url}");
        }
    }

    #[test]
    fn and_nothing_else_whatever_it_is_dressed_as() {
        for url in [
            "https://h/",
            "https://h/images2/x",
            "https://h/image",
            "https://h/Images/x",
            "http://h/images/x",
            "https://h:8443/images/x",
            "https://sub.h/images/x",
            "https://h.evil/images/x",
            "https://h./images/x",
            "https://h@evil/images/x",
            "https://h:443@evil/images/x",
            "https://evil/images/x?https://h/images/",
            "https://evil#@h/images/x",
            "https://evil\\@h/images/x",
            "https://h/images/../x",
            "https://h/images/%2e%2e/x",
            "https://h/images/.%2E/x",
            "https://h/images\\..\\x",
            "https://h/images/..%2fx",
            "https://h/images/..%5cx",
            "https://h/images%2f..%2fx",
            "https://h/images/%252e%252e/x",
            "https://h/images/..;/x",
            "https://h/images/..%3b/x",
            "https://h/images/..%00/x",
            "https://h//images/x",
            "https://h/x/images/y",
        ] {
            assert!(!covers("https://h/images", url), "{url}");
        }
    }

    #[test]
    fn a_prefix_has_nothing_that_would_not_count() {
        for (text, reason) in [
            ("ftp://h/x", "not an http or https URL"),
            ("h/x", "not an http or https URL"),
            ("https://", "not an http or https URL"),
            ("https://joe@h/x", "a user or password has no meaning here"),
            ("https://h/x?token=1", "a query or fragment has no meaning here"),
            ("https://h/x#y", "a query or fragment has no meaning here"),
            ("https://h/x%2fy", "its path has encoded characters that servers take for others"),
        ] {
            assert_eq!(UrlPrefix::parse(text), Err(reason), "{text}");
        }
    }

    proptest! {
        /// A server that decodes once more, takes backslashes for slashes, or drops what follows a semicolon, gets no
        /// further.
        #[test]
        fn nothing_that_is_covered_leaves_the_prefix(
            path in prop::collection::vec(prop_oneof![
                Just("."), Just("/"), Just(".."), Just("%2e"), Just("%2f"), Just("%5c"), Just("\\"), Just("%25"),
                Just("2e"), Just("2f"), Just("a"), Just("images"), Just(";"), Just("%3b"), Just("%00"), Just("?"), Just("#"),
            ], 0..12),
        ) {
            let Ok(url) = ImageUrl::parse(&format!("https://h/images/{}", path.concat())) else { return Ok(()) };
            if UrlPrefix::parse("https://h/images").unwrap().covers(&url) {
                let mut path = url.as_url().path().to_owned();
                for _ in 0..3 {
                    let decoded = percent_encoding::percent_decode_str(&path).decode_utf8_lossy();
                    path = decoded.replace('\\', "/");
                    let mut depth = 0;
                    let names = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
                    for segment in names.filter(|name| !matches!(*name, "" | ".")) {
                        depth += if segment == ".." { -1 } else { 1 };
                        prop_assert!(depth >= 1, "{}", url.as_url());
                    }
                }
            }
        }
    }
}
