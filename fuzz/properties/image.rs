// SPDX-License-Identifier: BSD-2-Clause
//! Properties of the room `image`: heads and tables of images, archives, SUMS files, and the names that users give.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use flate2::Crc;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::sparse_disk::Disk;
use super::store::hides_secrets;
use super::text;
use crate::disk::device::{AlignedBuf, ReadAt as _};
use crate::disk::write::{Extent, Extents as _};
use crate::image::archive::ArchivedDisk;
use crate::image::checksum::{Algorithm, Checksum, Digest};
use crate::image::compression::Compression;
use crate::image::container::{
    ContainerError, ImageFile, Qcow2Disk, check_file, check_head, qcow2_virtual_size, seal_vhdx,
};
use crate::image::detect::Fields;
use crate::image::detect::{self, Content, FooterCheck, HEAD_LEN};
use crate::image::disk_size::DiskSize;
use crate::image::format::{DeclaredType, Format};
use crate::image::reference::ImageRef;
use crate::image::sums_file::{find, text_of};
use crate::node::size::ByteSize;

/// A few bytes may decode to very many, so only this many are examined.
const MAX_DECODED: u64 = 2 << 20;

/// Checks that the bzip2 decoder returns the same bytes as the bzip2 crate. The first byte says what is made of the
/// others.
pub(super) fn bzip2(data: &[u8]) {
    bzip2_parallel::fuzzing::archive(data);
}

/// Decodes archives of gzip or Zstandard members (the first byte says which), in one piece and in small ones.
pub(super) fn decode(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let kind = if kind & 1 == 0 { Compression::Gzip } else { Compression::Zstd };
    let archive = encoded(data, kind);
    assert_eq!(decoded(&archive[..], kind).as_deref().ok(), Some(data));
    let (whole, trickled) = (decoded(data, kind), decoded(Trickle(data), kind));
    match (whole, trickled) {
        (Ok(whole), Ok(trickled)) => assert!(whole == trickled),
        (Err(_), Err(_)) => {}
        (whole, trickled) => panic!("in one piece {:?}, in small ones {:?}", whole.err(), trickled.err()),
    }
}

fn encoded(data: &[u8], kind: Compression) -> Vec<u8> {
    match kind {
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(data).and_then(|()| encoder.finish()).expect("memory does not fail")
        }
        _ => zstd::encode_all(data, 1).expect("memory does not fail"),
    }
}

fn decoded(archive: impl Read + Send, kind: Compression) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut reader = kind.reader(archive).take(MAX_DECODED);
    reader.read_to_end(&mut out).map(|_| out)
}

/// A reader that returns a few bytes at a time.
struct Trickle<'d>(&'d [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(7);
        self.0.read(&mut buf[..len])
    }
}

/// Checks that a file is recognised as one thing only, and by its head alone.
pub(super) fn detect(head: &[u8]) {
    let (content, compression) = (detect::content(head), Compression::detect(head));
    // Two different answers would be as bad as none.
    match (compression, content) {
        (Some(_), Content::Foreign(words)) => assert!(words.contains("archive")),
        (Some(found), other) => panic!("{found} and {other:?} at once"),
        (None, _) => {}
    }
    let is_qcow2 = head.starts_with(b"QFI\xfb");
    assert_eq!(content == Content::Disk(Format::Qcow2), is_qcow2);
    assert!(is_qcow2 || qcow2_virtual_size(head).is_err());
    if content == Content::Disk(Format::Raw) {
        let printable = |byte: &u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\n');
        assert!(!head.iter().all(printable), "a text is a disk");
    }
    // Only the head counts, whatever bytes follow it.
    let mut longer = head[..head.len().min(HEAD_LEN)].to_vec();
    if longer.len() == HEAD_LEN {
        longer.extend(b"\x55\xaaQFI\xfb");
    }
    assert_eq!((detect::content(&longer), Compression::detect(&longer)), (content, compression));
}

/// Checks that a qcow2 header that passes names no other file.
pub(super) fn qcow2(head: &[u8]) {
    match qcow2_virtual_size(head) {
        Err(error) => assert!(error.to_string().bytes().all(|byte| (b' '..=b'~').contains(&byte))),
        Ok(size) => {
            // With these fields qemu-img opens another file, or asks for a key (docs/interop/qcow2.rst).
            let zero = |range: std::ops::Range<usize>| head[range].iter().all(|byte| *byte == 0);
            assert!(zero(8..20), "a backing file");
            assert!(zero(32..36), "encryption");
            assert!(head[7] == 2 || zero(72..79) && head[79] & !0b1_1001 == 0, "incompatible features");
            assert!(size > 0 && size.to_be_bytes() == head[24..32] && i64::try_from(size).is_ok());
        }
    }
}

