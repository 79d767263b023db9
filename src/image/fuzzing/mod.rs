// SPDX-License-Identifier: BSD-2-Clause
//! What has to hold for any head of an image, any archive, and any name.

mod files;

pub(crate) use files::{archive_size, container, ending};

use std::io::{self, Read, Write};

use super::checksum::{Algorithm, Checksum, Digest};
use super::compression::Compression;
use super::container::qcow2_virtual_size as virtual_size;
use super::detect::{Content, HEAD_LEN, content};
use super::format::{Format, ImageType};
use super::reference::ImageRef;
use super::sums_file::{find, text_of};
use crate::node::size::ByteSize;
use crate::store::http::fuzzing::hides_secrets;

/// A few bytes may decode to very many: so many are looked at.
const MAX_DECODED: u64 = 2 << 20;

/// A bzip2 archive, made as the first byte says.
pub(crate) fn bzip2(data: &[u8]) {
    bzip2_parallel::fuzzing::archive(data);
}

/// Archives of members, in one piece and in small ones.
pub(crate) fn decode(data: &[u8]) {
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

/// Gives a few bytes at a time.
struct Trickle<'d>(&'d [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(7);
        self.0.read(&mut buf[..len])
    }
}

/// The head of a file.
pub(crate) fn detect(head: &[u8]) {
    let (content, compression) = (content(head), Compression::detect(head));
    // Two answers to what the file is would be none.
    match (compression, content) {
        (Some(_), Content::Foreign(words)) => assert!(words.contains("archive")),
        (Some(found), other) => panic!("{found} and {other:?} at once"),
        (None, _) => {}
    }
    let is_qcow2 = head.starts_with(b"QFI\xfb");
    assert_eq!(content == Content::Disk(Format::Qcow2), is_qcow2);
    assert!(is_qcow2 || virtual_size(head).is_err());
    if content == Content::Disk(Format::Raw) {
        let printable = |byte: &u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\n');
        assert!(!head.iter().all(printable), "a text is a disk");
    }
    // Only the head counts, whatever is behind it.
    let mut longer = head[..head.len().min(HEAD_LEN)].to_vec();
    if longer.len() == HEAD_LEN {
        longer.extend(b"\x55\xaaQFI\xfb");
    }
    assert_eq!((super::detect::content(&longer), Compression::detect(&longer)), (content, compression));
}

/// The head of a qcow2 image.
pub(crate) fn qcow2(head: &[u8]) {
    match virtual_size(head) {
        Err(error) => assert!(error.to_string().bytes().all(|byte| (b' '..=b'~').contains(&byte))),
        Ok(size) => {
            // docs/interop/qcow2.rst: what makes qemu-img open another file, or ask for a key.
            let zero = |range: std::ops::Range<usize>| head[range].iter().all(|byte| *byte == 0);
            assert!(zero(8..20), "a backing file");
            assert!(zero(32..36), "encryption");
            assert!(head[7] == 2 || zero(72..79) && head[79] & !0b1_1001 == 0, "incompatible features");
            assert!(size > 0 && size.to_be_bytes() == head[24..32] && i64::try_from(size).is_ok());
        }
    }
}

/// What OS parameters name.
pub(crate) fn names(text: &str) {
    match ImageType::parse(text) {
        Ok(Some(found)) => assert_eq!(ImageType::parse(&found.to_string()), Ok(Some(found))),
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
        // Whole units are exact in any form.
        let shown = size.to_string().replace(" bytes", "");
        assert!(shown.contains('(') || shown.parse() == Ok(size), "{shown}");
    }
}

/// A SUMS file, and in its first line the name to look for.
pub(crate) fn sums(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let name = String::from_utf8_lossy(&data[..at]).into_owned();
    let text = data.get(at + 1..).unwrap_or_default();
    let sums = ImageRef::parse("/SUMS").expect("a path");
    // A text in UTF-16 is one as a whole: what is added to it below is added to its characters.
    let decoded = text_of(text);
    if let Ok(digest) = find(&sums, text, &name) {
        let text = decoded.to_lowercase();
        assert!(text.contains(digest.hex()) && text.contains(&name.to_lowercase()));
    }
    let text = decoded.as_bytes();
    if name.is_empty() || name.contains(['/', '\n', '\r']) || name.starts_with([' ', '*']) {
        return;
    }
    // A line for the name is found among any others, unless they say something else about it.
    let digest = Digest::new(Algorithm::Sha256, &"5e".repeat(32)).expect("a digest");
    for line in [format!("{}  {name}", digest.hex()), format!("SHA256 ({name}) = {}", digest.hex())] {
        assert_eq!(find(&sums, line.as_bytes(), &name).as_ref(), Ok(&digest), "{line}");
        let all = [text, b"\n", line.as_bytes(), b"\n", text].concat();
        match find(&sums, &all, &name) {
            Ok(found) => assert_eq!(found, digest),
            Err(error) => assert!(error.to_string().starts_with("/SUMS has more than one sha256")),
        }
    }
}
