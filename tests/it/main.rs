// SPDX-License-Identifier: BSD-2-Clause
//! The one integration binary.
// Clippy exempts only functions marked #[test] by itself; what they call is test code too.
#![allow(clippy::unwrap_used)]

mod architecture;
mod bzip2;
mod cache;
mod check;
mod checks;
mod cold;
mod create;
mod crowd;
mod example_hooks;
mod hooks;
mod http;
mod policy;
mod predecessor;
mod real_servers;
mod scripts;
mod secrets;
mod signature;
mod support;
mod tool;
mod transfer;
