// SPDX-License-Identifier: BSD-2-Clause
//! The headers of a request, and which of them may reach which server.

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

/// What must hold for the server to send the image again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The ETag of the kept image: send it only if it has another.
    pub if_none_match: Option<String>,
    /// The Last-Modified of the kept image: send it only if it is newer.
    pub if_modified_since: Option<String>,
}

impl Conditions {
    /// Whether there is any.
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
    /// When to send it at all.
    pub(super) conditions: &'a Conditions,
    /// The part that is missing, if not all of it is.
    pub(super) rest: Option<&'a RangeRequest>,
}

impl<'a> Wanted<'a> {
    /// The part to ask for at `url`.
    pub(super) fn rest_at(&self, url: &ImageUrl) -> Option<&'a RangeRequest> {
        self.rest.filter(|rest| rest.is_at(url))
    }
}

/// Headers that the client sets itself: the bytes must arrive as they were published, whole.
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

/// What every request for one administrator's settings carries.
#[derive(Debug, Clone)]
pub(super) struct RequestHeaders {
    extra: Vec<(HeaderName, HeaderValue)>,
    credentials: Option<Credentials>,
    netrc: Netrc,
}

impl RequestHeaders {
    /// Checks the headers and the user agent of `settings`, and reads the netrc file, if they name one.
    pub(super) fn new(settings: &HttpSettings) -> Result<Self, HttpError> {
        if HeaderValue::from_str(&settings.user_agent).is_err() {
            return Err(HttpError::Setting { setting: "user agent", reason: "not valid in a header".to_owned() });
        }
        let extra = settings.headers.iter().map(|(name, value)| extra_header(name, value)).collect::<Result<_, _>>()?;
        let netrc = settings.netrc_file.as_deref().map(Netrc::read).transpose()?.unwrap_or_default();
        Ok(RequestHeaders { extra, credentials: settings.credentials.clone(), netrc })
    }

    /// The headers of a request for `url`, which `first`, the URL asked for, may have redirected to. Whatever may be
    /// secret goes to the server of `first` only (scheme, host and port).
    pub(super) fn build(&self, url: &ImageUrl, first: &ImageUrl, wanted: Wanted) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = vec![(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"))];
        headers.extend(wanted.conditions.headers());
        headers.extend(wanted.rest_at(url).into_iter().flat_map(RangeRequest::headers));
        let same_server = url.as_url().origin() == first.as_url().origin();
        if same_server {
            headers.extend(self.extra.iter().cloned());
        }
        // A header of the administrator's own is more specific than a user name and password.
        if !headers.iter().any(|(name, _)| *name == header::AUTHORIZATION) {
            let of_server = || if same_server { self.credentials_for(first.as_url()) } else { None };
            headers.extend(user_info(url.as_url()).or_else(of_server).as_ref().and_then(authorization_header));
        }
        headers
    }

    /// What stands in the URL, in the settings, or in the netrc file, in this order as with curl.
    fn credentials_for(&self, url: &Url) -> Option<Credentials> {
        let of_host = || self.netrc.credentials(url.host_str().unwrap_or_default());
        user_info(url).or_else(|| self.credentials.clone()).or_else(of_host)
    }
}

fn extra_header(name: &str, value: &Secret) -> Result<(HeaderName, HeaderValue), HttpError> {
    let fault = |reason: String| HttpError::Setting { setting: "headers", reason };
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
        return Err(fault("a name is not valid".to_owned()));
    };
    if OWN_HEADERS.contains(&name) {
        return Err(fault(format!("'{name}' cannot be set")));
    }
    let Ok(mut value) = HeaderValue::from_str(&value.0) else {
        return Err(fault(format!("the value of '{name}' is not valid")));
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

/// `url` as it is requested: user name and password travel in a header, the fragment not at all.
pub(super) fn request_target(url: &ImageUrl) -> String {
    let mut target = url.as_url().clone();
    target.set_fragment(None);
    // Both only fail on URLs without a host, which http and https URLs always have.
    let _ = target.set_username("");
    let _ = target.set_password(None);
    target.into()
}

#[cfg(test)]
mod tests {
    use super::{Conditions, RequestHeaders, Wanted, request_target};
    use crate::store::http::{Credentials, HttpSettings, ImageUrl, Secret};

    fn sent(settings: &HttpSettings, url: &str, first: &str) -> Vec<String> {
        let (url, first) = (ImageUrl::parse(url).unwrap(), ImageUrl::parse(first).unwrap());
        let conditions = Conditions { if_none_match: Some("\"a\"".to_owned()), if_modified_since: None };
        let wanted = Wanted { conditions: &conditions, rest: None };
        let headers = RequestHeaders::new(settings).unwrap().build(&url, &first, wanted);
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    fn settings() -> HttpSettings {
        let secret = |text: &str| Secret(text.to_owned());
        HttpSettings {
            headers: vec![("X-Token".to_owned(), secret("t0ken"))],
            credentials: Some(Credentials { user: secret("u"), password: secret("p") }),
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

    #[test]
    fn user_info_and_fragment_are_not_requested() {
        let url = ImageUrl::parse("https://joe:pw@h:8443/a%20b?q=1#frag").unwrap();
        assert_eq!(request_target(&url), "https://h:8443/a%20b?q=1");
    }
}
