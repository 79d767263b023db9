// SPDX-License-Identifier: BSD-2-Clause
//! The errors of config files.

use std::fmt;
use std::path::PathBuf;

use super::VariantName;

/// An error in the text of a config file. It is displayed as `LINE:COLUMN: MESSAGE`, on one line and without values
/// of secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParseError {
    /// The line and column of the first wrong character, counted in characters from 1. `None` if it is unknown.
    pub(crate) position: Option<(usize, usize)>,
    /// The message says what is wrong, and what to do about it.
    pub(crate) message: String,
}

impl ParseError {
    /// Makes an error at the byte `offset` of `text`. Control characters in `message` are escaped.
    pub(super) fn at(text: &str, offset: usize, message: &str) -> Self {
        ParseError { position: Some(position(text, offset)), ..Self::somewhere(message) }
    }

    /// Makes an error that concerns the file as a whole.
    pub(super) fn somewhere(message: &str) -> Self {
        // A quoted TOML key may contain a line break, and the parser repeats unknown keys.
        let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { c.to_string() };
        ParseError { position: None, message: message.chars().map(escape).collect() }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.position {
            write!(f, "{line}:{column}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ParseError {}

fn position(text: &str, offset: usize) -> (usize, usize) {
    // The offset of an error at the end of the file may be after the last byte.
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The reason why the settings could not be loaded. Every message is one line that names the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A file that exists could not be read.
    #[error("reading {}: {reason}", path.display())]
    Read { path: PathBuf, reason: std::io::Error },
    /// A file could have been written by somebody else. This is refused, because its content decides what runs as
    /// root.
    #[error("refusing {}: {problem}", path.display())]
    Unsafe {
        path: PathBuf,
        /// The message says who could write the file, and how to correct that.
        problem: String,
    },
    /// A variant does not exist.
    #[error("there is no variant {variant}, neither a folder in {} nor a line in variants.list there{}", dir.display(), way_out(nearest.as_ref()))]
    UnknownVariant {
        variant: VariantName,
        /// The folder that contains the folders of all variants.
        dir: PathBuf,
        /// The existing variant with the most similar name.
        nearest: Option<VariantName>,
    },
    /// A variant has two configuration files.
    #[error("{} has both config.toml and config: move the settings to config.toml and remove config", dir.display())]
    Both { dir: PathBuf },
    /// A file contains an error.
    #[error("{}:{}{error}", path.display(), if error.position.is_some() { "" } else { " " })]
    Invalid { path: PathBuf, error: ParseError },
}

fn way_out(nearest: Option<&VariantName>) -> String {
    match nearest {
        Some(nearest) => format!(" (the nearest is {nearest}; simpleimage variants list shows all)"),
        None => " (there is none at all)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{ConfigError, ParseError};

    #[test]
    fn positions_count_characters_from_one() {
        let text = "a\n\u{e9}\u{e9}=x\n";
        let shown = |offset| ParseError::at(text, offset, "m").to_string();
        assert_eq!([0, 2, 6, 99].map(shown), ["1:1: m", "2:1: m", "2:3: m", "3:1: m"]);
    }

    #[test]
    fn messages_are_one_line_and_name_the_file() {
        let error = ParseError::somewhere("unknown key `a\nb`");
        assert_eq!(error.to_string(), "unknown key `a\\nb`");
        let shown = |error| ConfigError::Invalid { path: "/x/config".into(), error }.to_string();
        assert_eq!(shown(error), "/x/config: unknown key `a\\nb`");
        assert_eq!(shown(ParseError::at("x", 0, "bad")), "/x/config:1:1: bad");
    }
}
