// SPDX-License-Identifier: BSD-2-Clause
//! The disk in an image, in a form that can be copied.

use std::fs::File;
use std::io::{self, Cursor, Read};

use crate::disk::device::FileBytes;
use crate::disk::partition;
use crate::disk::write::{QemuDisk, WriteError};
use crate::node::process::Children;
use crate::node::size::MIB;

/// The disk in an image, in a form that can be copied.
pub(super) enum ImageDisk<'f> {
    /// The file is the disk, with its length in bytes.
    RawFile(&'f File, u64),
    /// The disk's bytes.
    RawStream(Box<dyn Read + Send + 'f>),
    /// A file that qemu-img reads with a driver, and the size of the disk in it.
    Qemu(&'f File, &'static str, u64),
}

impl ImageDisk<'_> {
    /// The disk's first MiB, or all of a smaller one.
    pub(super) fn beginning(&mut self, children: &Children) -> Result<Vec<u8>, WriteError> {
        let read = match self {
            ImageDisk::RawFile(file, len) => partition::read_boot_area(&FileBytes::new(file, *len)),
            ImageDisk::RawStream(decoded) => {
                let mut head = Vec::new();
                let read = decoded.by_ref().take(MIB).read_to_end(&mut head);
                let rest = std::mem::replace(decoded, Box::new(io::empty()));
                *decoded = Box::new(Cursor::new(head.clone()).chain(rest));
                read.map(|_| head)
            }
            ImageDisk::Qemu(file, driver, size) => {
                QemuDisk::open(file, driver, *size, children).and_then(|disk| partition::read_boot_area(&disk))
            }
        };
        read.map_err(WriteError::Image)
    }
}
