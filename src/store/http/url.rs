// SPDX-License-Identifier: BSD-2-Clause
//! URLs of images, which may carry secrets, and the prefixes of URLs that an administrator allows.

use std::fmt;

use percent_encoding::percent_decode_str;
use url::Url;

/// An `http://` or `https://` URL with a host. `Display` and `Debug` leave out user, password, query and fragment.
///
/// Two are equal if they are the same for a server, whatever their fragments.
#[derive(Clone)]
pub struct ImageUrl {
    /// The URL without its fragment, because no server is asked for that.
    url: Url,
    member: Option<String>,
}

/// Why a text is not an [`ImageUrl`]. The message never repeats the text, which may hold a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UrlError {
    /// The text is not a URL at all.
    #[error("not a valid URL ({0})")]
    Syntax(url::ParseError),
    /// The scheme is neither http nor https.
    #[error("the URL scheme '{0}' is not supported (use http or https)")]
    Scheme(String),
}

impl ImageUrl {
    /// Parses an absolute URL. Its fragment is the [`ImageUrl::member`].
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let url = Self::checked(Url::parse(text).map_err(UrlError::Syntax)?)?;
        // `Url` follows browsers: without a host it takes the first part of the path as the host.
        let is_scheme = |scheme: &str| scheme.trim().eq_ignore_ascii_case(url.url.scheme());
        match text.split_once("://") {
            Some((scheme, rest)) if is_scheme(scheme) && !rest.starts_with(['/', '\\']) => Ok(url),
            _ => Err(UrlError::Syntax(url::ParseError::EmptyHost)),
        }
    }

    /// Whether the user meant `text` as a URL, even a wrong one. Such a text is no path, and may hold a password.
    pub(crate) fn looks_like_url(text: &str) -> bool {
        let starts = |scheme: &str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
        text.contains("://") || starts("http:") || starts("https:")
    }

    /// The target of a redirect: `location` is absolute, or relative to this URL.
    pub(crate) fn join(&self, location: &str) -> Result<Self, UrlError> {
        Self::checked(self.url.join(location).map_err(UrlError::Syntax)?)
    }

    fn checked(mut url: Url) -> Result<Self, UrlError> {
        let member = url.fragment().filter(|fragment| !fragment.is_empty());
        let member = member.map(|fragment| percent_decode_str(fragment).decode_utf8_lossy().into_owned());
        url.set_fragment(None);
        match url.scheme() {
            "http" | "https" => Ok(ImageUrl { url, member }),
            other => Err(UrlError::Scheme(other.to_owned())),
        }
    }

    /// The parsed URL with its secrets and without its fragment. Use it for requests only.
    pub fn as_url(&self) -> &Url {
        &self.url
    }

    /// The decoded fragment: the name of a file in the archive that the URL names.
    pub(crate) fn member(&self) -> Option<&str> {
        self.member.as_deref()
    }

    /// Whether scheme, host and port are the same.
    pub(super) fn is_same_server(&self, other: &ImageUrl) -> bool {
        self.url.origin() == other.url.origin()
    }

    pub(crate) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// `host:port`.
    pub(super) fn host_and_port(&self) -> String {
        let port = self.url.port_or_known_default().unwrap_or_default();
        format!("{}:{port}", self.url.host_str().unwrap_or_default())
    }

    /// The URL of the request. User name and password are sent in a header instead.
    pub(super) fn request_target(&self) -> String {
        self.without_user().into()
    }

    fn without_user(&self) -> Url {
        let mut url = self.url.clone();
        // Both setters fail only on URLs without a host, which http and https URLs always have.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url
    }
}

impl PartialEq for ImageUrl {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url
    }
}

impl Eq for ImageUrl {}

impl fmt::Display for ImageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.without_user();
        shown.set_query(None);
        f.write_str(shown.as_str())
    }
}

impl fmt::Debug for ImageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageUrl({self})")
    }
}

/// A URL that allows itself and everything below it: `https://images.example.com/debian` covers
/// `https://images.example.com/debian/13.raw`, but not `https://images.example.com/debian-13.raw`. Scheme, host and port
/// must be the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlPrefix {
    url: ImageUrl,
    /// The decoded segments of the path, without an empty one at the end.
    segments: Vec<Vec<u8>>,
}

