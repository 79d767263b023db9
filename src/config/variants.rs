// SPDX-License-Identifier: BSD-2-Clause
//! The names of variants, the variants that exist, and files in their folders with a mistyped name.
//!
//! An unknown name is most likely mistyped, and must not silently get other settings. So `create`, `verify` and every
//! command refuse it, and name the nearest variant. A variant that is listed but has no folder has the site's
//! settings. A folder without a line in the list is for Ganeti's `--force-variant`, and `check` warns about it.
//! `import`, `export` and `rename` work for every variant, because it must always be possible to restore a backup.
//! They only warn that no hooks were looked for.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fs, io};

use super::{ConfigError, HookPhase, Paths, file};

/// The variants that exist.
#[derive(Debug, Default)]
pub(crate) struct Variants {
    /// The variants in `variants.list`, which Ganeti offers.
    pub(crate) offered: BTreeSet<VariantName>,
    /// The variants that have a folder. Ganeti uses one without a line in the list only with `--force-variant`.
    pub(crate) configured: BTreeSet<VariantName>,
}

impl Variants {
    /// Reads the list and the folders. Without a list, `default` is offered, as in the list of the package, because
    /// the tool also works on machines without Ganeti. Lines and folders with an invalid name are left out.
    ///
    /// # Errors
    /// [`ConfigError::Read`] for a list or a folder that can't be read, [`ConfigError::Unsafe`] if others may write to
    /// the list or a folder above it.
    pub(crate) fn of(paths: &Paths) -> Result<Self, ConfigError> {
        let text = file::read(&paths.variants_list())?.unwrap_or_else(|| "default".to_owned());
        let offered = VariantName::in_list(&text).filter_map(Result::ok).collect();
        let reading = |reason| ConfigError::Read { path: paths.config_dir.clone(), reason };
        Ok(Variants { offered, configured: folders(&paths.config_dir).map_err(reading)? })
    }

    /// Returns all variants, in the order of their names.
    pub(crate) fn all(&self) -> impl Iterator<Item = &VariantName> {
        self.offered.union(&self.configured)
    }

    /// Fails if `variant` does not exist. The error names the nearest one.
    pub(crate) fn check(&self, variant: &VariantName, paths: &Paths) -> Result<(), ConfigError> {
        if self.offered.contains(variant) || self.configured.contains(variant) {
            return Ok(());
        }
        let nearest = self.all().min_by_key(|known| misspelt(known.as_str(), variant.as_str())).cloned();
        Err(ConfigError::UnknownVariant { variant: variant.clone(), dir: paths.config_dir.clone(), nearest })
    }
}

/// Counts the letters in which `name` differs from `meant`. Upper and lower case are the same. Two letters that
/// changed their places count as one.
fn misspelt(meant: &str, name: &str) -> usize {
    strsim::damerau_levenshtein(&meant.to_ascii_lowercase(), &name.to_ascii_lowercase())
}

fn folders(dir: &Path) -> io::Result<BTreeSet<VariantName>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries?,
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().and_then(|name| VariantName::parse(&name).ok());
        found.extend(name.filter(|_| entry.path().is_dir()));
    }
    Ok(found)
}

/// The names in a variant's folder that are read, without the folders of hooks.
const FILES: [&str; 4] = ["config.toml", "config", "keyring.gpg", "user-data"];

/// Names that people use for folders of hooks by mistake, each with the right name.
const OTHER_NAMES: [(&str, HookPhase); 4] = [
    ("hooks.post", HookPhase::Create),
    ("hooks.create", HookPhase::Create),
    ("pre-hooks", HookPhase::Pre),
    ("post-hooks", HookPhase::Create),
];

/// The largest number of differing letters of a mistyped name. A name that differs more means something else.
const MISTYPED: usize = 2;

/// Finds the entries in the folder of `variant` that nothing reads, but whose names are similar to one that is read.
/// With a mistyped `hooks.pre` a veto gets lost, and with a mistyped `config.toml` a policy. Each entry comes with
/// the name that is read. The entries are in the order of their own names. There are none in a folder that can't be
/// read.
pub(crate) fn mistyped_names(paths: &Paths, variant: &VariantName) -> Vec<(PathBuf, &'static str)> {
    let folder = paths.variant_dir(variant);
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<_> = names.filter_map(|name| Some((folder.join(&name), intended_name(&name)?))).collect();
    found.sort();
    found
}

