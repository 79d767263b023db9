// SPDX-License-Identifier: BSD-2-Clause
//! The only gate before every reader of an image. It finds the real type of the image, and checks whether the declared
//! type agrees, whether the variant accepts it, and whether it is safe to read.
//!
//! The magic bytes decide what an image is, and the declared type has to agree. A header that names another file, asks
//! for unknown features or has impossible numbers is refused before qemu-img sees the file, because qemu-img would
//! follow it into any file of the node.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::archive::{self, ArchivedDisk};
use super::compression::Compression;
use super::container::{self, ImageFile, Qcow2Disk};
use super::detect::{self, Content, FOOTER_LEN, FooterCheck, HEAD_LEN};
use super::disk_size::{DiskSize, ReadFrom};
use super::error::ImageError;
use super::format::{Archive, DeclaredType, Format, Formats, ImageType, Qcow2Decoder};
use super::reader::{ImageBytes, ImageReader};
use crate::disk::device::ReadAt as _;
use crate::disk::fingerprint::Fingerprint;
use crate::disk::partition::MBR_TOLERANCE;
use crate::store::cache::DownloadFile;

/// To guess the type of an image, at most this many bytes of its file are read.
const LIKELY_LEN: u64 = 1 << 20;

/// The properties that the user declares of an image, and the images that the variant accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The declared type, with which the content must agree. If there is none, the content decides.
    pub(crate) image_type: Option<DeclaredType>,
    /// Whether a raw disk in which nothing is recognised is accepted.
    pub(crate) allow_unknown: bool,
    pub(crate) formats: Formats,
    /// How much of an MBR partition without a known file system may be missing, in bytes.
    pub(crate) mbr_tolerance: u64,
    pub(crate) qcow2: Qcow2Decoder,
}

impl Default for Expected {
    fn default() -> Self {
        let (image_type, formats) = (None, Formats::default());
        let qcow2 = Qcow2Decoder::default();
        Expected { image_type, allow_unknown: false, formats, mbr_tolerance: MBR_TOLERANCE, qcow2 }
    }
}

/// Finds out what the image `file` of `len` bytes is. Messages call it `name`. The bytes that are read for decoding are
/// added to the fingerprint `seen`.
pub(super) fn file_reader<'f>(
    (name, member): (&str, Option<&str>),
    file: &'f File,
    len: u64,
    expected: Expected,
    seen: Option<&Arc<Fingerprint>>,
) -> Result<ImageReader<'f>, ImageError> {
    let gate = Gate { name, member, expected };
    let mut input = file;
    input.rewind().map_err(|err| gate.read_error(err))?;
    let head = gate.first_head(&mut input)?;
    let compression = gate.compression(&head)?;
    if compression.is_some() || archive::is_tar(&head) {
        let size =
            compression.map_or(DiskSize::Exact(len), |compression| DiskSize::in_file(compression, &head, file, len));
        let bytes = Cursor::new(head).chain(input);
        return match seen {
            Some(seen) => gate.packed(seen.reader(bytes).map_err(|err| gate.read_error(err))?, compression, size),
            None => gate.packed(bytes, compression, size),
        };
    }
    let format = gate.format(&head, None, None)?;
    let (size, bytes) = match format {
        Format::Raw => {
            gate.check_footer(file, len)?;
            (len, ImageBytes::RawFile(file, len))
        }
        _ => {
            let checked = container::check_file(format, &head, file, len);
            let size = checked.map_err(|source| gate.container_error(source))?;
            match gate.qcow2_disk(format, &head, ImageFile::Whole(file, len))? {
                Some(disk) => (size, ImageBytes::Qcow2(Box::new(disk))),
                None => (size, ImageBytes::QemuFile(file, size)),
            }
        }
    };
    Ok(ImageReader {
        image_type: ImageType { format, archive: None, compression: None },
        size: DiskSize::Exact(size),
        bytes,
    })
}

