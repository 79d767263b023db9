// SPDX-License-Identifier: BSD-2-Clause
//! The pauses between the attempts of a request.

use std::time::Duration;

use ureq::http::HeaderMap;
use ureq::http::header;

/// The longest pause that a server may ask for. A Ganeti job waits meanwhile.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Pauses between attempts: each is twice as long as the one before.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The pause before the second attempt.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The pause after `failures` (at least 1) failed attempts. The last answer asked for a pause of `retry_after`.
    pub(crate) fn pause(&self, failures: u32, retry_after: Option<Duration>) -> Duration {
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        doubled.min(self.longest).max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER))
    }
}

/// The time of a Retry-After header (RFC 9110, section 10.2.3). A date is compared with the Date header, because the
/// clocks of server and node may differ.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let after = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = after.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let (until, now) = (httpdate::parse_http_date(after).ok()?, httpdate::parse_http_date(text(header::DATE)?).ok()?);
    Some(until.duration_since(now).unwrap_or_default())
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
