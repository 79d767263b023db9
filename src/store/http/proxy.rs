// SPDX-License-Identifier: BSD-2-Clause
//! Proxies, and absolute-form requests for plain http.
//!
//! For plain http ureq asks a proxy for a tunnel (CONNECT), which squid's default rules refuse for port 80. So our own
//! connector writes `GET http://host/path HTTP/1.1` instead (RFC 9112, section 3.2.2).

use ureq::http::Uri;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};
use url::Url;

use super::error::HttpError;
use super::request::{basic_authorization, user_info};
use super::resolver::ProxyResolver;
use super::settings::{Credentials, Secret};

/// An HTTP proxy.
#[derive(Debug, Clone)]
pub(super) struct Proxy {
    host: String,
    port: u16,
    credentials: Option<Credentials>,
}

impl Proxy {
    /// Reads `[http://][user:password@]host[:port]`. The default port is 80.
    pub(super) fn parse(text: &Secret) -> Result<Self, HttpError> {
        let refused = |reason: String| HttpError::setting("proxy", reason);
        let text = text.0.trim();
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&full).map_err(|err| refused(format!("not a valid URL ({err})")))?;
        if url.scheme() != "http" {
            return Err(refused(format!("the scheme '{}' is not supported (use http)", url.scheme())));
        }
        let host = url.host_str().ok_or_else(|| refused("names no host".to_owned()))?.to_owned();
        let port = url.port_or_known_default().ok_or_else(|| refused("names no port".to_owned()))?;
        Ok(Proxy { host, port, credentials: user_info(&url) })
    }

    pub(super) fn host_and_port(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The proxy for CONNECT tunnels, in ureq's form.
    pub(super) fn for_tunnels(&self) -> Result<ureq::Proxy, HttpError> {
        let mut proxy = ureq::Proxy::builder(ureq::ProxyProtocol::Http).host(&self.host).port(self.port);
        if let Some(Credentials { user, password }) = &self.credentials {
            proxy = proxy.username(&user.0).password(&password.0);
        }
        proxy.build().map_err(|_err| self.unusable())
    }

    /// Connector and resolver that carry plain http requests to this proxy.
    pub(super) fn for_requests(&self) -> Result<(AbsoluteForm, ProxyResolver), HttpError> {
        let proxy: Uri = format!("http://{}/", self.host_and_port()).parse().map_err(|_err| self.unusable())?;
        let authorization = self.credentials.as_ref().map(basic_authorization).map(Secret);
        Ok((AbsoluteForm { authorization }, ProxyResolver { proxy }))
    }

    fn unusable(&self) -> HttpError {
        HttpError::setting("proxy", format!("{} cannot be asked", self.host_and_port()))
    }
}

/// Makes the requests on a connection to a proxy absolute-form ones.
#[derive(Debug, Clone)]
pub(super) struct AbsoluteForm {
    authorization: Option<Secret>,
}

impl<In: Transport> Connector<In> for AbsoluteForm {
    type Out = AbsoluteFormTransport<In>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let host = details.uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let authorization = self.authorization.clone();
        Ok(chained.map(|inner| AbsoluteFormTransport { inner, host: host.to_owned(), authorization }))
    }
}

/// A connection to a proxy. It rewrites the request lines that are sent.
#[derive(Debug)]
pub(super) struct AbsoluteFormTransport<T> {
    inner: T,
    host: String,
    authorization: Option<Secret>,
}

impl<T: Transport> Transport for AbsoluteFormTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let authorization = self.authorization.as_ref().map(|secret| secret.0.as_str());
        let output = &self.inner.buffers().output()[..amount];
        let Some(message) = absolute_form(output, &self.host, authorization) else {
            return self.inner.transmit_output(amount, timeout);
        };
        let mut rest = message.as_slice();
        while !rest.is_empty() {
            let output = self.inner.buffers().output();
            let (part, later) = rest.split_at(rest.len().min(output.len()));
            output[..part.len()].copy_from_slice(part);
            self.inner.transmit_output(part.len(), timeout)?;
            rest = later;
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}

/// Rewrites the request line in `output` to absolute form; none where `output` does not begin with a request line. ureq
/// sends a header that is too long for its buffer in several pieces. Each piece ends with a whole line, and no header
/// line can begin with `GET /`.
fn absolute_form(output: &[u8], host: &str, authorization: Option<&str>) -> Option<Vec<u8>> {
    let path = output.strip_prefix(b"GET ").filter(|rest| rest.starts_with(b"/"))?;
    let line_end = path.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let mut message = format!("GET http://{host}").into_bytes();
    message.extend_from_slice(&path[..line_end]);
    if let Some(value) = authorization {
        message.extend_from_slice(format!("Proxy-Authorization: {value}\r\n").as_bytes());
    }
    message.extend_from_slice(&path[line_end..]);
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::{Proxy, absolute_form};
    use crate::store::http::Secret;

    #[test]
    fn reads_a_proxy_and_hides_its_password() {
        let proxy = Proxy::parse(&Secret("http://us%40er:pa%3Ass@proxy.example:3128".to_owned())).unwrap();
        assert_eq!(proxy.host_and_port(), "proxy.example:3128");
        let credentials = proxy.credentials.clone().unwrap();
        assert_eq!((credentials.user.0.as_str(), credentials.password.0.as_str()), ("us@er", "pa:ss"));
        assert!(!format!("{proxy:?}").contains("pa:ss"));
        assert_eq!(Proxy::parse(&Secret("proxy:8080".to_owned())).unwrap().host_and_port(), "proxy:8080");
        let refused = Proxy::parse(&Secret("socks5://joe:hunter2@p:1080".to_owned())).unwrap_err();
        assert_eq!(refused.to_string(), "proxy: the scheme 'socks5' is not supported (use http)");
    }

    #[test]
    fn rewrites_the_request_line_only() {
        let rewritten = absolute_form(b"GET /a?b HTTP/1.1\r\nhost: h:81\r\n\r\n", "h:81", Some("Basic eA==")).unwrap();
        let expected = "GET http://h:81/a?b HTTP/1.1\r\nProxy-Authorization: Basic eA==\r\nhost: h:81\r\n\r\n";
        assert_eq!(String::from_utf8(rewritten).unwrap(), expected);
        assert_eq!(absolute_form(b"x-more: headers\r\n\r\n", "h", None), None);
    }
}
