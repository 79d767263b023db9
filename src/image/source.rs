// SPDX-License-Identifier: BSD-2-Clause
//! An image file, opened and examined: nothing of it reaches a disk before what it is has been settled here.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::decode;
use super::detect::{self, Content, HEAD_LEN};
use super::format::{Compression, Format, ImageType};
use super::policy::{LocalPolicy, PolicyError};
use super::qcow2::{self, Qcow2Error};
use crate::cache::CachedImage;
use crate::http::ImageUrl;

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
    /// The gate before qemu-img.
    #[error("image {name}")]
    Qcow2 {
        /// The image.
        name: String,
        /// Why.
        source: Qcow2Error,
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

/// What the user says of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expected {
    /// Its declared type, which the content must agree with; none: the content decides.
    pub image_type: Option<ImageType>,
    /// Whether a raw disk in which nothing is recognised is taken.
    pub allow_unknown: bool,
}

/// What an image is, and how to get at its disk.
pub struct Contents<'f> {
    /// The type, as declared or found.
    pub image_type: ImageType,
    /// The disk in it.
    pub body: Body<'f>,
}

/// An image's disk in the form that is fastest to copy.
pub enum Body<'f> {
    /// The file is the disk: `len` bytes, holes included.
    RawFile(&'f File, u64),
    /// The disk's bytes, decoded as they are read, and their number where it is known.
    RawStream(Box<dyn Read + Send + 'f>, Option<u64>),
    /// A qcow2 file whose header was checked, and the size of the disk in it.
    Qcow2File(&'f File, u64),
    /// The bytes of a qcow2 file whose header was checked, and the size of the disk in it.
    Qcow2Stream(Box<dyn Read + Send + 'f>, u64),
}

impl Body<'_> {
    /// The size in bytes of the disk in the image, where it is known before all of it was decoded.
    pub fn disk_size(&self) -> Option<u64> {
        match self {
            Body::RawFile(_, size) | Body::Qcow2File(_, size) | Body::Qcow2Stream(_, size) => Some(*size),
            Body::RawStream(_, size) => *size,
        }
    }
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

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
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
        if is_device {
            let end = (&image.file).seek(SeekFrom::End(0));
            image.len = end.map_err(|source| ImageError::Open { name: image.name.clone(), source })?;
        }
        Ok(image)
    }

    fn open_any(path: &Path) -> Result<(Self, FileType), ImageError> {
        let name = path.display().to_string();
        let open_error = |source| ImageError::Open { name: name.clone(), source };
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(open_error)?;
        let metadata = file.metadata().map_err(open_error)?;
        Ok((ImageFile { name, file, len: metadata.len(), download: None }, metadata.file_type()))
    }

    /// Finds out what the image is, as `expected` has it.
    pub fn contents(&self, expected: Expected) -> Result<Contents<'_>, ImageError> {
        let gate = Gate { name: &self.name, expected };
        let mut input = &self.file;
        input.rewind().map_err(|err| gate.read_error(err))?;
        let head = gate.first_head(&mut input)?;
        match gate.compression(&head)? {
            Some(compression) => gate.compressed(head, input, compression),
            None => {
                let format = gate.format(&head, None)?;
                let body = match format {
                    Format::Raw => Body::RawFile(&self.file, self.len),
                    Format::Qcow2 => Body::Qcow2File(&self.file, gate.qcow2_size(&head)?),
                };
                Ok(Contents { image_type: ImageType { format, compression: None }, body })
            }
        }
    }
}

/// The same for an image of which the bytes come one after the other. `name` is what it is called in messages, `length`
/// the number of its bytes where it is known.
pub fn stream_contents<'r>(
    name: &str,
    mut input: impl Read + Send + 'r,
    length: Option<u64>,
    expected: Expected,
) -> Result<Contents<'r>, ImageError> {
    let gate = Gate { name, expected };
    let head = gate.first_head(&mut input)?;
    match gate.compression(&head)? {
        Some(compression) => gate.compressed(head, input, compression),
        None => gate.decoded(head, input, None, length),
    }
}

/// The checks before any reader of an image, each error with the image's name.
struct Gate<'n> {
    name: &'n str,
    expected: Expected,
}

