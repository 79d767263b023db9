// SPDX-License-Identifier: BSD-2-Clause
//! The headers of a request, and which of them may go to which server.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::percent_decode_str;
use ureq::http::header::{self, HeaderName, HeaderValue};
use url::Url;

use super::error::HttpError;
use super::netrc::Netrc;
use super::resume::RangeRequest;
use super::settings::{Credentials, HttpSettings, Secret};
use super::url::ImageUrl;

/// Conditions under which the server sends the image again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// ETag of the cached image.
    pub if_none_match: Option<String>,
    /// Last-Modified of the cached image.
    pub if_modified_since: Option<String>,
}

impl Conditions {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Conditions::default()
    }

    fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        [(header::IF_NONE_MATCH, &self.if_none_match), (header::IF_MODIFIED_SINCE, &self.if_modified_since)]
            .into_iter()
            .filter_map(|(name, value)| Some((name, HeaderValue::from_str(value.as_deref()?).ok()?)))
    }
}

/// What a request asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) conditions: &'a Conditions,
    /// None asks for the whole image.
    pub(super) range: Option<&'a RangeRequest>,
}

impl<'a> Wanted<'a> {
    /// The range to ask for at `url`.
    pub(super) fn range_at(&self, url: &ImageUrl) -> Option<&'a RangeRequest> {
        self.range.filter(|range| range.is_at(url))
    }
}

/// Headers that a setting can't change, because the whole image must arrive as it was published.
const OWN_HEADERS: [HeaderName; 9] = [
    header::ACCEPT_ENCODING,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::RANGE,
    header::TRANSFER_ENCODING,
];

/// The headers that the settings ask for.
#[derive(Debug, Clone)]
pub(super) struct RequestHeaders {
    extra: Vec<(HeaderName, HeaderValue)>,
    credentials: Option<Credentials>,
    netrc: Netrc,
}

impl RequestHeaders {
    /// Checks the headers and the user agent of `settings`, and reads the netrc file, if there is one.
    pub(super) fn new(settings: &HttpSettings) -> Result<Self, HttpError> {
        if HeaderValue::from_str(&settings.user_agent).is_err() {
            return Err(HttpError::setting("user agent", "not valid in a header"));
        }
        let extra = settings.headers.iter().map(|(name, value)| extra_header(name, value)).collect::<Result<_, _>>()?;
        let netrc = settings.netrc_file.as_deref().map(Netrc::read).transpose()?.unwrap_or_default();
        Ok(RequestHeaders { extra, credentials: settings.credentials(), netrc })
    }

    /// The headers of a request for `url`. The user asked for `first`, which may have redirected. Only the server of
    /// `first` (scheme, host and port) gets headers that may be secret.
    pub(super) fn build(&self, url: &ImageUrl, first: &ImageUrl, wanted: Wanted) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = vec![(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"))];
        headers.extend(wanted.conditions.headers());
        if let Some(range) = wanted.range_at(url) {
            headers.extend(range.headers());
        }
        let is_same_server = url.is_same_server(first);
        if is_same_server {
            headers.extend(self.extra.iter().cloned());
        }
        // An Authorization header of the settings is more specific than a user name and password.
        if !headers.iter().any(|(name, _)| *name == header::AUTHORIZATION) {
            let of_server = || if is_same_server { self.credentials_for(first.as_url()) } else { None };
            let credentials = user_info(url.as_url()).or_else(of_server);
            headers.extend(credentials.as_ref().and_then(authorization_header));
        }
        headers
    }

    /// The credentials of the URL, of the settings, or of the netrc file. curl has the same order.
    fn credentials_for(&self, url: &Url) -> Option<Credentials> {
        let of_host = || self.netrc.credentials(url.host_str().unwrap_or_default());
        user_info(url).or_else(|| self.credentials.clone()).or_else(of_host)
    }
}

fn extra_header(name: &str, value: &Secret) -> Result<(HeaderName, HeaderValue), HttpError> {
    let refused = |reason: String| HttpError::setting("headers", reason);
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
        return Err(refused("a name is not valid".to_owned()));
    };
    if OWN_HEADERS.contains(&name) {
        return Err(refused(format!("'{name}' cannot be set")));
    }
    let Ok(mut value) = HeaderValue::from_str(&value.0) else {
        return Err(refused(format!("the value of '{name}' is not valid")));
    };
    value.set_sensitive(true);
    Ok((name, value))
}

