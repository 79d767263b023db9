// SPDX-License-Identifier: BSD-2-Clause
//! Public SSH keys, one in each line as in authorized_keys (sshd(8)), but without options.
//!
//! Options before a key are refused. If root may log in, cloud-init removes them, and then a key that was meant for one
//! command would allow every command.

use std::collections::HashSet;
use std::str;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::entry_list::{KEY_TYPES, keys_of_line};

/// Why a text is not a list of keys. The messages do not repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("it is not UTF-8 text")]
    Encoding,
    /// `line` is counted from 1.
    #[error("line {line} {reason}")]
    Line { line: usize, reason: &'static str },
    #[error("it has no key in it")]
    Empty,
}

/// A well-formed public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// Type and key. Two keys are the same if these are the same.
    key: String,
    comment: String,
}

impl Key {
    /// Returns the key as a line of authorized_keys, without the newline.
    pub(super) fn line(&self) -> String {
        if self.comment.is_empty() { self.key.clone() } else { format!("{} {}", self.key, self.comment) }
    }
}

/// Returns whether `text` looks like a key, and not like a file name or a URL.
pub(super) fn is_key(text: &str) -> bool {
    let first = text.split_ascii_whitespace().next().unwrap_or_default();
    text.contains(' ') || text.starts_with("-----") || first.starts_with("ssh-") || first.starts_with("ecdsa-")
}

/// Parses the keys in `text`. Blank lines and lines that begin with `#` are ignored. Several keys in one line are
/// separated by a comma, or by a backslash and an `n`.
pub(crate) fn parse(text: &[u8]) -> Result<Vec<Key>, KeyError> {
    let text = str::from_utf8(text).map_err(|_not_text| KeyError::Encoding)?;
    let mut keys = Vec::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if !line.is_empty() && !line.starts_with('#') {
            for entry in keys_of_line(line) {
                keys.push(key(entry).map_err(|reason| KeyError::Line { line: number, reason })?);
            }
        }
    }
    if keys.is_empty() { Err(KeyError::Empty) } else { Ok(keys) }
}

/// Returns the number of `keys` that are not among `others`.
pub(super) fn missing(keys: &[Key], others: &[Key]) -> usize {
    let others: HashSet<_> = others.iter().map(|key| &key.key).collect();
    keys.iter().filter(|key| !others.contains(&key.key)).count()
}

/// Removes duplicates from `keys`. The comment of the first one is kept.
pub(super) fn unique(keys: impl IntoIterator<Item = Key>) -> Vec<Key> {
    let mut seen = HashSet::new();
    keys.into_iter().filter(|key| seen.insert(key.key.clone())).collect()
}

fn key(line: &str) -> Result<Key, &'static str> {
    let (kind, rest) = word(line);
    if line.starts_with("-----BEGIN") || line.starts_with("PuTTY") {
        return Err("is a key file of another kind, perhaps a private key (use the line of the .pub file)");
    }
    let Some((_, strings)) = KEY_TYPES.iter().find(|(name, _)| *name == kind) else {
        let known = |word: &str| KEY_TYPES.iter().any(|(name, _)| *name == word);
        return Err(match line.split_ascii_whitespace().any(known) {
            true => "has options before the key, which cloud-init would not keep (take them away)",
            false => "is not a public SSH key (use ssh-ed25519, ssh-rsa, ecdsa-sha2-nistp* or sk-* and the key)",
        });
    };
    let (encoded, comment) = word(rest);
    let blob = STANDARD.decode(encoded).map_err(|_not_base64| "has a key that is cut or damaged (not base64)")?;
    check(&blob, kind, *strings)?;
    // YAML treats some of these as line separators, and does not allow the others.
    let unprintable = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}');
    if comment.contains(unprintable) {
        return Err("has control characters in its comment");
    }
    if has_key(comment) {
        return Err("has another key in its comment (put a line break, a ';' or a ',' between keys)");
    }
    Ok(Key { key: format!("{kind} {encoded}"), comment: comment.to_owned() })
}

/// Returns whether a comment contains another key. In base64 every key begins with `AAAA`, as it begins with the length
/// of its first string (RFC 4251, section 5).
fn has_key(comment: &str) -> bool {
    let words: Vec<_> = comment.split_ascii_whitespace().collect();
    let is_key =
        |pair: &[&str]| KEY_TYPES.iter().any(|(name, _)| pair[0].ends_with(name)) && pair[1].starts_with("AAAA");
    words.windows(2).any(is_key)
}

/// Returns the first word of `text`, and the rest.
fn word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_at(text.find([' ', '\t']).unwrap_or(text.len()));
    (word, rest.trim())
}

