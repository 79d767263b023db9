// SPDX-License-Identifier: BSD-2-Clause
//! Images: what the user named, what it really is, and its decoded bytes.

mod broken;
pub(crate) mod checksum;
pub(crate) mod container;
pub mod decode;
pub(crate) mod detect;
pub(crate) mod disk_size;
pub(crate) mod ending;
pub(crate) mod error;
pub(crate) mod fields;
pub mod format;
pub(crate) mod gate;
pub(crate) mod policy;
pub(crate) mod qcow2;
pub(crate) mod reader;
pub(crate) mod reference;
pub(crate) mod stored;
pub(crate) mod sums;
mod xz_index;
