// SPDX-License-Identifier: BSD-2-Clause
//! The URL of an image, which may carry secrets.

use std::fmt;

use url::Url;

/// An `http://` or `https://` URL with a host. `Display` and `Debug` leave out user, password, query and fragment.
#[derive(Clone, PartialEq, Eq)]
pub struct ImageUrl(Url);

/// Why a text is not an [`ImageUrl`]. The message never repeats the text: it may hold a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UrlError {
    /// Not a URL at all.
    #[error("not a valid URL ({0})")]
    Syntax(url::ParseError),
    /// A scheme that is not served.
    #[error("the URL scheme '{0}' is not supported (use http or https)")]
    Scheme(String),
}

impl ImageUrl {
    /// Parses an absolute URL.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let url = Self::checked(Url::parse(text).map_err(UrlError::Syntax)?)?;
        // Browsers, and `Url`, make a host of the path's first part where there is none.
        let is_scheme = |scheme: &str| scheme.trim().eq_ignore_ascii_case(url.0.scheme());
        match text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) {
            Some((_, rest)) if !rest.starts_with(['/', '\\']) => Ok(url),
            _ => Err(UrlError::Syntax(url::ParseError::EmptyHost)),
        }
    }

    /// Whether `text` is meant as a URL, a wrong one included: it is no path, and may hold a password.
    pub(crate) fn looks_like_url(text: &str) -> bool {
        let starts = |scheme: &str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
        text.contains("://") || starts("http:") || starts("https:")
    }

    /// The target of a redirect: `location`, absolute or relative to this URL.
    pub(crate) fn join(&self, location: &str) -> Result<Self, UrlError> {
        Self::checked(self.0.join(location).map_err(UrlError::Syntax)?)
    }

    fn checked(mut url: Url) -> Result<Self, UrlError> {
        // No server is asked for it: with any it is the same image.
        url.set_fragment(None);
        match url.scheme() {
            "http" | "https" => Ok(ImageUrl(url)),
            other => Err(UrlError::Scheme(other.to_owned())),
        }
    }

    /// The parsed URL, secrets included: for requests only.
    pub fn as_url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for ImageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        shown.set_query(None);
        shown.set_fragment(None);
        // Both setters only fail on URLs without a host, which http and https URLs always have.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        f.write_str(shown.as_str())
    }
}

impl fmt::Debug for ImageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::{ImageUrl, UrlError};

    #[test]
    fn shows_no_secret() {
        let url = ImageUrl::parse("https://joe:hunter2@host.example:8443/a%20b/disk.raw.xz?token=s3cret#frag").unwrap();
        assert_eq!(url.to_string(), "https://host.example:8443/a%20b/disk.raw.xz");
        assert_eq!(format!("{url:?}"), "ImageUrl(https://host.example:8443/a%20b/disk.raw.xz)");
        assert_eq!(url.as_url().password(), Some("hunter2"));
    }

    #[test]
    fn a_fragment_is_of_no_server() {
        let url = ImageUrl::parse("https://h/a.raw?v=1#top").unwrap();
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
}
