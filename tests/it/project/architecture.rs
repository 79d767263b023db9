// SPDX-License-Identifier: BSD-2-Clause
//! Which room imports which: the sources against the table below, and ARCHITECTURE.md against both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{read_dir, read_to_string};
use std::path::{Path, PathBuf};

/// Every room below `src/`, and `fuzzing` in `fuzz/properties`, with the rooms that it imports. A room may only import what stands further down: the first line
/// is the top.
const ROOMS: [(&str, &[&str]); 11] = [
    ("main", &["cli", "ganeti", "node"]),
    ("fuzzing", &["config", "disk", "ganeti", "image", "node", "seed", "store"]),
    ("cli", &["config", "ganeti", "image", "install", "node", "seed", "store"]),
    ("ganeti", &["config", "disk", "image", "install", "node", "seed", "store"]),
    ("config", &["disk", "image", "node", "store"]),
    ("install", &["disk", "image", "node", "seed", "store"]),
    ("image", &["disk", "node", "store"]),
    ("seed", &["disk", "node", "store"]),
    ("store", &["node"]),
    ("disk", &["node"]),
    ("node", &[]),
];

/// A Rust file of a room.
struct Source {
    path: PathBuf,
    /// The room that it belongs to: a folder directly below `src/`, or a file.
    room: String,
    /// Its path in the crate: `main` for `src/main.rs`, `node` for `src/node/mod.rs`.
    names: Vec<String>,
    /// Its lines without comments.
    lines: Vec<String>,
}

impl Source {
    fn read(path: &Path) -> Self {
        let inside = path.strip_prefix(src()).map(Path::to_owned);
        // src/lib.rs has this folder as a module of another name.
        let inside = inside.unwrap_or_else(|_| Path::new("fuzzing").join(path.strip_prefix(properties()).unwrap()));
        let mut names: Vec<_> =
            inside.with_extension("").iter().map(|name| name.to_str().unwrap().to_owned()).collect();
        names.pop_if(|name| name == "mod");
        let text = read_to_string(path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).map(str::to_owned);
        Source { path: path.to_owned(), room: names[0].clone(), names, lines: code.collect() }
    }

    /// The rooms that it names in `crate::` paths (`main.rs`: `simpleimage::`). A grouped path from the root is
    /// an error: one line names one room.
    fn imports(&self) -> BTreeSet<String> {
        let root = if self.room == "main" { "simpleimage::" } else { "crate::" };
        let rests = self.lines.iter().flat_map(|line| line.match_indices(root).map(|(at, _)| &line[at + root.len()..]));
        let imports: BTreeSet<_> = rests.map(|rest| first_name(rest).to_owned()).collect();
        assert!(!imports.contains(""), "{}: write one `use {root}` line per room", self.path.display());
        imports.into_iter().filter(|name| *name != self.room).collect()
    }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn properties() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/properties")
}

fn first_name(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// All Rust files of the rooms, so not `lib.rs`, which only lists them.
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
    collect(&properties(), &mut paths);
    paths.sort();
    paths.iter().filter(|path| **path != src().join("lib.rs")).map(|path| Source::read(path)).collect()
}

#[test]
fn the_table_has_every_room_and_points_down() {
    let rooms: BTreeSet<_> = sources().into_iter().map(|source| source.room).collect();
    let names: Vec<_> = ROOMS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.iter().map(ToString::to_string).collect::<BTreeSet<_>>(), rooms);
    for (place, (room, imports)) in ROOMS.iter().enumerate() {
        for import in *imports {
            assert!(names[place + 1..].contains(import), "{room} imports {import}, which is not further down");
        }
    }
}

#[test]
fn rooms_import_exactly_what_the_table_says() {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        found.entry(source.room.clone()).or_default().extend(source.imports());
    }
    for (room, imports) in ROOMS {
        let allowed: BTreeSet<_> = imports.iter().map(ToString::to_string).collect();
        let new: Vec<_> = found[room].difference(&allowed).collect();
        let gone: Vec<_> = allowed.difference(&found[room]).collect();
        assert!(new.is_empty(), "src/{room} imports {new:?}: not in the table of {}", file!());
        assert!(gone.is_empty(), "src/{room} no longer imports {gone:?}: take it out of the table of {}", file!());
    }
}

