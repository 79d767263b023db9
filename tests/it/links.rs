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
    let top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root.join(name));
    for document in docs.chain(top) {
        let text = read_to_string(&document).unwrap();
        for path in named(&text) {
            assert!(root.join(path).exists(), "{} names {path}", document.display());
        }
    }
}

#[test]
fn the_readme_leads_to_every_document() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = read_to_string(root.join("README.md")).unwrap();
    for entry in read_dir(root.join("docs")).unwrap() {
        let link = format!("](docs/{})", entry.unwrap().file_name().into_string().unwrap());
        assert!(readme.contains(&link), "README.md has no link {link}");
    }
}
