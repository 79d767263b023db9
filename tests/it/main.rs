// SPDX-License-Identifier: BSD-2-Clause
//! The one integration binary.
// Clippy exempts only functions marked #[test] by itself; what they call is test code too.
#![allow(clippy::unwrap_used)]

mod cli;
mod config;
mod disk;
mod ganeti;
mod image;
mod install;
mod node;
mod project;
mod seed;
mod store;
mod support;