impl Gate<'_> {
    fn first_head(&self, input: &mut dyn Read) -> Result<Vec<u8>, ImageError> {
        let head = self.head(input)?;
        if head.is_empty() { Err(ImageError::Empty(self.name.to_owned())) } else { Ok(head) }
    }

    /// The disk inside the archive of which `head` was read and `rest` follows.
    fn compressed<'r>(
        &self,
        head: Vec<u8>,
        rest: impl Read + Send + 'r,
        compression: Compression,
    ) -> Result<Contents<'r>, ImageError> {
        let mut decoder = decode::reader(Cursor::new(head).chain(rest), compression);
        let head = self.head(&mut decoder)?;
        self.decoded(head, decoder, Some(compression), None)
    }

    /// The disk of which `head` was read and `rest` follows.
    fn decoded<'r>(
        &self,
        head: Vec<u8>,
        rest: impl Read + Send + 'r,
        compression: Option<Compression>,
        length: Option<u64>,
    ) -> Result<Contents<'r>, ImageError> {
        let format = self.format(&head, compression)?;
        let size = if format == Format::Qcow2 { self.qcow2_size(&head)? } else { 0 };
        let whole: Box<dyn Read + Send + 'r> = Box::new(Cursor::new(head).chain(rest));
        let body = match format {
            Format::Raw => Body::RawStream(whole, length),
            Format::Qcow2 => Body::Qcow2Stream(whole, size),
        };
        Ok(Contents { image_type: ImageType { format, compression }, body })
    }

    /// The compression that the file is in, once the declared type agrees with it.
    fn compression(&self, head: &[u8]) -> Result<Option<Compression>, ImageError> {
        let found = detect::compression(head);
        let Some(declared) = self.expected.image_type.filter(|declared| declared.compression != found) else {
            return Ok(found);
        };
        let hint = ImageType { compression: found, ..declared };
        let found = match (found, detect::content(head)) {
            (Some(compression), _) => format!("in {compression} compression"),
            (None, Content::Foreign(words)) => {
                return Err(ImageError::Foreign { name: self.name.to_owned(), found: words.to_owned() });
            }
            (None, Content::Disk(format)) => format!("an uncompressed {format} image"),
            (None, Content::Unknown) => "not compressed".to_owned(),
        };
        Err(self.mismatch(declared, found, hint))
    }

    /// The format of the disk that begins with `head`, once the declared type agrees with it.
    fn format(&self, head: &[u8], compression: Option<Compression>) -> Result<Format, ImageError> {
        let declared = self.expected.image_type;
        let found = match detect::content(head) {
            _ if head.is_empty() => return Err(ImageError::Empty(self.name.to_owned())),
            Content::Foreign(words) => {
                let found = compression.map_or_else(|| words.to_owned(), |c| format!("{words} in {c} compression"));
                return Err(ImageError::Foreign { name: self.name.to_owned(), found });
            }
            Content::Disk(format) => format,
            Content::Unknown if self.expected.allow_unknown => Format::Raw,
            Content::Unknown if declared.is_some_and(|declared| declared.format == Format::Qcow2) => Format::Raw,
            Content::Unknown => return Err(ImageError::Unknown(self.name.to_owned())),
        };
        match declared {
            Some(declared) if declared.format != found => {
                let words = match found {
                    Format::Raw => "not in qcow2 format",
                    Format::Qcow2 => "a qcow2 image",
                };
                Err(self.mismatch(declared, words.to_owned(), ImageType { format: found, compression }))
            }
            _ => Ok(found),
        }
    }

    fn mismatch(&self, declared: ImageType, found: String, hint: ImageType) -> ImageError {
        ImageError::Mismatch { name: self.name.to_owned(), declared, found, hint: hint.to_string() }
    }

    fn qcow2_size(&self, head: &[u8]) -> Result<u64, ImageError> {
        qcow2::virtual_size(head).map_err(|source| ImageError::Qcow2 { name: self.name.to_owned(), source })
    }

    /// The first [`HEAD_LEN`] bytes of `reader`, fewer when it ends before.
    fn head(&self, reader: &mut dyn Read) -> Result<Vec<u8>, ImageError> {
        let mut head = Vec::with_capacity(HEAD_LEN);
        reader.take(HEAD_LEN as u64).read_to_end(&mut head).map_err(|err| self.read_error(err))?;
        Ok(head)
    }

    fn read_error(&self, source: io::Error) -> ImageError {
        ImageError::Read { name: self.name.to_owned(), source }
    }
}
