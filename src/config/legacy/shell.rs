// SPDX-License-Identifier: BSD-2-Clause
//! Parses the part of the shell's language that is data: assignments and words, according to bash(1), section
//! QUOTING.
//!
//! Everything that a shell would expand or execute is refused and not taken literally, because a value that the
//! predecessor computed must not silently become another value.

use crate::config::ParseError;
use crate::node::value::Checked;

/// An assignment `KEY=VALUE`, with quotes removed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) key: String,
    pub(crate) value: String,
    /// The offset of the key in the text, in bytes.
    pub(crate) offset: usize,
}

/// The characters that have a meaning for the shell outside quotes. Braces have one only in arguments of `export`,
/// but nobody needs them without quotes.
const LIVE: &str = "$`;|&<>(){}";
/// The only characters that lose their meaning after a backslash in double quotes.
const ESCAPED_IN_QUOTES: &str = "$`\"\\";

/// Reads the assignments in `text`, one on each line, in their order. An `export` before an assignment is allowed.
///
/// # Errors
/// A [`ParseError`] for anything that a shell would execute or expand, for anything that is no assignment, and for a
/// missing closing quote. Only single characters of the text are repeated.
pub(crate) fn assignments(text: &str) -> Result<Vec<Assignment>, ParseError> {
    if let Some(at) = text.find(|c: char| c.is_control() && !matches!(c, '\n' | '\t')) {
        let what = if text[at..].starts_with('\r') {
            "a carriage return (save the file with Unix line ends)"
        } else {
            "a control character"
        };
        return Err(ParseError::at(text, at, &format!("{what} is not allowed here")));
    }
    let mut scanner = Scanner { text, at: 0 };
    let mut found = Vec::new();
    while scanner.skip_to_content() {
        found.push(scanner.assignment()?);
    }
    Ok(found)
}

