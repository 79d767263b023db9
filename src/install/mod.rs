// SPDX-License-Identifier: BSD-2-Clause
//! The jobs themselves, each as one flow through the modules of this room and the rooms below.

mod along;
mod cleanup;
mod confined;
mod copy;
mod create;
mod export;
mod fetch;
mod from_url;
pub(crate) mod hooks;
mod image_disk;
mod import;
mod inspect;
pub mod job;
mod kept;
mod old_seed;
mod rehearse;
mod remote;
mod rename;
mod run_hooks;
mod seed;
mod seed_identity;
mod seed_volume;
mod seeds;
mod standard;
mod summary;
mod types;
mod unsteady;
mod verify_image;
mod watch;

pub(crate) use cleanup::{Cleaned, cleanup};
pub(crate) use create::install;
pub(crate) use export::export;
pub(crate) use fetch::{Fetched, fetch};
pub(crate) use import::import;
pub(crate) use inspect::{Inspected, Judged, Layout, Part, inspect};
pub(crate) use kept::{Verdict, verify_kept};
pub(crate) use rehearse::{Rehearsed, rehearse};
pub(crate) use rename::rename;
pub use seed::seed_files;
pub(crate) use seeds::{Removed, SeedDisk, remove_seed, show_seeds};
pub(crate) use types::likely_types;
