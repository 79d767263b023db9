// SPDX-License-Identifier: BSD-2-Clause
//! What Ganeti calls: the OS scripts, its environment, and what they ask for.

pub mod env;
mod new_disk;
pub mod request;
pub mod script;
