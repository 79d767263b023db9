// SPDX-License-Identifier: BSD-2-Clause
//! An image as an open file, on the node or in the cache. The gate finds out what it is (`gate`).

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::ImageError;
use super::gate::{self, Expected};
use super::policy::LocalPolicy;
use super::reader::ImageReader;
use crate::disk::fingerprint::Fingerprint;
use crate::node::file::FoundFile;
use crate::store::cache::{CachedImage, DownloadId};
use crate::store::http::ImageUrl;

pub(crate) struct StoredImage {
    name: String,
    file: File,
    len: u64,
    /// The member that was named, if the image is an archive.
    member: Option<String>,
    download: Option<Download>,
}

/// What the cache knows of an image.
#[derive(Debug, Clone)]
pub(crate) struct Download {
    pub(crate) id: DownloadId,
    /// The SHA-256 of the download, as hex digits.
    pub(crate) sha256: String,
    /// Whether the cache had the image before this run. Then the bytes in the file may have changed since the download.
    pub(crate) hit: bool,
    /// The path of the image in the cache, where a later download may put another image.
    pub(crate) path: PathBuf,
}

impl StoredImage {
    /// Takes an image in the cache. Its file holds the lock that keeps the image there.
    pub(crate) fn cached(url: &ImageUrl, cached: CachedImage) -> Self {
        let CachedImage { file, path, hit, len, sha256, id } = cached;
        let member = url.member().map(str::to_owned);
        StoredImage { name: url.to_string(), file, len, member, download: Some(Download { id, sha256, hit, path }) }
    }

    /// Opens a regular file on the node, whatever the policy says.
    pub(crate) fn open(path: &Path) -> Result<Self, ImageError> {
        let (path, member) = split_member(path);
        let (found, is_device) = Self::find(path)?;
        match is_device {
            true => Err(ImageError::NotRegular(path.display().to_string())),
            false => Self::opened(path, member, &found),
        }
    }

    /// Opens a file or a block device on the node that `policy` allows.
    pub(crate) fn open_allowed(path: &Path, policy: &LocalPolicy) -> Result<Self, ImageError> {
        let (path, member) = split_member(path);
        policy.check_name(path)?;
        let (found, is_device) = Self::find(path)?;
        policy.check_found(path, found.as_file(), is_device)?;
        Self::opened(path, member, &found)
    }

    /// Takes an image that was unpacked to a file without a name.
    pub(crate) fn unpacked(name: &str, file: File) -> Result<Self, ImageError> {
        let mut image = StoredImage { name: name.to_owned(), file, len: 0, member: None, download: None };
        image.measure()?;
        Ok(image)
    }

    /// Finds a file or a block device, and says whether it is a device.
    fn find(path: &Path) -> Result<(FoundFile, bool), ImageError> {
        let found = FoundFile::at(path).map_err(|source| open_error(path, source))?;
        let file_type = found.metadata().map_err(|source| open_error(path, source))?.file_type();
        match file_type.is_block_device() {
            false if !file_type.is_file() => Err(ImageError::NotRegular(path.display().to_string())),
            is_device => Ok((found, is_device)),
        }
    }

    fn opened(path: &Path, member: Option<String>, found: &FoundFile) -> Result<Self, ImageError> {
        let file = found.open(OpenOptions::new().read(true)).map_err(|source| open_error(path, source))?;
        let mut image = StoredImage { name: path.display().to_string(), file, len: 0, member, download: None };
        image.measure()?;
        Ok(image)
    }

    /// Updates the length, because somebody may have written to the image since it was opened.
    pub(crate) fn measure(&mut self) -> Result<(), ImageError> {
        // The metadata of a block device has no length.
        let end = (&self.file).seek(SeekFrom::End(0)).and_then(|end| (&self.file).rewind().map(|()| end));
        self.len = end.map_err(|source| ImageError::Open { name: self.name.clone(), source })?;
        Ok(())
    }

    /// Returns the path or the URL, without secrets.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the length in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.len
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Returns the open file. An image in the cache stays there as long as it is open.
    pub(crate) fn into_file(self) -> File {
        self.file
    }

    /// Returns `None` for a file on the node.
    pub(crate) fn download(&self) -> Option<&Download> {
        self.download.as_ref()
    }

    /// Lets the image pass the gate, which finds out what it is and compares that with what was `expected`. The bytes
    /// that are decoded are added to `seen`. The bytes of a raw or qcow2 file are not, because the code that copies it
    /// reads it itself.
    pub(crate) fn reader(
        &self,
        expected: Expected,
        seen: Option<&Arc<Fingerprint>>,
    ) -> Result<ImageReader<'_>, ImageError> {
        let reader = gate::file_reader((&self.name, self.member.as_deref()), &self.file, self.len, expected, seen)?;
        match &self.member {
            // The fragment of a URL may mean something else.
            Some(member) if self.download.is_none() && reader.image_type.archive.is_none() => {
                Err(ImageError::NoArchive { name: self.name.clone(), member: member.clone() })
            }
            _ => Ok(reader),
        }
    }

    /// Reads an image that is an archive to its end, and fails if there is more than one disk in it.
    pub(crate) fn check_archive(&self) -> Result<(), ImageError> {
        gate::check_archive((&self.name, self.member.as_deref()), &self.file)
    }
}

/// Takes `/FILE#MEMBER` apart, unless there is a file of this very name. Names of files may have a `#`.
fn split_member(path: &Path) -> (&Path, Option<String>) {
    let Some((archive, member)) = archive_and_member(path) else { return (path, None) };
    match path.symlink_metadata() {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            (archive, Some(member.to_owned()))
        }
        _ => (path, None),
    }
}

/// Takes the text `/FILE#MEMBER` apart. Whether there is a file of the whole name is not looked at.
pub(crate) fn archive_and_member(path: &Path) -> Option<(&Path, &str)> {
    let (archive, member) = path.to_str()?.split_once('#')?;
    if member.is_empty() { None } else { Some((Path::new(archive), member)) }
}

fn open_error(path: &Path, source: io::Error) -> ImageError {
    ImageError::Open { name: path.display().to_string(), source }
}
