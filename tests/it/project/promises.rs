// SPDX-License-Identifier: BSD-2-Clause
//! docs/promises.md against what it speaks of: every sentence of the documents stands in it, with tests that are there.

use std::fs::read_to_string;
use std::path::Path;

/// A sentence, and where it stands: the document and the section.
#[derive(Debug, PartialEq, Eq)]
struct Sentence {
    place: String,
    text: String,
}

/// Cuts a text into sentences: at the end of each, at the end of a paragraph, and where a list or a section begins.
struct Cutter {
    document: &'static str,
    section: String,
    paragraph: String,
    sentences: Vec<Sentence>,
}

impl Cutter {
    fn new(document: &'static str, section: &str) -> Self {
        Cutter { document, section: section.to_owned(), paragraph: String::new(), sentences: Vec::new() }
    }

    fn add(&mut self, text: &str) {
        self.paragraph.push(' ');
        self.paragraph.push_str(text);
    }

    fn end_paragraph(&mut self) {
        let text = plain(&std::mem::take(&mut self.paragraph));
        for sentence in text.split_inclusive(['.', '!', '?']).fold(Vec::<String>::new(), join) {
            let place = format!("{}, {}", self.document, self.section);
            self.sentences.push(Sentence { place, text: sentence.trim().to_owned() });
        }
    }

    fn finish(mut self) -> Vec<Sentence> {
        self.end_paragraph();
        self.sentences
    }
}

/// Adds a piece that ends at a mark to the sentence before, unless a blank says that this one was at its end.
fn join(mut sentences: Vec<String>, piece: &str) -> Vec<String> {
    match sentences.last_mut() {
        Some(last) if !piece.starts_with(' ') => last.push_str(piece),
        _ => sentences.push(piece.to_owned()),
    }
    sentences
}

