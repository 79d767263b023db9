// SPDX-License-Identifier: BSD-2-Clause
//! A message as a JSON object in one line, for programs that collect logs.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;

use super::Subject;

/// 9999-12-31T23:59:59.999Z, from 1970 on.
const LAST: Duration = Duration::from_millis(253_402_300_799_999);

/// What a message is besides its words: a name for what happened, and an object of names and values.
#[derive(Debug, Serialize)]
pub(super) struct Event<'l> {
    #[serde(rename = "event")]
    pub(super) name: &'l str,
    #[serde(flatten)]
    pub(super) fields: Value,
}

/// The object. What is not known is not in it.
#[derive(Debug, Serialize)]
pub(super) struct Line<'l> {
    pub(super) time: String,
    pub(super) level: &'l str,
    pub(super) program: &'l str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) applet: Option<&'l str>,
    #[serde(flatten)]
    pub(super) subject: &'l Subject,
    pub(super) message: &'l str,
    #[serde(flatten)]
    pub(super) event: Option<Event<'l>>,
}

impl Line<'_> {
    /// The line, without its end. It is ASCII as all messages are: other characters can only stand in strings, where
    /// JSON has an escape for them.
    pub(super) fn to_ascii(&self) -> io::Result<String> {
        let text = serde_json::to_string(self)?;
        let mut line = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                ' '..='~' => line.push(c),
                _ => line.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}"))),
            }
        }
        Ok(line)
    }
}

/// A time as RFC 3339 has it, in UTC and with milliseconds; the nearest one that has four digits for its year, from 1970 on.
pub(super) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST)).to_string()
}

#[cfg(test)]
mod tests {
    use super::rfc3339;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn times_are_as_date_writes_them() {
        // date --utc --date=@SECONDS +%FT%T.%3NZ
        for (seconds, millis, expected) in [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, 7, "2000-02-29T00:00:00.007Z"),
            (1_795_237_287, 123, "2026-11-21T05:01:27.123Z"),
            (4_107_542_399, 999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000)), expected);
        }
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(300_000_000_000)), "9999-12-31T23:59:59.999Z");
    }

    proptest! {
        /// httpdate writes `Sat, 21 Nov 2026 05:01:27 GMT`.
        #[test]
        fn dates_are_those_of_http(seconds in 0..253_402_300_800_u64) {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            let http = httpdate::fmt_http_date(time);
            let [_, day, month, year, clock, _] = http.split(' ').collect::<Vec<_>>()[..] else { panic!("{http}") };
            let months = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec";
            let month = months.split(' ').position(|name| name == month).unwrap() + 1;
            prop_assert_eq!(rfc3339(time), format!("{year}-{month:02}-{day}T{clock}.000Z"));
        }
    }
}
