// SPDX-License-Identifier: BSD-2-Clause
//! Splits the lists in OS parameters into their entries. People separate them with line breaks, semicolons, commas,
//! blanks, or a `\n` that no shell has replaced by a line break.
//!
//! A character that may be part of an entry is a separator only if the beginning of another entry follows. Otherwise a
//! second key could get lost in the comment of the first one.

/// The types of keys that OpenSSH accepts for logins (ssh-keygen(1)), and the number of strings that follow the type in
/// each (RFC 4253, section 6.6; RFC 5656; RFC 8709; PROTOCOL.u2f). ssh-dss is left out, because OpenSSH has refused it
/// since 2015.
pub(super) const KEY_TYPES: [(&str, usize); 7] = [
    ("ssh-ed25519", 1),
    ("ssh-rsa", 2),
    ("ecdsa-sha2-nistp256", 2),
    ("ecdsa-sha2-nistp384", 2),
    ("ecdsa-sha2-nistp521", 2),
    ("sk-ssh-ed25519@openssh.com", 2),
    ("sk-ecdsa-sha2-nistp256@openssh.com", 3),
];

/// A separator that stands for a line break.
const ESCAPED: &str = "\\n";
/// The line lengths of base64(1) and openssl(1).
const WRAPPED: [usize; 2] = [76, 64];
/// The beginnings of entries that are not file names.
const STARTS: [&str; 3] = ["base64:", "https://", "http://"];

/// How far from a separator the type of a key is looked for, in bytes. Its options come before it. Without this bound the work
/// would grow with the square of the length of a line.
const OPTIONS: usize = 4096;

/// Returns the entries of a list of file names, URLs and `base64:` texts. None of them can contain a blank.
pub(super) fn documents(text: &str) -> Vec<&str> {
    split(text, |entry, separator, rest| match separator {
        " " | "\n" => !is_wrapped(entry, rest),
        "," => !entry.contains("://") || is_start(rest),
        _ => true,
    })
}

/// Returns the entries of a list that may also contain keys. Their options and comments may contain any character but
/// line breaks and `;`.
pub(super) fn keys_and_places(text: &str) -> Vec<&str> {
    split(text, |entry, separator, rest| match separator {
        " " => false,
        "\n" => !is_wrapped(entry, rest),
        ";" => true,
        _ if is_start(rest) || is_key(rest) => true,
        _ if words(beginning(entry)).any(|(_, word)| is_type(word)) || is_in_options(beginning(rest)) => false,
        "," => !entry.contains("://"),
        _ => true,
    })
}

/// Returns the keys in a line. There should be one, but there may be several. No key ends with separators, so one that is
/// written and read again stays the same.
pub(super) fn keys_of_line(line: &str) -> Vec<&str> {
    let keys =
        split(line, |_, separator, rest| matches!(separator, "," | ESCAPED) && (rest.is_empty() || is_key(rest)));
    keys.into_iter().map(without_separators).filter(|key| !key.is_empty()).collect()
}

fn without_separators(mut text: &str) -> &str {
    while let Some(shorter) = text.strip_suffix([',', ' ', '\t']).or_else(|| text.strip_suffix(ESCAPED)) {
        text = shorter;
    }
    text
}

/// Splits `text` at the separators for which `separates` is true. Its arguments are the entry before the separator, the
/// separator (`" "` for any blank, `"\n"` for any line break), and the rest of the text.
fn split(text: &str, separates: impl Fn(&str, &str, &str) -> bool) -> Vec<&str> {
    let (mut entries, mut start, mut at) = (Vec::new(), 0, 0);
    while at < text.len() {
        let Some((separator, len)) = separator(&text[at..]) else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
            continue;
        };
        // Only the last of many blanks is looked at, for what is on both sides of it is trimmed.
        if separator == " " && text[at + len..].starts_with([' ', '\t']) {
            at += len;
            continue;
        }
        if separates(text[start..at].trim(), separator, text[at + len..].trim_start()) {
            entries.push(&text[start..at]);
            start = at + len;
        }
        at += len;
    }
    entries.push(&text[start..]);
    entries.into_iter().map(str::trim).filter(|entry| !entry.is_empty()).collect()
}

