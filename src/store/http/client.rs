// SPDX-License-Identifier: BSD-2-Clause
//! The HTTP client: redirects, retries, and what counts as an answer with the image.

use std::io::Read as _;
use std::time::Instant;

use ureq::http::header;
use ureq::http::{HeaderMap, StatusCode};

use super::agent::{Agents, Way};
use super::deadline::Deadline;
use super::error::HttpError;
use super::means::Trust;
use super::request::{Conditions, RequestHeaders, Wanted};
use super::response::{Content, ReceivedRange, Response};
use super::resume::{RangeRequest, is_whole};
use super::retry::{Backoff, retry_after};
use super::settings::HttpSettings;
use super::tls::{tls_connector, tls_connector_with_client_certificate};
use super::transport_error::RequestContext;
use super::url::ImageUrl;
use crate::node::report::Report;
use crate::node::size::{ByteSize, MIB};

/// Browsers follow 20 redirects and curl 50. Here each one is another server that has to be trusted with the image.
const MAX_REDIRECTS: usize = 10;

/// How much of an error page is read, in bytes.
const MAX_ERROR_PAGE: u64 = 4 << 10;

/// Limit of [`Client::fetch_small`], in bytes. It keeps a server from filling the memory.
const MAX_SMALL_FILE: u64 = MIB;

/// A server's answer of which the body was not read yet.
struct Answer {
    response: ureq::http::Response<ureq::Body>,
    /// The limit of its connection.
    deadline: Deadline,
}

/// Fetches images as an administrator's settings say.
#[derive(Debug)]
pub struct Client {
    pub(super) settings: HttpSettings,
    pub(super) headers: RequestHeaders,
    backoff: Backoff,
    /// For the server that was asked for. It shows the client certificate, if there is one.
    agents: Agents,
    /// For other servers, which must not see the client certificate. None if there is no certificate.
    redirect_agents: Option<Agents>,
    /// The fingerprint of that certificate.
    pub(super) certificate: Option<String>,
    pub(super) trust: Trust,
}

impl Client {
    /// Checks `settings` and reads the files that they name. Nothing is sent.
    pub(crate) fn new(settings: &HttpSettings) -> Result<Self, HttpError> {
        Self::with_backoff(settings, Backoff::default())
    }

    /// Makes a client with other pauses between attempts.
    pub fn with_backoff(settings: &HttpSettings, backoff: Backoff) -> Result<Self, HttpError> {
        let headers = RequestHeaders::new(settings)?;
        let plain = Agents::new(settings, &tls_connector(settings)?)?;
        let trust = Trust::of(settings)?;
        let settings = settings.clone();
        Ok(match tls_connector_with_client_certificate(&settings)? {
            Some((tls, certificate)) => {
                let agents = Agents::new(&settings, &tls)?;
                let (redirect_agents, certificate) = (Some(plain), Some(certificate));
                Client { settings, headers, backoff, agents, redirect_agents, certificate, trust }
            }
            None => {
                Client { settings, headers, backoff, agents: plain, redirect_agents: None, certificate: None, trust }
            }
        })
    }

    /// Requests `url`, again after transient failures, and gives the answer with the image or `NotModified`. A failure
    /// within the body is for the caller, who can use [`Client::attempts`].
    pub fn get(&self, url: &ImageUrl, conditions: &Conditions, report: &Report) -> Result<Response, HttpError> {
        self.attempts(url, report).repeat(|attempts| attempts.get(conditions, None))
    }

    /// Reads a whole file of at most 1 MiB, again after transient failures. It is never kept.
    pub(crate) fn fetch_small(&self, url: &ImageUrl, report: &Report) -> Result<Vec<u8>, HttpError> {
        self.attempts(url, report).repeat(|attempts| match attempts.get(&Conditions::default(), None)? {
            Response::Content(content) => read_small(*content, url),
            // Without conditions the client takes a 304 for an error.
            Response::NotModified { .. } => Ok(Vec::new()),
        })
    }

