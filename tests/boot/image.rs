// SPDX-License-Identifier: BSD-2-Clause
//! The image that is installed: made once, and kept until its recipe changes.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::recipe::Recipe;

const RECIPE: Recipe = Recipe {
    what: "image",
    folder: "boot/image",
    files: &["cloud.cfg", "extlinux.conf", "initramfs", "make", "report", "report.service"],
    kept: "boot-image",
    ending: ".qcow2",
};

/// The image of the current recipe, as a file that stays. Made by whoever asks first.
pub(crate) fn path() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| RECIPE.result().unwrap_or_else(|error| panic!("{error}")))
}
