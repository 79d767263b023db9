// SPDX-License-Identifier: BSD-2-Clause
//! The commands for people.

mod cache_faults;
mod check;
mod cleanup;
mod common;
mod completions;
mod fetch_and_cache;
mod images;
mod inspect;
mod inspect_url;
mod install;
mod variants;