    /// The attempts at `url`, for callers that also retry when the body fails. The time allowed starts now.
    pub(crate) fn attempts<'a>(&'a self, url: &'a ImageUrl, report: &'a Report) -> Attempts<'a> {
        let deadline = self.settings.max_time.and_then(|time| Instant::now().checked_add(time));
        Attempts { client: self, url, report, deadline, failures: 0 }
    }

    /// Whether an image that came from `url` may be used.
    pub(crate) fn allows(&self, url: &ImageUrl) -> bool {
        self.settings.allows(url)
    }

    /// Sends one request and follows its redirects.
    fn get_once(
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
        let agents = match &self.redirect_agents {
            Some(others) if !url.is_same_server(first) => others,
            _ => &self.agents,
        };
        let Way { agent, deadline: limit, proxy } = agents.way_to(url, &self.settings);
        let mut request = agent.get(url.request_target());
        for (name, value) in self.headers.build(url, first, wanted) {
            request = request.header(name, value);
        }
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            request = request.config().timeout_global(Some(left)).build();
        }
        match request.call() {
            Ok(response) => Ok(Answer { response, deadline: limit }),
            Err(error) => Err(self.context(url, proxy).explain(error)),
        }
    }

    fn context<'a>(&self, url: &'a ImageUrl, proxy: Option<&'a str>) -> RequestContext<'a> {
        RequestContext { url, proxy, limits: self.settings.time_limits() }
    }

    /// Judges `answer`, which came from the last of the `visited` URLs.
    fn accept(
        &self,
        visited: &[ImageUrl],
        mut answer: Answer,
        wanted: Wanted,
        report: &Report,
    ) -> Result<Response, HttpError> {
        let url = &visited[visited.len() - 1];
        let status = answer.response.status();
        let refused = |reason| HttpError::ResumeRefused { url: url.to_string(), reason };
        let range = match (status, wanted.range_at(url)) {
            // A proxy that changed nothing of the bytes may answer 203, and some servers answer 206 to everybody.
            (StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION, _) => None,
            (StatusCode::PARTIAL_CONTENT, None) if is_whole(answer.response.headers()) => None,
            (StatusCode::NOT_MODIFIED, _) if !wanted.conditions.is_empty() => {
                return Ok(Response::NotModified { redirects: visited[1..].to_vec() });
            }
            (StatusCode::PARTIAL_CONTENT, Some(range)) => {
                let total = range.check(answer.response.headers()).map_err(refused)?;
                Some(ReceivedRange { from: range.from, total })
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => {
                return Err(refused("it answered 416 Range Not Satisfiable"));
            }
            (StatusCode::BAD_REQUEST, _) if !url.is_https() && self.is_https_port(&mut answer) => {
                // Such a page comes from the server even through a proxy.
                return Err(self.context(url, None).speaks_tls());
            }
            _ => {
                let retry_after = retry_after(answer.response.headers());
                return Err(HttpError::Status { url: url.to_string(), status, retry_after });
            }
        };
        self.content(visited, answer, range, report).map(Response::Content)
    }

    /// Whether `answer` comes from a port for https. Apache, nginx and Go's servers say so in plain HTTP.
    fn is_https_port(&self, answer: &mut Answer) -> bool {
        let mut page = Vec::new();
        answer.deadline.expect_byte_within(self.settings.stall_timeout);
        // After a read error the bytes that came before are judged.
        let _ = answer.response.body_mut().as_reader().take(MAX_ERROR_PAGE).read_to_end(&mut page);
        let page = String::from_utf8_lossy(&page);
        ["to HTTPS port", "to an HTTPS server", "to an SSL-enabled server"].iter().any(|words| page.contains(words))
    }

    fn content(
        &self,
        visited: &[ImageUrl],
        answer: Answer,
        range: Option<ReceivedRange>,
        report: &Report,
    ) -> Result<Box<Content>, HttpError> {
        let url = &visited[visited.len() - 1];
        let Answer { response, deadline } = answer;
        let is_chunked = check_framing(url, response.headers())?;
        // ureq gives no length for an empty body, even where the server does.
        let says_length = response.headers().contains_key(header::CONTENT_LENGTH);
        let content = Content::new(visited, response, deadline, range, &self.settings);
        if content.content_length.is_none() && !is_chunked && !says_length {
            report.warn(format_args!(
                "{url}: the server does not say how long the image is, so a cut download cannot be noticed"
            ));
        }
        Ok(Box::new(content))
    }
}

