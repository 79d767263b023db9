// SPDX-License-Identifier: BSD-2-Clause
//! Which module imports which: the sources against the table below, and ARCHITECTURE.md against both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{read_dir, read_to_string};
use std::path::{Path, PathBuf};

/// Every module directly below `src/`, with the modules that it imports. A module may only import what stands further
/// down: the first line is the top.
const MODULES: [(&str, &[&str]); 27] = [
    ("main", &["applet", "cli", "env", "report", "sandbox", "script"]),
    (
        "fuzzing",
        &[
            "cache",
            "config",
            "device",
            "env",
            "http",
            "image",
            "partition",
            "report",
            "request",
            "seed",
            "signature",
            "size",
            "volume",
            "write",
        ],
    ),
    (
        "cli",
        &[
            "applet", "cache", "check", "config", "env", "http", "image", "ops", "process", "report", "request",
            "script", "size", "sys", "volume",
        ],
    ),
    ("check", &["applet", "cache", "config", "env", "hooks", "http", "process", "request", "signature", "size"]),
    ("script", &["applet", "config", "env", "ops", "report", "request", "sandbox"]),
    ("applet", &[]),
    (
        "ops",
        &[
            "cache",
            "device",
            "fingerprint",
            "hooks",
            "http",
            "image",
            "partition",
            "process",
            "report",
            "request",
            "sandbox",
            "seed",
            "signals",
            "signature",
            "size",
            "sys",
            "volume",
            "write",
        ],
    ),
    ("request", &["cache", "config", "env", "http", "image", "seed", "write"]),
    ("seed", &["env", "http", "size"]),
    ("env", &[]),
    ("config", &["http", "image", "partition", "report", "size", "write"]),
    ("image", &["cache", "fingerprint", "http", "partition", "size"]),
    ("cache", &["http", "report", "size", "sys"]),
    ("http", &["report", "size"]),
    ("hooks", &["device", "partition", "process", "report"]),
    ("write", &["device", "fingerprint", "partition", "process", "sandbox", "size"]),
    ("volume", &["device", "partition", "size"]),
    ("partition", &["device", "size"]),
    ("device", &["fingerprint", "size", "sys"]),
    ("signature", &["process", "sandbox"]),
    ("signals", &["process", "report", "sys"]),
    ("process", &["sys"]),
    ("sandbox", &["size", "sys"]),
    ("report", &["size"]),
    ("size", &[]),
    ("fingerprint", &[]),
    ("sys", &[]),
];

/// A Rust file below `src/`.
struct Source {
    path: PathBuf,
    /// The module directly below `src/` that it belongs to.
    module: String,
    /// How many modules it lies below the crate's root: 1 for `src/env.rs` and `src/ops/mod.rs`.
    depth: usize,
    /// Its lines without comments.
    lines: Vec<String>,
}

impl Source {
    fn read(path: &Path) -> Self {
        let relative = path.strip_prefix(src()).unwrap().with_extension("");
        let mut names: Vec<_> = relative.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
        if names.last().is_some_and(|name| name == "mod") {
            names.pop();
        }
        let text = read_to_string(path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).map(str::to_owned);
        Source { path: path.to_owned(), module: names[0].clone(), depth: names.len(), lines: code.collect() }
    }

    /// The modules below the root that it names in `crate::` paths (`main.rs`: `simpleimage::`). A grouped path from
    /// the root is an error: one line names one module.
    fn imports(&self) -> BTreeSet<String> {
        let root = if self.module == "main" { "simpleimage::" } else { "crate::" };
        let rests = self.lines.iter().flat_map(|line| line.match_indices(root).map(|(at, _)| &line[at + root.len()..]));
        let imports: BTreeSet<_> = rests.map(|rest| first_name(rest).to_owned()).collect();
        assert!(!imports.contains(""), "{}: write one `use {root}` line per module", self.path.display());
        imports.into_iter().filter(|name| *name != self.module).collect()
    }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn first_name(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// All Rust files below `src/` but `lib.rs`, which only lists the modules.
fn sources() -> Vec<Source> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    collect(&src(), &mut paths);
    paths.sort();
    paths.iter().filter(|path| **path != src().join("lib.rs")).map(|path| Source::read(path)).collect()
}

#[test]
fn the_table_has_every_module_and_points_down() {
    let modules: BTreeSet<_> = sources().into_iter().map(|source| source.module).collect();
    let names: Vec<_> = MODULES.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.iter().map(ToString::to_string).collect::<BTreeSet<_>>(), modules);
    for (place, (module, imports)) in MODULES.iter().enumerate() {
        for import in *imports {
            assert!(names[place + 1..].contains(import), "{module} imports {import}, which is not further down");
        }
    }
}

#[test]
fn modules_import_exactly_what_the_table_says() {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        found.entry(source.module.clone()).or_default().extend(source.imports());
    }
    for (module, imports) in MODULES {
        let allowed: BTreeSet<_> = imports.iter().map(ToString::to_string).collect();
        let new: Vec<_> = found[module].difference(&allowed).collect();
        let gone: Vec<_> = allowed.difference(&found[module]).collect();
        assert!(new.is_empty(), "src/{module} imports {new:?}: not in the table of {}", file!());
        assert!(gone.is_empty(), "src/{module} no longer imports {gone:?}: take it out of the table of {}", file!());
    }
}

/// `super::` up to the crate's root would be an arrow that the table does not see.
#[test]
fn no_path_reaches_the_root_through_super() {
    for source in sources() {
        let mut depth = source.depth;
        for line in &source.lines {
            // An inline module (the tests, mostly) is one deeper.
            match line.as_str() {
                "}" => depth = source.depth,
                _ if line.ends_with('{') && line.split(' ').any(|word| word == "mod") => depth = source.depth + 1,
                _ => {}
            }
            let reaches = line.contains(&"super::".repeat(depth));
            assert!(!reaches, "{}: `{}` reaches the crate's root", source.path.display(), line.trim());
        }
    }
}

#[test]
fn nothing_is_imported_by_glob() {
    for source in sources() {
        let glob = source.lines.iter().find(|line| line.contains("::*") && !line.contains("prelude::*"));
        assert_eq!(glob, None, "{}: name what is used", source.path.display());
    }
}

/// The rows `| module | imports | what it does |` of ARCHITECTURE.md, in the table's order.
#[test]
fn the_document_shows_the_same_table() {
    let text = read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|row| {
        let mut cells = row.split('|').map(str::trim);
        let name = cells.next()?.trim_end_matches('`').to_owned();
        let imports = cells.next()?.split([',', ' ']).filter(|import| !import.is_empty()).map(str::to_owned);
        Some((name, imports.collect::<Vec<_>>()))
    });
    let table = MODULES.map(|(name, imports)| (name.to_owned(), imports.iter().map(ToString::to_string).collect()));
    assert_eq!(rows.collect::<Vec<_>>(), table, "ARCHITECTURE.md and {} disagree", file!());
}

/// What it starts with is decided once: no signal blocked, none ignored.
#[test]
fn programs_are_started_in_one_place() {
    let starts = |source: &&Source| {
        let code = source.lines.iter().take_while(|line| !line.contains("#[cfg(test)]"));
        code.into_iter().any(|line| {
            [".spawn()", ".exec()", "command.output()", "command.status()"].iter().any(|call| line.contains(call))
        })
    };
    let mut all = sources();
    all.retain(|source| !source.path.ends_with("shell_tests.rs"));
    let places: Vec<_> = all.iter().filter(starts).map(|source| source.path.strip_prefix(src()).unwrap()).collect();
    assert_eq!(places, [Path::new("sys/start.rs")]);
}