/// Returns the separator at the beginning of `text`, and its length in bytes.
fn separator(text: &str) -> Option<(&'static str, usize)> {
    match text.as_bytes() {
        [b'\r' | b'\n', ..] => Some(("\n", 1)),
        [b' ' | b'\t', ..] => Some((" ", 1)),
        [b';', ..] => Some((";", 1)),
        [b',', ..] => Some((",", 1)),
        [b'\\', b'n', ..] => Some((ESCAPED, ESCAPED.len())),
        _ => None,
    }
}

/// Returns whether `rest` is empty, or begins with an entry that is not a file name.
fn is_start(rest: &str) -> bool {
    let begins = |start: &&str| rest.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start));
    rest.is_empty() || STARTS.iter().any(begins)
}

/// Returns whether `rest` begins with a key without options.
fn is_key(rest: &str) -> bool {
    let mut words = words(rest);
    words.next().is_some_and(|(at, word)| at == 0 && is_type(word)) && words.next().is_some()
}

/// Returns whether `rest` begins with options of a key, and that key follows.
fn is_in_options(rest: &str) -> bool {
    let line = rest.split(['\n', '\r', ';']).next().unwrap_or_default();
    let key = words(line).find(|(_, word)| is_type(word));
    let before = key.map(|(at, _)| line[..at].trim_end()).unwrap_or_default();
    !before.is_empty() && !before.ends_with(',') && !before.ends_with(ESCAPED)
}

fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(OPTIONS)]
}

/// Returns whether `entry` is the beginning of a base64 text that continues with the next line in `rest`.
fn is_wrapped(entry: &str, rest: &str) -> bool {
    let Some(encoded) = entry.strip_prefix(STARTS[0]) else { return false };
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'));
    let line = encoded.rsplit(|c: char| c.is_ascii_whitespace()).next().unwrap_or_default();
    let next = rest.split(|c: char| c.is_ascii_whitespace() || matches!(c, ',' | ';')).next().unwrap_or_default();
    let full = WRAPPED.contains(&line.len()) && plain(line);
    full && !next.is_empty() && next.len() <= line.len() && plain(next.trim_end_matches('='))
}

/// Returns whether `word` is the type of a key, even one that is not accepted.
fn is_type(word: &str) -> bool {
    KEY_TYPES.iter().any(|(name, _)| *name == word) || word == "ssh-dss" || word.ends_with("-cert-v01@openssh.com")
}

/// Returns the words of a text with their offsets in bytes.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let place = |word: &str| word.as_ptr().addr() - text.as_ptr().addr();
    text.split_ascii_whitespace().map(move |word| (place(word), word))
}

#[cfg(test)]
mod tests {
    use super::{documents, keys_and_places, keys_of_line};
    use proptest::prelude::proptest;

    #[test]
    fn documents_stand_between_anything_but_a_comma_in_a_url() {
        let expected = ["a.yaml", "b/c.yaml", "https://h/x?a=b,c", "base64:eA", "d.yaml"];
        for separator in [";", "\n", "\r\n", "; ", "\\n", " ;\n"] {
            assert_eq!(documents(&(expected.join(separator) + separator)), expected, "{separator:?}");
        }
        for separator in [",", ", ", " ", "\t"] {
            let [a, b, url, encoded, d] = expected;
            assert_eq!(documents(&[a, b, url, encoded, d].join(separator)), expected, "{separator:?}");
        }
        assert_eq!(
            documents("https://h/a,b https://h/c,HTTP://h/d,e"),
            ["https://h/a,b", "https://h/c", "HTTP://h/d,e"]
        );
        assert_eq!(documents(" ;, \n\\n"), [""; 0]);
    }

