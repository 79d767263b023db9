// SPDX-License-Identifier: BSD-2-Clause
//! Every command of the README and the documents, run as it is written there, in the order of the document, by one reader on one node.
//!
//! The table (`rows.rs`) has a row for each command, so that a new command without one fails. The row says what has to be true afterwards, or
//! why the command can't run here and what runs it instead.

mod blocks;
mod ground;
mod rows;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use self::blocks::{Block, blocks, in_one_line};
use self::ground::Ground;
use crate::Case;
use crate::cluster::Cluster;

pub(crate) const CASES: &[Case] = &[
    ("documents_with_commands_are_all_in_the_table", all_are_listed),
    ("documents_readme", |cluster| follow(cluster, &rows::README)),
    ("documents_first_boot", |cluster| follow(cluster, &rows::FIRST_BOOT)),
    ("documents_reinstall", |cluster| follow(cluster, &rows::REINSTALL)),
    ("documents_backup", |cluster| follow(cluster, &rows::BACKUP)),
    ("documents_distributing", |cluster| follow(cluster, &rows::DISTRIBUTING)),
    ("documents_troubleshooting", |cluster| follow(cluster, &rows::TROUBLESHOOTING)),
    ("documents_migrating", |cluster| follow(cluster, &rows::MIGRATING)),
    ("documents_terminal", |cluster| follow(cluster, &rows::TERMINAL)),
    ("documents_security", |cluster| follow(cluster, &rows::SECURITY)),
    ("documents_benches", |cluster| follow(cluster, &rows::BENCHES)),
    ("documents_example_hooks", |cluster| follow(cluster, &rows::EXAMPLE_HOOKS)),
    ("documents_example_variants", |cluster| follow(cluster, &rows::EXAMPLE_VARIANTS)),
];

/// A document, what its reader has already, and its commands in their order.
struct Document {
    path: &'static str,
    before: fn(&Ground<'_>),
    rows: &'static [Row],
}

/// A command: how it begins, with all of its lines in one, and how it is run.
struct Row {
    begins: &'static str,
    run: Run,
}

enum Run {
    /// It succeeds, and then this holds; it is told what the command said. The text is typed when it asks.
    Here(&'static str, fn(&Ground<'_>, &str)),
    /// It fails, and then this holds.
    Fails(fn(&Ground<'_>, &str)),
    /// Why it can't run here, and what runs it.
    Elsewhere(&'static str),
}

const fn runs(begins: &'static str, then: fn(&Ground<'_>, &str)) -> Row {
    Row { begins, run: Run::Here("", then) }
}

const fn answered(begins: &'static str, answer: &'static str, then: fn(&Ground<'_>, &str)) -> Row {
    Row { begins, run: Run::Here(answer, then) }
}

const fn fails(begins: &'static str, then: fn(&Ground<'_>, &str)) -> Row {
    Row { begins, run: Run::Fails(then) }
}

const fn elsewhere(begins: &'static str, reason: &'static str) -> Row {
    Row { begins, run: Run::Elsewhere(reason) }
}

fn read(path: &str) -> Vec<Block> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    let text = text.unwrap_or_else(|error| panic!("reading {path}: {error}"));
    blocks(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The documents for administrators, as paths in the checkout.
fn documents() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = ["README.md", "benches/README.md", "example-hooks/README.md", "example-variants/README.md"];
    let docs = fs::read_dir(root.join("docs")).expect("reading docs/");
    let docs = docs.map(|entry| format!("docs/{}", entry.expect("reading docs/").file_name().to_string_lossy()));
    names.map(str::to_owned).into_iter().chain(docs.filter(|name| name.ends_with(".md"))).collect()
}

fn all_are_listed(_: &Cluster) {
    let with_blocks: BTreeSet<_> = documents().into_iter().filter(|path| !read(path).is_empty()).collect();
    let listed: BTreeSet<_> = rows::ALL.iter().map(|document| document.path.to_owned()).collect();
    assert_eq!(with_blocks, listed, "documents with commands, and those in tests/ganeti/documents/rows.rs");
    assert_eq!(CASES.len(), rows::ALL.len() + 1, "each document is a trial");
}

/// Does what a document says, from its first line to its last.
fn follow(cluster: &Cluster, document: &Document) {
    let ground = Ground::of(cluster);
    (document.before)(&ground);
    let mut rows = document.rows.iter();
    let mut said = String::new();
    for block in read(document.path) {
        match block {
            Block::Command(command) => said = perform(&ground, document.path, &command, rows.next()),
            Block::Said(lines) => assert_said(document.path, &lines, &said),
            Block::Settings(settings) => ground.takes(document.path, &settings),
        }
    }
    let left: Vec<_> = rows.map(|row| row.begins).collect();
    assert_eq!(left, [""; 0], "{} has no such commands any more", document.path);
    ground.clear();
}

/// Runs a command as its row says, and gives what it said.
fn perform(ground: &Ground<'_>, document: &str, command: &str, row: Option<&Row>) -> String {
    let line = in_one_line(command);
    let Some(row) = row.filter(|row| line.starts_with(row.begins)) else {
        panic!("{document}: the next row of its table in tests/ganeti/documents/rows.rs is not for: {line}");
    };
    let (is_ok, said, then) = match row.run {
        Run::Elsewhere(reason) => {
            eprintln!("{document}: not here: {line}: {reason}");
            return String::new();
        }
        Run::Here(answer, then) => {
            let (is_ok, said) = ground.types(command, answer);
            (is_ok, said, then)
        }
        Run::Fails(then) => {
            let (is_ok, said) = ground.types(command, "");
            (!is_ok, said, then)
        }
    };
    assert!(is_ok, "{document}: {command}\n{}:\n{said}", if said.is_empty() { "said nothing" } else { "said" });
    then(ground, &said);
    said
}

fn assert_said(document: &str, lines: &str, said: &str) {
    let missing: Vec<_> = lines.lines().filter(|line| !said.lines().any(|other| other == *line)).collect();
    assert_eq!(missing, [""; 0], "{document}: the command before says:\n{said}");
}
