// SPDX-License-Identifier: BSD-2-Clause
//! The disks of an instance: how they are held and written, and their partition tables.

pub mod device;
pub(crate) mod fingerprint;
pub(crate) mod partition;
pub mod write;