/// The attempts at one URL. They share the number of retries and the time allowed, no matter whether the answer or the
/// body fails.
pub struct Attempts<'a> {
    client: &'a Client,
    url: &'a ImageUrl,
    report: &'a Report,
    deadline: Option<Instant>,
    failures: u32,
}

impl Attempts<'_> {
    /// Sends one request and follows its redirects. It asks for `range` if the last URL is that of its validator, else
    /// for the whole image.
    pub(crate) fn get(&self, conditions: &Conditions, range: Option<&RangeRequest>) -> Result<Response, HttpError> {
        self.client.get_once(self.url, Wanted { conditions, range }, self.deadline, self.report)
    }

    /// Whether to try again after `error`. If so, this reports the error and waits first.
    pub(crate) fn retry(&mut self, error: &HttpError) -> bool {
        let retries = self.client.settings.retries;
        if !error.is_transient() || self.failures >= retries {
            return false;
        }
        self.failures += 1;
        let pause = self.client.backoff.pause(self.failures, error.retry_after());
        if self.deadline.is_some_and(|deadline| Instant::now() + pause >= deadline) {
            return false;
        }
        let seconds = pause.as_secs_f32();
        self.report.info(format_args!("{error}; trying again in {seconds} s ({} of {retries})", self.failures));
        std::thread::sleep(pause);
        true
    }

    fn repeat<T>(&mut self, attempt: impl Fn(&Self) -> Result<T, HttpError>) -> Result<T, HttpError> {
        loop {
            match attempt(self) {
                Err(error) if self.retry(&error) => {}
                result => return result,
            }
        }
    }
}

fn read_small(mut content: Content, url: &ImageUrl) -> Result<Vec<u8>, HttpError> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = content.body.receive(&mut buffer)?;
        if count == 0 {
            return Ok(all);
        }
        all.extend_from_slice(&buffer[..count]);
        if all.len() as u64 > MAX_SMALL_FILE {
            return Err(HttpError::TooLarge { url: url.to_string(), limit: ByteSize(MAX_SMALL_FILE) });
        }
    }
}

/// Whether the body comes in chunks. Any other transfer encoding is an error, because ureq would give out the encoded
/// bytes.
fn check_framing(url: &ImageUrl, headers: &HeaderMap) -> Result<bool, HttpError> {
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if encodings.any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        let reason = "a transfer encoding other than chunked".to_owned();
        return Err(HttpError::Protocol { url: url.to_string(), reason });
    }
    Ok(headers.contains_key(header::TRANSFER_ENCODING))
}

/// The URL that `answer` redirects to, if it does.
fn redirect_target(url: &ImageUrl, answer: &Answer) -> Result<Option<ImageUrl>, HttpError> {
    if !matches!(answer.response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    // What is no ASCII in it is percent-encoded by the parser of URLs, as browsers do.
    let location =
        answer.response.headers().get(header::LOCATION).and_then(|value| str::from_utf8(value.as_bytes()).ok());
    let target = location.ok_or("the server redirects without saying where to").and_then(|to| redirect_to(url, to));
    target.map(Some).map_err(|reason| HttpError::Redirect { url: url.to_string(), reason })
}

/// The URL that `location` means at `url`. A redirect from https to http is an error.
pub(crate) fn redirect_to(url: &ImageUrl, location: &str) -> Result<ImageUrl, &'static str> {
    // The error of a bad URL is left out, because it may repeat text of the server.
    let next =
        url.join(location).map_err(|_err| "the server redirects to something that is not an http or https URL")?;
    if url.is_https() && !next.is_https() {
        return Err("the server redirects from https to http, which would not be safe");
    }
    Ok(next)
}
