// SPDX-License-Identifier: BSD-2-Clause
//! The client: one request after the other until the image, or the reason why there is none.

use std::io::Read as _;
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::config::Config;
use ureq::http::header;
use ureq::http::{HeaderMap, StatusCode};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};

use super::error::HttpError;
use super::no_proxy::NoProxy;
use super::proxy::Proxy;
use super::request::{Conditions, RequestHeaders, Wanted, request_target};
use super::resolver::SystemResolver;
use super::response::{Content, ReceivedRange, Response};
use super::retry::{Attempts, Backoff};
use super::settings::{HttpSettings, Secret};
use super::tls::{security, showing_certificate};
use super::tls_transport::TlsConnector;
use super::transport_error::RequestContext;
use super::url::ImageUrl;
use crate::node::report::Report;

/// Fewer than the 20 of browsers and the 50 of curl: each is one more server to trust with what is installed.
const MAX_REDIRECTS: usize = 10;

/// Bytes read from the network at once, at most.
const INPUT_BUFFER: usize = 256 << 10;

/// How much of an error page is looked at, in bytes.
const MAX_PAGE: u64 = 4 << 10;

type Answer = ureq::http::Response<ureq::Body>;

/// Fetches images as an administrator's settings say.
#[derive(Debug)]
pub struct Client {
    settings: HttpSettings,
    headers: RequestHeaders,
    backoff: Backoff,
    /// To the server that was asked for; with the client certificate, if there is one.
    own: Agents,
    /// To any other, which sees no certificate of ours, where that makes a difference.
    foreign: Option<Agents>,
}

/// The ways to a server.
#[derive(Debug)]
struct Agents {
    direct: Agent,
    /// For http through a proxy: absolute-form requests.
    requests: Option<ProxyAgent>,
    /// For https through a proxy: CONNECT.
    tunnels: Option<ProxyAgent>,
}

/// A way through a proxy.
#[derive(Debug)]
struct ProxyAgent {
    proxy: Proxy,
    agent: Agent,
}

impl Client {
    /// Checks `settings` and reads the files that they name. Nothing is sent.
    pub(crate) fn new(settings: &HttpSettings) -> Result<Self, HttpError> {
        Self::with_backoff(settings, Backoff::default())
    }

    /// The same with other pauses between attempts.
    pub fn with_backoff(settings: &HttpSettings, backoff: Backoff) -> Result<Self, HttpError> {
        let headers = RequestHeaders::new(settings)?;
        let plain = Agents::new(settings, &security(settings)?)?;
        let (own, foreign) = match showing_certificate(settings)? {
            Some(security) => (Agents::new(settings, &security)?, Some(plain)),
            None => (plain, None),
        };
        Ok(Client { settings: settings.clone(), headers, backoff, own, foreign })
    }

    /// Asks for `url`, again after transient failures, and gives the first answer that is the image or `NotModified`.
    /// What fails within the body is the caller's: see [`Client::attempts`].
    pub fn get(&self, url: &ImageUrl, conditions: &Conditions, report: &Report) -> Result<Response, HttpError> {
        let mut attempts = self.attempts(url, report);
        loop {
            match attempts.get(conditions, None) {
                Err(error) if attempts.retry(&error) => {}
                result => return result,
            }
        }
    }

