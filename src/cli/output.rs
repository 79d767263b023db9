// SPDX-License-Identifier: BSD-2-Clause
//! Results on their way to standard output.

use std::io::Write;

use anyhow::Context as _;
use serde::Serialize;

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