/// A text, and the current position in it in bytes.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn eat(&mut self, expected: &str) -> bool {
        let found = self.text[self.at..].starts_with(expected);
        if found {
            self.at += expected.len();
        }
        found
    }

    fn skip_while(&mut self, accept: impl Fn(char) -> bool) {
        self.at += self.text[self.at..].find(|c| !accept(c)).unwrap_or(self.text.len() - self.at);
    }

    fn skip_blanks(&mut self) {
        loop {
            self.skip_while(|c| matches!(c, ' ' | '\t'));
            if !self.eat("\\\n") {
                return;
            }
        }
    }

    /// Skips blank lines and comments. Returns false at the end of the text.
    fn skip_to_content(&mut self) -> bool {
        loop {
            self.skip_blanks();
            match self.peek() {
                None => return false,
                Some('\n') => self.at += 1,
                Some('#') => self.skip_while(|c| c != '\n'),
                Some(_) => return true,
            }
        }
    }

    fn assignment(&mut self) -> Result<Assignment, ParseError> {
        let line = self.at;
        if self.eat("export ") || self.eat("export\t") {
            self.skip_blanks();
        }
        let offset = self.at;
        self.skip_while(|c| c.is_ascii_alphanumeric() || c == '_');
        let key = self.text[offset..self.at].to_owned();
        if key.is_empty() || key.starts_with(|c: char| c.is_ascii_digit()) || !self.eat("=") {
            let message = "this line is no KEY=VALUE assignment: a shell would execute it, but here it is only data \
                           (remove it; a value with blanks needs quotes, and none stand around '=')";
            return Err(ParseError::at(self.text, line, message));
        }
        let value = self.value()?;
        self.end_of_line()?;
        Ok(Assignment { key, value, offset })
    }

    fn value(&mut self) -> Result<String, ParseError> {
        let mut value = String::new();
        while let Some(next) = self.peek() {
            match next {
                ' ' | '\t' | '\n' => break,
                '\'' => self.single_quoted(&mut value)?,
                '"' => self.double_quoted(&mut value)?,
                '\\' => self.escaped(&mut value)?,
                _ if LIVE.contains(next) => return Err(self.live(next)),
                // In assignments a tilde is also expanded after each ':' and after the first '=' (bash(1), Tilde
                // Expansion).
                '~' if value.is_empty() || value.ends_with([':', '=']) => return Err(self.live(next)),
                _ => value.extend(self.bump()),
            }
        }
        Ok(value)
    }

    fn single_quoted(&mut self, value: &mut String) -> Result<(), ParseError> {
        let open = self.at;
        self.at += 1;
        let Some(length) = self.text[self.at..].find('\'') else { return Err(self.left_open(open)) };
        value.push_str(&self.text[self.at..self.at + length]);
        self.at += length + 1;
        Ok(())
    }

    fn double_quoted(&mut self, value: &mut String) -> Result<(), ParseError> {
        let open = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err(self.left_open(open)),
                Some('"') => break,
                Some(c @ ('$' | '`')) => return Err(self.live(c)),
                Some('\\') => self.escaped_in_quotes(value),
                Some(_) => value.extend(self.bump()),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn escaped_in_quotes(&mut self, value: &mut String) {
        self.at += 1;
        match self.peek() {
            Some('\n') => self.at += 1,
            Some(c) if ESCAPED_IN_QUOTES.contains(c) => value.extend(self.bump()),
            _ => value.push('\\'),
        }
    }

    fn escaped(&mut self, value: &mut String) -> Result<(), ParseError> {
        let backslash = self.at;
        self.at += 1;
        match self.bump() {
            None => Err(ParseError::at(self.text, backslash, "a backslash at the end of the file continues nothing")),
            Some('\n') => Ok(()),
            Some(c) => {
                value.push(c);
                Ok(())
            }
        }
    }

    fn end_of_line(&mut self) -> Result<(), ParseError> {
        self.skip_blanks();
        match self.peek() {
            None | Some('\n' | '#') => Ok(()),
            Some(c) if LIVE.contains(c) => Err(self.live(c)),
            Some(_) => {
                let message = "more text behind the value: a shell would execute it, but here it is only data (put a \
                               value with blanks into quotes, and each assignment on its own line)";
                Err(ParseError::at(self.text, self.at, message))
            }
        }
    }

    fn live(&self, c: char) -> ParseError {
        let rest = &self.text[self.at..];
        let shown = match ["$(", "${"].into_iter().find(|two| rest.starts_with(two)) {
            Some(two) => two.to_owned(),
            None => c.to_string(),
        };
        let message = format!(
            "'{shown}' would be expanded or executed by a shell, but here it is only data (write what it stands for, \
             or put the value into single quotes to mean the character)"
        );
        ParseError::at(self.text, self.at, &message)
    }

    fn left_open(&self, open: usize) -> ParseError {
        ParseError::at(self.text, open, "this quote is never closed")
    }
}

/// Splits `text` into words at blanks, and removes quotes.
///
/// # Errors
/// A missing closing quote, and a backslash outside quotes: the predecessor kept it, but a shell would remove it.
pub(crate) fn words(text: &str) -> Checked<Vec<String>> {
    let mut scanner = Scanner { text, at: 0 };
    let mut words = Vec::new();
    loop {
        scanner.skip_while(|c| matches!(c, ' ' | '\t' | '\n'));
        if scanner.peek().is_none() {
            return Ok(words);
        }
        words.push(scanner.word()?);
    }
}

impl Scanner<'_> {
    fn word(&mut self) -> Checked<String> {
        const OPEN: &str = "a quote in it is never closed";
        let mut word = String::new();
        while let Some(next) = self.bump() {
            match next {
                ' ' | '\t' | '\n' => break,
                '\'' => {
                    let (inside, _) = self.text[self.at..].split_once('\'').ok_or(OPEN)?;
                    word.push_str(inside);
                    self.at += inside.len() + 1;
                }
                '"' => loop {
                    match self.peek().ok_or(OPEN)? {
                        '\\' => self.escaped_in_quotes(&mut word),
                        c => {
                            self.at += c.len_utf8();
                            if c == '"' {
                                break;
                            }
                            word.push(c);
                        }
                    }
                },
                '\\' => {
                    return Err("a backslash in it is ambiguous (put that word into single quotes inside the value)");
                }
                c => word.push(c),
            }
        }
        Ok(word)
    }
}

#[cfg(test)]
#[path = "shell_tests.rs"]
mod tests;
