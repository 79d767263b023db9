// SPDX-License-Identifier: BSD-2-Clause
//! The one integration binary.
// Clippy exempts only functions marked #[test] by itself; what they call is test code too.
#![allow(clippy::unwrap_used)]

mod architecture;
mod bzip2;
mod cache;
mod check;
mod checks;
mod cleanup;
mod cold;
mod completions;
mod create;
mod crowd;
mod example_hooks;
mod example_variants;
mod faults;
mod holders;
mod hook_folders;
mod hook_leftovers;
mod hook_phases;
mod hook_processes;
mod hooks;
mod hostile;
mod http;
mod image_list;
mod image_names;
mod inspect;
mod inspect_url;
mod install;
mod interrupted;
mod json_log;
mod kill_matrix;
mod links;
mod messages;
mod new_disk;
mod people;
mod policy;
mod predecessor;
mod promises;
mod readback;
mod real_servers;
mod sandbox;
mod scripts;
mod secrets;
mod seed;
mod seed_volume;
mod signals;
mod signature;
mod story;
mod support;
mod tool;
mod transfer;
mod truncated;
mod unsteady;
mod variants;
mod wipe;
