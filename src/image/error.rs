// SPDX-License-Identifier: BSD-2-Clause
//! The reasons to refuse an image.

use std::io;

use super::archive::ArchiveError;
use super::container::ContainerError;
use super::format::{DeclaredType, Format, Formats};
use super::policy::PolicyError;

/// Why an image is refused. Every message names the image, by its path or its URL without secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("opening image {name}")]
    Open { name: String, source: io::Error },
    #[error("image {name}")]
    Read { name: String, source: io::Error },
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("image {0} is not a regular file")]
    NotRegular(String),
    #[error("image {0} is empty")]
    Empty(String),
    /// The content does not agree with the declared type. `hint` is the type that agrees.
    #[error("image {name} is declared {declared} but is {found} (use image_type={hint} if that is meant)")]
    Mismatch { name: String, declared: DeclaredType, found: String, hint: String },
    #[error("image {name} is {found}, not a disk image in a supported format")]
    Foreign { name: String, found: String },
    #[error(
        "image {0} does not look like a disk: it has no partition table, boot sector or known file system (set allow_unknown_content = true in the variant's config.toml to install it all the same)"
    )]
    Unknown(String),
    #[error(
        "image {0} is an ISO 9660 image that also boots from a disk, mostly to install a system (set allow_unknown_content = true in the variant's config.toml to write it all the same)"
    )]
    HybridIso(String),
    #[error(
        "image {name} is a {format} image, and this variant takes only {taken} (add \"{format}\" to image_formats in its config.toml)"
    )]
    FormatNotTaken { name: String, format: Format, taken: Formats },
    #[error("image {name}")]
    Archive { name: String, source: ArchiveError },
    /// A member is named, but there is no archive.
    #[error("image {name} is no archive, so it has no file '{member}' (leave out #{member})")]
    NoArchive { name: String, member: String },
    #[error("image {name}")]
    Container { name: String, source: ContainerError },
}
