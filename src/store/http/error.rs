// SPDX-License-Identifier: BSD-2-Clause
//! Why an image could not be fetched, in one sentence that holds no secret.

use std::path::PathBuf;
use std::time::Duration;

use ureq::http::StatusCode;

use crate::node::size::ByteSize;

/// A fetch that failed. The URLs in it are without their secrets, as `ImageUrl` displays them.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// A setting that cannot be used.
    #[error("{setting}: {reason}")]
    Setting {
        /// Which setting.
        setting: &'static str,
        /// What is wrong with it; never its value, which may be a secret.
        reason: String,
    },
    /// A file that a setting names cannot be used.
    #[error("{what} {}: {reason}", path.display())]
    File {
        /// What is in it: "CA file", ...
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The server or the proxy could not be reached.
    #[error("{url}: cannot connect to {peer}: {reason}")]
    Connect {
        /// The image.
        url: String,
        /// `host:port`, or `the proxy host:port`.
        peer: String,
        /// What the system said.
        reason: String,
    },
    /// No such host. It may be down for good or mistyped, but asking again at once won't help.
    #[error("{url}: there is no host {host} (look at the name, or at the node's name servers)")]
    NoHost {
        /// The image.
        url: String,
        /// The host: the server's, or the proxy's.
        host: String,
    },
    /// The other side speaks another protocol.
    #[error("{url}: {peer} {speaks}")]
    OtherProtocol {
        /// The image.
        url: String,
        /// `host:port`, or `the proxy host:port`.
        peer: String,
        /// What it speaks, and what to do.
        speaks: &'static str,
    },
    /// The proxy refused to open a tunnel.
    #[error("{peer} refused to connect to {url}: {reason}")]
    Tunnel {
        /// `the proxy host:port`.
        peer: String,
        /// The image.
        url: String,
        /// Its status line.
        reason: String,
        /// The status, where the proxy gave one.
        status: Option<u16>,
    },
    /// The server's certificate did not hold.
    #[error("{url}: the server's certificate is not trusted ({reason})")]
    Certificate {
        /// The image.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS failed otherwise.
    #[error("{url}: no secure connection ({reason})")]
    Tls {
        /// The image.
        url: String,
        /// What the TLS library said.
        reason: String,
    },
    /// The server answered, but not with the image.
    #[error("{url}: the server answered {}", status_text(*status))]
    Status {
        /// The image.
        url: String,
        /// The status code.
        status: StatusCode,
        /// How long the server asks to stay away.
        retry_after: Option<Duration>,
    },
    /// A URL that the administrator does not allow.
    #[error("{url} is not in a place that allowed_images lists{}", redirected(*is_redirect))]
    NotAllowed {
        /// It, or where the server redirected to.
        url: String,
        /// Whether it is the latter.
        is_redirect: bool,
    },
    /// A redirect that is not followed.
    #[error("{url}: {reason}")]
    Redirect {
        /// Who redirected.
        url: String,
        /// Why it is not followed.
        reason: &'static str,
    },
    /// The connection ended before the answer began.
    #[error("{url}: the server closed the connection without an answer{hint}")]
    NoAnswer {
        /// The image.
        url: String,
        /// What may be the reason.
        hint: &'static str,
    },
    /// The connection ended within the image.
    #[error("{url}: the connection was cut after {received} bytes{}", of_expected(*expected))]
    Cut {
        /// The image.
        url: String,
        /// Bytes that came.
        received: u64,
        /// Bytes that were announced.
        expected: Option<u64>,
    },
    /// The server did not send the rest of the image, but something else. All of it may still be had.
    #[error("{url}: the server can't go on with the download ({reason})")]
    ResumeRefused {
        /// The image.
        url: String,
        /// What it did instead.
        reason: &'static str,
    },
    /// Nothing came for too long.
    #[error("{url}: no data for {} s", timeout.as_secs_f32())]
    Stalled {
        /// The image.
        url: String,
        /// The stall timeout.
        timeout: Duration,
    },
    /// Too little came for too long.
    #[error("{url}: less than {minimum} a second for {} s", time.as_secs_f32())]
    Slow {
        /// The image.
        url: String,
        /// The least that has to come in a second.
        minimum: ByteSize,
        /// The stall timeout.
        time: Duration,
    },
    /// The whole fetch took too long.
    #[error("{url}: not complete after {} s", limit.as_secs_f32())]
    TooSlow {
        /// The image.
        url: String,
        /// The longest time allowed.
        limit: Duration,
    },
    /// A file that has to be small is not.
    #[error("{url}: larger than {limit}, which no SUMS file, signature or first-boot file may be")]
    TooLarge {
        /// The file.
        url: String,
        /// What it may have at most.
        limit: ByteSize,
    },
    /// What the server sent is not HTTP.
    #[error("{url}: the answer is not valid HTTP ({reason})")]
    Protocol {
        /// The image.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl HttpError {
    /// Whether the same request may well succeed a moment later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::NoAnswer { .. }
            | Self::Cut { .. }
            | Self::ResumeRefused { .. }
            | Self::Stalled { .. }
            | Self::Slow { .. } => true,
            Self::Status { status, .. } => is_transient_status(status.as_u16()),
            Self::Tunnel { status, .. } => status.is_some_and(is_transient_status),
            _ => false,
        }
    }

    /// Whether the server is down or out of reach, as opposed to an answer that the image is gone or forbidden, or a
    /// server that cannot be trusted.
    pub(crate) fn is_unavailable(&self) -> bool {
        match self {
            Self::Status { status, .. } => status.is_server_error() || is_transient_status(status.as_u16()),
            Self::TooSlow { .. } | Self::NoHost { .. } => true,
            _ => self.is_transient(),
        }
    }

    /// How long the server asks to stay away.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Statuses that curl's `--retry` takes for transient too (curl(1)).
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
