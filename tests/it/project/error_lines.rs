// SPDX-License-Identifier: BSD-2-Clause
//! The error lines in docs/troubleshooting.md against the code: what is quoted there is what the program can print.
//!
//! A quoted line is held against the format strings of `src/`. What stands in a hole of one has to be a placeholder,
//! which is all that has no small letter (`PATH`, `N`, `'X'`, `2 MiB`), or be printed by another format string.

use std::fs::{read_dir, read_to_string};
use std::path::Path;

use crate::install::checks::Published;
use crate::support::images::{MIB, disk};
use crate::support::world::World;

/// Words that others say: the C library, run-parts, a server.
const OF_OTHERS: [&str; 5] = [
    "No such file or directory",
    "Permission denied",
    "No space left on device",
    "run-parts: HOOK exited with return code",
    "404 Not Found",
];

/// So many bytes of a quoted line have to stand in the format string, or all of it: fewer would fit anywhere.
const EVIDENCE: usize = 6;

/// How deep messages stand in the holes of others.
const DEPTH: usize = 2;

/// A string of the source as `format!` understands it: texts, and `None` for what is filled in.
type Format = Vec<Option<String>>;

/// Reads the strings of Rust source.
struct Lexer<'s>(std::iter::Peekable<std::str::Chars<'s>>);

impl Lexer<'_> {
    fn strings(mut self) -> Vec<String> {
        let (mut found, mut before) = (Vec::new(), ' ');
        while let Some(c) = self.0.next() {
            match c {
                '/' if self.0.peek() == Some(&'/') => drop(self.0.find(|c| *c == '\n')),
                '"' => found.push(self.string(before == 'r')),
                '\'' if matches!(self.0.peek(), Some('"' | '\\')) => drop(self.0.nth(1)),
                _ => {}
            }
            before = c;
        }
        found
    }

    /// The rest of a string, in which backslashes may be plain characters.
    fn string(&mut self, raw: bool) -> String {
        let mut text = String::new();
        while let Some(c) = self.0.next().filter(|c| *c != '"') {
            match c {
                '\\' if !raw => match self.0.next() {
                    Some('\n') => while self.0.next_if(|c| c.is_whitespace()).is_some() {},
                    escaped => text.extend(escaped),
                },
                c => text.push(c),
            }
        }
        text
    }
}

/// The pieces of a format string. `{{` and `}}` are texts.
fn format(string: &str) -> Format {
    let (mut pieces, mut text, mut rest) = (Vec::new(), String::new(), string);
    while let Some(c) = rest.chars().next() {
        let hole = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).filter(|_| !rest.starts_with("{{"));
        if let Some((_, behind)) = hole {
            pieces.extend((!text.is_empty()).then(|| std::mem::take(&mut text)).map(Some));
            pieces.push(None);
            rest = behind;
        } else {
            text.push(c);
            let len = if rest.starts_with("{{") || rest.starts_with("}}") { 2 } else { c.len_utf8() };
            rest = &rest[len..];
        }
    }
    pieces.extend((!text.is_empty()).then_some(text).map(Some));
    pieces
}

/// All that the program may say.
struct Words(Vec<Format>);

impl Words {
    fn of_the_program() -> Self {
        let mut files = Vec::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
        let strings = files.iter().flat_map(|text| {
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            Lexer(code.chars().peekable()).strings()
        });
        let has_words = |string: &String| string.contains(char::is_alphabetic);
        let mut formats: Vec<_> = strings.filter(has_words).map(|string| format(&string)).collect();
        formats.sort_unstable();
        formats.dedup();
        Words(formats)
    }

    /// Whether the program can print a line with this in it. A line is one message, or several with colons between.
    fn can_say(&self, quote: &str) -> bool {
        let chain = quote.match_indices(": ").any(|(at, colon)| {
            let (left, right) = (&quote[..at], &quote[at + colon.len()..]);
            self.can_say(left) && (self.fills(right, true, 0) || self.can_say(right))
        });
        chain || self.0.iter().any(|format| self.has(format, quote))
    }

    /// Whether the quote is a part of what this format prints, beginning anywhere before a word.
    fn has(&self, format: &[Option<String>], quote: &str) -> bool {
        (0..format.len()).any(|start| {
            let behind = &format[start + 1..];
            let Some(text) = &format[start] else {
                return fixed(behind) >= EVIDENCE && self.matches(&format[start..], quote, true, 0);
            };
            let starts = text.char_indices().map(|(at, _)| text.split_at(at));
            starts.filter(|(before, _)| !before.ends_with(char::is_alphanumeric)).any(|(_, text)| {
                let enough = text.len() + fixed(behind) >= EVIDENCE || text == quote;
                let fits = match quote.strip_prefix(text) {
                    Some(rest) => self.matches(behind, rest, true, 0),
                    None => text.starts_with(quote),
                };
                enough && fits
            })
        })
    }

