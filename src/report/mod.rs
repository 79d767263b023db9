// SPDX-License-Identifier: BSD-2-Clause
//! Messages for the operator: the only module that writes to stderr.
//!
//! Ganeti shows the last 20 lines of a failed script's log and breaks on a cut UTF-8 sequence, so every message is one
//! line of printable ASCII; anything else is escaped.

mod progress;

pub use progress::Progress;

use std::fmt::Display;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

/// Where messages go, and how much is said. Clones share one output.
#[derive(Clone)]
pub struct Report {
    program: String,
    debug: bool,
    out: Arc<Mutex<dyn Write + Send>>,
}

impl Report {
    /// Messages of `applet` (`create`, ...; none for the tool itself) to stderr; `debug` turns detail on.
    pub fn stderr(applet: Option<&str>, debug: bool) -> Self {
        Self::to_writer(applet, debug, std::io::stderr())
    }

    /// The same messages to any writer.
    pub fn to_writer(applet: Option<&str>, debug: bool, out: impl Write + Send + 'static) -> Self {
        let program = applet.map_or_else(|| "simpleimage".to_owned(), |name| format!("simpleimage[{name}]"));
        Report { program, debug, out: Arc::new(Mutex::new(out)) }
    }

    /// What is being done.
    pub fn info(&self, message: impl Display) {
        self.line("", &message);
    }

    /// Detail that only `DEBUG_LEVEL=1` shows.
    pub fn debug(&self, message: impl Display) {
        if self.debug {
            self.line("debug: ", &message);
        }
    }

    /// Something the administrator should look at, though the run goes on.
    pub fn warn(&self, message: impl Display) {
        self.line("warning: ", &message);
    }

    /// Why the run failed: the last line of a run, in one line.
    pub fn error(&self, message: impl Display) {
        self.line("error: ", &message);
    }

    fn line(&self, kind: &str, message: &dyn Display) {
        let line = format!("{}: {kind}{}\n", self.program, ascii_line(&message.to_string()));
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that can't be written has nobody left to tell.
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    }
}

/// `text` as one line of printable ASCII: line breaks become `; `, tabs blanks, anything else its `\u{..}` escape.
pub fn ascii_line(text: &str) -> String {
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
    use super::ascii_line;

    #[test]
    fn anything_becomes_one_ascii_line() {
        assert_eq!(ascii_line("plain text"), "plain text");
        assert_eq!(ascii_line("a\r\nb\n\n c\n"), "a; b;  c");
        assert_eq!(ascii_line("caf\u{e9}\t\u{1b}[31m"), "caf\\u{e9} \\u{1b}[31m");
    }
}
