// SPDX-License-Identifier: BSD-2-Clause
//! The server's answer, and the image's bytes as they come.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use ureq::BodyReader;
use ureq::http::header::{self, HeaderMap, HeaderName};

use super::error::HttpError;
use super::resume::Validator;
use super::settings::HttpSettings;
use super::transport_error::RequestContext;
use super::url::ImageUrl;
use crate::node::size::ByteSize;

/// What the server had to say.
pub enum Response {
    /// The image follows.
    Content(Box<Content>),
    /// The kept image is still the one (304).
    NotModified,
}

/// An image on its way.
pub struct Content {
    /// Where it came from in the end.
    pub url: ImageUrl,
    /// Where the server redirected to until then, this last URL included.
    pub(crate) redirects: Vec<ImageUrl>,
    /// Its length in bytes, if the server said; that of the whole image also where only a part of it follows.
    pub content_length: Option<u64>,
    /// How many of its bytes are left out, as asked for: 0 but for the rest of a cut download.
    pub(crate) start: u64,
    /// What its bytes can be told by from those of any other version, where the server gives something so strong.
    pub(crate) validator: Option<Validator>,
    /// Its ETag as sent, quotes and `W/` included.
    pub etag: Option<String>,
    /// Its Last-Modified as sent.
    pub last_modified: Option<String>,
    /// Its bytes.
    pub body: Body,
}

impl Content {
    /// The image in `answer`, or the `part` of it that was asked for, from the last of the `visited` URLs.
    pub(super) fn new(
        visited: &[ImageUrl],
        answer: ureq::http::Response<ureq::Body>,
        part: Option<ReceivedRange>,
        settings: &HttpSettings,
    ) -> Self {
        let (url, redirects) = (visited[visited.len() - 1].clone(), visited[1..].to_vec());
        let (head, body) = answer.into_parts();
        let content_length = part.map_or_else(|| body.content_length(), |part| Some(part.total));
        let start = part.map_or(0, |part| part.from);
        let body = Body {
            url: url.clone(),
            reader: body.into_reader(),
            received: start,
            expected: content_length,
            stall_timeout: settings.stall_timeout,
            max_time: settings.max_time,
            drip: settings.min_speed.map(|minimum| MinSpeed { minimum, waited: Duration::ZERO, received: 0 }),
            pace: settings.limit_rate.map(RateLimit::new),
        };
        let etag = text_of(&head.headers, &header::ETAG);
        let last_modified = text_of(&head.headers, &header::LAST_MODIFIED);
        let validator = Validator::of(&url, &head.headers);
        Content { url, redirects, content_length, start, validator, etag, last_modified, body }
    }
}

/// Which bytes a 206 brings, once that was checked: all from `from` on.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReceivedRange {
    pub(super) from: u64,
    pub(super) total: u64,
}

fn text_of(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// The bytes of an image, exactly as the server has them. Ending early is an error, and so is silence for longer than
/// the stall timeout.
pub struct Body {
    url: ImageUrl,
    reader: BodyReader<'static>,
    /// Bytes of the image that are there, those of earlier answers included.
    received: u64,
    expected: Option<u64>,
    stall_timeout: Duration,
    max_time: Option<Duration>,
    drip: Option<MinSpeed>,
    pace: Option<RateLimit>,
}

impl Body {
    /// Reads some bytes into `buffer`; 0 at the end. As [`Read::read`], with an error that can be told apart.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, HttpError> {
        let wanted = match &mut self.pace {
            Some(pace) => pace.wait(buffer.len()),
            None => buffer.len(),
        };
        let begin = Instant::now();
        let count = match self.reader.read(&mut buffer[..wanted]) {
            Ok(count) => count,
            // All of it came; it is only the last chunk's end that is missing.
            Err(_) if self.expected == Some(self.received) => 0,
            Err(error) => return Err(self.failure(error)),
        };
        self.received += count as u64;
        if let Some(drip) = &mut self.drip
            && drip.is_too_slow(count, begin.elapsed(), self.stall_timeout)
        {
            let minimum = drip.minimum;
            return Err(HttpError::Slow { url: self.url.to_string(), minimum, time: self.stall_timeout });
        }
        if self.expected.is_some_and(|expected| self.received > expected) {
            let reason = "more bytes than announced".to_owned();
            return Err(HttpError::Protocol { url: self.url.to_string(), reason });
        }
        if count == 0 && !buffer.is_empty() && self.expected.is_some_and(|expected| self.received != expected) {
            return Err(self.cut());
        }
        if let Some(pace) = &mut self.pace {
            pace.received(count);
        }
        Ok(count)
    }

    fn cut(&self) -> HttpError {
        HttpError::Cut { url: self.url.to_string(), received: self.received, expected: self.expected }
    }

    fn failure(&self, error: io::Error) -> HttpError {
        let exchange = RequestContext {
            url: &self.url,
            // The connection stands: neither of these is ever named here.
            peer: "the server",
            connect_timeout: Duration::ZERO,
            stall_timeout: self.stall_timeout,
            max_time: self.max_time,
        };
        match exchange.failure(error.into()) {
            // Mid-body, these all mean that no more bytes come: a reset, or a host that went away.
            HttpError::NoAnswer { .. } | HttpError::Connect { .. } => self.cut(),
            other => other,
        }
    }
}

impl Read for Body {
    /// An early end has the kind `UnexpectedEof`, silence and a fetch that takes too long `TimedOut`.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive(buffer).map_err(|error| {
            let kind = match error {
                HttpError::Cut { .. } => io::ErrorKind::UnexpectedEof,
                HttpError::Stalled { .. } | HttpError::Slow { .. } | HttpError::TooSlow { .. } => {
                    io::ErrorKind::TimedOut
                }
                _ => io::ErrorKind::Other,
            };
            io::Error::new(kind, error)
        })
    }
}

/// Notices a server that never falls silent, but never gets anywhere either. Only the time spent waiting for it counts:
/// a slow disk or a rate limit of our own is no fault of its.
struct MinSpeed {
    minimum: ByteSize,
    /// Time waited and bytes received since the last time enough had come.
    waited: Duration,
    received: u64,
}

impl MinSpeed {
    fn is_too_slow(&mut self, count: usize, waited: Duration, window: Duration) -> bool {
        self.waited += waited;
        self.received += count as u64;
        // The end of the image is no slowness.
        if self.waited < window || count == 0 {
            return false;
        }
        let slow = u128::from(self.received) * 1000 < u128::from(self.minimum.0) * self.waited.as_millis();
        (self.waited, self.received) = (Duration::ZERO, 0);
        slow
    }
}

/// Keeps a download below a rate. Time lost is not made up for by going faster later.
struct RateLimit {
    rate: u64,
    free_at: Instant,
}

impl RateLimit {
    /// Longest pause at once, as a fraction of a second: the time limit is looked at between pauses.
    const PAUSES_PER_SECOND: u64 = 8;

    fn new(rate: ByteSize) -> Self {
        RateLimit { rate: rate.0.max(1), free_at: Instant::now() }
    }

    /// Waits until the next bytes are due and says how many, of `wanted`.
    fn wait(&self, wanted: usize) -> usize {
        std::thread::sleep(self.free_at.saturating_duration_since(Instant::now()));
        let at_once = usize::try_from(self.rate / Self::PAUSES_PER_SECOND).unwrap_or(usize::MAX);
        wanted.min(at_once.max(1))
    }

    fn received(&mut self, count: usize) {
        let nanoseconds = (count as u128 * 1_000_000_000) / u128::from(self.rate);
        let pause = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.free_at = self.free_at.max(Instant::now()) + pause;
    }
}
