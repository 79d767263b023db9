// SPDX-License-Identifier: BSD-2-Clause
//! The errors of HTTP requests.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::StatusCode;

use crate::node::size::ByteSize;

/// A fetch that failed. `url` is the image's URL without its secrets, as `ImageUrl` displays it. `peer` is `host:port` or
/// `the proxy host:port`.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant shows what its fields hold")]
pub enum HttpError {
    #[error("{setting}: {reason}")]
    Setting { setting: &'static str, reason: String },
    #[error("{what} {}: {reason}", path.display())]
    File { what: &'static str, path: PathBuf, reason: String },
    #[error("{url}: cannot connect to {peer}: {reason}")]
    Connect { url: String, peer: String, reason: String },
    #[error("{url}: there is no host {host} (look at the name, or at the node's name servers)")]
    NoHost { url: String, host: String },
    #[error("{url}: {peer} {speaks}")]
    OtherProtocol { url: String, peer: String, speaks: &'static str },
    #[error("{peer} refused to connect to {url}: {reason}")]
    Tunnel { peer: String, url: String, reason: String, status: Option<u16> },
    #[error("{url}: the server's certificate is not trusted ({reason})")]
    Certificate { url: String, reason: String },
    #[error("{url}: no secure connection ({reason})")]
    Tls { url: String, reason: String },
    #[error("{url}: the server answered {}", status_text(*status))]
    Status { url: String, status: StatusCode, retry_after: Option<Duration> },
    #[error("{url} is not in a place that allowed_images lists{}", redirected(*is_redirect))]
    NotAllowed { url: String, is_redirect: bool },
    #[error("{url}: {reason}")]
    Redirect { url: String, reason: &'static str },
    #[error("{url}: the server closed the connection without an answer{hint}")]
    NoAnswer { url: String, hint: &'static str },
    #[error("{url}: the connection was cut after {received} bytes{}", of_expected(*expected))]
    Cut { url: String, received: u64, expected: Option<u64> },
    #[error("{url}: the server can't resume the download ({reason})")]
    ResumeRefused { url: String, reason: &'static str },
    #[error("{url}: no data for {} s", timeout.as_secs_f32())]
    Stalled { url: String, timeout: Duration },
    #[error("{url}: less than {minimum} a second for {} s", time.as_secs_f32())]
    BelowMinSpeed { url: String, minimum: ByteSize, time: Duration },
    #[error("{url}: not complete after {} s", limit.as_secs_f32())]
    OverMaxTime { url: String, limit: Duration },
    #[error("{url}: larger than {limit}, the limit for SUMS files, signatures and first-boot files")]
    TooLarge { url: String, limit: ByteSize },
    #[error("{url}: the answer is not valid HTTP ({reason})")]
    Protocol { url: String, reason: String },
}

impl HttpError {
    /// The error that a setting can't be used. `reason` never has the value, which may be a secret.
    pub(super) fn setting(setting: &'static str, reason: impl Into<String>) -> Self {
        HttpError::Setting { setting, reason: reason.into() }
    }

    /// The error that the file of a setting can't be used; `what` names the kind of file.
    pub(super) fn file(what: &'static str, path: &Path, reason: impl Into<String>) -> Self {
        HttpError::File { what, path: path.to_owned(), reason: reason.into() }
    }

    /// Whether the same request may succeed a moment later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::NoAnswer { .. }
            | Self::Cut { .. }
            | Self::ResumeRefused { .. }
            | Self::Stalled { .. }
            | Self::BelowMinSpeed { .. } => true,
            Self::Status { status, .. } => is_transient_status(status.as_u16()),
            Self::Tunnel { status, .. } => status.is_some_and(is_transient_status),
            _ => false,
        }
    }

    /// Whether the server is down or out of reach. This is false for a server that can't be trusted, and for an answer
    /// that the image is gone or forbidden.
    pub(crate) fn is_unavailable(&self) -> bool {
        match self {
            Self::Status { status, .. } => status.is_server_error() || is_transient_status(status.as_u16()),
            Self::OverMaxTime { .. } | Self::NoHost { .. } => true,
            _ => self.is_transient(),
        }
    }

    /// The time that the server asks its clients to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// curl's `--retry` takes the same statuses for transient (curl(1)).
fn is_transient_status(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

pub(super) fn status_text(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default()).trim_end().to_owned()
}

fn redirected(is_redirect: bool) -> &'static str {
    if is_redirect { ", but the server redirects to it" } else { "" }
}

fn of_expected(expected: Option<u64>) -> String {
    expected.map(|bytes| format!(" of {bytes}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::HttpError;

    #[test]
    fn only_what_may_pass_is_transient() {
        let url = "http://h/x".to_owned();
        let status = |code: u16| HttpError::Status {
            url: url.clone(),
            status: ureq::http::StatusCode::from_u16(code).unwrap(),
            retry_after: None,
        };
        for (code, transient, unavailable) in
            [(404, false, false), (403, false, false), (429, true, true), (501, false, true), (503, true, true)]
        {
            assert_eq!(
                (status(code).is_transient(), status(code).is_unavailable()),
                (transient, unavailable),
                "{code}"
            );
        }
        let certificate = HttpError::Certificate { url, reason: "UnknownIssuer".to_owned() };
        assert!(!certificate.is_transient() && !certificate.is_unavailable());
    }
}
