// SPDX-License-Identifier: BSD-2-Clause
//! The Ganeti OS provider `simpleimage`: installs instances from disk images.
//!
//! The way of the data: an OS script of Ganeti's ([`ganeti`]) or a command ([`cli`]) turns what it was told and the
//! settings ([`config`]) into a job. [`install`] does it: it fetches and keeps the image ([`store`]), looks at what it is and
//! decodes it ([`image`]), writes it to the disk ([`disk`]), adds what the guest needs for its first boot ([`seed`]), makes
//! the disk bootable and runs the hooks. All of that stands on [`node`].
//!
//! A room imports only from rooms below it: ARCHITECTURE.md has the table.

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