/// `super::` up to the crate's root would be an arrow that the table does not see.
#[test]
fn no_path_reaches_the_root_through_super() {
    for source in sources() {
        let mut depth = source.names.len();
        for line in &source.lines {
            // An inline module (the tests, mostly) is one deeper.
            match line.as_str() {
                "}" => depth = source.names.len(),
                _ if line.ends_with('{') && line.split(' ').any(|word| word == "mod") => depth = source.names.len() + 1,
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

/// The rows `| room | imports | what lives there |` of ARCHITECTURE.md, in the table's order.
#[test]
fn the_document_shows_the_same_table() {
    let text = read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|row| {
        let mut cells = row.split('|').map(str::trim);
        let name = cells.next()?.trim_end_matches('`').to_owned();
        let imports = cells.next()?.split([',', ' ']).filter(|import| !import.is_empty()).map(str::to_owned);
        Some((name, imports.collect::<Vec<_>>()))
    });
    let table = ROOMS.map(|(name, imports)| (name.to_owned(), imports.iter().map(ToString::to_string).collect()));
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
    assert_eq!(places, [Path::new("node/sys/start.rs")]);
}

/// A module of a room: the room's name and its own, which is empty for what stands in the room itself.
type Module = (String, String);

/// The modules that the paths of a source lead to: those that begin with `crate` and those that begin with `super`.
fn modules_named_in(source: &Source, known: &BTreeSet<Vec<String>>) -> BTreeSet<Module> {
    let own = &source.names;
    let code: Vec<_> = source.lines.iter().take_while(|line| !line.contains("#[cfg(test)]")).cloned().collect();
    let code = without_groups(code.join("\n"));
    let words = code.split(|c| !is_of_path(c));
    let mut found = BTreeSet::new();
    for word in words {
        let ups = word.split("::").take_while(|name| *name == "super").count();
        let start = match word.split("::").next() {
            Some("crate") => Vec::new(),
            Some("super") => own[..own.len() - ups].to_vec(),
            _ => continue,
        };
        let rest = word.split("::").skip(ups.max(1)).filter(|name| !name.is_empty()).map(str::to_owned);
        let mut path: Vec<_> = start.into_iter().chain(rest).collect();
        while !path.is_empty() && !known.contains(&path) {
            path.pop();
        }
        found.extend(module_of(&path));
    }
    found.retain(|module| Some(module) != module_of(own).as_ref());
    found
}

fn is_of_path(c: char) -> bool {
    c.is_alphanumeric() || "_:".contains(c)
}

/// The code with `a::b a::c` instead of `a::{b, c}`; other braces are gone.
fn without_groups(mut code: String) -> String {
    while let Some(end) = code.find('}') {
        let Some(start) = code[..end].rfind('{') else {
            code.replace_range(end..=end, " ");
            continue;
        };
        let before = code[..start].rfind(|c| !is_of_path(c)).map_or(0, |at| at + 1);
        let prefix = code[before..start].to_owned();
        let inner = code[start + 1..end].to_owned();
        let expanded = match prefix.ends_with("::") {
            true => inner.split(',').map(|name| format!(" {prefix}{}", name.trim())).collect(),
            false => format!("{prefix} {inner} "),
        };
        code.replace_range(before..=end, &expanded);
    }
    code
}

fn module_of(path: &[String]) -> Option<Module> {
    Some((path.first()?.clone(), path.get(1).cloned().unwrap_or_default()))
}

/// Who reads one module of a circle has to read all of it.
#[test]
fn no_modules_import_one_another() {
    let all = sources();
    let known: BTreeSet<_> = all.iter().map(|source| source.names.clone()).collect();
    let mut arrows: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for source in &all {
        let module = module_of(&source.names).unwrap();
        arrows.entry(module).or_default().extend(modules_named_in(source, &known));
    }
    // Whatever imports nothing that is left can't be part of a circle.
    while let Some(last) = arrows.iter().find(|(_, to)| to.is_empty()).map(|(module, _)| module.clone()) {
        arrows.remove(&last);
        arrows.values_mut().for_each(|to| to.retain(|module| *module != last));
    }
    arrows.retain(|(_, module), _| !module.is_empty());
    assert!(arrows.is_empty(), "these import one another: {arrows:?}");
}