    /// Whether the format prints exactly this, or, when it may be `cut`, begins with it.
    fn matches(&self, format: &[Option<String>], line: &str, cut: bool, depth: usize) -> bool {
        match format {
            [] => line.is_empty(),
            _ if line.is_empty() => cut || fixed(format) == 0,
            [Some(text), rest @ ..] => match line.strip_prefix(text.as_str()) {
                Some(line) => self.matches(rest, line, cut, depth),
                None => cut && text.starts_with(line),
            },
            [None, rest @ ..] => (0..=line.len()).filter(|at| line.is_char_boundary(*at)).any(|at| {
                let (filling, line) = line.split_at(at);
                self.matches(rest, line, cut, depth) && self.fills(filling, cut && rest.is_empty(), depth)
            }),
        }
    }

    /// Whether this, or more when it may be `cut`, can stand where a format has a hole.
    fn fills(&self, text: &str, cut: bool, depth: usize) -> bool {
        let nested = |format: &Format| {
            let is_text = matches!(format.as_slice(), [Some(_)]);
            (is_text || depth < DEPTH && fixed(format) >= EVIDENCE) && self.matches(format, text, cut, depth + 1)
        };
        !text.replace("iB", "").contains(char::is_lowercase) || self.0.iter().any(nested)
    }
}

/// How many bytes of a format stand fast.
fn fixed(format: &[Option<String>]) -> usize {
    format.iter().flatten().map(String::len).sum()
}

/// The program's sources below `folder`, without what is only for tests.
fn collect(folder: &Path, found: &mut Vec<String>) {
    for entry in read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        match path.is_dir() {
            _ if name == "tests" || name.ends_with("_tests") => {}
            true => collect(&path, found),
            false if path.extension().is_some_and(|extension| extension == "rs") => {
                found.push(read_to_string(path).unwrap())
            }
            false => {}
        }
    }
}

/// What stands in backquotes in the first column of the tables of error lines; dots stand for more.
fn quotes(document: &str) -> Vec<String> {
    let text = read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
    let tables = text.split("| the line says |").skip(1).map(|table| table.split("\n\n").next().unwrap());
    let cells = tables.flat_map(str::lines).filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let quoted = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>());
    quoted.flat_map(|quote| quote.split("...").map(|part| part.trim().to_owned()).collect::<Vec<_>>()).collect()
}

fn unknown(words: &Words, document: &str) -> Vec<String> {
    let quotes = quotes(document);
    assert!(quotes.len() > 50, "{document}: {} lines", quotes.len());
    let ours = |quote: &String| OF_OTHERS.iter().fold(quote.clone(), |quote, theirs| quote.replace(theirs, "X"));
    quotes.into_iter().filter(|quote| !words.can_say(&ours(quote))).collect()
}

#[test]
fn the_document_quotes_what_the_program_says() {
    let document = "docs/troubleshooting.md";
    let unknown = unknown(&Words::of_the_program(), document);
    assert_eq!(unknown, [""; 0], "{document}: no format string in src/ prints this");
}

#[test]
fn what_nothing_prints_is_found() {
    let words = Words::of_the_program();
    let said = [
        "the image needs A but disk D has B",
        "image NAME is declared X but is Y",
        "image NAME is an HTML page",
        "URL: no data for N s",
        "opening image PATH: X",
    ];
    for line in said {
        assert!(words.can_say(line), "{line}");
    }
    let unsaid = [
        "the image needs A but the disk has B",
        "image NAME was declared X but is Y",
        "image NAME is an HTML pages",
        "no dates for N s",
        "opening image PATH: it snows",
        "the disc is full",
    ];
    for line in unsaid {
        assert!(!words.can_say(line), "{line}");
    }
}

/// `demo/terminal` writes the pictures; what they show is what there is.
#[test]
fn the_pictures_of_a_terminal_are_of_today() {
    let (world, server) = (World::new(), Published::new(&[("/a.raw", &disk(2 * MIB))]));
    let outcome = world.tool(&["fetch", &server.url("/a.raw")]).run();
    outcome.succeeds();
    let pictures = read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/terminal.md")).unwrap();
    let at_the_end = pictures.split("At the end:").nth(1).unwrap();
    for line in outcome.output().lines() {
        let label = line.split_once(' ').unwrap().0;
        assert!(at_the_end.contains(&format!("\n{label} ")), "{label} is not in docs/terminal.md: make terminal");
    }
    for words in ["\nfetching ", " are kept: the next run goes on from there", "error: ended by SIGINT\nnode1#\n"] {
        assert!(pictures.contains(words), "{words}: make terminal");
    }
}
