// SPDX-License-Identifier: BSD-2-Clause
//! The disks of an instance: holding them, writing them, and their partition tables.

pub mod device;
pub mod fingerprint;
pub mod partition;
pub mod write;
