// SPDX-License-Identifier: BSD-2-Clause
//! The part that Ganeti calls: the OS scripts, the environment variables that Ganeti gives them, and the tasks that
//! these ask for.

pub mod env;
mod new_disk;
pub mod request;
pub mod script;