    /// The attempts at `url`, for callers that also try again when the body fails. The time allowed starts now.
    pub(crate) fn attempts<'a>(&'a self, url: &'a ImageUrl, report: &'a Report) -> Attempts<'a> {
        Attempts::new(self, url, report)
    }

    /// Asks once, following redirects.
    pub(super) fn get_once(
        &self,
        first: &ImageUrl,
        wanted: Wanted,
        deadline: Option<Instant>,
        report: &Report,
    ) -> Result<Response, HttpError> {
        let mut visited = vec![first.clone()];
        loop {
            let url = &visited[visited.len() - 1];
            if !self.settings.allows(url) {
                return Err(HttpError::NotAllowed { url: url.to_string(), is_redirect: visited.len() > 1 });
            }
            let answer = self.request(url, first, wanted, deadline)?;
            let Some(next) = redirect_target(url, &answer)? else {
                return self.accept(&visited, answer, wanted, report);
            };
            let refuse = |reason| Err(HttpError::Redirect { url: first.to_string(), reason });
            if visited.contains(&next) {
                return refuse("the redirects go round in a circle");
            }
            if visited.len() > MAX_REDIRECTS {
                return refuse("more than 10 redirects");
            }
            report.debug(format_args!("{url} redirects to {next}"));
            visited.push(next);
        }
    }

    fn request(
        &self,
        url: &ImageUrl,
        first: &ImageUrl,
        wanted: Wanted,
        deadline: Option<Instant>,
    ) -> Result<Answer, HttpError> {
        let same_server = url.as_url().origin() == first.as_url().origin();
        let ways = self.foreign.as_ref().filter(|_| !same_server).unwrap_or(&self.own);
        let (agent, peer) = ways.to(url, &self.settings.no_proxy);
        let mut request = agent.get(request_target(url));
        for (name, value) in self.headers.build(url, first, wanted) {
            request = request.header(name, value);
        }
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            request = request.config().timeout_global(Some(left)).build();
        }
        request.call().map_err(|error| self.exchange(url, &peer).failure(error))
    }

    fn exchange<'a>(&self, url: &'a ImageUrl, peer: &'a str) -> RequestContext<'a> {
        let HttpSettings { connect_timeout, stall_timeout, max_time, .. } = self.settings;
        RequestContext { url, peer, connect_timeout, stall_timeout, max_time }
    }

    /// What `answer` of the last of the `visited` URLs means.
    fn accept(
        &self,
        visited: &[ImageUrl],
        mut answer: Answer,
        wanted: Wanted,
        report: &Report,
    ) -> Result<Response, HttpError> {
        let url = &visited[visited.len() - 1];
        let status = answer.status();
        let other_part = |reason| HttpError::ResumeRefused { url: url.to_string(), reason };
        let part = match (status, wanted.rest_at(url)) {
            (StatusCode::OK, _) => None,
            (StatusCode::NOT_MODIFIED, _) if !wanted.conditions.is_empty() => return Ok(Response::NotModified),
            (StatusCode::PARTIAL_CONTENT, Some(rest)) => {
                let total = rest.check(answer.headers()).map_err(other_part)?;
                Some(ReceivedRange { from: rest.from, total })
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => {
                return Err(other_part("it answered 416 Range Not Satisfiable"));
            }
            (StatusCode::BAD_REQUEST, _) if url.as_url().scheme() == "http" && wants_tls(&mut answer) => {
                return Err(self.exchange(url, &server_of(url)).speaks_tls());
            }
            _ => {
                let retry_after = retry_after(answer.headers());
                return Err(HttpError::Status { url: url.to_string(), status, retry_after });
            }
        };
        let chunked = check_framing(url, answer.headers())?;
        // Of an empty answer nobody keeps the length.
        let says_length = answer.headers().contains_key(header::CONTENT_LENGTH);
        let content = Content::new(visited, answer, part, &self.settings);
        if content.content_length.is_none() && !chunked && !says_length {
            report.warn(format_args!(
                "{url}: the server does not say how long the image is, so a cut download cannot be noticed"
            ));
        }
        Ok(Response::Content(Box::new(content)))
    }

    /// Whether an image that came from `url` may be used.
    pub(crate) fn allows(&self, url: &ImageUrl) -> bool {
        self.settings.allows(url)
    }

    pub(crate) fn settings(&self) -> &HttpSettings {
        &self.settings
    }

    pub(crate) fn backoff(&self) -> Backoff {
        self.backoff
    }
}

impl Agents {
    fn new(settings: &HttpSettings, security: &TlsConnector) -> Result<Self, HttpError> {
        let https_proxy = settings.https_proxy.as_ref().or(settings.proxy.as_ref());
        let direct = agent(settings, security, None);
        let requests = settings.proxy.as_ref().map(|proxy| ProxyAgent::by_requests(proxy, settings, security));
        let tunnels = https_proxy.map(|proxy| ProxyAgent::by_tunnels(proxy, settings, security));
        Ok(Agents { direct, requests: requests.transpose()?, tunnels: tunnels.transpose()? })
    }

    /// Who carries a request to `url`, and whom a failure to connect is about.
    fn to(&self, url: &ImageUrl, no_proxy: &[NoProxy]) -> (&Agent, String) {
        let target = url.as_url();
        match if target.scheme() == "https" { &self.tunnels } else { &self.requests } {
            Some(proxied) if !no_proxy.iter().any(|entry| entry.covers(target)) => {
                (&proxied.agent, proxied.proxy.peer())
            }
            _ => (&self.direct, server_of(url)),
        }
    }
}