/// Text without emphasis, quotes of code and targets of links, and with single blanks.
fn plain(text: &str) -> String {
    let mut pieces = text.split("](");
    let first = pieces.next().unwrap_or_default().to_owned();
    let linked = pieces.fold(first, |text, rest| text + rest.split_once(')').map_or(rest, |(_, rest)| rest));
    let bare = linked.replace(['*', '`', '[', ']'], "");
    bare.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The sentences of the README's section, whether a heading or a line begins it.
fn readme(text: &str) -> Vec<Sentence> {
    const SECTION: &str = "Why trust it";
    let mut cutter = Cutter::new("README.md", SECTION);
    let from_there = text.lines().skip_while(|line| !line.trim_start_matches(['#', ' ']).starts_with(SECTION));
    for line in from_there.skip(1).take_while(|line| !line.starts_with('#')) {
        let item = line.strip_prefix("- ");
        if line.is_empty() || item.is_some() {
            cutter.end_paragraph();
        }
        cutter.add(item.unwrap_or(line));
    }
    cutter.finish()
}

/// Sections of a manual page without sentences.
const LISTS: [&str; 3] = ["NAME", "SYNOPSIS", "SEE ALSO"];

/// The sentences of simpleimage-hooks(7), without its examples' code. What a list explains stands before the first one of its item.
fn hooks(page: &str) -> Vec<Sentence> {
    let mut cutter = Cutter::new("hooks(7)", "NAME");
    let mut is_code = false;
    for line in page.lines().filter(|line| !line.starts_with(".\\\"")) {
        let Some(words) = line.strip_prefix('.').map(|line| line.split(' ').collect::<Vec<_>>()) else {
            if !is_code {
                cutter.add(line);
            }
            continue;
        };
        match words[0] {
            "Bd" | "Ed" => is_code = words[0] == "Bd",
            "Sh" | "Ss" | "It" | "Pp" | "Bl" | "El" => {}
            "Dd" | "Dt" | "Os" | "Nm" | "Nd" => continue,
            _ => {
                cutter.add(&roff(&words));
                continue;
            }
        }
        cutter.end_paragraph();
        match words[0] {
            "Sh" | "Ss" => cutter.section = words[1..].join(" "),
            "It" => cutter.add(&format!("{}:", roff(&words[1..]))),
            _ => {}
        }
    }
    let mut sentences = cutter.finish();
    sentences.retain(|sentence| !LISTS.iter().any(|name| sentence.place.ends_with(name)));
    sentences
}

/// What a line of mdoc(7) looks like. Panics at a macro that is new here.
fn roff(words: &[&str]) -> String {
    let is_mark = |word: &&str| matches!(*word, "," | "." | ":" | ";");
    let marks = words.iter().rev().take_while(|word| is_mark(word)).count();
    let (words, marks) = words.split_at(words.len() - marks);
    let inner = match words {
        [] => String::new(),
        ["Dq", inner @ ..] => format!("\"{}\"", roff(inner)),
        ["Sq", inner @ ..] => format!("'{}'", roff(inner)),
        ["Pq", inner @ ..] => format!("({})", roff(inner)),
        ["Xr", page, section, rest @ ..] => glue(&format!("{page}({section})"), rest),
        ["Pa" | "Cm" | "Ev" | "Li" | "Ic", rest @ ..] => roff(rest),
        [word, ..] if word.len() == 2 && word.starts_with(|c: char| c.is_ascii_uppercase()) => {
            panic!("tests/it/project/promises.rs does not know the macro {word}")
        }
        [word, rest @ ..] => glue(word, rest),
    };
    inner + &marks.concat()
}

/// A word and what follows, with a blank between, but before a mark.
fn glue(word: &str, rest: &[&str]) -> String {
    let blank = if rest.is_empty() || matches!(rest[0], "," | "." | ":" | ";") { "" } else { " " };
    match rest {
        [mark @ ("," | "." | ":" | ";"), rest @ ..] => glue(&format!("{word}{mark}"), rest),
        _ => format!("{word}{blank}{}", roff(rest)),
    }
}

/// What docs/promises.md says.
struct Promises {
    /// With the tests that hold each, as `FILE: NAME`.
    rows: Vec<(Sentence, Vec<String>)>,
    explanations: Vec<Sentence>,
}

fn promises(document: &str) -> Promises {
    let (table, list) = document.split_once("\n## ").unwrap();
    let cells = table.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let cells = cells.map(|line| line.split(" | ").collect::<Vec<_>>()).skip(1);
    let rows = cells.map(|cells| {
        let [promise, place, tests] = cells[..] else { panic!("not three columns: {cells:?}") };
        let names = tests.split('`').skip(1).step_by(2).map(str::to_owned);
        (Sentence { place: place.to_owned(), text: plain(promise) }, names.collect())
    });
    let mut place = String::new();
    let mut explanations = Vec::new();
    for line in list.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            heading.clone_into(&mut place);
        } else if let Some(text) = line.strip_prefix("- ") {
            explanations.push(Sentence { place: place.clone(), text: plain(text) });
        }
    }
    Promises { rows: rows.collect(), explanations }
}

/// What is wrong with docs/promises.md, one line each.
fn complaints(document: &str, sentences: &[Sentence], is_there: impl Fn(&str) -> bool) -> Vec<String> {
    let Promises { rows, explanations } = promises(document);
    let mut found = Vec::new();
    for Sentence { place, text } in sentences {
        let places = |other: &&Sentence| other.place == *place && other.text == *text;
        match rows.iter().map(|(promise, _)| promise).chain(&explanations).filter(places).count() {
            1 => {}
            0 => found.push(format!("in neither the table nor the list ({place}): {text}")),
            count => found.push(format!("{count} times ({place}): {text}")),
        }
    }
    for sentence in rows.iter().map(|(promise, _)| promise).chain(&explanations) {
        if !sentences.contains(sentence) {
            found.push(format!("no longer stands there ({}): {}", sentence.place, sentence.text));
        }
    }
    for (Sentence { text, .. }, tests) in &rows {
        if tests.is_empty() {
            found.push(format!("nothing holds: {text}"));
        }
        found.extend(tests.iter().filter(|test| !is_there(test)).map(|test| format!("no such test: {test}")));
    }
    found
}

/// Whether `FILE: NAME` is a test: a function that is marked as one, or a trial of those that have a table of them.
fn is_a_test(test: &str) -> bool {
    let Some((file, name)) = test.split_once(": ") else { return false };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let Ok(text) = read_to_string(path) else { return false };
    let lines: Vec<_> = text.lines().map(str::trim_start).collect();
    let trial = format!("(\"{name}\",");
    let head = format!("fn {name}(");
    // Between the mark and the function there may be other attributes and comments.
    let is_marked = |line: usize| {
        let before = lines[..line].iter().rev().take_while(|line| line.starts_with(['#', '/']));
        before.into_iter().any(|line| *line == "#[test]")
    };
    lines.iter().enumerate().any(|(n, line)| line.starts_with(&trial) || line.starts_with(&head) && is_marked(n))
}