impl UrlPrefix {
    /// Reads an absolute http or https URL.
    ///
    /// # Errors
    /// The text has a part that is never compared (user, password, query, fragment), or a path that servers read
    /// differently. The error says which.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let image_url = ImageUrl::parse(text).map_err(|_err| "not an http or https URL")?;
        let url = image_url.as_url();
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a user or password has no meaning here");
        }
        if url.query().is_some() || text.contains('#') {
            return Err("a query or fragment has no meaning here");
        }
        let mut segments = path_segments(url).ok_or("its path has encoded characters that servers take for others")?;
        segments.pop_if(|last| last.is_empty());
        Ok(UrlPrefix { url: image_url, segments })
    }

    /// Whether `url` is this one or below it.
    pub(crate) fn covers(&self, url: &ImageUrl) -> bool {
        let is_below = || path_segments(url.as_url()).is_some_and(|path| path.starts_with(&self.segments));
        url.is_same_server(&self.url) && (self.segments.is_empty() || is_below())
    }
}

/// Shows the URL as it was read. There is no secret in it.
impl fmt::Display for UrlPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_url().as_str())
    }
}

/// The decoded segments of a path, from which `Url` has already removed `.` and `..`. The result is none when servers
/// disagree about the segments. Some decode twice, some take a backslash for a slash, and some drop what follows a
/// semicolon.
fn path_segments(url: &Url) -> Option<Vec<Vec<u8>>> {
    let mut segments = Vec::new();
    for encoded in url.path_segments()? {
        let segment: Vec<u8> = percent_decode_str(encoded).collect();
        let is_ambiguous = |byte: &u8| matches!(byte, b'/' | b'\\' | b'%') || byte.is_ascii_control();
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        if segment.iter().any(is_ambiguous) || name == b"." || name == b".." {
            return None;
        }
        segments.push(segment);
    }
    Some(segments)
}

#[cfg(test)]
mod tests {
    use super::{ImageUrl, UrlError, UrlPrefix};
    use proptest::prelude::*;

    #[test]
    fn shows_no_secret() {
        let url = ImageUrl::parse("https://joe:hunter2@host.example:8443/a%20b/disk.raw.xz?token=s3cret#frag").unwrap();
        assert_eq!(url.to_string(), "https://host.example:8443/a%20b/disk.raw.xz");
        assert_eq!(format!("{url:?}"), "ImageUrl(https://host.example:8443/a%20b/disk.raw.xz)");
        assert_eq!(url.as_url().password(), Some("hunter2"));
    }

    #[test]
    fn user_info_and_fragment_are_not_requested() {
        let url = ImageUrl::parse("https://joe:pw@h:8443/a%20b?q=1#frag").unwrap();
        assert_eq!(url.request_target(), "https://h:8443/a%20b?q=1");
    }

    #[test]
    fn a_fragment_names_a_member_and_is_of_no_server() {
        let url = ImageUrl::parse("https://h/a.raw?v=1#a%2Fb%20c.raw").unwrap();
        assert_eq!(url.member(), Some("a/b c.raw"));
        assert_eq!(ImageUrl::parse("https://h/a#").unwrap().member(), None);
        assert_eq!(url, ImageUrl::parse("https://h/a.raw?v=1").unwrap());
        assert_eq!(url.join("/b.raw#x").unwrap(), ImageUrl::parse("https://h/b.raw").unwrap());
    }

    #[test]
    fn refuses_what_is_not_http() {
        assert_eq!(ImageUrl::parse("ftp://host/x"), Err(UrlError::Scheme("ftp".to_owned())));
        assert_eq!(ImageUrl::parse("file:///etc/shadow"), Err(UrlError::Scheme("file".to_owned())));
        assert!(matches!(ImageUrl::parse("http://"), Err(UrlError::Syntax(_))));
        assert!(matches!(ImageUrl::parse("https://ho st/x"), Err(UrlError::Syntax(_))));
        // Browsers make a host of the path's first part.
        for text in ["http:///srv/a.raw", "https:////h/a", "http:/h/a", "http:h/a", "HTTP:\\\\h\\a", "https://\\h/a"] {
            assert_eq!(ImageUrl::parse(text), Err(UrlError::Syntax(url::ParseError::EmptyHost)), "{text}");
        }
    }

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