impl ProxyAgent {
    fn by_requests(proxy: &Secret, settings: &HttpSettings, security: &TlsConnector) -> Result<Self, HttpError> {
        let proxy = Proxy::parse(proxy)?;
        let (absolute_form, resolver) = proxy.for_requests()?;
        let connector = ().chain(TcpConnector::default()).chain(security.clone()).chain(absolute_form);
        Ok(ProxyAgent { proxy, agent: Agent::with_parts(agent_config(settings, None), connector, resolver) })
    }

    fn by_tunnels(proxy: &Secret, settings: &HttpSettings, security: &TlsConnector) -> Result<Self, HttpError> {
        let proxy = Proxy::parse(proxy)?;
        let agent = agent(settings, security, Some(proxy.for_tunnels()?));
        Ok(ProxyAgent { proxy, agent })
    }
}

fn agent(settings: &HttpSettings, security: &TlsConnector, proxy: Option<ureq::Proxy>) -> Agent {
    let connector = ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default()).chain(security.clone());
    Agent::with_parts(agent_config(settings, proxy), connector, SystemResolver)
}

/// Statuses and redirects are judged by us; nothing is taken from the environment, as ureq's default proxy would be.
fn agent_config(settings: &HttpSettings, proxy: Option<ureq::Proxy>) -> Config {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(proxy)
        .user_agent(settings.user_agent.as_str())
        .timeout_resolve(Some(settings.connect_timeout))
        .timeout_connect(Some(settings.connect_timeout))
        // A header that drips in would never stall.
        .timeout_recv_response(Some(settings.stall_timeout))
        // The total for a body would be timeout_recv_body; these two restart with every read and write.
        .timeout_per_read(Some(settings.stall_timeout))
        .timeout_per_write(Some(settings.stall_timeout))
        .input_buffer_size(INPUT_BUFFER)
        // Downloads are long and few: a connection kept for the next one would only be stale.
        .max_idle_connections(0)
        .build()
}

/// Whether the body comes in chunks; any other transfer encoding is an error, for ureq would hand out the encoded bytes.
fn check_framing(url: &ImageUrl, headers: &HeaderMap) -> Result<bool, HttpError> {
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter().peekable();
    let chunked = encodings.peek().is_some();
    if encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Ok(chunked);
    }
    let reason = "a transfer encoding other than chunked".to_owned();
    Err(HttpError::Protocol { url: url.to_string(), reason })
}

/// `host:port` of the URL.
pub(crate) fn server_of(url: &ImageUrl) -> String {
    let url = url.as_url();
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

/// Whether `answer` comes from a port for https: Apache, Go's servers and nginx say so in plain HTTP.
fn wants_tls(answer: &mut Answer) -> bool {
    let mut page = Vec::new();
    // What could be read is enough.
    let _ = answer.body_mut().as_reader().take(MAX_PAGE).read_to_end(&mut page);
    let page = String::from_utf8_lossy(&page);
    ["to HTTPS port", "to an HTTPS server", "to an SSL-enabled server"].iter().any(|words| page.contains(words))
}

/// Where `answer` sends us, if it does; never from https to http.
fn redirect_target(url: &ImageUrl, answer: &Answer) -> Result<Option<ImageUrl>, HttpError> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let refuse = |reason| Err(HttpError::Redirect { url: url.to_string(), reason });
    let Some(location) = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()) else {
        return refuse("the server redirects without saying where to");
    };
    redirect_to(url, location).map(Some).or_else(refuse)
}

/// Where `location` leads from `url`, or what is wrong with that.
pub(crate) fn redirect_to(url: &ImageUrl, location: &str) -> Result<ImageUrl, &'static str> {
    // The reason for a bad URL is left out: where it is a scheme, it is the server's text.
    let next =
        url.join(location).map_err(|_err| "the server redirects to something that is not an http or https URL")?;
    if url.as_url().scheme() == "https" && next.as_url().scheme() == "http" {
        return Err("the server redirects from https to http, which would not be safe");
    }
    Ok(next)
}

/// The time of a Retry-After header (RFC 9110, section 10.2.3). A date is compared with the server's own, so that nobody
/// has to trust two clocks.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let after = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = after.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let (until, now) = (httpdate::parse_http_date(after).ok()?, httpdate::parse_http_date(text(header::DATE)?).ok()?);
    Some(until.duration_since(now).unwrap_or_default())
}
