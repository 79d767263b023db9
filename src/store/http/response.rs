// SPDX-License-Identifier: BSD-2-Clause
//! A server's answer, and the image's bytes as they arrive.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use ureq::BodyReader;
use ureq::http::header::{self, HeaderMap, HeaderName};

use super::deadline::Deadline;
use super::error::HttpError;
use super::resume::Validator;
use super::settings::{HttpSettings, TimeLimits};
use super::transport_error::RequestContext;
use super::url::ImageUrl;
use crate::node::size::ByteSize;

/// A server's answer.
pub enum Response {
    /// The image follows.
    Content(Box<Content>),
    /// The cached image is current (304).
    NotModified {
        /// Where the server redirected to.
        redirects: Vec<ImageUrl>,
    },
}

/// An image, or the rest of one, that a server sends.
pub struct Content {
    /// The URL after all redirects.
    pub url: ImageUrl,
    /// Where the server redirected to, with the last URL.
    pub(crate) redirects: Vec<ImageUrl>,
    /// Length of the whole image in bytes, if the server said.
    pub content_length: Option<u64>,
    /// Offset of the first byte that follows: 0, unless a range was asked for.
    pub(crate) start: u64,
    /// Tells this version of the image from every other, if the server sent something that strong.
    pub(crate) validator: Option<Validator>,
    /// ETag as sent, with quotes and `W/`.
    pub etag: Option<String>,
    /// Last-Modified as sent.
    pub last_modified: Option<String>,
    /// The bytes.
    pub body: Body,
}

impl Content {
    /// The content of `answer`, which came from the last of the `visited` URLs. `range` is given for a checked 206.
    pub(super) fn new(
        visited: &[ImageUrl],
        answer: ureq::http::Response<ureq::Body>,
        deadline: Deadline,
        range: Option<ReceivedRange>,
        settings: &HttpSettings,
    ) -> Self {
        let (url, redirects) = (visited[visited.len() - 1].clone(), visited[1..].to_vec());
        let (head, body) = answer.into_parts();
        let (start, content_length) = match range {
            Some(ReceivedRange { from, total }) => (from, Some(total)),
            None => (0, body.content_length()),
        };
        let body = Body {
            url: url.clone(),
            reader: body.into_reader(),
            deadline,
            received: start,
            expected: content_length,
            limits: settings.time_limits(),
            min_speed: settings.min_speed.map(MinSpeed::new),
            rate_limit: settings.limit_rate.map(RateLimit::new),
            returned: Vec::new(),
        };
        let etag = text_of(&head.headers, &header::ETAG);
        let last_modified = text_of(&head.headers, &header::LAST_MODIFIED);
        let validator = Validator::of(&url, &head.headers);
        Content { url, redirects, content_length, start, validator, etag, last_modified, body }
    }
}

/// The bytes of a 206 that was checked: all from `from` to the end of the image, which has `total` bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReceivedRange {
    pub(super) from: u64,
    pub(super) total: u64,
}

