// SPDX-License-Identifier: BSD-2-Clause
//! The settings of HTTP requests.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::error::HttpError;
use super::no_proxy::NoProxy;
use super::url::{ImageUrl, UrlPrefix};
use crate::node::size::ByteSize;

/// A text that must not reach a log. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

/// HTTP basic authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub user: Secret,
    /// Password, which may be empty.
    pub password: Secret,
}

/// How images are fetched. `Default` holds for a variant without a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// The URLs that may be requested, also by redirects. None allows all.
    pub allowed: Option<Vec<UrlPrefix>>,
    /// Proxy for http and https images alike: `http://[user:password@]host[:port]`.
    pub proxy: Option<Secret>,
    /// Proxy for https images, if it differs.
    pub https_proxy: Option<Secret>,
    /// Hosts that are reached without the proxy.
    pub no_proxy: Vec<NoProxy>,
    /// PEM file with the certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client certificate for the image's server, and its chain.
    pub client_cert: Option<PathBuf>,
    /// PEM file with the key of the client certificate, if it is another file.
    pub client_key: Option<PathBuf>,
    /// Accept any server certificate.
    pub insecure_tls: bool,
    /// Extra request headers: name and value.
    pub headers: Vec<(String, Secret)>,
    /// Basic authentication, unless the URL has its own.
    pub credentials: Option<Credentials>,
    /// netrc file with the basic authentication of hosts, used if there is no other.
    pub netrc_file: Option<PathBuf>,
    /// The User-Agent header.
    pub user_agent: String,
    /// Longest time to reach the server.
    pub connect_timeout: Duration,
    /// Longest time without a byte from the server.
    pub stall_timeout: Duration,
    /// Least bytes per second, on average over the stall timeout.
    pub min_speed: Option<ByteSize>,
    /// Longest time for the whole download. None means no limit.
    pub max_time: Option<Duration>,
    /// Number of retries after transient failures.
    pub retries: u32,
    /// Most bytes per second that a download may take.
    pub limit_rate: Option<ByteSize>,
}

/// Bytes per second. No image that anybody can use comes more slowly.
const DEFAULT_MIN_SPEED: ByteSize = ByteSize(1 << 10);

impl Default for HttpSettings {
    fn default() -> Self {
        HttpSettings {
            allowed: None,
            proxy: None,
            https_proxy: None,
            no_proxy: Vec::new(),
            ca_file: None,
            client_cert: None,
            client_key: None,
            insecure_tls: false,
            headers: Vec::new(),
            credentials: None,
            netrc_file: None,
            user_agent: concat!("simpleimage/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            min_speed: Some(DEFAULT_MIN_SPEED),
            max_time: None,
            retries: 5,
            limit_rate: None,
        }
    }
}

impl HttpSettings {
    /// Whether `url` may be requested.
    pub(crate) fn allows(&self, url: &ImageUrl) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.iter().any(|prefix| prefix.covers(url)))
    }

    /// Gives the error of a fetch if `url` may not be requested.
    pub(crate) fn check_allowed(&self, url: &ImageUrl) -> Result<(), HttpError> {
        if self.allows(url) { Ok(()) } else { Err(HttpError::NotAllowed { url: url.to_string(), is_redirect: false }) }
    }

    pub(super) fn time_limits(&self) -> TimeLimits {
        TimeLimits { connect: self.connect_timeout, stall: self.stall_timeout, total: self.max_time }
    }
}

/// The limits of one request, as in [`HttpSettings`].
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeLimits {
    pub(super) connect: Duration,
    pub(super) stall: Duration,
    pub(super) total: Option<Duration>,
}
