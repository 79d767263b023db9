// SPDX-License-Identifier: BSD-2-Clause
//! Writes messages for the operator, as text or as JSON. This is the only module that writes to stderr.
//!
//! Ganeti shows the last 20 lines of a failed script's log and fails on a cut UTF-8 sequence. So every message is one
//! line of printable ASCII, and any other character is escaped.
//!
//! One call of [`Report`] takes the words of an event and its numbers. No logging framework is used, because its global
//! logger, spans and filters are not needed.

mod progress;

pub(crate) use progress::Progress;

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;

const PROGRAM: &str = "simpleimage";
/// The level of most messages. Text does not show it.
const INFO: &str = "info";
const ERROR: &str = "error";

/// The form of the messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// The name of the program, and the words of the message.
    #[default]
    Text,
    /// A JSON object.
    Json,
}

impl LogFormat {
    /// Returns its word in config.toml.
    pub(crate) fn name(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

/// The messages that are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Only warnings and errors are written.
    Quiet,
    /// Messages about the steps of the run are written too.
    #[default]
    Normal,
    /// Details are written too.
    Detail,
}

/// The instance and variant of a run, if they are known.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Subject {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

/// Writes messages. Clones share one output.
#[derive(Clone)]
pub struct Report {
    applet: Option<&'static str>,
    verbosity: Verbosity,
    format: LogFormat,
    subject: Subject,
    /// Whether the last line of the run was written.
    ended: Arc<AtomicBool>,
    out: Arc<Mutex<dyn Write + Send>>,
}

impl Report {
    /// Returns a report that writes messages of `applet` (`create`, ..., or `None` for the tool itself) to stderr, as
    /// text. `debug` adds details.
    pub fn stderr(applet: Option<&'static str>, debug: bool) -> Self {
        Self::to_writer(applet, debug, io::stderr())
    }

    /// Does what [`Report::stderr`] does, for any writer.
    pub fn to_writer(applet: Option<&'static str>, debug: bool, out: impl Write + Send + 'static) -> Self {
        let (format, subject) = (LogFormat::default(), Subject::default());
        let verbosity = if debug { Verbosity::Detail } else { Verbosity::Normal };
        Report { applet, verbosity, format, subject, ended: Arc::default(), out: Arc::new(Mutex::new(out)) }
    }

    #[must_use]
    pub(crate) fn with_verbosity(self, verbosity: Verbosity) -> Self {
        Report { verbosity, ..self }
    }

    /// Writes in `format` from now on. Only JSON shows `subject`, because in text the messages themselves name it.
    #[must_use]
    pub(crate) fn formatted(self, format: LogFormat, subject: Subject) -> Self {
        Report { format, subject, ..self }
    }

    /// Reports a step of the run.
    pub fn info(&self, message: impl Display) {
        self.write(Verbosity::Normal, INFO, &message, None);
    }

    /// Reports a step of the run, also for programs: `name` names the event, and `fields` is an object with details.
    pub(crate) fn event(&self, name: &str, fields: Value, message: impl Display) {
        self.write(Verbosity::Normal, INFO, &message, Some(Event { name, fields }));
    }

    /// Reports a detail, which only `DEBUG_LEVEL=1` and `--verbose` show.
    pub(crate) fn debug(&self, message: impl Display) {
        self.write(Verbosity::Detail, "debug", &message, None);
    }

    /// Reports something that the administrator should look at, while the run goes on.
    pub(crate) fn warn(&self, message: impl Display) {
        self.write(Verbosity::Quiet, "warning", &message, None);
    }

    /// Reports why the run failed. This is the last line of a run: what other threads report from then on is not written, as
    /// Ganeti shows the end of a log.
    pub fn error(&self, message: impl Display) {
        self.write(Verbosity::Quiet, ERROR, &message, None);
    }

    /// Writes the message if the verbosity is at least `least`.
    fn write(&self, least: Verbosity, level: &str, message: &dyn Display, event: Option<Event<'_>>) {
        if self.verbosity < least {
            return;
        }
        let message = ascii_line(&message.to_string());
        // The lock is taken before the time is read, so that the lines of all threads are in the order of their times.
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ended.fetch_or(level == ERROR, Ordering::Relaxed) {
            return;
        }
        let line = match self.format {
            LogFormat::Text => Ok(self.text(level, &message)),
            LogFormat::Json => self.json(level, &message, event).to_ascii(),
        };
        // If the log can't be written, there is no place to report that.
        let _ = line.and_then(|line| out.write_all((line + "\n").as_bytes())).and_then(|()| out.flush());
    }

    fn text(&self, level: &str, message: &str) -> String {
        let applet = self.applet.map(|name| format!("[{name}]")).unwrap_or_default();
        let level = if level == INFO { String::new() } else { format!("{level}: ") };
        format!("{PROGRAM}{applet}: {level}{message}")
    }

    fn json<'l>(&'l self, level: &'l str, message: &'l str, event: Option<Event<'l>>) -> Line<'l> {
        let Report { applet, subject, .. } = self;
        Line { time: rfc3339(SystemTime::now()), level, program: PROGRAM, applet: *applet, subject, message, event }
    }
}

/// The time from 1970 to 9999-12-31T23:59:59.999Z.
const LAST_TIME: Duration = Duration::from_millis(253_402_300_799_999);

/// The part of a message for programs: a name for what happened, and an object of names and values.
#[derive(Debug, Serialize)]
struct Event<'l> {
    #[serde(rename = "event")]
    name: &'l str,
    #[serde(flatten)]
    fields: Value,
}

