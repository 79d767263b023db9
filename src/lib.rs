// SPDX-License-Identifier: BSD-2-Clause
//! The Ganeti OS provider `simpleimage`: it installs instances from disk images.
//!
//! Data flow in one direction:
//!
//! ```text
//! environment -> request -> image source -> cache -> decoder -> writer -> target device -> hooks
//! ```
//!
//! | room | what it does |
//! |---|---|
//! | [`cli`] | turns the arguments of a command into a job |
//! | [`ganeti`] | turns the variables of an OS script into a job |
//! | [`config`] | merges built-in, site and variant settings |
//! | [`install`] | does the job: checks the image, writes it, adds the seed, runs the hooks |
//! | [`image`] | finds out what an image is, and decodes it |
//! | [`seed`] | makes what the guest reads at its first boot |
//! | [`store`] | downloads images, keeps them, and checks signatures |
//! | [`disk`] | holds the instance's disk and writes every byte of it |
//! | [`node`] | starts processes, confines them, and writes messages |
//!
//! A room imports only from rooms below it. `main` chooses [`cli::run`] or [`ganeti::script::run`] by the name under which
//! the binary was called. A create goes on to [`install::create`], which forks a worker that reads the image.
//! ARCHITECTURE.md has the steps of a run and the reasons.

pub mod cli;
pub mod config;
pub mod disk;
#[cfg(any(test, fuzzing))]
#[path = "../fuzz/properties/mod.rs"]
pub mod fuzzing;
pub mod ganeti;
pub mod image;
pub mod install;
pub mod node;
pub mod seed;
pub mod store;
