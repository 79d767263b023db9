// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage inspect`.

use std::io::Write;
use std::path::Path;

use anyhow::Context;

use crate::image::format::Formats;
use crate::image::source::{Expected, ImageFile};

/// Writes what the image is to `out`; the same gate as `create` decides, and its refusals are errors here too.
pub(super) fn inspect(path: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let image = ImageFile::open(path)?;
    // It knows no variant: all that any could take.
    let contents = image.contents(Expected { formats: Formats::ALL, ..Expected::default() })?;
    let size = contents.body.disk_size();
    write!(out, "image: {}\ntype:  {}\ndisk:  {size}\n", image.name(), contents.image_type)
        .context("writing the result")
}
