// SPDX-License-Identifier: BSD-2-Clause
//! When a failed fetch is tried again.

use std::time::{Duration, Instant};

use super::client::Client;
use super::error::HttpError;
use super::request::{Conditions, Wanted};
use super::response::Response;
use super::resume::RangeRequest;
use super::url::ImageUrl;
use crate::node::report::Report;

/// The longest that a server may ask to stay away: a job waits meanwhile.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Pauses between attempts: each twice as long as the one before.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Before the second attempt.
    pub first: Duration,
    /// At most.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The pause after `failures` (at least 1) of which the last asked for `retry_after`.
    pub(crate) fn pause(&self, failures: u32, retry_after: Option<Duration>) -> Duration {
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        doubled.min(self.longest).max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER))
    }
}

/// The attempts at one image: they share the number of retries and the time allowed, whether it is the answer or the
/// body that fails.
pub struct Attempts<'a> {
    client: &'a Client,
    url: &'a ImageUrl,
    report: &'a Report,
    deadline: Option<Instant>,
    failures: u32,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(client: &'a Client, url: &'a ImageUrl, report: &'a Report) -> Self {
        let deadline = client.settings().max_time.and_then(|time| Instant::now().checked_add(time));
        Attempts { client, url, report, deadline, failures: 0 }
    }

    /// Asks once, redirects followed: for `rest` where it can be had, else for the whole image.
    pub(crate) fn get(&self, conditions: &Conditions, rest: Option<&RangeRequest>) -> Result<Response, HttpError> {
        self.client.get_once(self.url, Wanted { conditions, rest }, self.deadline, self.report)
    }

    /// Whether to try again after `error`; says so and waits first.
    pub(crate) fn retry(&mut self, error: &HttpError) -> bool {
        let retries = self.client.settings().retries;
        if !error.is_transient() || self.failures >= retries {
            return false;
        }
        self.failures += 1;
        let pause = self.client.backoff().pause(self.failures, error.retry_after());
        if self.deadline.is_some_and(|deadline| Instant::now() + pause >= deadline) {
            return false;
        }
        let seconds = pause.as_secs_f32();
        self.report.info(format_args!("{error}; trying again in {seconds} s ({} of {retries})", self.failures));
        std::thread::sleep(pause);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Backoff;
    use std::time::Duration;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<_> =
            [1, 2, 3, 6, 7, 8, u32::MAX].map(|failures| Backoff::default().pause(failures, None).as_millis()).into();
        assert_eq!(pauses, [500, 1000, 2000, 16_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn retry_after_is_honoured_within_reason() {
        let pause = |seconds| Backoff::default().pause(1, Some(Duration::from_secs(seconds)));
        assert_eq!(pause(0), Duration::from_millis(500));
        assert_eq!(pause(45), Duration::from_secs(45));
        assert_eq!(pause(86_400), Duration::from_secs(60));
    }
}
