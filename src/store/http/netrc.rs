// SPDX-License-Identifier: BSD-2-Clause
//! Users and passwords by host, from a netrc file (the format of netrc(5) and curl(1)).

use std::path::Path;

use super::error::HttpError;
use super::secret_file;
use super::settings::{Credentials, Secret};

/// A netrc file's entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Netrc {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// None for `default`.
    machine: Option<String>,
    login: Secret,
    password: Secret,
}

impl Netrc {
    /// Reads a file that nobody else can read.
    pub(crate) fn read(path: &Path) -> Result<Self, HttpError> {
        const WHAT: &str = "netrc file";
        let content = secret_file::read(WHAT, path)?;
        let fault = |reason| HttpError::File { what: WHAT, path: path.to_owned(), reason };
        let text = String::from_utf8(content).ok().ok_or_else(|| fault("not UTF-8 text".to_owned()))?;
        Self::parse(&text).map_err(fault)
    }

    /// The entry for `host` (a name, or an address without brackets), or else the default one behind it.
    pub(crate) fn credentials(&self, host: &str) -> Option<Credentials> {
        let bare = host.trim_matches(['[', ']']);
        let matches = |entry: &&Entry| entry.machine.as_ref().is_none_or(|name| name.eq_ignore_ascii_case(bare));
        let Entry { login, password, .. } = self.entries.iter().find(matches)?;
        // An entry without a user is there to keep the default away.
        (!login.0.is_empty()).then(|| Credentials { user: login.clone(), password: password.clone() })
    }

    /// Reads the text of a file. The error names a line, and nothing that stands there.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut words = Words { rest: text, line: 1 };
        while let Some(word) = words.next()? {
            let line = words.line;
            let wrong = |what: &str| format!("line {line}: {what}");
            let mut value = || words.next()?.ok_or_else(|| wrong("the last word needs a value"));
            match word.as_str() {
                "machine" => entries.push(Entry::new(Some(value()?))),
                "default" => entries.push(Entry::new(None)),
                "macdef" => words.skip_macro(),
                "login" | "password" | "account" => {
                    let value = Secret(value()?);
                    let entry = entries.last_mut().ok_or_else(|| wrong("'machine' has to come first"))?;
                    match word.as_str() {
                        "login" => entry.login = value,
                        "password" => entry.password = value,
                        _ => {}
                    }
                }
                _ => return Err(wrong("not one of machine, default, login, password, account, macdef")),
            }
        }
        Ok(Netrc { entries })
    }

    /// The text of a file with these entries.
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

/// The words of the text: separated by blanks, or in double quotes with backslashes as curl has it.
struct Words<'t> {
    rest: &'t str,
    line: usize,
}

impl Words<'_> {
    fn next(&mut self) -> Result<Option<String>, String> {
        loop {
            let start = self.rest.trim_start();
            self.pass(self.rest.len() - start.len());
            if !start.starts_with('#') {
                break;
            }
            self.pass(start.find('\n').unwrap_or(start.len()));
        }
        match self.rest.strip_prefix('"') {
            _ if self.rest.is_empty() => Ok(None),
            Some(quoted) => self.quoted(quoted).map(Some),
            None => {
                let end = self.rest.find(char::is_whitespace).unwrap_or(self.rest.len());
                let word = self.rest[..end].to_owned();
                self.pass(end);
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
                    self.pass(at + 2);
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
        self.pass(end);
    }

    fn pass(&mut self, bytes: usize) {
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
