// SPDX-License-Identifier: BSD-2-Clause
//! What an error of ureq means, of which the reader knows neither the name nor the kind.

use std::io;
use std::time::Duration;

use ureq::http::StatusCode;

use super::client::server_of;
use super::error::{HttpError, status_text};
use super::tls_transport::TransportError;
use super::url::ImageUrl;

/// How the name of a proxy begins in messages.
pub(super) const PROXY: &str = "the proxy ";

/// What is said of who speaks another protocol than the URL says.
const PLAIN: &str = "speaks plain HTTP, not TLS (use http://, or the port for https)";
const NO_TLS: &str = "does not speak TLS (is it the port for https?)";
const TLS: &str = "speaks TLS, not plain HTTP (use https://, or the port for http)";
const TLS_PROXY: &str = "speaks TLS (proxies are asked in plain HTTP: use its port for that)";

/// What has to be known to say what an error of ureq means.
pub(super) struct RequestContext<'a> {
    /// The URL of this request.
    pub(super) url: &'a ImageUrl,
    /// Who is connected to: `host:port`, or `the proxy host:port`.
    pub(super) peer: &'a str,
    /// Longest time to connect.
    pub(super) connect_timeout: Duration,
    /// Longest silence.
    pub(super) stall_timeout: Duration,
    /// Longest time for all of it.
    pub(super) max_time: Option<Duration>,
}

impl RequestContext<'_> {
    /// What `error`, met before the answer was complete, means. ureq's own messages may hold URLs, so they are only
    /// repeated where they cannot.
    pub(super) fn failure(&self, error: ureq::Error) -> HttpError {
        let url = self.url.to_string();
        match error {
            ureq::Error::Timeout(which) => self.timeout(which),
            ureq::Error::Io(error) => self.io_failure(&error),
            ureq::Error::HostNotFound => self.connect("the host has no address".to_owned()),
            ureq::Error::ConnectionFailed => self.connect("no connection".to_owned()),
            ureq::Error::ConnectProxyFailed(reason) => self.tunnel(&reason),
            ureq::Error::TlsRequired => HttpError::Tls { url, reason: "the connection is not encrypted".to_owned() },
            ureq::Error::Other(fault) => self.fault(fault.downcast_ref()),
            ureq::Error::Protocol(error) => HttpError::Protocol { url, reason: error.to_string() },
            ureq::Error::LargeResponseHeader(..) => {
                HttpError::Protocol { url, reason: "the header is too large".to_owned() }
            }
            ureq::Error::Http(_) | ureq::Error::BadUri(_) => {
                HttpError::Protocol { url, reason: "the URL cannot be requested".to_owned() }
            }
            _ => HttpError::Protocol { url, reason: "unexpected failure".to_owned() },
        }
    }

    fn timeout(&self, which: ureq::Timeout) -> HttpError {
        let url = self.url.to_string();
        match (which, self.max_time) {
            (ureq::Timeout::Resolve | ureq::Timeout::Connect, _) => {
                self.connect(format!("no answer within {} s", self.connect_timeout.as_secs_f32()))
            }
            (ureq::Timeout::Global, Some(limit)) => HttpError::TooSlow { url, limit },
            _ => HttpError::Stalled { url, timeout: self.stall_timeout },
        }
    }

    fn io_failure(&self, error: &io::Error) -> HttpError {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof => {
                HttpError::NoAnswer { url: self.url.to_string(), hint: unusual_port(self.url) }
            }
            Kind::ConnectionRefused => self.connect("connection refused".to_owned()),
            Kind::HostUnreachable => self.connect("no route to the host".to_owned()),
            Kind::NetworkUnreachable => self.connect("the network is unreachable".to_owned()),
            _ => self.connect(error.to_string()),
        }
    }

    fn connect(&self, reason: String) -> HttpError {
        HttpError::Connect { url: self.url.to_string(), peer: self.peer.to_owned(), reason }
    }

    fn fault(&self, fault: Option<&TransportError>) -> HttpError {
        let url = self.url.to_string();
        match fault {
            Some(TransportError::Certificate(reason)) => HttpError::Certificate { url, reason: reason.clone() },
            Some(TransportError::Tls(reason)) => HttpError::Tls { url, reason: reason.clone() },
            Some(TransportError::NoTls { http }) => {
                self.other_protocol(server_of(self.url), if *http { PLAIN } else { NO_TLS })
            }
            Some(TransportError::SpeaksTls) => self.speaks_tls(),
            Some(TransportError::Torn) => HttpError::NoAnswer { url, hint: unusual_port(self.url) },
            Some(TransportError::NoHost) => HttpError::NoHost { url, host: self.peer_host().to_owned() },
            Some(TransportError::Unresolved(reason)) => self.connect(reason.clone()),
            None => HttpError::Protocol { url, reason: "unexpected failure".to_owned() },
        }
    }

    /// What was asked in plain HTTP speaks TLS. To a proxy only that is ever spoken.
    pub(super) fn speaks_tls(&self) -> HttpError {
        let proxy = self.peer.starts_with(PROXY);
        self.other_protocol(self.peer.to_owned(), if proxy { TLS_PROXY } else { TLS })
    }

    fn other_protocol(&self, peer: String, speaks: &'static str) -> HttpError {
        HttpError::OtherProtocol { url: self.url.to_string(), peer, speaks }
    }

    fn peer_host(&self) -> &str {
        let peer = self.peer.strip_prefix(PROXY).unwrap_or(self.peer);
        peer.rsplit_once(':').map_or(peer, |(host, _)| host)
    }

    /// ureq reports a refused tunnel as text only: `proxy server responded 407/407`.
    fn tunnel(&self, reason: &str) -> HttpError {
        let status = reason.rsplit('/').next().and_then(|text| text.parse::<u16>().ok());
        let reason = match status.and_then(|code| StatusCode::from_u16(code).ok()) {
            Some(code) => format!("it answered {}", status_text(code)),
            None => "it did not answer".to_owned(),
        };
        HttpError::Tunnel { peer: self.peer.to_owned(), url: self.url.to_string(), reason, status }
    }
}

/// What to think of when a server has nothing to say on this port.
fn unusual_port(url: &ImageUrl) -> &'static str {
    match (url.as_url().scheme(), url.as_url().port()) {
        ("http", Some(443 | 8443)) => " (is https:// meant?)",
        ("https", Some(80 | 8000 | 8080)) => " (is http:// meant?)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::RequestContext;
    use crate::store::http::ImageUrl;
    use std::time::Duration;

    fn message(error: ureq::Error) -> String {
        let url = ImageUrl::parse("https://joe:hunter2@host.example/x?token=s3cret").unwrap();
        let exchange = RequestContext {
            url: &url,
            peer: "host.example:443",
            connect_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_millis(1500),
            max_time: None,
        };
        exchange.failure(error).to_string()
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
                "host.example:443 refused to connect to https://host.example/x: it answered 407 Proxy Authentication \
                 Required",
            ),
        ];
        for (error, expected) in cases {
            assert_eq!(message(error), expected);
        }
    }
}
