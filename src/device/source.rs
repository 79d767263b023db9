// SPDX-License-Identifier: BSD-2-Clause
//! A disk that is read: for export.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use super::{DeviceError, open_disk};

/// An open disk and its size. Nothing is held: Ganeti exports snapshots, and the disks of stopped instances.
#[derive(Debug)]
pub struct SourceDisk {
    /// Open for reading.
    pub file: File,
    /// As Ganeti named it.
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
}

impl SourceDisk {
    /// Opens a block device or regular file for reading.
    pub fn open(path: &Path) -> Result<Self, DeviceError> {
        let (file, _, size) = open_disk(path, OpenOptions::new().read(true), 0)?;
        Ok(SourceDisk { file, path: path.to_owned(), size })
    }
}
