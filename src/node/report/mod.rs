// SPDX-License-Identifier: BSD-2-Clause
//! Messages for the operator: the only module that writes to stderr.
//!
//! Ganeti shows the last 20 lines of a failed script's log and breaks on a cut UTF-8 sequence, so every message is one
//! line of printable ASCII; anything else is escaped.
//!
//! The numbers of an event stand beside its words in one call of [`Report`]. That is no logging framework: nobody here
//! needs the global logger, spans and filters of one.

mod json;
mod progress;

pub(crate) use progress::Progress;

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use json::{Event, Line, rfc3339};

const PROGRAM: &str = "simpleimage";
/// The level of most messages, which have no word for it in front.
const INFO: &str = "info";

/// What a message looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Words behind the program's name.
    #[default]
    Text,
    /// A JSON object.
    Json,
}

impl LogFormat {
    /// Its word in config.toml.
    pub(crate) fn name(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

/// How much is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Only what is wrong: warnings and errors.
    Quiet,
    /// What is being done, too.
    #[default]
    Normal,
    /// Detail, too.
    Detail,
}

/// What a run is about, as far as that is known.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Subject {
    /// The instance's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) instance: Option<String>,
    /// The variant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

/// Where messages go, what they look like, and how much is said. Clones share one output.
#[derive(Clone)]
pub struct Report {
    applet: Option<&'static str>,
    verbosity: Verbosity,
    format: LogFormat,
    subject: Subject,
    out: Arc<Mutex<dyn Write + Send>>,
}

impl Report {
    /// Messages of `applet` (`create`, ...; none for the tool itself) to stderr, as text; `debug` turns detail on.
    pub fn stderr(applet: Option<&'static str>, debug: bool) -> Self {
        Self::to_writer(applet, debug, io::stderr())
    }

    /// The same messages to any writer.
    pub fn to_writer(applet: Option<&'static str>, debug: bool, out: impl Write + Send + 'static) -> Self {
        let (format, subject) = (LogFormat::default(), Subject::default());
        let verbosity = if debug { Verbosity::Detail } else { Verbosity::Normal };
        Report { applet, verbosity, format, subject, out: Arc::new(Mutex::new(out)) }
    }

    /// The same messages, but as many as `verbosity` lets pass.
    #[must_use]
    pub(crate) fn with_verbosity(self, verbosity: Verbosity) -> Self {
        Report { verbosity, ..self }
    }

    /// The same messages in `format`. Only JSON says what the run is about: in text the messages themselves do.
    #[must_use]
    pub(crate) fn formatted(self, format: LogFormat, subject: Subject) -> Self {
        Report { format, subject, ..self }
    }

    /// What is being done.
    pub fn info(&self, message: impl Display) {
        self.tell_from(Verbosity::Normal, INFO, &message, None);
    }

    /// What is being done, for programs too: the `name` of what happens, and an object with what there is to know of it.
    pub(crate) fn event(&self, name: &str, fields: Value, message: impl Display) {
        self.tell_from(Verbosity::Normal, INFO, &message, Some(Event { name, fields }));
    }

    /// Detail that only `DEBUG_LEVEL=1` and `--verbose` show.
    pub(crate) fn debug(&self, message: impl Display) {
        self.tell_from(Verbosity::Detail, "debug", &message, None);
    }

    /// Something the administrator should look at, though the run goes on.
    pub(crate) fn warn(&self, message: impl Display) {
        self.tell_from(Verbosity::Quiet, "warning", &message, None);
    }

    /// Why the run failed: the last line of a run, in one line.
    pub fn error(&self, message: impl Display) {
        self.tell_from(Verbosity::Quiet, "error", &message, None);
    }

    /// Tells it if as much as `least` is to be said.
    fn tell_from(&self, least: Verbosity, level: &str, message: &dyn Display, event: Option<Event<'_>>) {
        if self.verbosity < least {
            return;
        }
        let message = ascii_line(&message.to_string());
        // Before the time is looked at: threads write their lines in its order.
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let line = match self.format {
            LogFormat::Text => Ok(self.text(level, &message)),
            LogFormat::Json => self.json(level, &message, event).to_ascii(),
        };
        // A log that can't be written has nobody left to tell.
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

/// `text` as one line of printable ASCII: line breaks become `; `, tabs blanks, anything else its `\u{..}` escape.
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
    use super::{LogFormat, Report, Subject, Verbosity, ascii_line};
    use serde_json::{Value, json};
    use std::io;
    use std::sync::{Arc, Mutex};

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

    /// What a report of `applet` says of a bit of everything.
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
}