/// Checks that the decoded key is of the type `kind`, and has as many `strings` after the type as such keys have.
fn check(blob: &[u8], kind: &str, strings: usize) -> Result<(), &'static str> {
    const CUT: &str = "has a key that is cut or damaged";
    let (named, mut rest) = string(blob).ok_or(CUT)?;
    if named != kind.as_bytes() {
        return Err("has a key of another type than it says");
    }
    for _ in 0..strings {
        let (value, after) = string(rest).ok_or(CUT)?;
        if value.is_empty() {
            return Err(CUT);
        }
        rest = after;
    }
    if rest.is_empty() { Ok(()) } else { Err(CUT) }
}

/// Returns the first string (its length in four bytes, and as many bytes; RFC 4251, section 5), and the rest.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::{KeyError, STANDARD, parse, unique};
    use base64::Engine as _;
    use proptest::prelude::{any, proptest};

    /// Returns a key of `kind` with these strings, as ssh-keygen would write it.
    fn encoded(kind: &str, strings: &[&[u8]]) -> String {
        let all = std::iter::once(kind.as_bytes()).chain(strings.iter().copied());
        let blob = all.flat_map(|part| [&u32::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat());
        format!("{kind} {}", STANDARD.encode(blob.collect::<Vec<u8>>()))
    }

    fn lines(text: &str) -> Result<Vec<String>, KeyError> {
        parse(text.as_bytes()).map(|keys| unique(keys).iter().map(super::Key::line).collect())
    }

    fn reason(line: &str) -> String {
        lines(line).unwrap_err().to_string()
    }

    #[test]
    fn keys_of_every_type_keep_their_comments_and_come_once() {
        let ed = encoded("ssh-ed25519", &[&[7; 32]]);
        let all = [
            format!("{ed} joe@example.org  second"),
            encoded("ssh-rsa", &[&[1, 0, 1], &[0; 257]]),
            encoded("ecdsa-sha2-nistp384", &[b"nistp384", &[4; 97]]),
            encoded("sk-ssh-ed25519@openssh.com", &[&[7; 32], b"ssh:"]),
            encoded("sk-ecdsa-sha2-nistp256@openssh.com", &[b"nistp256", &[4; 65], b"ssh:"]) + " caf\u{e9}",
        ];
        let text = format!("# keys\r\n\r\n  {}\r\n{ed} again\n", all.join("\n"));
        assert_eq!(lines(&text), Ok(all.to_vec()));
    }

    #[test]
    fn several_keys_in_a_line_are_several_keys() {
        let [a, b] = [7, 8].map(|byte| encoded("ssh-ed25519", &[&[byte; 32]]));
        let expected = [format!("{a} joe, of sales"), format!("{b} ann; laptop, old")];
        for separator in [",", ", ", "\\n", "\n", " \\n "] {
            assert_eq!(lines(&(expected.join(separator) + separator)).as_deref(), Ok(&expected[..]), "{separator:?}");
        }
        assert_eq!(reason(&format!("\n{a},ssh-rsa s3cret!")), "line 2 has a key that is cut or damaged (not base64)");
    }

    #[test]
    fn what_is_no_key_is_refused_by_line_and_never_repeated() {
        let ed = encoded("ssh-ed25519", &[&[7; 32]]);
        let no_key = "is not a public SSH key (use ssh-ed25519, ssh-rsa, ecdsa-sha2-nistp* or sk-* and the key)";
        let cut = "has a key that is cut or damaged";
        let joined = "has another key in its comment (put a line break, a ';' or a ',' between keys)";
        let options = "has options before the key, which cloud-init would not keep (take them away)";
        for (line, expected) in [
            ("s3cret", no_key),
            ("ssh-dss AAAA", no_key),
            (&encoded("ssh-rsa-cert-v01@openssh.com", &[]), no_key),
            (&format!("restrict,command=\"x\" {ed}"), options),
            (
                "-----BEGIN OPENSSH PRIVATE KEY-----",
                "is a key file of another kind, perhaps a private key (use the line of the .pub file)",
            ),
            ("ssh-ed25519", cut),
            ("ssh-ed25519 s3cret!", "has a key that is cut or damaged (not base64)"),
            (&ed[..ed.len() - 4], cut),
            (&encoded("ssh-ed25519", &[&[7; 32], b"more"]), cut),
            (&encoded("ssh-ed25519", &[]), cut),
            (&ed.replace("ssh-ed25519", "ssh-rsa"), "has a key of another type than it says"),
            (&format!("{ed} a\u{2028}b"), "has control characters in its comment"),
            (&format!("{ed} joe {ed} ann"), joined),
            (&format!("{ed} joe|{ed}"), joined),
            (&format!("{ed} joe,restrict {ed}"), joined),
        ] {
            assert_eq!(reason(&format!("\n{line}")), format!("line 2 {expected}"), "{line}");
        }
        assert_eq!(parse(b"\xff"), Err(KeyError::Encoding));
        assert_eq!(parse(b"\n# none\n"), Err(KeyError::Empty));
    }

    proptest! {
        #[test]
        fn no_key_panics(blob in any::<Vec<u8>>()) {
            let _ = lines(&format!("ssh-rsa {}", STANDARD.encode(blob)));
        }
    }
}
