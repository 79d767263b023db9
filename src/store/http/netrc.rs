// SPDX-License-Identifier: BSD-2-Clause
//! Reads netrc files: user names and passwords by host, in the format of netrc(5) and curl(1).

use std::path::Path;

use super::error::HttpError;
use super::secret_file::read_secret_file;
use super::settings::{Credentials, Secret};

/// The entries of a netrc file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Netrc {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// None stands for `default`.
    machine: Option<String>,
    login: Secret,
    password: Secret,
}

impl Netrc {
    /// Reads the file at `path`, which must be closed to other users.
    pub(super) fn read(path: &Path) -> Result<Self, HttpError> {
        const WHAT: &str = "netrc file";
        let content = read_secret_file(WHAT, path)?;
        let text = String::from_utf8(content).map_err(|_err| HttpError::file(WHAT, path, "not UTF-8 text"))?;
        Self::parse(&text).map_err(|reason| HttpError::file(WHAT, path, reason))
    }

    /// The first entry for `host`, which is a name or an address. `default` stands for every host.
    pub(crate) fn credentials(&self, host: &str) -> Option<Credentials> {
        let bare = host.trim_matches(['[', ']']);
        let matches = |entry: &&Entry| entry.machine.as_ref().is_none_or(|name| name.eq_ignore_ascii_case(bare));
        let Entry { login, password, .. } = self.entries.iter().find(matches)?;
        // An entry without a user only keeps its host from the default entry.
        (!login.0.is_empty()).then(|| Credentials { user: login.clone(), password: password.clone() })
    }

    /// Parses the text of a file. The error names a line, but nothing in it, which may be secret.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut words = Words { rest: text, line: 1 };
        while let Some(word) = words.next()? {
            let line = words.line;
            let refused = |reason: &str| format!("line {line}: {reason}");
            let mut value = || words.next()?.ok_or_else(|| refused("the last word needs a value"));
            match word.as_str() {
                "machine" => entries.push(Entry::new(Some(value()?))),
                "default" => entries.push(Entry::new(None)),
                "macdef" => words.skip_macro(),
                "login" | "password" | "account" => {
                    let value = Secret(value()?);
                    let entry = entries.last_mut().ok_or_else(|| refused("'machine' has to come first"))?;
                    match word.as_str() {
                        "login" => entry.login = value,
                        "password" => entry.password = value,
                        _ => {}
                    }
                }
                _ => return Err(refused("not one of machine, default, login, password, account, macdef")),
            }
        }
        Ok(Netrc { entries })
    }

    /// The text of a netrc file with these entries.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn to_text(&self) -> String {
        let quoted =
            |word: &str| format!("\"{}\"", word.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n"));
        let entry = |Entry { machine, login, password }: &Entry| {
            let machine =
                machine.as_ref().map_or_else(|| "default".to_owned(), |name| format!("machine {}", quoted(name)));
            format!("{machine} login {} password {}\n", quoted(&login.0), quoted(&password.0))
        };
        self.entries.iter().map(entry).collect()
    }
}

impl Entry {
    fn new(machine: Option<String>) -> Self {
        Entry { machine, login: Secret(String::new()), password: Secret(String::new()) }
    }
}

/// The words of a text. They are separated by white space, or stand in double quotes with curl's backslashes.
struct Words<'t> {
    rest: &'t str,
    line: usize,
}

impl Words<'_> {
    fn next(&mut self) -> Result<Option<String>, String> {
        loop {
            let start = self.rest.trim_start();
            self.advance(self.rest.len() - start.len());
            if !start.starts_with('#') {
                break;
            }
            self.advance(start.find('\n').unwrap_or(start.len()));
        }
        match self.rest.strip_prefix('"') {
            _ if self.rest.is_empty() => Ok(None),
            Some(quoted) => self.quoted(quoted).map(Some),
            None => {
                let end = self.rest.find(char::is_whitespace).unwrap_or(self.rest.len());
                let word = self.rest[..end].to_owned();
                self.advance(end);
                Ok(Some(word))
            }
        }
    }

    fn quoted(&mut self, text: &str) -> Result<String, String> {
        let mut word = String::new();
        let mut chars = text.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.advance(at + 2);
                    return Ok(word);
                }
                '\n' => break,
                '\\' => word.extend(chars.next().map(|(_, c)| match c {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    other => other,
                })),
                other => word.push(other),
            }
        }
        Err(format!("line {}: a quote is not closed", self.line))
    }

    /// A macro ends with the first empty line.
    fn skip_macro(&mut self) {
        let end = self.rest.find("\n\n").map_or(self.rest.len(), |at| at + 2);
        self.advance(end);
    }

    fn advance(&mut self, bytes: usize) {
        let (passed, rest) = self.rest.split_at(bytes);
        self.line += passed.matches('\n').count();
        self.rest = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::Netrc;
    use proptest::prelude::*;

    fn of(text: &str, host: &str) -> Option<(String, String)> {
        let found = Netrc::parse(text).unwrap().credentials(host);
        found.map(|found| (found.user.0, found.password.0))
    }

    fn pair(user: &str, password: &str) -> Option<(String, String)> {
        Some((user.to_owned(), password.to_owned()))
    }

    #[test]
    fn every_form_of_an_entry() {
        let text = "# ours\nmachine images.example login joe password hunter2\n\
                    machine ::1\n  login six\n\tpassword \"a b\\\"c\\\\\"\n\
                    machine none.example\n\
                    macdef init\nmachine evil.example login no\npassword x\n\n\
                    machine images.example login second password entry\n\
                    default login anonymous account x password me@here # the end\n\
                    machine behind.example login z\n";
        assert_eq!(of(text, "images.example"), pair("joe", "hunter2"));
        assert_eq!(of(text, "IMAGES.example"), pair("joe", "hunter2"));
        assert_eq!(of(text, "[::1]"), pair("six", "a b\"c\\"));
        assert_eq!(of(text, "none.example"), None);
        assert_eq!(of(text, "evil.example"), pair("anonymous", "me@here"));
        assert_eq!(of(text, "behind.example"), pair("anonymous", "me@here"));
        assert_eq!(of("machine a login b", "c"), None);
        assert_eq!(of("", "c"), None);
        assert!(!format!("{:?}", Netrc::parse(text)).contains("hunter2"));
    }

    #[test]
    fn errors_name_the_line_only() {
        let words = "not one of machine, default, login, password, account, macdef";
        for (text, expected) in [
            ("machine a\nlogin b s3cret\n", format!("line 2: {words}")),
            ("\nlogin s3cret", "line 2: 'machine' has to come first".to_owned()),
            ("machine a password", "line 1: the last word needs a value".to_owned()),
            ("machine a\npassword \"s3cret\n", "line 2: a quote is not closed".to_owned()),
        ] {
            assert_eq!(Netrc::parse(text), Err(expected));
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "((machine|default|login|password|macdef|#|\"|\\\\| |\n|\\PC){0,4}){0,6}") {
            if let Ok(netrc) = Netrc::parse(&text) {
                let _ = netrc.credentials("a");
            }
        }
    }
}
