// SPDX-License-Identifier: BSD-2-Clause
//! An image file, opened and examined: nothing of it reaches a disk before what it is has been settled here.

use std::fs::{File, FileType, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::format::ImageType;
use super::gate;
use super::policy::LocalPolicy;
use crate::disk::fingerprint::Fingerprint;
use crate::store::cache::CachedImage;
use crate::store::http::ImageUrl;

pub(crate) use super::error::ImageError;
pub(crate) use super::gate::{Body, Contents, Expected, Packed, remote_contents, stream_contents};

/// An open image file.
pub(crate) struct ImageFile {
    name: String,
    file: File,
    len: u64,
    /// For an image from the cache.
    download: Option<Downloaded>,
}

/// What the cache knows about an image.
#[derive(Debug, Clone)]
pub(crate) struct Downloaded {
    /// The SHA-256 of what was downloaded, as hex digits.
    pub(crate) sha256: String,
    /// Whether it was there before: what is in the file now need not be that any more.
    pub(crate) kept: bool,
}

impl ImageFile {
    /// An image that the cache keeps; its file carries the lock that keeps it there.
    pub(crate) fn cached(url: &ImageUrl, cached: CachedImage) -> Self {
        let download = Downloaded { sha256: cached.sha256, kept: cached.hit };
        ImageFile { name: url.to_string(), file: cached.file, len: cached.len, download: Some(download) }
    }

    /// What the image is called in messages: its path or URL, without secrets.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its length in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.len
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The same, and nothing else: who keeps it open keeps an image of the cache there.
    pub(crate) fn into_file(self) -> File {
        self.file
    }

    /// What the cache knows about it; none for a file on the node.
    pub(crate) fn download(&self) -> Option<&Downloaded> {
        self.download.as_ref()
    }

    /// Opens a file on the node, whatever the policy. Only regular files: a FIFO would block.
    pub(crate) fn open(path: &Path) -> Result<Self, ImageError> {
        let (image, file_type) = Self::open_any(path)?;
        if file_type.is_file() { Ok(image) } else { Err(ImageError::NotRegular(image.name)) }
    }

    /// Opens a file on the node that `policy` allows, which may also be a block device.
    pub(crate) fn open_allowed(path: &Path, policy: &LocalPolicy) -> Result<Self, ImageError> {
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
    pub(crate) fn measure(&mut self) -> Result<(), ImageError> {
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
    pub(crate) fn likely_type(&self) -> Option<ImageType> {
        gate::likely_type(&self.file)
    }

    /// Finds out what the image is, as `expected` has it. What is decoded of the file is noted in `seen`; a file that is
    /// the disk itself is noted by who copies it.
    pub(crate) fn contents(
        &self,
        expected: Expected,
        seen: Option<&Arc<Fingerprint>>,
    ) -> Result<Contents<'_>, ImageError> {
        gate::file_contents(&self.name, &self.file, self.len, expected, seen)
    }
}