    #[test]
    fn base64_goes_on_behind_a_full_line_only() {
        for (width, joined) in [(76, true), (64, true), (75, false)] {
            for separator in ["\n", "\r\n", " "] {
                let line = "A".repeat(width);
                let text = format!("base64:{line}{separator}{line}{separator}QUE={separator}next.yaml");
                let first = &text[..text.len() - separator.len() - "next.yaml".len()];
                let expected = if joined { vec![first, "next.yaml"] } else { documents(&text) };
                assert_eq!(documents(&text), expected, "{width}");
                assert_eq!(documents(&text).len(), if joined { 2 } else { 4 });
                assert_eq!(keys_and_places(&text.replace(' ', "\n")).len(), if joined { 2 } else { 4 });
            }
        }
    }

    #[test]
    fn a_key_is_known_by_its_type_and_a_comma_elsewhere_is_its_own() {
        let [a, b, c] = ["ssh-ed25519 AAAA joe", "ecdsa-sha2-nistp256 BBBB ann, of sales", "ssh-dss CCCC"];
        for separator in [",", ", ", "\\n", "\n", "\r\n", ";", "; ", ",\n"] {
            let text = [a, b, c, "team.keys", "https://h/x,y", ""].join(separator);
            let places = matches!(separator, "\n" | "\r\n" | ";" | "; " | ",\n");
            let all = keys_and_places(&text);
            assert_eq!(all[..2], [a, b], "{separator:?}");
            assert_eq!(all.last(), Some(&"https://h/x,y"), "{separator:?}");
            assert_eq!(all.len(), if places { 5 } else { 4 }, "{separator:?}: what could be a comment stays one");
            if !matches!(separator, ";" | "; ") {
                let lines = [a, b, c].join(separator);
                assert_eq!(lines.lines().flat_map(keys_of_line).collect::<Vec<_>>(), [a, b, c], "{separator:?}");
            }
        }
        assert_eq!(keys_and_places("team.keys,joe.pub, ssh-rsa AAAA"), ["team.keys", "joe.pub", "ssh-rsa AAAA"]);
        let options = "from=\"192.0.2.1,192.0.2.2\",restrict ssh-ed25519 AAAA joe, ann";
        assert_eq!(keys_and_places(options), [options]);
        for comment in ["ssh-rsa AAAA joe,ssh-rsa", "ssh-rsa AAAA a,b\\nc", "ssh-rsa AAAA ssh-rsa,x"] {
            assert_eq!(keys_and_places(comment), [comment]);
            assert_eq!(keys_of_line(comment), [comment]);
        }
        assert_eq!(keys_of_line("ssh-rsa AAAA joe,,, \\n,"), ["ssh-rsa AAAA joe"]);
        assert_eq!(keys_of_line("ssh-rsa AAAA joe; https://h/,"), ["ssh-rsa AAAA joe; https://h/"]);
    }

    /// As long as a variable of the environment can be.
    #[test]
    fn long_lines_are_split_all_the_same() {
        let many = "a,".repeat(1 << 16);
        assert_eq!(keys_and_places(&many).len(), 1 << 16);
        let blanks = format!("a.keys;{}b.keys", " ".repeat(1 << 17));
        assert_eq!(keys_and_places(&blanks), ["a.keys", "b.keys"]);
        assert_eq!(documents(&blanks), ["a.keys", "b.keys"]);
        let comment = format!("ssh-rsa AAAA {many}joe");
        assert!(keys_and_places(&comment) == [comment.as_str()]);
        let options = format!("from=\"{}\" ssh-rsa AAAA joe", "192.0.2.1,".repeat(300));
        assert_eq!(keys_and_places(&options), [options.as_str()]);
    }

    proptest! {
        /// Whatever the text is, only separators are left out.
        #[test]
        fn nothing_gets_lost(text in "(ssh-rsa |AAAA|base64:|https://|[a-z]|[,; \t\n\r]|\\\\n|\\PC){0,12}") {
            let bare = |text: &str| text.replace(super::ESCAPED, "").replace([',', ';'], "").split_whitespace().collect::<String>();
            for entries in [documents(&text), keys_and_places(&text), keys_of_line(&text)] {
                assert_eq!(bare(&entries.concat()), bare(&text));
            }
        }
    }
}