/// Reads a tar archive. The disk in it has the promised size, unless the archive is found to be wrong.
pub(super) fn tar(data: &[u8]) {
    /// A hole may have any length.
    const MAX_READ: u64 = 4 << 20;
    for wanted in [None, Some("disk")] {
        let Ok(disk) = ArchivedDisk::in_tar(data, wanted) else { continue };
        let head = disk.head.len() as u64;
        assert!(head == disk.size.min(HEAD_LEN as u64));
        let mut rest = disk.rest;
        match io::copy(&mut rest.by_ref().take(MAX_READ), &mut io::sink()) {
            Ok(MAX_READ) => assert!(head + MAX_READ <= disk.size),
            Ok(read) => assert_eq!(head + read, disk.size),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// Parses image types, references, checksums and sizes, as OS parameters have them.
pub(super) fn names(data: &[u8]) {
    let text = text(data);
    let text = text.as_str();
    match DeclaredType::parse(text) {
        Ok(Some(found)) => assert_eq!(DeclaredType::parse(&found.to_string()), Ok(Some(found))),
        Ok(None) => assert_eq!(text, "auto"),
        Err(error) => assert!(hides_secrets(text, &error.to_string()), "{error}"),
    }
    match ImageRef::parse(text) {
        Ok(ImageRef::Path(path)) => assert!(path.is_absolute() && path.as_os_str() == text),
        Ok(image @ ImageRef::Url(_)) => {
            assert!(hides_secrets(text, &image.to_string()));
            assert!(image.base_name().is_none_or(|name| !name.is_empty()));
        }
        Err(error) => assert!(hides_secrets(text, &error.to_string()), "{error}"),
    }
    match Checksum::parse(text) {
        Ok(Some(Checksum::Digest(digest))) => {
            let printed = format!("{}:{}", digest.algorithm(), digest.hex());
            assert!(printed.eq_ignore_ascii_case(text));
            assert_eq!(Checksum::parse(&printed), Ok(Some(Checksum::Digest(digest))));
        }
        Ok(_) => assert!(text == "none" || text.contains("://")),
        Err(error) => assert!(hides_secrets(text, &error.to_string()), "{error}"),
    }
    if let Ok(size) = text.parse::<ByteSize>() {
        assert_eq!(size.0.to_string().parse(), Ok(size));
        // A size in whole units is exact in any form.
        let shown = size.to_string().replace(" bytes", "");
        assert!(shown.contains('(') || shown.parse() == Ok(size), "{shown}");
    }
}

/// Searches a SUMS file for the name in its first line.
pub(super) fn sums(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let name = String::from_utf8_lossy(&data[..at]).into_owned();
    let text = data.get(at + 1..).unwrap_or_default();
    let sums = ImageRef::parse("/SUMS").expect("a path");
    // A text in UTF-16 is decoded as a whole, so the lines below are added to its characters.
    let decoded = text_of(text);
    let names = [name.clone()];
    if let Ok(digest) = find(&sums, text, &names) {
        assert!(decoded.to_lowercase().contains(digest.hex()));
    }
    let text = decoded.as_bytes();
    let is_plain = name.trim() == name && !name.starts_with(".\\") && !name.starts_with('*');
    if name.is_empty() || name.contains(['/', '\n', '\r']) || !is_plain {
        return;
    }
    // A line for the name is found among any others, unless another line contradicts it.
    let digest = Digest::new(Algorithm::Sha256, &"5e".repeat(32)).expect("a digest");
    for line in [format!("{}  {name}", digest.hex()), format!("SHA256 ({name}) = {}", digest.hex())] {
        assert_eq!(find(&sums, line.as_bytes(), &names).as_ref(), Ok(&digest), "{line}");
        let all = [text, b"\n", line.as_bytes(), b"\n", text].concat();
        match find(&sums, &all, &names) {
            Ok(found) => assert!(found == digest || found.algorithm() == Algorithm::Sha512),
            // A heading says that the lines below are of another algorithm.
            Err(error) => {
                assert!(decoded.contains(" HASH") || error.to_string().starts_with("/SUMS has more than one"))
            }
        }
    }
}

/// A file is not made longer than this, in bytes, to examine what follows its end.
const MAX_LEN: u64 = 1 << 40;

/// Checks a qcow2 file with its tables.
pub(super) fn qcow2_file(data: &[u8]) {
    container(Format::Qcow2, data);
}

/// Checks a VDI file with its tables.
pub(super) fn vdi(data: &[u8]) {
    container(Format::Vdi, data);
}

/// Checks a VHDX file with its tables.
pub(super) fn vhdx(data: &[u8]) {
    container(Format::Vhdx, data);
}

/// Checks a VMDK file with its tables.
pub(super) fn vmdk(data: &[u8]) {
    container(Format::Vmdk, data);
}

/// Reads the disk of `size` bytes in a qcow2 image that has passed, up to the first error. Its extents cover all of it.
fn read_qcow2(head: &[u8], file: &File, len: u64, size: u64) {
    let Ok(Some(disk)) = Qcow2Disk::open(head, ImageFile::Whole(file, len)) else { return };
    let mut buffer = AlignedBuf::new(disk.longest());
    let mut covered = 0;
    loop {
        match disk.next() {
            Ok(None) => break,
            Ok(Some(Extent::Zeros { len, .. })) => covered += len,
            Ok(Some(Extent::Data { offset, len })) if disk.read(&mut buffer, offset, len).is_ok() => {
                covered += len as u64
            }
            Ok(Some(Extent::Data { .. })) | Err(_) => return,
        }
    }
    assert_eq!(covered, size);
}

/// Checks an image file in `format`. If the first byte is odd, a VHDX gets correct checksums. Returns whether the image
/// passed.
pub(super) fn container(format: Format, data: &[u8]) -> bool {
    let Some((flags, Some(disk))) = data.split_first().map(|(flags, rest)| (flags, Disk::parse(rest))) else {
        return false;
    };
    let (file, len) = (&disk.file(), disk.len());
    if flags & 1 == 1 && format == Format::Vhdx {
        seal_vhdx(file, len).expect("memory does not fail");
    }
    let mut head = vec![0; usize::try_from(len.min(HEAD_LEN as u64)).expect("a short head")];
    file.read_exact_at(&mut head, 0).expect("reading memory");
    let first = check_head(format, &head);
    let checked = check_file(format, &head, file, len);
    let passed = checked.is_ok();
    match checked {
        Ok(size) => {
            assert!(matches!(first, Ok(None)) || first.is_ok_and(|first| first == Some(size)), "two sizes");
            assert!(size > 0 && i64::try_from(size).is_ok());
            check_alone(format, &head);
            if format == Format::Qcow2 {
                read_qcow2(&head, file, len, size);
            }
            // A complete file stays complete with zeros behind it, except for a VMDK, which may have a footer at its
            // end.
            if format != Format::Vmdk {
                file.set_len(len + 4096).expect("memory for a file");
                let longer = check_file(format, &longer_head(file, &head), file, len + 4096);
                assert!(longer.is_ok_and(|longer| longer == size), "it is broken with zeros behind it");
            }
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{message}");
            if let Some(needed) = missing(&error).filter(|needed| *needed <= MAX_LEN) {
                assert!(needed > len, "{message}");
                file.set_len(needed).expect("memory for a file");
                let longer = check_file(format, &longer_head(file, &head), file, needed);
                assert!(longer.err().as_ref().and_then(missing) != Some(needed), "{message}, which it has now");
            }
        }
    }
    passed
}

/// Returns the end of the part that was missing in a file.
fn missing(error: &ContainerError) -> Option<u64> {
    match error {
        ContainerError::Truncated { needed, .. } => Some(needed.0),
        _ => None,
    }
}

/// Returns the head of a file that begins with `head` and became longer.
fn longer_head(file: &File, head: &[u8]) -> Vec<u8> {
    let mut longer = head.to_vec();
    longer.resize(HEAD_LEN, 0);
    let len = usize::try_from(file.metadata().expect("a file").len()).unwrap_or(usize::MAX);
    longer.truncate(len);
    longer
}

/// Checks that no image that passed refers to another file.
fn check_alone(format: Format, head: &[u8]) {
    match format {
        Format::Vmdk => {
            let text = String::from_utf8_lossy(&head[512..head.len().min(512 + 20 * 512)]).to_ascii_lowercase();
            assert!(!text.contains("parentfilename"));
            let text = text.split('\0').next().unwrap_or_default();
            for line in text.lines().map(str::trim) {
                let extent = line
                    .split_ascii_whitespace()
                    .next()
                    .is_some_and(|word| ["rw", "rdonly", "noaccess"].contains(&word));
                assert!(!extent || line.contains(" sparse ") && !line.contains('/'), "{line}");
            }
        }
        Format::Vdi => {
            let kind = Fields(head).le_u32(76);
            assert!(matches!(kind, Some(1 | 2)) && head[424..456].iter().all(|byte| *byte == 0));
        }
        Format::Qcow2 => qcow2(head),
        Format::Vhdx | Format::Raw => {}
    }
}

/// Checks that the size that an archive tells before it is decoded is right, unless the archive is corrupt. The first
/// byte says which kind the archive is, whether it is made of the other bytes (2), and whether it gets correct
/// checksums (4).
pub(super) fn archive_size(data: &[u8]) {
    let Some((flags, data)) = data.split_first() else { return };
    let kind = [Compression::Xz, Compression::Zstd, Compression::Gzip][usize::from(flags >> 4) % 3];
    let mut archive = if flags & 2 == 0 { data.to_vec() } else { packed(kind, data) };
    if flags & 4 != 0 && kind == Compression::Xz {
        seal_xz(&mut archive);
    }
    let file = File::from(memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC).expect("memory for a file"));
    file.write_all_at(&archive, 0).expect("writing to memory");
    let head = &archive[..archive.len().min(HEAD_LEN)];
    let size = DiskSize::in_file(kind, head, &file, archive.len() as u64);
    if flags & 2 != 0 && kind == Compression::Xz {
        assert_eq!(size, DiskSize::Exact(data.len() as u64));
    }
    assert!(size.to_string().is_ascii() && (size.least().is_none() || kind != Compression::Gzip));
    let Ok(plain) = decoded(&archive[..], kind) else { return };
    let len = plain.len() as u64;
    let fits = match size {
        DiskSize::Exact(size) => len == size.min(MAX_DECODED),
        DiskSize::AtLeast(size) => len >= size.min(MAX_DECODED),
        DiskSize::Hint(_) | DiskSize::Unknown => true,
    };
    assert!(fits, "{len} bytes, {size:?}");
    assert!(DiskSize::in_head(kind, head).least().is_none_or(|least| len >= least.min(MAX_DECODED)));
}

fn packed(kind: Compression, data: &[u8]) -> Vec<u8> {
    match kind {
        Compression::Xz => {
            let mut encoder = xz2::write::XzEncoder::new(Vec::new(), 0);
            encoder.write_all(data).and_then(|()| encoder.finish()).expect("memory does not fail")
        }
        Compression::Zstd => zstd::bulk::compress(data, 1).expect("memory does not fail"),
        _ => encoded(data, kind),
    }
}

/// Sets the checksums of the footer of the last stream, and of its index.
fn seal_xz(archive: &mut [u8]) {
    let crc32 = |bytes: &[u8]| {
        let mut crc = Crc::new();
        crc.update(bytes);
        crc.sum().to_le_bytes()
    };
    let Some(footer) = archive.len().checked_sub(12) else { return };
    let crc = crc32(&archive[footer + 4..footer + 10]);
    archive[footer..footer + 4].copy_from_slice(&crc);
    let index = Fields(archive).le_u32(footer + 4).and_then(|len| len.checked_add(1)?.checked_mul(4));
    let start = index.and_then(|len| footer.checked_sub(usize::try_from(len).ok()?));
    if let Some(start) = start.filter(|start| *start + 4 <= footer) {
        let crc = crc32(&archive[start..footer - 4]);
        archive[footer - 4..footer].copy_from_slice(&crc);
    }
}

/// Checks that the end of a stream is recognised, in whatever pieces it comes. The first byte gives the length of the
/// pieces.
pub(super) fn ending(data: &[u8]) {
    let Some((step, data)) = data.split_first() else { return };
    let mut reader = FooterCheck::new(data);
    let (mut all, mut piece) = (Vec::new(), vec![0; usize::from(*step) * 8 + 1]);
    let end = loop {
        match reader.read(&mut piece) {
            Ok(0) => break None,
            Ok(len) => all.extend_from_slice(&piece[..len]),
            Err(error) => break Some(error.to_string()),
        }
    };
    assert!(all == data);
    let foreign = data.len().checked_sub(512).map(|start| &data[start..]);
    let foreign = foreign.is_some_and(|last| last.starts_with(b"conectix") || last.starts_with(b"koly\0\0\0\x04"));
    assert_eq!(end.is_some(), foreign);
    assert_eq!(detect::footer(data).is_some(), foreign);
}