/// A message as a JSON object in one line. Fields that are not known are left out.
#[derive(Debug, Serialize)]
struct Line<'l> {
    time: String,
    level: &'l str,
    program: &'l str,
    #[serde(skip_serializing_if = "Option::is_none")]
    applet: Option<&'l str>,
    #[serde(flatten)]
    subject: &'l Subject,
    message: &'l str,
    #[serde(flatten)]
    event: Option<Event<'l>>,
}

impl Line<'_> {
    /// Returns the line without a newline. It is ASCII, as all messages are: other characters can only be in strings,
    /// where JSON has escapes for them.
    fn to_ascii(&self) -> io::Result<String> {
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

/// Returns a time in the form of RFC 3339, in UTC with milliseconds. A time before 1970 or after 9999 becomes the
/// nearest one in that range.
fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST_TIME)).to_string()
}

/// Returns `text` as one line of printable ASCII: line breaks become `; `, tabs become blanks, and any other character
/// becomes its `\u{..}` escape.
pub(crate) fn ascii_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for part in text.split(['\n', '\r']).map(str::trim_end).filter(|part| !part.is_empty()) {
        if !line.is_empty() {
            line.push_str("; ");
        }
        for c in part.chars() {
            match c {
                '\t' => line.push(' '),
                ' '..='~' => line.push(c),
                _ => line.extend(c.escape_unicode()),
            }
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::{LogFormat, Report, Subject, Verbosity, ascii_line, rfc3339};
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, UNIX_EPOCH};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(data)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns what a report of `applet` writes for one message of each kind.
    fn told(applet: Option<&'static str>, debug: bool, format: LogFormat, subject: Subject) -> String {
        let log = Log::default();
        let report = Report::to_writer(applet, debug, log.clone()).formatted(format, subject);
        report.info("a \"b\"\ncaf\u{e9}");
        report.event(
            "done",
            json!({ "image": "/caf\u{e9}\u{1f4be}\u{7f}", "bytes": 7, "cache": null }),
            "done in 0.1 s",
        );
        report.debug("detail");
        report.warn("look");
        report.error("it failed");
        let bytes = log.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_is_the_programs_name_and_words() {
        let subject = || Subject { instance: Some("web1".to_owned()), variant: None };
        let expected = "simpleimage[create]: a \"b\"; caf\\u{e9}\nsimpleimage[create]: done in 0.1 s\n\
                        simpleimage[create]: debug: detail\nsimpleimage[create]: warning: look\n\
                        simpleimage[create]: error: it failed\n";
        assert_eq!(told(Some("create"), true, LogFormat::Text, subject()), expected);
        let expected = expected.replace("[create]", "").replace("simpleimage: debug: detail\n", "");
        assert_eq!(told(None, false, LogFormat::Text, subject()), expected);
    }

    #[test]
    fn json_is_an_object_a_line() {
        let subject = Subject { instance: Some("web1".to_owned()), variant: Some("default".to_owned()) };
        let text = told(Some("create"), true, LogFormat::Json, subject);
        assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{text}");
        let lines = text.lines().map(|line| {
            let mut object: Value = serde_json::from_str(line).unwrap();
            let time = object["time"].take();
            let time = time.as_str().unwrap();
            assert!(time.len() == 24 && time.starts_with("20") && time.ends_with('Z'), "{time}");
            object
        });
        let object = |level: &str, message: &str| {
            json!({
                "time": null, "level": level, "program": "simpleimage", "applet": "create", "instance": "web1",
                "variant": "default", "message": message
            })
        };
        let mut done = object("info", "done in 0.1 s");
        for (name, value) in [
            ("event", json!("done")),
            ("image", json!("/caf\u{e9}\u{1f4be}\u{7f}")),
            ("bytes", json!(7)),
            ("cache", Value::Null),
        ] {
            done[name] = value;
        }
        let expected = [
            object("info", "a \"b\"; caf\\u{e9}"),
            done,
            object("debug", "detail"),
            object("warning", "look"),
            object("error", "it failed"),
        ];
        assert_eq!(lines.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn quiet_leaves_warnings_and_errors() {
        let log = Log::default();
        let report = Report::to_writer(None, true, log.clone()).with_verbosity(Verbosity::Quiet);
        report.info("a");
        report.event("b", json!({}), "b");
        report.debug("c");
        report.warn("look");
        report.error("it failed");
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "simpleimage: warning: look\nsimpleimage: error: it failed\n");
    }

    #[test]
    fn what_is_not_known_is_not_in_the_object() {
        let text = told(None, false, LogFormat::Json, Subject::default());
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let keys: Vec<_> = last.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["level", "message", "program", "time"]);
        assert!(text.starts_with("{\"time\":\"20"), "what people read first comes first: {text}");
    }

    #[test]
    fn anything_becomes_one_ascii_line() {
        assert_eq!(ascii_line("plain text"), "plain text");
        assert_eq!(ascii_line("a\r\nb\n\n c\n"), "a; b;  c");
        assert_eq!(ascii_line("caf\u{e9}\t\u{1b}[31m"), "caf\\u{e9} \\u{1b}[31m");
    }

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
