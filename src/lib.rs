// SPDX-License-Identifier: BSD-2-Clause
//! The Ganeti OS provider `simpleimage`: installs instances from disk images.
//!
//! Data flows one way: environment -> request -> image source -> cache -> decoder -> writer -> target device -> hooks.
//! ARCHITECTURE.md says which module may import which.

pub mod applet;
pub mod cache;
pub mod check;
pub mod cli;
pub mod config;
pub mod device;
pub mod env;
pub mod fingerprint;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod hooks;
pub mod http;
pub mod image;
pub mod ops;
pub mod partition;
pub mod process;
pub mod report;
pub mod request;
pub mod sandbox;
pub mod script;
pub mod seed;
pub mod signals;
pub mod signature;
pub mod size;
mod sys;
pub mod volume;
pub mod write;
