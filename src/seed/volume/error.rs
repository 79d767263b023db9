// SPDX-License-Identifier: BSD-2-Clause
//! Why a seed has no place on a disk, or can't be written or read there.

use std::io;
use std::path::PathBuf;

use crate::disk::partition::TableError;
use crate::node::size::ByteSize;

/// Why a volume can't be made or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// No file system of that size.
    #[error("making the seed's file system")]
    Format {
        /// What fatfs said.
        source: io::Error,
    },
    /// What is to go in does not fit.
    #[error(
        "the seed's {file} does not fit: the volume has {volume} (shorten it; large things can come from a URL that the user-data names)"
    )]
    Full {
        /// The file.
        file: String,
        /// The volume's size.
        volume: ByteSize,
    },
    /// Not a file system as we make them.
    #[error("the seed volume is damaged")]
    Damaged {
        /// What fatfs said.
        source: io::Error,
    },
}

/// Why there is no place for a seed. Every message names the way out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// Nowhere to note a partition.
    #[error(
        "the image has {reason}, so there is no place for the seed on disk {disk} (give the instance a disk for it: --disk 1:size=16M,name=cidata; or use cloud_init=off)",
        disk = disk.display()
    )]
    Table {
        /// The disk.
        disk: PathBuf,
        /// What is wrong with the table.
        reason: TableError,
    },
    /// A partition is in the way.
    #[error(
        "{what} {number} of the image reaches into the last 5 MiB of disk {disk}, where the seed goes (use a disk of at least {needed}, or one more disk: --disk 1:size=16M,name=cidata; or cloud_init=off)",
        what = if *extended { "extended partition" } else { "partition" },
        disk = disk.display()
    )]
    Occupied {
        /// The disk.
        disk: PathBuf,
        /// The partition.
        number: u32,
        /// Whether it is an extended one.
        extended: bool,
        /// The size of a disk that would do.
        needed: ByteSize,
    },
    /// Too small for a seed and anything else.
    #[error("disk {disk} has {size}, too small for a seed of 4 MiB at its end (use a larger disk, or cloud_init=off)", disk = disk.display())]
    Small {
        /// The disk.
        disk: PathBuf,
        /// Its size.
        size: ByteSize,
    },
    /// No entry is left, or none can say where the seed is.
    #[error(
        "the {table} of the image has no free entry for the seed's partition{why} (give the instance a disk for it: --disk 1:size=16M,name=cidata; or use cloud_init=off)"
    )]
    NoEntry {
        /// GPT or MBR.
        table: &'static str,
        /// More on it.
        why: &'static str,
    },
    /// There would be two.
    #[error(
        "the image already holds a volume labelled CIDATA, {at} (remove it with `simpleimage seed remove`, or use cloud_init=off)"
    )]
    Present {
        /// Where.
        at: String,
    },
    /// The disk for the seed is too small.
    #[error("disk {disk}, which is named cidata, has {size}: a seed needs 1 MiB (use a larger one)", disk = disk.display())]
    SmallDisk {
        /// The disk.
        disk: PathBuf,
        /// Its size.
        size: ByteSize,
    },
}
