// SPDX-License-Identifier: BSD-2-Clause
//! Images: what the user named, what it really is, and its decoded bytes.

mod broken;
pub mod checksum;
mod container;
pub mod decode;
pub mod detect;
pub mod disk_size;
mod ending;
mod error;
mod fields;
pub mod format;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod gate;
pub mod policy;
pub mod qcow2;
pub mod reference;
pub mod source;
pub mod spool;
pub mod sums;
mod xz_index;
