// SPDX-License-Identifier: BSD-2-Clause
//! Writes results to standard output.

use std::io::{self, ErrorKind, Write};

use anyhow::Context as _;
use serde::Serialize;

use crate::image::disk_size::DiskSize;
use crate::node::sys;

/// Returns standard output. If it was closed when the process began, every write fails, so that a lost result does
/// not end with exit code 0.
pub fn standard_output() -> Box<dyn Write> {
    if sys::standard_output_was_open() { Box::new(io::stdout()) } else { Box::new(ClosedOutput) }
}

struct ClosedOutput;

impl Write for ClosedOutput {
    fn write(&mut self, _data: &[u8]) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::EBADF))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The number of digits of a cached image's key that users see. More are not needed to distinguish images.
pub(super) const SHOWN_DIGITS: usize = 12;

/// Standard output whose reader may close the pipe early, as `head` does. That is no error: the rest of the output is
/// dropped, and the command continues.
pub(super) struct Results<'o> {
    out: &'o mut dyn Write,
    reader_left: bool,
}

impl<'o> Results<'o> {
    pub(super) fn new(out: &'o mut dyn Write) -> Self {
        Results { out, reader_left: false }
    }

    /// Returns `all` instead of the error of a closed pipe.
    fn without_broken_pipe<T>(&mut self, written: io::Result<T>, all: T) -> io::Result<T> {
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.reader_left = true;
                Ok(all)
            }
            other => other,
        }
    }
}

impl Write for Results<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.reader_left {
            return Ok(data.len());
        }
        let written = self.out.write(data);
        self.without_broken_pipe(written, data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.reader_left {
            return Ok(());
        }
        let flushed = self.out.flush();
        self.without_broken_pipe(flushed, ())
    }
}

pub(super) fn line(out: &mut dyn Write, line: &str) -> anyhow::Result<()> {
    writeln!(out, "{line}").context("writing the result")
}

/// Writes lines of cells. Each column is as wide as its widest cell.
pub(super) fn table<const N: usize>(out: &mut dyn Write, lines: &[[String; N]]) -> anyhow::Result<()> {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    // One write for all of them, because each would be a system call.
    let mut text = String::new();
    for cells in lines {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    out.write_all(text.as_bytes()).context("writing the result")
}

/// Writes a value as JSON with line breaks, so that people can read it too.
pub(super) fn write_json(out: &mut dyn Write, value: &impl Serialize) -> anyhow::Result<()> {
    line(out, &serde_json::to_string_pretty(value).context("writing the result")?)
}

/// Returns how exactly a disk's size is known, and the size in bytes.
pub(super) fn disk_json(disk: DiskSize) -> (&'static str, Option<u64>) {
    match disk {
        DiskSize::Exact(size) => ("exact", Some(size)),
        DiskSize::AtLeast(size) => ("at-least", Some(size)),
        DiskSize::Hint(size) => ("hint", Some(size)),
        DiskSize::Unknown => ("unknown", None),
    }
}

/// Escapes control characters. A stranger may have written the text, and a terminal would execute them.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\t' { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Results, table};
    use std::io::{self, ErrorKind, Write};

    /// Takes one write, then fails.
    struct Fails(ErrorKind, Vec<u8>);

    impl Write for Fails {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            if !self.1.is_empty() {
                return Err(self.0.into());
            }
            self.1.extend_from_slice(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_leaves_early_is_no_error_but_a_full_disk_is() {
        let mut gone = Fails(ErrorKind::BrokenPipe, Vec::new());
        let mut results = Results::new(&mut gone);
        for part in ["one", "two", "three"] {
            results.write_all(part.as_bytes()).unwrap();
        }
        results.flush().unwrap();
        assert_eq!(gone.1, b"one");
        let mut full = Fails(ErrorKind::StorageFull, b"x".to_vec());
        assert_eq!(Results::new(&mut full).write_all(b"y").unwrap_err().kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut out = Vec::new();
        let lines = [["A", "B", "C"], ["long", "", "x y"], ["\u{e9}", "b", ""]];
        table(&mut out, &lines.map(|line| line.map(str::to_owned))).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "A     B  C\nlong     x y\n\u{e9}     b\n");
    }
}
