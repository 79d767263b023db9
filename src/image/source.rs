// SPDX-License-Identifier: BSD-2-Clause
//! An image file, opened and examined: nothing of it reaches a disk before what it is has been settled here.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::container::ContainerError;
use super::format::{Format, Formats, ImageType};
use super::gate;
use super::policy::{LocalPolicy, PolicyError};
use crate::disk::fingerprint::Fingerprint;
use crate::store::cache::CachedImage;
use crate::store::http::ImageUrl;

pub use super::gate::{Body, Contents, Expected, Packed, remote_contents, stream_contents};

/// Why an image can't be used. Each message names the image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
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

/// An open image file.
pub struct ImageFile {
    name: String,
    file: File,
    len: u64,
    /// For an image from the cache.
    download: Option<Downloaded>,
}

/// What the cache knows about an image.
#[derive(Debug, Clone)]
pub struct Downloaded {
    /// The SHA-256 of what was downloaded, as hex digits.
    pub sha256: String,
    /// Whether it was there before: what is in the file now need not be that any more.
    pub kept: bool,
}

impl ImageFile {
    /// An image that the cache keeps; its file carries the lock that keeps it there.
    pub fn cached(url: &ImageUrl, cached: CachedImage) -> Self {
        let download = Downloaded { sha256: cached.sha256, kept: cached.hit };
        ImageFile { name: url.to_string(), file: cached.file, len: cached.len, download: Some(download) }
    }

    /// What the image is called in messages: its path or URL, without secrets.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The same, and nothing else: who keeps it open keeps an image of the cache there.
    pub fn into_file(self) -> File {
        self.file
    }

    /// What the cache knows about it; none for a file on the node.
    pub fn download(&self) -> Option<&Downloaded> {
        self.download.as_ref()
    }

    /// Opens a file on the node, whatever the policy. Only regular files: a FIFO would block.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let (image, file_type) = Self::open_any(path)?;
        if file_type.is_file() { Ok(image) } else { Err(ImageError::NotRegular(image.name)) }
    }

    /// Opens a file on the node that `policy` allows, which may also be a block device.
    pub fn open_allowed(path: &Path, policy: &LocalPolicy) -> Result<Self, ImageError> {
        policy.check_name(path)?;
        let (mut image, file_type) = Self::open_any(path)?;
        let is_device = file_type.is_block_device();
        if !file_type.is_file() && !is_device {
            return Err(ImageError::NotRegular(image.name));
        }
        policy.check_open(path, &image.file, is_device)?;
        image.measure()?;
        Ok(image)
    }

    /// Takes its length anew: somebody may have written to it since it was opened.
    pub fn measure(&mut self) -> Result<(), ImageError> {
        // Of a block device its node tells no length.
        let end = (&self.file).seek(SeekFrom::End(0)).and_then(|end| (&self.file).rewind().map(|()| end));
        self.len = end.map_err(|source| ImageError::Open { name: self.name.clone(), source })?;
        Ok(())
    }

    fn open_any(path: &Path) -> Result<(Self, FileType), ImageError> {
        let name = path.display().to_string();
        let open_error = |source| ImageError::Open { name: name.clone(), source };
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(open_error)?;
        let metadata = file.metadata().map_err(open_error)?;
        Ok((ImageFile { name, file, len: metadata.len(), download: None }, metadata.file_type()))
    }

    /// What its first bytes say that it is, if that is a disk image. Nothing more of it was looked at.
    pub fn likely_type(&self) -> Option<ImageType> {
        gate::likely_type(&self.file)
    }

    /// Finds out what the image is, as `expected` has it. What is decoded of the file is noted in `seen`; a file that is
    /// the disk itself is noted by who copies it.
    pub fn contents(&self, expected: Expected, seen: Option<&Arc<Fingerprint>>) -> Result<Contents<'_>, ImageError> {
        gate::file_contents(&self.name, &self.file, self.len, expected, seen)
    }
}
