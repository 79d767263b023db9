// SPDX-License-Identifier: BSD-2-Clause
//! What has to hold for any image file, and any archive, that is examined before it is used.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use flate2::Crc;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{MAX_DECODED, decoded};
use crate::image::compression::Compression;
use crate::image::container::{ContainerError, check_file, check_head, seal_vhdx};
use crate::image::detect::{self, FooterCheck, HEAD_LEN};
use crate::image::disk_size::DiskSize;
use crate::image::format::Format;
use crate::image::header_fields::Fields;

/// A file is not made larger than this to see what is behind its end, in bytes.
const MAX_LEN: u64 = 1 << 40;

/// The `len` bytes of `file`, an image in `format`; `sealed` gives a VHDX the checksums of what is in it. Gives
/// whether it passed.
pub(crate) fn container(format: Format, file: &File, len: u64, sealed: bool) -> bool {
    if sealed && format == Format::Vhdx {
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
            // What is complete is so with something behind it, unless it is the end that counts.
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

/// The end of what was missing in a file.
fn missing(error: &ContainerError) -> Option<u64> {
    match error {
        ContainerError::Truncated { needed, .. } => Some(needed.0),
        _ => None,
    }
}

/// The head of a file that begins with `head` and became longer.
fn longer_head(file: &File, head: &[u8]) -> Vec<u8> {
    let mut longer = head.to_vec();
    longer.resize(HEAD_LEN, 0);
    let len = usize::try_from(file.metadata().expect("a file").len()).unwrap_or(usize::MAX);
    longer.truncate(len);
    longer
}

/// No image that passed leads to another file.
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
        Format::Qcow2 => super::qcow2(head),
        Format::Vhdx | Format::Raw => {}
    }
}

/// What an archive says of its size, before it is decoded, is so, or it is corrupt. The first byte says which kind, and
/// whether it is made of the others (2), or gets checksums that fit (4).
pub(crate) fn archive_size(data: &[u8]) {
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
        _ => super::encoded(data, kind),
    }
}

/// Gives the footer of the last stream, and its index, the checksums of what they say.
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

/// The end of a stream decides, however it comes: the first byte says in which pieces.
pub(crate) fn ending(data: &[u8]) {
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
