// SPDX-License-Identifier: BSD-2-Clause
//! The Ganeti OS provider `simpleimage`: installs instances from disk images.
//!
//! Data flows one way: environment -> request -> image source -> cache -> decoder -> writer -> target device -> hooks.
//! ARCHITECTURE.md says which module may import which.

pub mod http;
pub mod report;
pub mod size;
