// SPDX-License-Identifier: BSD-2-Clause
//! What has to hold for any content of the files beside an image.

use super::checkpoint::Checkpoint;
use super::entry::{EntryFiles, Sidecar};
use super::inventory::time;

/// A sidecar or a mark; and its first line as the name of a file.
pub(crate) fn files(text: &str) {
    if let Ok(sidecar) = toml::from_str::<Sidecar>(text) {
        let printed = toml::to_string(&sidecar).expect("what was read can be written");
        assert_eq!(toml::from_str(&printed).as_ref(), Ok(&sidecar), "{printed}");
        assert!(time(sidecar.fetched_at) >= time(0) && time(sidecar.checked_at) >= time(0));
    }
    if let Ok(mark) = toml::from_str::<Checkpoint>(text) {
        let printed = toml::to_string(&mark).expect("what was read can be written");
        assert_eq!(toml::from_str(&printed).as_ref(), Ok(&mark), "{printed}");
    }
    let name = text.lines().next().unwrap_or_default();
    if let Some(key) = EntryFiles::key_of(name) {
        assert!(!name.contains('/') && name.starts_with(key) && name.len() <= key.len() + ".lock".len());
    }
}
