// SPDX-License-Identifier: BSD-2-Clause
//! Shows the progress of a download, or of writing a disk: with a bar on a terminal, otherwise with a line from time to
//! time.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{LogFormat, Report, Verbosity};
use crate::node::size::ByteSize;

/// The time between two lines without a terminal. People read them in the log of a job.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// The bar is as wide as the terminal, and numbers have columns of fixed width, so nothing wraps or moves.
const BAR: &str = "{prefix} {bytes:>11} of {total_bytes} [{wide_bar}] {bytes_per_sec:>13}, {eta:>3} left";
/// This is used if the length of the image is not known.
const COUNTER: &str = "{prefix} {bytes:>11} {bytes_per_sec:>13}";

/// Erases a line of a terminal, on which another process may have drawn a bar.
const CLEAR_LINE: &[u8] = b"\r\x1b[2K";

/// Shows the progress of a run on stderr, one activity after the other.
pub(crate) struct Progress {
    terminal: bool,
    bar: ProgressBar,
    report: Report,
    lines: Mutex<Lines>,
}

impl Progress {
    /// Returns a progress display on stderr. While it is used, messages have to go to [`Progress::report`] instead of
    /// `report`.
    pub(crate) fn stderr(report: &Report) -> Self {
        // The bar stays hidden before the first update.
        let bar = ProgressBar::hidden();
        let text = report.format == LogFormat::Text && report.verbosity > Verbosity::Quiet;
        // A terminal that can't erase (TERM=dumb) also gets lines.
        let terminal = text && !ProgressDrawTarget::stderr().is_hidden();
        let above = AboveBar { bar: bar.clone(), terminal };
        let report = Report { out: Arc::new(Mutex::new(above)), ..report.clone() };
        let lines = Mutex::new(Lines::starting("", Instant::now()));
        Progress { terminal, bar, report, lines }
    }

    /// Begins an activity. Its name is one word such as `writing`.
    pub(crate) fn begin(&self, doing: &'static str) {
        *self.lines.lock().unwrap_or_else(PoisonError::into_inner) = Lines::starting(doing, Instant::now());
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
        self.bar.reset();
        self.bar.unset_length();
        self.bar.set_prefix(doing);
    }

    /// Returns the report that writes messages above the bar.
    pub(crate) fn report(&self) -> &Report {
        &self.report
    }

    /// Shows that `received` of `expected` bytes were received or written.
    pub(crate) fn update(&self, received: u64, expected: Option<u64>) {
        if !self.terminal {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(line) = lines.line(Instant::now(), received, expected) {
                let fields = json!({ "doing": lines.doing, "bytes": received, "total_bytes": expected });
                self.report.event("progress", fields, line);
            }
            return;
        }
        if received == 0 {
            return;
        }
        if self.bar.length() != expected || self.bar.is_hidden() {
            let template = if expected.is_some() { BAR } else { COUNTER };
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_err| ProgressStyle::default_bar());
            self.bar.set_style(style.progress_chars("=> "));
            if let Some(length) = expected {
                self.bar.set_length(length);
            }
            // The rate counts from here, because an earlier run may have downloaded these bytes.
            self.bar.set_position(received);
            self.bar.reset_eta();
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(received);
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Writes to stderr, and draws the bar again below the text.
struct AboveBar {
    bar: ProgressBar,
    terminal: bool,
}

impl Write for AboveBar {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.bar.suspend(|| {
            if self.terminal {
                io::stderr().write_all(CLEAR_LINE)?;
            }
            io::stderr().write(data)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Makes the lines of one activity.
struct Lines {
    /// The activity, in one word.
    doing: &'static str,
    /// The time of the first update, and the number of bytes at that time, because an earlier run may have left some.
    first: Option<(Instant, u64)>,
    last: Instant,
}

impl Lines {
    fn starting(doing: &'static str, now: Instant) -> Self {
        Lines { doing, first: None, last: now }
    }

    /// Returns a line if it is time for one.
    fn line(&mut self, now: Instant, received: u64, expected: Option<u64>) -> Option<String> {
        if received == 0 {
            return None;
        }
        // If there are fewer bytes than at first, the download has begun again.
        let (start, at_start) = self.first.filter(|(_, at_start)| *at_start <= received).unwrap_or((now, received));
        self.first = Some((start, at_start));
        if now.duration_since(self.last) < LINE_INTERVAL {
            return None;
        }
        self.last = now;
        let rate = u128::from(received - at_start) * 1000 / now.duration_since(start).as_millis().max(1);
        let rate = ByteSize(u64::try_from(rate).unwrap_or(u64::MAX)).rounded();
        let (doing, received_words) = (self.doing, ByteSize(received).rounded());
        Some(match expected.filter(|expected| *expected > 0) {
            Some(expected) => {
                let percent = u128::from(received) * 100 / u128::from(expected);
                format!("{doing}: {received_words} of {} ({percent} %), {rate}/s", ByteSize(expected).rounded())
            }
            None => format!("{doing}: {received_words}, {rate}/s"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;
    use std::time::{Duration, Instant};

    #[test]
    fn a_line_every_ten_seconds_at_most() {
        let start = Instant::now();
        let mut lines = Lines::starting("fetching", start);
        let mut line = |tenths: u64, received, expected| {
            lines.line(start + Duration::from_millis(tenths * 100), received, expected)
        };
        assert_eq!(line(0, 10 << 20, None), None);
        assert_eq!(line(99, 15 << 20, Some(100 << 20)), None);
        assert_eq!(
            line(100, 60 << 20, Some(100 << 20)).as_deref(),
            Some("fetching: 60 MiB of 100 MiB (60 %), 5 MiB/s")
        );
        assert_eq!(line(101, 61 << 20, Some(100 << 20)), None);
        assert_eq!(line(199, 61 << 20, Some(100 << 20)), None);
        assert_eq!(line(250, 85 << 20, None).as_deref(), Some("fetching: 85 MiB, 3 MiB/s"));
        assert_eq!(line(400, 0, Some(0)), None);
    }

    #[test]
    fn what_an_earlier_run_left_is_not_in_the_rate() {
        let start = Instant::now();
        let mut lines = Lines::starting("writing", start);
        let mut line =
            |seconds: u64, mib: u64| lines.line(start + Duration::from_secs(seconds), mib << 20, Some(100 << 20));
        assert_eq!(line(2, 60), None);
        assert_eq!(line(10, 76).as_deref(), Some("writing: 76 MiB of 100 MiB (76 %), 2 MiB/s"));
        // The download begins again.
        assert_eq!(line(11, 4), None);
        assert_eq!(line(21, 14).as_deref(), Some("writing: 14 MiB of 100 MiB (14 %), 1 MiB/s"));
    }
}
