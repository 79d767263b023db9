// SPDX-License-Identifier: BSD-2-Clause
//! What is in the cache's folder, by the names alone: one pass, in which no file is opened.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirEntryExt;
use std::path::Path;

use super::entry::{EntryFiles, Naming};
use super::error::CacheError;

/// The names of one entry that are there, and the inode numbers of the files. Whether they are regular files is not known
/// yet.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<(&'static str, u64)>);

impl Names {
    pub(super) fn has(&self, suffix: &str) -> bool {
        self.0.iter().any(|(name, _)| *name == suffix)
    }

    /// Whether all that is left is a lock file.
    pub(super) fn is_only_a_lock(&self) -> bool {
        self.0.iter().all(|(name, _)| *name == "lock")
    }

    pub(super) fn inodes(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|(_, inode)| *inode)
    }
}

/// All entries of which there is any file, in the order of their keys.
pub(super) fn scan(dir: &Path) -> Result<Vec<(EntryFiles, Names)>, CacheError> {
    let failed = CacheError::io("reading", dir);
    let mut found: BTreeMap<(String, Naming), Names> = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        let (name, inode) = (entry.file_name(), entry.ino());
        if let Some((key, naming, suffix)) = name.to_str().and_then(EntryFiles::parse_name) {
            found.entry((key.to_owned(), naming)).or_default().0.push((suffix, inode));
        }
    }
    let files = |((key, naming), names): ((String, Naming), Names)| (EntryFiles::of_key(dir, &key, naming), names);
    Ok(found.into_iter().map(files).collect())
}
