// SPDX-License-Identifier: BSD-2-Clause
//! The settings of HTTP requests.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::error::HttpError;
use super::no_proxy::NoProxy;
use super::url::{ImageUrl, UrlPrefix};
use super::values::{Headers, MaxTime, NoProxyList, Password, Proxy, Rate, Timeout, User, UserAgent};
use crate::node::size::ByteSize;
use crate::node::value::OptionalPath;

/// A text that must reach no log and no terminal: `Debug` and `Serialize` hide it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl Secret {
    /// What is shown in a secret's place.
    pub(crate) const HIDDEN: &str = "<hidden>";
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::HIDDEN)
    }
}

/// That a text is empty is no secret.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { Self::HIDDEN })
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

/// How images are fetched: the table `[http]` of config.toml. `Default` is what a variant without a config gets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSettings {
    /// The only URLs that may be asked for, redirects included; none: all. It is set by `allowed_images`.
    #[serde(skip)]
    pub allowed: Option<Vec<UrlPrefix>>,
    /// Proxy for http and https images alike: `http://[user:password@]host[:port]`.
    #[serde(with = "Proxy")]
    pub proxy: Option<Secret>,
    /// Proxy for https images, where it is another one.
    #[serde(with = "Proxy")]
    pub https_proxy: Option<Secret>,
    /// Hosts reached without the proxy.
    #[serde(with = "NoProxyList")]
    pub no_proxy: Vec<NoProxy>,
    /// PEM file with the only certificate authorities to trust, instead of the system's.
    #[serde(with = "OptionalPath")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with the certificate to show to the image's server, and those that it was issued with.
    #[serde(with = "OptionalPath")]
    pub client_cert: Option<PathBuf>,
    /// PEM file with its key, where that is not in the same file.
    #[serde(with = "OptionalPath")]
    pub client_key: Option<PathBuf>,
    /// Accept any server certificate.
    pub insecure_tls: bool,
    /// Extra request headers, name and value.
    #[serde(with = "Headers")]
    pub headers: Vec<(String, Secret)>,
    /// User of the basic authentication, where the URL carries none of its own.
    #[serde(with = "User")]
    pub user: Option<Secret>,
    /// Its password; may be empty.
    #[serde(with = "Password")]
    pub password: Secret,
    /// netrc file with the basic authentication for hosts, where there is no other.
    #[serde(with = "OptionalPath")]
    pub netrc_file: Option<PathBuf>,
    /// The User-Agent header.
    #[serde(with = "UserAgent")]
    pub user_agent: String,
    /// Longest time to find the server's address, and again as long to reach it, greetings included.
    #[serde(with = "Timeout")]
    pub connect_timeout: Duration,
    /// Longest time without a byte of the image.
    #[serde(with = "Timeout")]
    pub stall_timeout: Duration,
    /// Bytes per second that have to come at least, on average over the stall timeout.
    #[serde(with = "Rate")]
    pub min_speed: Option<ByteSize>,
    /// Longest time for the whole download; none means no bound.
    #[serde(with = "MaxTime")]
    pub max_time: Option<Duration>,
    /// Number of retries after transient failures.
    pub retries: u32,
    /// Bytes per second that a download may take at most.
    #[serde(with = "Rate")]
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
            user: None,
            password: Secret::default(),
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
    pub(crate) fn credentials(&self) -> Option<Credentials> {
        let user = self.user.clone()?;
        Some(Credentials { user, password: self.password.clone() })
    }

    /// The proxy for `url`, if it is not reached without one.
    pub(super) fn proxy_for(&self, url: &ImageUrl) -> Option<&Secret> {
        let https_proxy = self.https_proxy.as_ref().filter(|_| url.is_https());
        let proxy = https_proxy.or(self.proxy.as_ref())?;
        (!self.no_proxy.iter().any(|entry| entry.covers(url.as_url()))).then_some(proxy)
    }

    /// Whether `url` may be asked for.
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
