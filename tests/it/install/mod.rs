// SPDX-License-Identifier: BSD-2-Clause
//! One install: the checks of its image, its download, and its hooks.

mod changing_image;
pub(super) mod checks;
mod example_hooks;
mod first_download;
mod hook_folders;
mod hook_leftovers;
mod hook_owners;
mod hook_phases;
mod hook_processes;
mod hooks;
mod interrupted_download;
mod many_at_once;