/// Returns the name that is read and that `name` is similar to, if there is one.
fn intended_name(name: &str) -> Option<&'static str> {
    let known = || FILES.into_iter().chain(HookPhase::ALL.map(HookPhase::dir_name));
    // Editors leave such files behind, and hidden files are no mistakes.
    if known().any(|known| known == name) || name.starts_with(['.', '#']) || name.ends_with('~') {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    if let Some((_, phase)) = OTHER_NAMES.iter().find(|(name, _)| *name == lower) {
        return Some(phase.dir_name());
    }
    known().min_by_key(|known| misspelt(known, name)).filter(|known| misspelt(known, name) <= MISTYPED)
}

/// The largest length of a name in bytes. Linux allows no longer name for a folder (NAME_MAX).
const MAX_BYTES: usize = 255;
/// The number of characters of an invalid name that an error repeats.
const SHOWN_CHARS: usize = 64;

/// The name of a variant, which is safe as the name of a folder. Ganeti writes it after the `+`, as in
/// `simpleimage+default`.
///
/// The name begins with an ASCII letter or digit. Letters, digits, `.`, `_` and `-` follow. It has at most 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct VariantName(String);

/// The reason why a text is no [`VariantName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VariantNameError {
    /// There is no variant, because the instance's OS is only `simpleimage`.
    #[error("OS_VARIANT is empty: use -o simpleimage+default")]
    Empty,
    /// The name has more bytes than the name of a folder may have.
    #[error("the variant name '{0}' is longer than 255 bytes: use a shorter one, as in -o simpleimage+default")]
    TooLong(String),
    /// The name has an invalid character. The text is escaped.
    #[error(
        "'{0}' is not a variant name: use ASCII letters, digits, '.', '_' and '-', starting with a letter or digit, \
         as in -o simpleimage+default"
    )]
    Malformed(String),
}

impl VariantName {
    /// Parses the value of `OS_VARIANT`.
    ///
    /// # Errors
    /// [`VariantNameError`] for an empty, overlong or malformed name.
    pub(crate) fn parse(text: &str) -> Result<Self, VariantNameError> {
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        match text.chars().next() {
            None => Err(VariantNameError::Empty),
            Some(first) if !first.is_ascii_alphanumeric() || !text.chars().all(word) => {
                Err(VariantNameError::Malformed(escaped(text)))
            }
            Some(_) if text.len() > MAX_BYTES => Err(VariantNameError::TooLong(escaped(text))),
            Some(_) => Ok(VariantName(text.to_owned())),
        }
    }

