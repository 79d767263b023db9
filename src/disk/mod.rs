// SPDX-License-Identifier: BSD-2-Clause
//! The disks of an instance: holding them, writing them, and their partition tables.

pub mod device;
pub(crate) mod fingerprint;
pub(crate) mod partition;
pub mod write;
