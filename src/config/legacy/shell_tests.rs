// SPDX-License-Identifier: BSD-2-Clause
//! Tests the shell syntax against a table and against bash itself.

use super::{LIVE, assignments, words};
use proptest::prelude::*;
use std::process::{Command, Stdio};

fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let found = assignments(text).map_err(|err| err.to_string())?;
    Ok(found.into_iter().map(|found| (found.key, found.value)).collect())
}

fn value(text: &str) -> String {
    let mut found = pairs(text).unwrap();
    assert_eq!(found.len(), 1, "{text}");
    found.remove(0).1
}

#[test]
fn values_are_what_a_shell_would_assign() {
    for (text, expected) in [
        ("A=b", "b"),
        ("A=", ""),
        ("  A=b  ", "b"),
        ("\texport\tA=b", "b"),
        ("export   A='b c'", "b c"),
        ("A=b # comment", "b"),
        ("A=b#c", "b#c"),
        ("A=#c", "#c"),
        ("A= #c", ""),
        ("A='a\"$(x)`y`;|&<>\\'", "a\"$(x)`y`;|&<>\\"),
        ("A=\"a'b;|&<>(){}~\"", "a'b;|&<>(){}~"),
        (r#"A="\$x \`y\` \"z\" \\ \n""#, r#"$x `y` "z" \ \n"#),
        (r"A=a\ b\$c\'d\\", r"a b$c'd\"),
        ("A='a'\"b\"c\\d", "abcd"),
        ("A=a\\\nb", "ab"),
        ("A=\"a\\\nb\"", "ab"),
        ("A='a\\\nb'", "a\\\nb"),
        ("A=\"a\nb\"", "a\nb"),
        ("A=b \\\n # comment", "b"),
        ("A=http://u:p@h:1/?x=*[a]!~", "http://u:p@h:1/?x=*[a]!~"),
        ("A=caf\u{e9}", "caf\u{e9}"),
        ("\\\nA=b", "b"),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
}

#[test]
fn comments_blank_lines_and_several_assignments() {
    let text = "# one\n\n  # two\nA=1\nexport B='2'\n\nA=3 # three\n#";
    let expected = [("A", "1"), ("B", "2"), ("A", "3")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(pairs(text), Ok(expected.into()));
    assert_eq!(pairs(""), Ok(Vec::new()));
    assert_eq!(pairs("\n # only this"), Ok(Vec::new()));
}

#[test]
fn defect_05_what_a_shell_would_execute_is_refused() {
    let rest = "would be expanded or executed by a shell, but here it is only data (write what it stands for, or put the \
                value into single quotes to mean the character)";
    for (text, shown) in [
        ("A=$(id)", "1:3: '$('"),
        ("A=b\nA=x${HOME}", "2:4: '${'"),
        ("A=$HOME", "1:3: '$'"),
        ("A=\"x $HOME\"", "1:6: '$'"),
        ("A=\"`id`\"", "1:4: '`'"),
        ("A=`id`", "1:3: '`'"),
        ("A=$'x'", "1:3: '$'"),
        ("A=(a b)", "1:3: '('"),
        ("A=b;id", "1:4: ';'"),
        ("A=b ; id", "1:5: ';'"),
        ("A=b|id", "1:4: '|'"),
        ("A=b & id", "1:5: '&'"),
        ("A=b >/etc/x", "1:5: '>'"),
        ("A=<(id)", "1:3: '<'"),
        ("A={1,2}", "1:3: '{'"),
        ("A=~/x", "1:3: '~'"),
        ("A=a:~/x", "1:5: '~'"),
    ] {
        assert_eq!(pairs(text), Err(format!("{shown} {rest}")), "{text}");
    }
}

#[test]
fn what_is_no_assignment_is_refused() {
    let message = "this line is no KEY=VALUE assignment: a shell would execute it, but here it is only data (remove it; a \
                   value with blanks needs quotes, and none stand around '=')";
    for text in [
        "id",
        "A = b",
        "A =b",
        "export A",
        "export",
        "A+=b",
        "A[0]=b",
        "1A=b",
        "=b",
        ". /etc/x",
        "[ -f x ] && A=b",
        "if true",
    ] {
        assert_eq!(pairs(text), Err(format!("1:1: {message}")), "{text}");
    }
    assert_eq!(pairs("A=b\n  readonly A=b"), Err(format!("2:3: {message}")));
}

#[test]
fn other_mistakes_have_their_message() {
    let more = "more text behind the value: a shell would execute it, but here it is only data (put a value with blanks into \
                quotes, and each assignment on its own line)";
    for (text, message) in [
        ("A=b s3cret", format!("1:5: {more}")),
        ("A=b C=d", format!("1:5: {more}")),
        ("A=b\nB='x\ny", "2:3: this quote is never closed".to_owned()),
        ("A=b\"x\\\"", "1:4: this quote is never closed".to_owned()),
        ("A=b\\", "1:4: a backslash at the end of the file continues nothing".to_owned()),
        ("A=b\r\n", "1:4: a carriage return (save the file with Unix line ends) is not allowed here".to_owned()),
        ("A=b\0", "1:4: a control character is not allowed here".to_owned()),
    ] {
        assert_eq!(pairs(text), Err(message), "{text}");
    }
}

#[test]
fn words_are_separated_by_blanks_outside_quotes() {
    let split = |text| words(text).map(|words| words.join("|"));
    assert_eq!(split(" -k\t-H 'X-A: b  c'\n--cacert=\"/a b\" ").as_deref(), Ok("-k|-H|X-A: b  c|--cacert=/a b"));
    assert_eq!(split(r#"-A "a \"b\" \\ $c" '' *"#).as_deref(), Ok(r#"-A|a "b" \ $c||*"#));
    assert_eq!(split("").as_deref(), Ok(""));
    for open in ["-H 'X", "-H \"X", "it's"] {
        assert_eq!(split(open), Err("a quote in it is never closed"));
    }
    let message = "a backslash in it is ambiguous (put that word into single quotes inside the value)";
    assert_eq!(split(r"-u dom\user:pw"), Err(message));
}

/// Returns the value of `A` that bash finds in `text`. The text must be harmless: bash runs without a PATH, in an
/// empty folder.
fn in_bash(text: &str, dir: &std::path::Path) -> Option<String> {
    let script = format!("{text}\nprintf %s \"$A\"");
    let mut bash = Command::new("/bin/bash");
    bash.args(["--norc", "--noprofile", "-c", &script]).current_dir(dir).env_clear().env("PATH", "/nonexistent");
    let output = bash.stdin(Stdio::null()).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// Returns whether `value` (the text after `A=`) contains something that a shell would expand or execute. This is a
/// second and very simple parser of quotes.
fn has_live_character(value: &str) -> bool {
    let (mut quote, mut escaped) = (None, false);
    for c in value.chars() {
        match (quote, c) {
            (_, _) if escaped => escaped = false,
            (Some('"') | None, '\\') => escaped = true,
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (Some('"'), '$' | '`') => return true,
            (None, _) if LIVE.contains(c) => return true,
            (None, ' ' | '\t' | '\n') => return false,
            _ => {}
        }
    }
    false
}

proptest! {
    #[test]
    fn never_panics(text in "\\PC{0,40}|[A-Za-z='\"\\\\$`;()#~ \t\r\n]{0,40}") {
        let _ = assignments(&text);
        let _ = words(&text);
    }

    #[test]
    fn an_unquoted_expansion_never_passes(value in "[ab'\"\\\\$`;|&<>(){}# \n]{0,14}") {
        if has_live_character(&value) {
            let message = pairs(&format!("A={value}")).unwrap_err();
            prop_assert!(message.contains("here it is only data") || message.contains("never closed"), "{}", message);
        }
    }

    #[test]
    fn single_quoted_values_come_back(value in "[^'\\p{Cc}]{0,40}") {
        prop_assert_eq!(pairs(&format!("A='{value}'")), Ok(vec![("A".to_owned(), value)]));
    }

    #[test]
    fn quoted_words_come_back(values in prop::collection::vec("[^'\\p{Cc}]{0,10}", 0..5)) {
        let text: Vec<_> = values.iter().map(|value| format!("'{value}'")).collect();
        prop_assert_eq!(words(&text.join(" ")), Ok(values));
    }

    #[test]
    fn bash_agrees_with_every_accepted_value(
        export in prop::sample::select(vec!["", "export "]),
        value in "[ab'\"\\\\$~:=#*{},! \n]{0,10}",
    ) {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("{export}A={value}");
        if let Ok(found) = pairs(&text) && let [(_, value)] = found.as_slice() {
            prop_assert_eq!(in_bash(&text, dir.path()), Some(value.clone()), "{}", text);
        }
    }
}
