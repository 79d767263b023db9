// SPDX-License-Identifier: BSD-2-Clause
//! What everything needs of the node: system calls, the sandbox, children, signals, messages, files, sizes, values of
//! settings.

pub mod file;
pub(crate) mod mount_table;
pub(crate) mod parallel;
pub mod process;
pub mod report;
pub mod run;
pub mod sandbox;
pub mod size;
pub(crate) mod sys;
pub(crate) mod trust;
pub(crate) mod value;
