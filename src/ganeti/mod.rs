// SPDX-License-Identifier: BSD-2-Clause
//! What Ganeti calls: the OS scripts, its environment, and what they ask for.

pub mod applet;
mod create;
pub mod env;
mod import;
pub mod request;
pub mod script;
