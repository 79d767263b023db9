// SPDX-License-Identifier: BSD-2-Clause
//! What is swapped to.

use std::fs::{File, read_link, read_to_string};
use std::path::{Path, PathBuf};

use super::mounts::{Mounts, unescaped};
use super::{descriptor_path, layers};
use crate::node::sys::{self, Identity};

/// The devices and files of proc_swaps(5).
#[derive(Debug)]
pub(super) struct Swaps(Vec<PathBuf>);

impl Swaps {
    /// Now.
    pub(super) fn now() -> Self {
        let table = read_to_string("/proc/swaps").unwrap_or_default();
        Swaps(table.lines().skip(1).filter_map(swap).collect())
    }

    /// Whether the block device is one.
    pub(super) fn has_device(&self, number: u64) -> bool {
        self.0.iter().any(|path| layers::block_device(path) == Some(number))
    }

    /// Whether the open file is one. Its name there is that of the mount namespace where swapping began.
    pub(super) fn has_file(&self, file: &File, identity: Identity, mounts: &Mounts) -> bool {
        let name = read_link(descriptor_path(file)).ok();
        let is_it = |path: &Path| {
            mounts.answers_at(path, Some(identity.file.0)) && sys::look(path).is_ok_and(|found| found == identity)
        };
        self.0.iter().any(|path| Some(path) == name.as_ref() || is_it(path))
    }
}

/// The path in a line. One of a mount namespace that is gone begins where /dev was mounted there.
fn swap(line: &str) -> Option<PathBuf> {
    let mut fields = line.split_whitespace();
    let (path, kind) = (fields.next()?, fields.next()?);
    let is_elsewhere = kind == "partition" && !path.starts_with("/dev/");
    Some(if is_elsewhere { format!("/dev{path}").into() } else { unescaped(path) })
}