fn text_of(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// The bytes of an image as the server stores them. It is an error if they end early, or if none come for longer than
/// the stall timeout.
pub struct Body {
    url: ImageUrl,
    reader: BodyReader<'static>,
    /// The limit of the connection.
    deadline: Deadline,
    /// Bytes of the image received so far, with those of earlier answers.
    received: u64,
    expected: Option<u64>,
    limits: TimeLimits,
    min_speed: Option<MinSpeed>,
    rate_limit: Option<RateLimit>,
    /// Bytes that were received before, and given back.
    returned: Vec<u8>,
}

impl Body {
    /// Takes back the bytes that were received last, so that they are received again.
    pub(crate) fn give_back(&mut self, bytes: Vec<u8>) {
        let later = std::mem::replace(&mut self.returned, bytes);
        self.returned.extend(later);
    }

    /// Reads some bytes into `buffer`, and gives their number, which is 0 at the end of the image.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, HttpError> {
        if !self.returned.is_empty() {
            let count = self.returned.len().min(buffer.len());
            buffer[..count].copy_from_slice(&self.returned[..count]);
            self.returned.drain(..count);
            return Ok(count);
        }
        let wanted = self.rate_limit.as_ref().map_or(buffer.len(), |limit| limit.wait(buffer.len()));
        // What is none of the image's bytes does not make the time longer.
        self.deadline.expect_byte_within(self.limits.stall);
        let begin = Instant::now();
        let count = match self.reader.read(&mut buffer[..wanted]) {
            Ok(count) => count,
            // The whole image is here. Only the end of the last chunk is missing.
            Err(_) if self.expected == Some(self.received) => 0,
            Err(error) => return Err(self.explain(error)),
        };
        self.received += count as u64;
        if let Some(speed) = &mut self.min_speed
            && speed.is_too_slow(count, begin.elapsed(), self.limits.stall)
        {
            let (minimum, time) = (speed.minimum, self.limits.stall);
            return Err(HttpError::BelowMinSpeed { url: self.url.to_string(), minimum, time });
        }
        if self.expected.is_some_and(|expected| self.received > expected) {
            let reason = "more bytes than announced".to_owned();
            return Err(HttpError::Protocol { url: self.url.to_string(), reason });
        }
        if count == 0 && !buffer.is_empty() && self.expected.is_some_and(|expected| self.received != expected) {
            return Err(self.cut());
        }
        if let Some(limit) = &mut self.rate_limit {
            limit.received(count);
        }
        Ok(count)
    }

    fn cut(&self) -> HttpError {
        HttpError::Cut { url: self.url.to_string(), received: self.received, expected: self.expected }
    }

    fn explain(&self, error: io::Error) -> HttpError {
        let context = RequestContext { url: &self.url, proxy: None, limits: self.limits };
        match context.explain(error.into()) {
            // Within a body these all mean that no more bytes come: a reset, or a host that went away.
            HttpError::NoAnswer { .. } | HttpError::Connect { .. } => self.cut(),
            other => other,
        }
    }
}

impl Read for Body {
    /// An early end has the kind `UnexpectedEof`. A stall and an overrun time limit have `TimedOut`.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use HttpError::{BelowMinSpeed, Cut, OverMaxTime, Stalled};
        self.receive(buffer).map_err(|error| {
            let kind = match error {
                Cut { .. } => io::ErrorKind::UnexpectedEof,
                Stalled { .. } | BelowMinSpeed { .. } | OverMaxTime { .. } => io::ErrorKind::TimedOut,
                _ => io::ErrorKind::Other,
            };
            io::Error::new(kind, error)
        })
    }
}

/// Finds a server that never stalls, but sends too little. Only the time spent waiting for the server counts, because a
/// slow disk and our own rate limit are not its fault.
struct MinSpeed {
    minimum: ByteSize,
    /// Time waited and bytes received in the current window.
    waited: Duration,
    received: u64,
}

impl MinSpeed {
    fn new(minimum: ByteSize) -> Self {
        MinSpeed { minimum, waited: Duration::ZERO, received: 0 }
    }

    fn is_too_slow(&mut self, count: usize, waited: Duration, window: Duration) -> bool {
        self.waited += waited;
        self.received += count as u64;
        // At the end of the image there is nothing more to wait for.
        if self.waited < window || count == 0 {
            return false;
        }
        let slow = u128::from(self.received) * 1000 < u128::from(self.minimum.0) * self.waited.as_millis();
        (self.waited, self.received) = (Duration::ZERO, 0);
        slow
    }
}

/// Keeps a download below a rate. After a stall the download does not run faster than the rate to catch up.
struct RateLimit {
    rate: u64,
    free_at: Instant,
}

impl RateLimit {
    /// Longest single pause, as a fraction of a second: the time limit is checked between pauses.
    const PAUSES_PER_SECOND: u64 = 8;

    fn new(rate: ByteSize) -> Self {
        RateLimit { rate: rate.0.max(1), free_at: Instant::now() }
    }

    /// Waits until the next bytes may come, and gives how many of `wanted` bytes.
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