fn read(name: &str) -> String {
    read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn every_promise_has_tests_that_are_there() {
    let mut sentences = readme(&read("README.md"));
    assert!(sentences.len() > 10, "the README's section was not found: {sentences:?}");
    sentences.extend(hooks(&read("man/simpleimage-hooks.7")));
    let found = complaints(&read("docs/promises.md"), &sentences, is_a_test);
    assert!(found.is_empty(), "docs/promises.md:\n{}", found.join("\n"));
}

const README: &str = "# x\n\nNo promise.\n\n## Why trust it\n\n- **It *holds*.** Every `byte`,\n  of [all](x.md) 3.0.2.\n- It ends.\n\n## On\n\nNo.\n";
const PAGE: &str = ".\\\" A comment.\n.Sh NAME\n.Nm x\n.Sh DESCRIPTION\n.Xr a 8 , b\nruns\n.Pq Xr c 7 , Ev D , e ,\n.Dq f:\n\
    here.\n.Bl -tag\n.It Pa g/\nby\n.Cm h , i .\nAlso.\n.El\n.Bd -literal\nNo.\n.Ed\n.Ss Rules\nThe\n.Sq _\nend\n";

#[test]
fn sentences_are_cut_where_they_end() {
    let texts =
        |all: Vec<Sentence>| all.into_iter().map(|one| format!("{}: {}", one.place, one.text)).collect::<Vec<_>>();
    let place = "README.md, Why trust it: ";
    assert_eq!(
        texts(readme(README)),
        ["It holds.", "Every byte, of all 3.0.2.", "It ends."].map(|text| format!("{place}{text}"))
    );
    let expected = [
        "hooks(7), DESCRIPTION: a(8), b runs (c(7), D, e), \"f:\" here.",
        "hooks(7), DESCRIPTION: g/: by h, i.",
        "hooks(7), DESCRIPTION: Also.",
        "hooks(7), Rules: The '_' end",
    ];
    assert_eq!(texts(hooks(PAGE)), expected);
}

#[test]
fn whatever_is_wrong_is_found() {
    let table = "| promise | where | tests |\n|---|---|---|\n\
        | **It holds.** | README.md, Why trust it | `tests/it/project/promises.rs: whatever_is_wrong_is_found` |\n\
        | Every `byte`, of all 3.0.2. | README.md, Why trust it | `tests/boot/trials.rs: an_administrator_logs_in_by_ssh` |\n";
    let list = "\n## Explanations\n\n### README.md, Why trust it\n\n- It ends.\n";
    let judge = |table: &str, list: &str| complaints(&format!("{table}{list}"), &readme(README), is_a_test);
    assert_eq!(judge(table, list), [""; 0]);
    for (from, to, complaint) in [
        ("holds.", "held.", "no longer stands there (README.md, Why trust it): It held."),
        ("holds.", "held.", "in neither the table nor the list (README.md, Why trust it): It holds."),
        ("It holds.", "It ends.", "2 times (README.md, Why trust it): It ends."),
        ("README.md,", "hooks(7),", "no longer stands there (hooks(7), Why trust it): It holds."),
        ("whatever_is", "nothing_is", "no such test: tests/it/project/promises.rs: nothing_is_wrong_is_found"),
        // A function, and no test.
        ("whatever_is_wrong_is_found", "is_a_test", "no such test: tests/it/project/promises.rs: is_a_test"),
        ("promises.rs", "promise.rs", "no such test: tests/it/project/promise.rs: whatever_is_wrong_is_found"),
        ("an_administrator", "somebody", "no such test: tests/boot/trials.rs: somebody_logs_in_by_ssh"),
        ("`tests/it/project/promises.rs: whatever_is_wrong_is_found`", "none", "nothing holds: It holds."),
    ] {
        let found = judge(&table.replacen(from, to, 1), list);
        assert!(found.iter().any(|line| line == complaint), "{complaint}: {found:?}");
    }
    let found = judge(table, &list.replace("ends", "began"));
    assert_eq!(found.len(), 2, "{found:?}");
}
