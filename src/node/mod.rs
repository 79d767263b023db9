// SPDX-License-Identifier: BSD-2-Clause
//! The lowest room, which all others use: system calls, the sandbox, children, signals, messages, sizes.

pub mod process;
pub mod report;
pub mod run;
pub mod sandbox;
pub mod size;
pub(crate) mod sys;
