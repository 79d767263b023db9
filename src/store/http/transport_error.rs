// SPDX-License-Identifier: BSD-2-Clause
//! What goes wrong below HTTP, and the translation of ureq's errors into [`HttpError`].

use std::io;

use ureq::http::StatusCode;

use super::error::{HttpError, status_text};
use super::settings::TimeLimits;
use super::url::ImageUrl;

const PLAIN: &str = "speaks plain HTTP, not TLS (use http://, or the port for https)";
const NO_TLS: &str = "does not speak TLS (is it the port for https?)";
const TLS: &str = "speaks TLS, not plain HTTP (use https://, or the port for http)";
const TLS_PROXY: &str = "speaks TLS (proxies are asked in plain HTTP: use its port for that)";

/// Errors of our own connectors and resolver, which ureq carries as `ureq::Error::Other`.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    #[error("{0}")]
    Certificate(String),
    #[error("{0}")]
    Tls(String),
    /// The server answers a TLS handshake with plain HTTP (`http`) or with another protocol.
    #[error("no TLS")]
    NoTls { http: bool },
    /// The server answers a plain HTTP request with TLS.
    #[error("TLS")]
    SpeaksTls,
    /// The connection was reset, or it ended without the end that TLS asks for.
    #[error("torn off")]
    Torn,
    /// The name servers know the name, and say that it has no address.
    #[error("no such host")]
    NoHost,
    /// The name servers gave no answer.
    #[error("{0}")]
    Unresolved(String),
}

impl From<TransportError> for ureq::Error {
    fn from(error: TransportError) -> Self {
        ureq::Error::Other(Box::new(error))
    }
}

/// A request, as far as the message of an error names it.
pub(super) struct RequestContext<'a> {
    pub(super) url: &'a ImageUrl,
    /// `host:port` of the proxy, where one is used.
    pub(super) proxy: Option<&'a str>,
    pub(super) limits: TimeLimits,
}

