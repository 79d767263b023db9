// SPDX-License-Identifier: BSD-2-Clause
//! The documents name files that are there.

use std::fs::{read_dir, read_to_string};
use std::path::Path;

/// What of the tree a document may name in backquotes; `docs/` also in plain text and links.
const FOLDERS: [&str; 7] = ["benches/", "demo/", "docs/", "example-hooks/", "fuzz/", "src/", "tests/"];

fn named(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| c.is_whitespace() || "`()[],;:".contains(c));
    let words = words.map(|word| word.trim_end_matches(['.', '/']));
    // A pattern or a placeholder is no name.
    let is_path = |word: &&str| FOLDERS.iter().any(|folder| word.starts_with(folder)) && !word.contains(['*', '<']);
    words.filter(is_path).collect()
}

#[test]
fn files_that_documents_name_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let top =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"].map(|name| root.join(name));
    for document in docs.chain(top) {
        let text = read_to_string(&document).unwrap();
        for path in named(&text) {
            assert!(root.join(path).exists(), "{} names {path}", document.display());
        }
    }
}

#[test]
fn the_index_leads_to_every_document() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let index = read_to_string(docs.join("README.md")).unwrap();
    for entry in read_dir(&docs).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let link = format!("[{name}]({name})");
        assert!(name == "README.md" || index.contains(&link), "docs/README.md has no link {link}");
    }
}

/// The targets of links in Markdown that are files, with the heading in them, if one is named.
fn links(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let targets = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    let files = targets.filter(|target| !target.contains("://"));
    files.map(|target| target.split_once('#').map_or((target, None), |(file, heading)| (file, Some(heading))))
}

/// As GitHub makes the name of a heading.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    words.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
}

#[test]
fn links_lead_to_a_file_and_to_a_heading_in_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let names = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "benches/README.md"];
    for document in docs.chain(names.map(|name| root.join(name))).filter(|path| path.extension().unwrap() == "md") {
        let text = read_to_string(&document).unwrap();
        for (file, heading) in links(&text) {
            let target = if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            assert!(target.exists(), "{} links to {file}", document.display());
            let Some(heading) = heading else { continue };
            let there = read_to_string(&target).unwrap();
            let found = there.lines().any(|line| line.starts_with('#') && anchor(line) == heading);
            assert!(found, "{} links to {file}#{heading}", document.display());
        }
    }
}

/// For an administrator in a hurry; what does not fit has a place in docs/ or in a manual page.
#[test]
fn the_readme_and_the_architecture_are_short() {
    for (name, limit) in [("README.md", 10_000), ("ARCHITECTURE.md", 12_000)] {
        let len = read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap().len();
        assert!(len <= limit, "{name} has {len} bytes");
    }
}
