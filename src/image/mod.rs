// SPDX-License-Identifier: BSD-2-Clause
//! Images: how the user names them, what they really are, and their decoded bytes.

pub(crate) mod archive;
pub(crate) mod checksum;
pub mod compression;
pub(crate) mod container;
mod decode;
pub(crate) mod detect;
pub(crate) mod disk_size;
pub(crate) mod error;
pub mod format;
pub(crate) mod gate;
pub(crate) mod policy;
pub(crate) mod reader;
pub(crate) mod reference;
pub(crate) mod stored;
pub(crate) mod sums_file;