/// Takes a qcow2 image while it is downloaded to `file`. [`stream_reader`] has checked its beginning. Returns `None` if
/// qemu-img has to read it, for which it must be complete.
pub(crate) fn growing_reader<'f>(
    name: &str,
    file: DownloadFile<'f>,
    expected: Expected,
) -> Result<Option<ImageReader<'f>>, ImageError> {
    let gate = Gate { name, member: None, expected };
    let mut head = vec![0; HEAD_LEN.min(usize::try_from(file.len()).unwrap_or(HEAD_LEN))];
    let read = file.wait_for(head.len() as u64).and_then(|()| file.file().read_exact_at(&mut head, 0));
    read.map_err(|err| gate.read_error(err))?;
    let Some(disk) = gate.qcow2_disk(Format::Qcow2, &head, ImageFile::Growing(file))? else { return Ok(None) };
    let image_type = ImageType { format: Format::Qcow2, archive: None, compression: None };
    Ok(Some(ImageReader { image_type, size: DiskSize::Exact(disk.len()), bytes: ImageBytes::Qcow2(Box::new(disk)) }))
}

/// Reads the archive `file` to its end, and fails if there is more than one disk in it. Holes of a sparse file cost
/// nothing. The position of the file does not move, so a reader that was made before goes on as if nothing had happened.
pub(super) fn check_archive((name, member): (&str, Option<&str>), file: &File) -> Result<(), ImageError> {
    let gate = Gate { name, member, expected: Expected::default() };
    let mut input = ReadFrom { file, at: 0 };
    let head = gate.first_head(&mut input)?;
    let compression = Compression::detect(&head);
    let mut disk = gate.find_disk(decoded(Cursor::new(head).chain(input), compression))?;
    disk.rest.finish().map_err(|err| gate.read_error(err))
}

/// Returns the type that the first bytes of `file` show, or `None` if they are not those of a disk image, or can't be
/// read.
pub(crate) fn likely_type(mut file: &File) -> Option<ImageType> {
    let gate = Gate { name: "", member: None, expected: Expected::default() };
    let mut head = gate.first_head(&mut file).ok()?;
    let compression = Compression::detect(&head);
    // The description before the disk in an OVA is small. Of a short file nothing is left to read.
    let rest = if head.len() < HEAD_LEN { 0 } else { LIKELY_LEN };
    let mut bytes = decoded(Cursor::new(head).chain(file.take(rest)), compression);
    head = gate.head(&mut bytes).ok()?;
    let archive = archive::is_tar(&head).then_some(Archive::Tar);
    if archive.is_some() {
        head = ArchivedDisk::in_tar(Cursor::new(head).chain(bytes), None).ok()?.head;
    }
    match detect::content(&head) {
        Content::Disk(format) => Some(ImageType { format, archive, compression }),
        Content::HybridIso | Content::Unknown | Content::Foreign(_) => None,
    }
}

/// Identifies an image that comes as a stream from `input`. `length` is the number of its bytes, if that is known.
/// `pieces`, if available, reads any place of the image. It is only used for the end of the image, and may fail without
/// harm.
pub(crate) fn stream_reader<'r>(
    (name, member): (&str, Option<&str>),
    mut input: impl Read + Send + 'r,
    length: Option<u64>,
    pieces: Option<&dyn FileExt>,
    expected: Expected,
) -> Result<ImageReader<'r>, ImageError> {
    let gate = Gate { name, member, expected };
    let head = gate.first_head(&mut input)?;
    let whole = pieces.zip(length);
    let compression = gate.compression(&head)?;
    let size = match (compression, whole) {
        (None, _) => length.map_or(DiskSize::Unknown, DiskSize::Exact),
        (Some(compression), Some((rest, len))) => DiskSize::at_server(compression, &head, rest, len),
        (Some(compression), None) => DiskSize::in_head(compression, &head),
    };
    let reader = gate.packed(Cursor::new(head).chain(input), compression, size)?;
    if let (ImageType::PLAIN_RAW, Some((pieces, len))) = (reader.image_type, whole) {
        match gate.check_footer(pieces, len) {
            Ok(()) | Err(ImageError::Read { .. }) => {}
            Err(foreign) => return Err(foreign),
        }
    }
    Ok(reader)
}

