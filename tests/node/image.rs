// SPDX-License-Identifier: BSD-2-Clause
//! The machine's kernel and root: made once, and kept until their recipe changes.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::recipe::Recipe;

const RECIPE: Recipe = Recipe {
    what: "machine",
    folder: "node/machine",
    // Another release of Debian makes another machine.
    files: &["init", "initramfs", "kernel", "make", "/etc/os-release"],
    kept: "node-machine",
    ending: "",
};

/// The folder with the files `kernel`, `initrd` and `root` of the current recipe, which stays. Made by whoever asks first. The error is
/// what went wrong, in words.
pub(crate) fn path() -> Result<&'static Path, String> {
    static MACHINE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    MACHINE.get_or_init(|| RECIPE.result()).as_deref().map_err(Clone::clone)
}
