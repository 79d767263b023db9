// SPDX-License-Identifier: BSD-2-Clause
//! Results on their way to standard output.

use std::io::{self, Write};

use anyhow::Context as _;
use serde::Serialize;

use crate::sys;

/// Standard output; an error to write to where it was closed when the process began: what is asked for must not get lost
/// with exit code 0.
pub fn standard_output() -> Box<dyn Write> {
    if sys::standard_output_was_open() { Box::new(io::stdout()) } else { Box::new(Closed) }
}

struct Closed;

impl Write for Closed {
    fn write(&mut self, _data: &[u8]) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::EBADF))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One line.
pub(super) fn line(out: &mut dyn Write, line: &str) -> anyhow::Result<()> {
    writeln!(out, "{line}").context("writing the result")
}

/// A value as JSON, for people to read too.
pub(super) fn write_json(out: &mut dyn Write, value: &impl Serialize) -> anyhow::Result<()> {
    line(out, &serde_json::to_string_pretty(value).context("writing the result")?)
}

/// Without anything that a terminal would take for a command: a stranger may have written it.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\t' { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}