fn authorization_header(credentials: &Credentials) -> Option<(HeaderName, HeaderValue)> {
    let mut value = HeaderValue::from_str(&basic_authorization(credentials)).ok()?;
    value.set_sensitive(true);
    Some((header::AUTHORIZATION, value))
}

/// The value of an `Authorization` header (RFC 7617).
pub(super) fn basic_authorization(credentials: &Credentials) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", credentials.user.0, credentials.password.0)))
}

/// User name and password within a URL, decoded.
pub(super) fn user_info(url: &Url) -> Option<Credentials> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decode = |text: &str| Secret(percent_decode_str(text).decode_utf8_lossy().into_owned());
    Some(Credentials { user: decode(url.username()), password: decode(url.password().unwrap_or_default()) })
}

#[cfg(test)]
mod tests {
    use super::{Conditions, RequestHeaders, Wanted};
    use crate::store::http::{HttpSettings, ImageUrl, Secret};

    fn sent(settings: &HttpSettings, url: &str, first: &str) -> Vec<String> {
        let (url, first) = (ImageUrl::parse(url).unwrap(), ImageUrl::parse(first).unwrap());
        let conditions = Conditions { if_none_match: Some("\"a\"".to_owned()), if_modified_since: None };
        let wanted = Wanted { conditions: &conditions, range: None };
        let headers = RequestHeaders::new(settings).unwrap().build(&url, &first, wanted);
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    fn settings() -> HttpSettings {
        let secret = |text: &str| Secret(text.to_owned());
        HttpSettings {
            headers: vec![("X-Token".to_owned(), secret("t0ken"))],
            user: Some(secret("u")),
            password: secret("p"),
            ..HttpSettings::default()
        }
    }

    #[test]
    fn secrets_reach_the_server_asked_for_only() {
        let base = ["accept-encoding: identity", "if-none-match: \"a\""];
        let with_settings = [&base[..], &["x-token: t0ken", "authorization: Basic dTpw"]].concat();
        let with_user_info = [&base[..], &["x-token: t0ken", "authorization: Basic am9lOmh1bnRlciAy"]].concat();
        assert_eq!(sent(&settings(), "https://h/b", "https://h/a"), with_settings);
        assert_eq!(sent(&settings(), "https://h/b", "https://joe:hunter%202@h/a"), with_user_info);
        for elsewhere in ["https://other/b", "https://h:444/b", "http://h/b"] {
            assert_eq!(sent(&settings(), elsewhere, "https://joe:x@h/a"), base, "{elsewhere}");
        }
    }

    #[test]
    fn an_authorization_header_wins_over_credentials() {
        let mut settings = settings();
        settings.headers = vec![("Authorization".to_owned(), Secret("Bearer x".to_owned()))];
        let expected = ["accept-encoding: identity", "if-none-match: \"a\"", "authorization: Bearer x"];
        assert_eq!(sent(&settings, "https://h/a", "https://h/a"), expected);
    }

    #[test]
    fn headers_that_would_change_the_image_are_refused() {
        let refusal = |name: &str, value: &str| {
            let headers = vec![(name.to_owned(), Secret(value.to_owned()))];
            RequestHeaders::new(&HttpSettings { headers, ..HttpSettings::default() }).unwrap_err().to_string()
        };
        assert_eq!(refusal("Accept-Encoding", "gzip"), "headers: 'accept-encoding' cannot be set");
        assert_eq!(refusal("X-A", "hunter2\r\nEvil: 1"), "headers: the value of 'x-a' is not valid");
        assert_eq!(refusal("X A", "hunter2"), "headers: a name is not valid");
    }
}
