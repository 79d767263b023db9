// SPDX-License-Identifier: BSD-2-Clause
//! Which variants there are: a name that is none of them is mistyped, and must not get other settings in silence.
//!
//! create, verify and every command refuse such a name, and name the nearest. A variant that is listed but has no
//! folder has the site's settings. A folder without a line in the list is what Ganeti's `--force-variant` is for, and
//! `check` warns of it. import, export and rename do their work whatever the variant, for a backup must be restorable:
//! they only warn that no hooks were looked for.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::{ConfigError, Paths, VariantName};

/// The variants that there are.
#[derive(Debug, Default)]
pub(crate) struct Variants {
    /// Those that stand in `variants.list`: Ganeti offers them.
    pub(crate) offered: BTreeSet<VariantName>,
    /// Those that have a folder. Without a line in the list, Ganeti takes them with `--force-variant` only.
    pub(crate) configured: BTreeSet<VariantName>,
}

impl Variants {
    /// Looks at the list and at the folders. Where there is no list, `default` is offered, as in the list that is shipped:
    /// the tool works on machines without Ganeti. Lines and folders that are no variant's names are left out.
    ///
    /// # Errors
    /// [`ConfigError::Read`].
    pub(crate) fn of(paths: &Paths) -> Result<Self, ConfigError> {
        let list = paths.variants_list();
        let text = match fs::read_to_string(&list) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => "default".to_owned(),
            text => text.map_err(|reason| ConfigError::Read { path: list, reason })?,
        };
        let offered = VariantName::in_list(&text).filter_map(Result::ok).collect();
        let reading = |reason| ConfigError::Read { path: paths.config_dir.clone(), reason };
        Ok(Variants { offered, configured: folders(&paths.config_dir).map_err(reading)? })
    }

    /// All of them, in the order of their names.
    pub(crate) fn all(&self) -> impl Iterator<Item = &VariantName> {
        self.offered.union(&self.configured)
    }

    /// An error that names the nearest of them unless `variant` is one.
    pub(crate) fn check(&self, variant: &VariantName, paths: &Paths) -> Result<(), ConfigError> {
        if self.offered.contains(variant) || self.configured.contains(variant) {
            return Ok(());
        }
        let nearest = self.all().min_by_key(|known| misspelt(known.as_str(), variant.as_str())).cloned();
        Err(ConfigError::UnknownVariant { variant: variant.clone(), dir: paths.config_dir.clone(), nearest })
    }
}

/// By how many letters `name` is not `meant`, whatever their case; two that changed their places count as one.
pub(super) fn misspelt(meant: &str, name: &str) -> usize {
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

#[cfg(test)]
mod tests {
    use super::Variants;
    use crate::config::{Paths, VariantName};
    use std::fs::{create_dir_all, write};

    fn site(list: Option<&str>, folders: &[&str]) -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        create_dir_all(&paths.config_dir).unwrap();
        list.map_or(Ok(()), |text| write(paths.variants_list(), text)).unwrap();
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
}
