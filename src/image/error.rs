// SPDX-License-Identifier: BSD-2-Clause
//! Why an image is refused.

use std::io;

use super::container::ContainerError;
use super::format::{Format, Formats, ImageType};
use super::policy::PolicyError;

/// Why an image can't be used. Each message names the image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// It can't be opened.
    #[error("opening image {name}")]
    Open {
        /// The image, without secrets.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It can't be read or decoded.
    #[error("image {name}")]
    Read {
        /// The image.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
    /// It may not be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A directory, a device, a FIFO.
    #[error("image {0} is not a regular file")]
    NotRegular(String),
    /// No byte in it.
    #[error("image {0} is empty")]
    Empty(String),
    /// Declared as one thing, but another.
    #[error("image {name} is declared {declared} but is {found} (use image_type={hint} if that is meant)")]
    Mismatch {
        /// The image.
        name: String,
        /// The declared type.
        declared: ImageType,
        /// Words for what it is.
        found: String,
        /// The type that would fit.
        hint: String,
    },
    /// Something else than a disk image.
    #[error("image {name} is {found}, not a disk image in a supported format")]
    Foreign {
        /// The image.
        name: String,
        /// Words for what it is.
        found: String,
    },
    /// A raw image in which nothing was recognised.
    #[error(
        "image {0} does not look like a disk: it has no partition table, boot sector or known file system (set allow_unknown_content = true in the variant's config.toml to install it all the same)"
    )]
    Unknown(String),
    /// A CD image that boots from a disk too.
    #[error(
        "image {0} is an ISO 9660 image that also boots from a disk, mostly to install a system (set allow_unknown_content = true in the variant's config.toml to write it all the same)"
    )]
    HybridIso(String),
    /// A format that the variant does not take.
    #[error(
        "image {name} is a {format} image, and this variant takes only {taken} (add \"{format}\" to image_formats in its config.toml)"
    )]
    FormatNotTaken {
        /// The image.
        name: String,
        /// What it is.
        format: Format,
        /// What is taken.
        taken: Formats,
    },
    /// The gate before qemu-img.
    #[error("image {name}")]
    Container {
        /// The image.
        name: String,
        /// Why.
        source: ContainerError,
    },
}
