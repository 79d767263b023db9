// SPDX-License-Identifier: BSD-2-Clause
//! Images: what the user named, what it really is, and its decoded bytes.

mod broken;
mod bzip2;
pub mod checksum;
pub mod decode;
pub mod detect;
pub mod format;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod policy;
pub mod qcow2;
pub mod reference;
pub mod source;
pub mod spool;
pub mod sums;