/// Returns the bytes of a file that has this `compression`.
fn decoded<'r>(bytes: impl Read + Send + 'r, compression: Option<Compression>) -> Box<dyn Read + Send + 'r> {
    match compression {
        Some(compression) => compression.reader(bytes),
        None => Box::new(bytes),
    }
}

/// The checks. Each of their errors has the name of the image.
struct Gate<'n> {
    name: &'n str,
    /// The member that was named, if the image is an archive.
    member: Option<&'n str>,
    expected: Expected,
}

impl Gate<'_> {
    fn first_head(&self, input: &mut dyn Read) -> Result<Vec<u8>, ImageError> {
        let head = self.head(input)?;
        if head.is_empty() { Err(ImageError::Empty(self.name.to_owned())) } else { Ok(head) }
    }

    /// Returns the disk in a file that has this `compression`, and `size` bytes without it.
    fn packed<'r>(
        &self,
        bytes: impl Read + Send + 'r,
        compression: Option<Compression>,
        size: DiskSize,
    ) -> Result<ImageReader<'r>, ImageError> {
        let mut bytes = decoded(bytes, compression);
        let head = self.head(&mut bytes)?;
        if archive::is_tar(&head) {
            return self.archived(Cursor::new(head).chain(bytes), compression);
        }
        self.disk(head, bytes, (None, compression), size)
    }

    /// Returns the disk in a tar archive.
    fn archived<'r>(
        &self,
        archive: impl Read + Send + 'r,
        compression: Option<Compression>,
    ) -> Result<ImageReader<'r>, ImageError> {
        if let Some(declared) = self.expected.image_type.filter(|declared| declared.archive.is_none()) {
            let hint = DeclaredType { archive: Some(Archive::Tar), ..declared };
            return Err(self.mismatch(declared, format!("in a {} archive", Archive::Tar), hint));
        }
        let disk = self.find_disk(archive)?;
        let name = format!("{}#{}", self.name, disk.name);
        let gate = Gate { name: &name, ..*self };
        gate.disk(disk.head, disk.rest, (Some(Archive::Tar), compression), DiskSize::Exact(disk.size))
    }

    fn find_disk<'r>(&self, archive: impl Read + Send + 'r) -> Result<ArchivedDisk<'r>, ImageError> {
        let found = ArchivedDisk::in_tar(archive, self.member);
        found.map_err(|source| ImageError::Archive { name: self.name.to_owned(), source })
    }

    /// Returns the disk of which `head` was read before and `rest` follows. It has `size` bytes in all.
    fn disk<'r>(
        &self,
        head: Vec<u8>,
        rest: impl Read + Send + 'r,
        (archive, compression): (Option<Archive>, Option<Compression>),
        size: DiskSize,
    ) -> Result<ImageReader<'r>, ImageError> {
        let format = self.format(&head, archive, compression)?;
        let known = container::check_head(format, &head).map_err(|source| self.container_error(source))?;
        let bytes = Cursor::new(head).chain(rest);
        let (size, bytes): (_, ImageBytes<'r>) = match format {
            Format::Raw => (size, ImageBytes::RawStream(Box::new(FooterCheck::new(bytes)))),
            _ => (known.map_or(DiskSize::Unknown, DiskSize::Exact), ImageBytes::QemuStream(Box::new(bytes))),
        };
        Ok(ImageReader { image_type: ImageType { format, archive, compression }, size, bytes })
    }

    /// Returns the compression of the file. Fails if the declared type does not agree with it.
    fn compression(&self, head: &[u8]) -> Result<Option<Compression>, ImageError> {
        let found = Compression::detect(head);
        let Some(declared) = self.expected.image_type.filter(|declared| declared.compression != found) else {
            return Ok(found);
        };
        let hint = DeclaredType { compression: found, ..declared };
        let found = match (found, detect::content(head)) {
            (Some(compression), _) => format!("in {compression} compression"),
            (None, Content::Foreign(words)) => {
                return Err(ImageError::Foreign { name: self.name.to_owned(), found: words.to_owned() });
            }
            (None, Content::HybridIso) => return Err(ImageError::HybridIso(self.name.to_owned())),
            (None, Content::Disk(format)) => format!("an uncompressed {format} image"),
            (None, Content::Unknown) => "not compressed".to_owned(),
        };
        Err(self.mismatch(declared, found, hint))
    }

    /// Returns the format of the disk that begins with `head`. Fails if the declared type or the variant does not agree
    /// with it.
    fn format(
        &self,
        head: &[u8],
        archive: Option<Archive>,
        compression: Option<Compression>,
    ) -> Result<Format, ImageError> {
        let Expected { image_type: declared, allow_unknown, formats, .. } = self.expected;
        let declared_format = declared.and_then(|declared| declared.format);
        let found = match detect::content(head) {
            _ if head.is_empty() => return Err(ImageError::Empty(self.name.to_owned())),
            Content::Foreign(words) => {
                let found = compression.map_or_else(|| words.to_owned(), |c| format!("{words} in {c} compression"));
                return Err(ImageError::Foreign { name: self.name.to_owned(), found });
            }
            Content::Disk(format) => format,
            Content::HybridIso | Content::Unknown if allow_unknown => Format::Raw,
            Content::HybridIso => return Err(ImageError::HybridIso(self.name.to_owned())),
            Content::Unknown if declared_format.is_some_and(|format| format != Format::Raw) => Format::Raw,
            Content::Unknown => return Err(ImageError::Unknown(self.name.to_owned())),
        };
        if !formats.has(found) {
            let name = self.name.to_owned();
            return Err(ImageError::FormatNotTaken { name, format: found, taken: formats });
        }
        let Some(declared) = declared else { return Ok(found) };
        let hint = ImageType { format: found, archive, compression }.into();
        let words = match (archive, declared.archive, declared.format) {
            (None, Some(archive), _) => format!("not in a {archive} archive"),
            (_, _, Some(format)) if format != found && found == Format::Raw => format!("not in {format} format"),
            (_, _, Some(format)) if format != found => format!("a {found} image"),
            _ => return Ok(found),
        };
        Err(self.mismatch(declared, words, hint))
    }

    /// Returns the disk in an image that this program decodes itself.
    fn qcow2_disk<'f>(
        &self,
        format: Format,
        head: &[u8],
        file: ImageFile<'f>,
    ) -> Result<Option<Qcow2Disk<'f>>, ImageError> {
        if format != Format::Qcow2 || self.expected.qcow2 == Qcow2Decoder::QemuImg {
            return Ok(None);
        }
        Qcow2Disk::open(head, file).map_err(|source| self.container_error(source))
    }

    fn mismatch(&self, declared: DeclaredType, found: String, hint: DeclaredType) -> ImageError {
        ImageError::Mismatch { name: self.name.to_owned(), declared, found, hint: hint.to_string() }
    }

    fn container_error(&self, source: container::ContainerError) -> ImageError {
        ImageError::Container { name: self.name.to_owned(), source }
    }

    /// Fails if the end of a raw image of `len` bytes is that of another format.
    fn check_footer(&self, file: &dyn FileExt, len: u64) -> Result<(), ImageError> {
        let mut tail = [0; FOOTER_LEN];
        let Some(start) = len.checked_sub(FOOTER_LEN as u64) else { return Ok(()) };
        file.read_exact_at(&mut tail, start).map_err(|err| self.read_error(err))?;
        match detect::footer(&tail) {
            Some(words) => Err(ImageError::Foreign { name: self.name.to_owned(), found: words.to_owned() }),
            None => Ok(()),
        }
    }

    /// Returns the first [`HEAD_LEN`] bytes of `reader`, or fewer if it ends before.
    fn head(&self, reader: &mut dyn Read) -> Result<Vec<u8>, ImageError> {
        let mut head = Vec::with_capacity(HEAD_LEN);
        reader.take(HEAD_LEN as u64).read_to_end(&mut head).map_err(|err| self.read_error(err))?;
        Ok(head)
    }

    fn read_error(&self, source: io::Error) -> ImageError {
        ImageError::Read { name: self.name.to_owned(), source }
    }
}