    /// Parses the names in the text of a `variants.list` in the same way as Ganeti: each line has one name, and `#`
    /// begins a comment line.
    pub(crate) fn in_list(text: &str) -> impl Iterator<Item = Result<Self, VariantNameError>> {
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(Self::parse)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

fn escaped(text: &str) -> String {
    let shown: String = text.chars().take(SHOWN_CHARS).flat_map(char::escape_default).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() { shown + "..." } else { shown }
}

impl FromStr for VariantName {
    type Err = VariantNameError;

    fn from_str(text: &str) -> Result<Self, VariantNameError> {
        Self::parse(text)
    }
}

impl fmt::Display for VariantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<Path> for VariantName {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{VariantName, Variants, intended_name};
    use crate::config::Paths;
    use proptest::prelude::*;
    use std::fs::{create_dir_all, write};

    fn site(list: Option<&str>, folders: &[&str]) -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        create_dir_all(&paths.config_dir).unwrap();
        if let Some(text) = list {
            write(paths.variants_list(), text).unwrap();
        }
        folders.iter().for_each(|name| create_dir_all(paths.config_dir.join(name)).unwrap());
        (dir, paths)
    }

    fn check(list: Option<&str>, folders: &[&str], variant: &str) -> Result<(), String> {
        let (_dir, paths) = site(list, folders);
        let known = Variants::of(&paths).unwrap();
        let told = known.check(&VariantName::parse(variant).unwrap(), &paths).map_err(|err| err.to_string());
        told.map_err(|text| text.replace(&format!("{}", paths.config_dir.display()), "DIR"))
    }

    #[test]
    fn a_variant_is_listed_or_has_a_folder() {
        let list = Some("# ours\ndefault\n debian-12 \n");
        for variant in ["default", "debian-12", "unlisted"] {
            assert_eq!(check(list, &["unlisted"], variant), Ok(()), "{variant}");
        }
        assert_eq!(check(None, &[], "default"), Ok(()), "the list that is shipped");
        let refused = |variant: &str, nearest: &str| {
            Err(format!(
                "there is no variant {variant}, neither a folder in DIR nor a line in variants.list there (the nearest is \
                 {nearest}; simpleimage variants list shows all)"
            ))
        };
        for (variant, nearest) in [
            ("debain-12", "debian-12"),
            ("Debian-12", "debian-12"),
            ("debian12", "debian-12"),
            ("defualt", "default"),
            ("unlsited", "unlisted"),
        ] {
            assert_eq!(check(list, &["unlisted"], variant), refused(variant, nearest));
        }
        assert_eq!(check(Some("web\n"), &[], "default"), refused("default", "web"), "the list does not have it");
        assert_eq!(check(None, &[], "web"), refused("web", "default"));
        let none =
            "there is no variant web, neither a folder in DIR nor a line in variants.list there (there is none at all)";
        assert_eq!(check(Some("# nothing\n"), &[], "web"), Err(none.to_owned()));
    }

    #[test]
    fn what_cannot_be_a_variant_is_left_out() {
        let (_dir, paths) = site(Some("a b\n-x\nweb\n"), &["ok", ".git", "a b"]);
        write(paths.config_dir.join("file"), "").unwrap();
        let known = Variants::of(&paths).unwrap();
        assert_eq!(known.all().map(VariantName::as_str).collect::<Vec<_>>(), ["ok", "web"]);
    }
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
            assert_eq!(intended_name(name), Some(known), "{name}");
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
        assert!(own.iter().all(|name| intended_name(name).is_none()));
    }

    #[test]
    fn takes_the_names_that_folders_have() {
        for name in ["default", "0", "debian-12.5_amd64", "a..b", "X", &"a".repeat(255)] {
            assert_eq!(VariantName::parse(name).map(|variant| variant.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn defect_05_a_name_never_leaves_the_config_folder() {
        for (text, shown) in [
            ("../evil", "'../evil'"),
            (".", "'.'"),
            ("..", "'..'"),
            ("-x", "'-x'"),
            ("a/b", "'a/b'"),
            ("/etc", "'/etc'"),
            (" default", "' default'"),
            ("default\n", "'default\\n'"),
            ("a\0", "'a\\u{0}'"),
            ("caf\u{e9}", "'caf\\u{e9}'"),
            (&"/".repeat(300), &format!("'{}...'", "/".repeat(64))),
        ] {
            let message = VariantName::parse(text).unwrap_err().to_string();
            let rest = " is not a variant name: use ASCII letters, digits, '.', '_' and '-', starting with a letter or \
                        digit, as in -o simpleimage+default";
            assert_eq!(message, format!("{shown}{rest}"));
        }
    }

    #[test]
    fn an_empty_name_and_a_long_one_have_their_own_message() {
        let message = |text: &str| VariantName::parse(text).unwrap_err().to_string();
        assert_eq!(message(""), "OS_VARIANT is empty: use -o simpleimage+default");
        let long = message(&"a".repeat(256));
        let shown = "a".repeat(64);
        assert!(long.starts_with(&format!("the variant name '{shown}...' is longer than 255 bytes")), "{long}");
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_one_folder_below(text in "\\PC{0,8}|[./a-]{0,6}") {
            if let Ok(variant) = VariantName::parse(&text) {
                let path = std::path::Path::new("/etc").join(&variant);
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("/etc")));
                prop_assert_eq!(path.file_name().and_then(|name| name.to_str()), Some(text.as_str()));
            }
        }
    }
}
