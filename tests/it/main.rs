// SPDX-License-Identifier: BSD-2-Clause
//! The one integration binary.
// Clippy exempts only functions marked #[test] by itself; what they call is test code too.
#![allow(clippy::unwrap_used)]

mod architecture;
mod cache;
mod checks;
mod cold;
mod create;
mod crowd;
mod hooks;
mod http;
mod predecessor;
mod scripts;
mod secrets;
mod signature;
mod support;
mod tool;
mod transfer;
