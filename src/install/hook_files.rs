// SPDX-License-Identifier: BSD-2-Clause
//! Who else could have written what runs as a hook: the hooks' folder, what is in it, their interpreters, and the files of
//! the variant, which hooks read (`guest-root.sh`).

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::node::file::open_regular;
use crate::node::trust::{Untrusted, untrusted};

/// The kernel reads at most this much of a script's first line, in bytes (execve(2)).
const FIRST_LINE: u64 = 256;

/// An interpreter may be a script, and so on. The kernel follows no more of them (BINPRM_MAX_RECURSION).
const MAX_INTERPRETERS: usize = 5;

/// Interpreters below these folders are the system's, whose packages say who may write there.
const SYSTEM: [&str; 3] = ["/usr", "/bin", "/sbin"];

/// All places by which somebody else than root and the current user could change what the hooks in `folder` do, each once.
///
/// # Errors
/// A place that can't be looked at.
pub(crate) fn untrusted_places(folder: &Path) -> io::Result<Vec<Untrusted>> {
    let mut found = Found::default();
    found.look_at(folder)?;
    let hooks = files_in(folder);
    for hook in &hooks {
        found.look_at(hook)?;
        for interpreter in interpreters(hook) {
            found.look_at(&interpreter)?;
        }
    }
    if let Some(variant) = folder.parent().filter(|_| !hooks.is_empty()) {
        for file in files_in(variant).into_iter().filter(|path| !path.is_dir()) {
            found.look_at(&file)?;
        }
    }
    Ok(found.0)
}

#[derive(Default)]
struct Found(Vec<Untrusted>);

impl Found {
    fn look_at(&mut self, path: &Path) -> io::Result<()> {
        let found = untrusted(path)?.filter(|found| !self.0.contains(found));
        self.0.extend(found);
        Ok(())
    }
}

/// What is in `folder`, in name order. Nothing where it can't be read, which others say.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The programs that the script `hook` is run by, and files that its first line names besides, but for those of the system.
fn interpreters(hook: &Path) -> Vec<PathBuf> {
    let (mut all, mut scripts) = (Vec::new(), vec![hook.to_owned()]);
    for _ in 0..MAX_INTERPRETERS {
        let named: Vec<_> = scripts.iter().flat_map(|script| named_in(script)).collect();
        scripts.clone_from(&named);
        all.extend(named);
    }
    all
}

fn named_in(script: &Path) -> Vec<PathBuf> {
    let Some(line) = start(script).ok().as_deref().and_then(first_line) else { return Vec::new() };
    let words = line.split_ascii_whitespace().enumerate();
    // What follows the interpreter are files where they are absolute: env(1), a script for the interpreter.
    let paths = words.filter(|(index, word)| *index == 0 || word.starts_with('/')).map(|(_, word)| PathBuf::from(word));
    paths.filter(|path| !is_systems(path)).collect()
}

/// Whether `path` is the system's, as it is written and behind all links.
fn is_systems(path: &Path) -> bool {
    let is_below = |path: &Path| SYSTEM.iter().any(|folder| path.starts_with(folder));
    is_below(path) && path.canonicalize().is_ok_and(|path| is_below(&path))
}

/// As much of the hook as the kernel looks at to tell how it is run.
fn start(hook: &Path) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    open_regular(hook)?.take(FIRST_LINE).read_to_end(&mut start)?;
    Ok(start)
}

/// The first line of a script without its `#!`; none for a program. What is no text in it is replaced.
fn first_line(start: &[u8]) -> Option<String> {
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.strip_prefix(b"#!").map(|line| String::from_utf8_lossy(line).into_owned())
}

/// Why the kernel can't start the hook, as far as its first line tells (execve(2)).
///
/// # Errors
/// It can't be read.
pub(crate) fn why_not_started(hook: &Path) -> io::Result<Option<String>> {
    let start = start(hook)?;
    let Some(line) = first_line(&start) else {
        let script = "it is neither a program nor a script that begins with #!";
        return Ok((!start.starts_with(b"\x7fELF")).then(|| script.to_owned()));
    };
    let interpreter = line.trim_ascii_start().split([' ', '\t']).next().unwrap_or_default();
    Ok(match interpreter.strip_suffix('\r') {
        Some(meant) => Some(format!("its lines end as on Windows, so that {meant} is not found")),
        None if Path::new(interpreter).exists() => None,
        None => Some(format!("its interpreter {interpreter} does not exist")),
    })
}

#[cfg(test)]
mod tests {
    use super::interpreters;
    use std::fs::write;
    use std::path::PathBuf;

    #[test]
    fn interpreters_are_found_behind_each_other_and_those_of_the_system_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let shown = |name: &str| at(name).display().to_string();
        write(at("program"), "\x7fELF").unwrap();
        write(at("second"), format!("#!{} -x\n", shown("program"))).unwrap();
        let named = |line: &str| {
            write(at("hook"), line).unwrap();
            interpreters(&at("hook"))
        };
        assert_eq!(named(&format!("#! {} -x\n#!/nothing\n", shown("program"))), [at("program")]);
        assert_eq!(named(&format!("#!{}\n", shown("second"))), [at("second"), at("program")]);
        assert_eq!(named(&format!("#!/usr/bin/env -S {}\n", shown("program"))), [at("program")]);
        assert_eq!(named("#!interpreter"), [PathBuf::from("interpreter")]);
        for line in ["#!/bin/sh -e\n", "#!/usr/bin/env python3\n", "", "\x7fELF", "#!", "echo\n"] {
            assert_eq!(named(line), Vec::<PathBuf>::new(), "{line:?}");
        }
        assert_eq!(named(&format!("#!{}\n", shown("hook"))).len(), 5, "a circle ends");
        std::os::unix::fs::symlink(at("program"), at("link")).unwrap();
        assert_eq!(named(&format!("#!{}\n", shown("link"))), [at("link")]);
    }
}
