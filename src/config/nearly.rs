// SPDX-License-Identifier: BSD-2-Clause
//! What in a variant's folder is nearly called as what is read there: a mistyped `hooks.pre` loses a veto, a mistyped
//! `config.toml` a policy.

use std::path::PathBuf;

use super::known::misspelt;
use super::{HookPhase, Paths, VariantName};

/// What is read besides the folders of hooks.
const FILES: [&str; 4] = ["config.toml", "config", "keyring.gpg", "user-data"];

/// What people take for folders of hooks, and what they mean.
const BELIEVED: [(&str, HookPhase); 4] = [
    ("hooks.post", HookPhase::Create),
    ("hooks.create", HookPhase::Create),
    ("pre-hooks", HookPhase::Pre),
    ("post-hooks", HookPhase::Create),
];

/// So many letters more, less or other are mistyped, and more mean something else.
const MISTYPED: usize = 2;

/// The entries of the folder of `variant` that nothing reads though their names are nearly those of what is read, each with
/// that name; in the order of their names. A folder that can't be read has none.
pub(crate) fn nearly_read(paths: &Paths, variant: &VariantName) -> Vec<(PathBuf, &'static str)> {
    let folder = paths.variant_dir(variant);
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<_> = names.filter_map(|name| Some((folder.join(&name), meant(&name)?))).collect();
    found.sort();
    found
}

/// What is meant by `name`, if that is nearly the name of something that is read.
fn meant(name: &str) -> Option<&'static str> {
    let known = || FILES.into_iter().chain(HookPhase::ALL.map(HookPhase::dir_name));
    // What editors leave, and what is hidden.
    if known().any(|known| known == name) || name.starts_with(['.', '#']) || name.ends_with('~') {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    if let Some((_, phase)) = BELIEVED.iter().find(|(believed, _)| *believed == lower) {
        return Some(phase.dir_name());
    }
    known().min_by_key(|known| misspelt(known, name)).filter(|known| misspelt(known, name) <= MISTYPED)
}

#[cfg(test)]
mod tests {
    use super::meant;

    #[test]
    fn only_what_is_mistyped_is_meant() {
        for (name, known) in [
            ("Hooks", "hooks"),
            ("hook", "hooks"),
            ("hooks.post", "hooks"),
            ("hooks-pre", "hooks.pre"),
            ("hooks.imports", "hooks.import"),
            ("confg.toml", "config.toml"),
            ("config.yaml", "config.toml"),
            ("user_data", "user-data"),
            ("keyring.pgp", "keyring.gpg"),
        ] {
            assert_eq!(meant(name), Some(known), "{name}");
        }
        let own = [
            "hooks.pre",
            "config",
            "guest-root.sh",
            "README",
            "hooks.disabled",
            "config.toml~",
            ".config.toml.swp",
            "notes",
        ];
        assert!(own.iter().all(|name| meant(name).is_none()));
    }
}