impl RequestContext<'_> {
    /// Says what `error`, which came before the answer was complete, means. ureq's own messages may hold URLs, so they are
    /// repeated only where they can't.
    pub(super) fn explain(&self, error: ureq::Error) -> HttpError {
        match error {
            ureq::Error::Timeout(which) => self.timeout(which),
            ureq::Error::Io(error) => self.io(&error),
            ureq::Error::HostNotFound => self.connect("the host has no address"),
            ureq::Error::ConnectionFailed => self.connect("no connection"),
            ureq::Error::ConnectProxyFailed(reason) => self.tunnel(&reason),
            ureq::Error::TlsRequired => self.tls("the connection is not encrypted"),
            ureq::Error::Other(error) => self.transport(error.downcast_ref()),
            ureq::Error::Protocol(error) => self.protocol(error.to_string()),
            ureq::Error::LargeResponseHeader(..) => self.protocol("the header is too large"),
            ureq::Error::Http(_) | ureq::Error::BadUri(_) => self.protocol("the URL cannot be requested"),
            _ => self.protocol("unexpected failure"),
        }
    }

    fn timeout(&self, which: ureq::Timeout) -> HttpError {
        let url = self.url.to_string();
        match (which, self.limits.total) {
            (ureq::Timeout::Resolve | ureq::Timeout::Connect, _) => {
                self.connect(format!("no answer within {} s", self.limits.connect.as_secs_f32()))
            }
            (ureq::Timeout::Global, Some(limit)) => HttpError::OverMaxTime { url, limit },
            _ => HttpError::Stalled { url, timeout: self.limits.stall },
        }
    }

    fn io(&self, error: &io::Error) -> HttpError {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof => {
                self.no_answer()
            }
            Kind::ConnectionRefused => self.connect("connection refused"),
            Kind::HostUnreachable => self.connect("no route to the host"),
            Kind::NetworkUnreachable => self.connect("the network is unreachable"),
            _ => self.connect(error.to_string()),
        }
    }

    fn transport(&self, error: Option<&TransportError>) -> HttpError {
        let url = self.url.to_string();
        match error {
            Some(TransportError::Certificate(reason)) => HttpError::Certificate { url, reason: reason.clone() },
            Some(TransportError::Tls(reason)) => self.tls(reason),
            Some(TransportError::NoTls { http }) => {
                let speaks = if *http { PLAIN } else { NO_TLS };
                HttpError::OtherProtocol { url, peer: self.url.host_and_port(), speaks }
            }
            Some(TransportError::SpeaksTls) => self.speaks_tls(),
            Some(TransportError::Torn) => self.no_answer(),
            Some(TransportError::NoHost) => HttpError::NoHost { url, host: self.peer_host() },
            Some(TransportError::Unresolved(reason)) => self.connect(reason.as_str()),
            None => self.protocol("unexpected failure"),
        }
    }

    /// The error that server or proxy speaks TLS. A proxy is always asked in plain HTTP.
    pub(super) fn speaks_tls(&self) -> HttpError {
        let speaks = if self.proxy.is_some() { TLS_PROXY } else { TLS };
        HttpError::OtherProtocol { url: self.url.to_string(), peer: self.peer(), speaks }
    }

    /// ureq reports a refused tunnel as text only: `proxy server responded 407/407`.
    fn tunnel(&self, reason: &str) -> HttpError {
        let status = reason.rsplit('/').next().and_then(|text| text.parse::<u16>().ok());
        let reason = match status.and_then(|code| StatusCode::from_u16(code).ok()) {
            Some(code) => format!("it answered {}", status_text(code)),
            None => "it did not answer".to_owned(),
        };
        HttpError::Tunnel { peer: self.peer(), url: self.url.to_string(), reason, status }
    }

    fn connect(&self, reason: impl Into<String>) -> HttpError {
        HttpError::Connect { url: self.url.to_string(), peer: self.peer(), reason: reason.into() }
    }

    fn tls(&self, reason: &str) -> HttpError {
        HttpError::Tls { url: self.url.to_string(), reason: reason.to_owned() }
    }

    fn protocol(&self, reason: impl Into<String>) -> HttpError {
        HttpError::Protocol { url: self.url.to_string(), reason: reason.into() }
    }

    /// The error that the server sent nothing. The hint names the usual mistake for its port.
    fn no_answer(&self) -> HttpError {
        let hint = match (self.url.is_https(), self.url.as_url().port()) {
            (false, Some(443 | 8443)) => " (is https:// meant?)",
            (true, Some(80 | 8000 | 8080)) => " (is http:// meant?)",
            _ => "",
        };
        HttpError::NoAnswer { url: self.url.to_string(), hint }
    }

    fn peer(&self) -> String {
        self.proxy.map_or_else(|| self.url.host_and_port(), |proxy| format!("the proxy {proxy}"))
    }

    fn peer_host(&self) -> String {
        let peer = self.proxy.map_or_else(|| self.url.host_and_port(), str::to_owned);
        peer.rsplit_once(':').map_or(peer.clone(), |(host, _)| host.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::RequestContext;
    use crate::store::http::ImageUrl;
    use crate::store::http::settings::TimeLimits;
    use std::time::Duration;

    fn message(error: ureq::Error) -> String {
        let proxy = matches!(error, ureq::Error::ConnectProxyFailed(_)).then_some("proxy.example:3128");
        let url = ImageUrl::parse("https://joe:hunter2@host.example/x?token=s3cret").unwrap();
        let context = RequestContext {
            url: &url,
            proxy,
            limits: TimeLimits { connect: Duration::from_secs(30), stall: Duration::from_millis(1500), total: None },
        };
        context.explain(error).to_string()
    }

    #[test]
    fn says_what_failed_without_secrets() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let bad = ureq::Error::BadUri("https://joe:hunter2@host.example/x?token=s3cret".to_owned());
        let cases = [
            (
                ureq::Error::Io(refused),
                "https://host.example/x: cannot connect to host.example:443: connection refused",
            ),
            (
                ureq::Error::Timeout(ureq::Timeout::Connect),
                "https://host.example/x: cannot connect to host.example:443: no answer within 30 s",
            ),
            (ureq::Error::Timeout(ureq::Timeout::PerRead), "https://host.example/x: no data for 1.5 s"),
            (bad, "https://host.example/x: the answer is not valid HTTP (the URL cannot be requested)"),
            (
                ureq::Error::ConnectProxyFailed("proxy server responded 407/407".to_owned()),
                "the proxy proxy.example:3128 refused to connect to https://host.example/x: it answered 407 Proxy \
                 Authentication Required",
            ),
        ];
        for (error, expected) in cases {
            assert_eq!(message(error), expected);
        }
    }
}
