// SPDX-License-Identifier: BSD-2-Clause
//! What several images are, for lists.

use std::path::PathBuf;

use anyhow::Context as _;

use super::confined::confined;
use crate::image::source::ImageFile;
use crate::node::process::Answer;
use crate::node::run::Run;
use crate::node::sandbox::WorkerAccess;

/// What the first bytes of each file say that it is, as the OS parameter `image_type`; none for what is no disk image, or
/// not there. A confined process looks: strangers wrote those bytes.
pub(crate) fn likely_types(files: &[PathBuf], run: &Run) -> anyhow::Result<Vec<Option<String>>> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let answer = confined(WorkerAccess::default(), run, |_| {
        let look = |path: &PathBuf| Some(ImageFile::open(path).ok()?.likely_type()?.to_string());
        let types: Vec<Option<String>> = files.iter().map(look).collect();
        Ok(Answer { bytes: serde_json::to_vec(&types)?, file: None })
    })?;
    serde_json::from_slice(&answer.bytes).context("reading the answer of the working process")
}
