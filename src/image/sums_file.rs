// SPDX-License-Identifier: BSD-2-Clause
//! Finds the checksum of an image in a SUMS file.
//!
//! Three forms of a line are read: `HEX name` and `HEX *name` as sha256sum(1) writes them, and `SHA256 (name) = HEX` as
//! BSD's tools and `sha256sum --tag` do. All other lines are ignored, so that a clear-signed file can be read, too. The
//! signature in such a file is not checked, as `image_signature` names a detached one.
//!
//! The SUMS file may belong to one image: then it has the name of the image and `.sha256` or `.sha512` after it. Such a
//! file may consist of the digits alone, as Alpine's do, or have another name, as openSUSE's do. (There the name of the
//! image is a link to one with the number of the build.)

use super::checksum::{Algorithm, Digest};
use super::reference::ImageRef;

/// The name of a SUMS file of one image is the name of the image and one of these.
const SINGLE_SUFFIXES: [&str; 4] = [".sha256", ".sha512", ".sha256sum", ".sha512sum"];

/// Why the checksum of an image is not known. `name` is the file name of the image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum SumsError {
    #[error("{sums} has no SHA-256 or SHA-512 checksum of {name}")]
    Missing { sums: String, name: String },
    #[error("{sums} has more than one {algorithm} checksum of {name}")]
    Ambiguous { sums: String, name: String, algorithm: Algorithm },
}

/// Returns the digest of the image `name` in the SUMS file that was read from `sums` and has the content `text`.
/// Folders in the names of a SUMS file are ignored. SHA-256 is preferred, because the cache knows it of every image.
pub(crate) fn find(sums: &ImageRef, text: &[u8], name: &str) -> Result<Digest, SumsError> {
    let text = text_of(text);
    let entries: Vec<_> = text.lines().filter_map(entry).collect();
    let named = |entry: &str| base_name(entry) == name;
    let any = is_single(sums, name) && !entries.iter().any(|(_, entry)| named(entry));
    let wanted = entries.into_iter().filter(|(_, entry)| any || named(entry));
    let mut digests: Vec<_> = wanted.map(|(digest, _)| digest).collect();
    digests.sort_by_key(Digest::algorithm);
    let Some(first) = digests.first() else {
        return Err(SumsError::Missing { sums: sums.to_string(), name: name.to_owned() });
    };
    let algorithm = first.algorithm();
    if digests.iter().any(|other| other.algorithm() == algorithm && other != first) {
        return Err(SumsError::Ambiguous { sums: sums.to_string(), name: name.to_owned(), algorithm });
    }
    Ok(first.clone())
}

/// Decodes the text. PowerShell writes it in UTF-16, or with a byte order mark.
pub(crate) fn text_of(bytes: &[u8]) -> String {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<_> = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units)
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] | rest => String::from_utf8_lossy(rest).into_owned(),
    }
}

/// Returns whether the name of the SUMS file says that it belongs to the image `name` alone.
fn is_single(sums: &ImageRef, name: &str) -> bool {
    let own = sums.base_name().unwrap_or_default();
    own.strip_prefix(name).is_some_and(|rest| SINGLE_SUFFIXES.contains(&rest))
}

/// Returns the digest in a line, if there is one, and the file name, which may be empty.
fn entry(line: &str) -> Option<(Digest, &str)> {
    let line = line.trim_end_matches('\r');
    for (tag, algorithm) in [("SHA256 (", Algorithm::Sha256), ("SHA512 (", Algorithm::Sha512)] {
        if let Some(rest) = line.strip_prefix(tag) {
            let (name, hex) = rest.rsplit_once(") = ")?;
            return Some((Digest::new(algorithm, hex.trim_end())?, name));
        }
    }
    let (hex, name) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let name = name.strip_prefix([' ', '*']).unwrap_or(name);
    let digest = Digest::new(Algorithm::Sha256, hex).or_else(|| Digest::new(Algorithm::Sha512, hex))?;
    Some((digest, name))
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::{ImageRef, SumsError, find};
    use crate::image::checksum::Algorithm;
    use proptest::prelude::{any, proptest};

    fn sha256(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn sha512(digit: char) -> String {
        digit.to_string().repeat(128)
    }

    fn sums() -> ImageRef {
        ImageRef::parse("/SUMS").unwrap()
    }

    fn found(text: &str, name: &str) -> Result<String, SumsError> {
        found_in(&sums(), text, name)
    }

    fn found_in(sums: &ImageRef, text: &str, name: &str) -> Result<String, SumsError> {
        find(sums, text.as_bytes(), name).map(|digest| format!("{}:{}", digest.algorithm(), digest.hex()))
    }

    #[test]
    fn every_form_of_a_line_is_read() {
        let (a, b) = (sha256('a'), sha512('b'));
        for (line, expected) in [
            (format!("{a}  disk.raw"), format!("sha256:{a}")),
            (format!("{a} *disk.raw\r"), format!("sha256:{a}")),
            (format!("{a} disk.raw"), format!("sha256:{a}")),
            (format!("{}  ./disk.raw", a.to_uppercase()), format!("sha256:{a}")),
            (format!("{a} *images/13/disk.raw"), format!("sha256:{a}")),
            (format!("{b}  disk.raw"), format!("sha512:{b}")),
            (format!("SHA256 (disk.raw) = {a}"), format!("sha256:{a}")),
            (format!("SHA512 (disk.raw) = {b}"), format!("sha512:{b}")),
        ] {
            let text = format!("{}  other.raw\n{line}\n{}  disk.raw.xz\n", sha256('1'), sha256('2'));
            assert_eq!(found(&text, "disk.raw"), Ok(expected), "{line}");
        }
        let text = format!("{a}  a disk (1) = 2.raw\nSHA256 (b (1) = 2.raw) = {a}\n");
        assert!(found(&text, "a disk (1) = 2.raw").is_ok() && found(&text, "b (1) = 2.raw").is_ok());
    }

    #[test]
    fn what_windows_writes_is_read() {
        let line = format!("{}  disk.raw\r\n", sha256('a'));
        let wide =
            |order: fn(u16) -> [u8; 2]| format!("\u{feff}{line}").encode_utf16().flat_map(order).collect::<Vec<_>>();
        for text in [format!("\u{feff}{line}").into_bytes(), wide(u16::to_le_bytes), wide(u16::to_be_bytes)] {
            assert_eq!(find(&sums(), &text, "disk.raw").unwrap().hex(), sha256('a'), "{text:?}");
        }
    }

    #[test]
    fn a_clear_signed_file_is_read() {
        let text = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# disk.raw: 77 bytes\nSHA256 (disk.raw) = {}\n\
             -----BEGIN PGP SIGNATURE-----\n\niQIz\n-----END PGP SIGNATURE-----\n",
            sha256('a')
        );
        assert_eq!(found(&text, "disk.raw"), Ok(format!("sha256:{}", sha256('a'))));
    }

    #[test]
    fn a_missing_or_doubtful_name_is_an_error() {
        let missing = "/SUMS has no SHA-256 or SHA-512 checksum of disk.raw";
        let md5 = format!("{}  disk.raw\nMD5 (disk.raw) = {}\n", "a".repeat(32), "a".repeat(32));
        for text in ["", "<html>disk.raw</html>", &md5, &format!("{}  DISK.RAW\n{}\n", sha256('a'), sha256('b'))] {
            assert_eq!(found(text, "disk.raw").unwrap_err().to_string(), missing, "{text}");
        }
        let twice = format!("{}  a/disk.raw\n{}  b/disk.raw\n", sha256('a'), sha256('b'));
        let message = found(&twice, "disk.raw").unwrap_err().to_string();
        assert_eq!(message, "/SUMS has more than one sha256 checksum of disk.raw");
        let same = format!("{}  a/disk.raw\n{}  b/disk.raw\n", sha256('a'), sha256('a'));
        assert!(found(&same, "disk.raw").is_ok());
    }

    #[test]
    fn a_file_of_one_image_need_not_repeat_its_name() {
        let (a, b) = (sha256('a'), sha512('b'));
        let own = |extension: &str| ImageRef::parse(&format!("https://h/13/a+b.qcow2{extension}?token=1")).unwrap();
        for (extension, text, expected) in [
            (".sha512", format!("{b}\n"), format!("sha512:{b}")),
            (".sha256", format!("{a}  a+b-Build7.1.qcow2\n"), format!("sha256:{a}")),
            (".sha256sum", format!("SHA256 (x) = {a}\n"), format!("sha256:{a}")),
            (".sha256", format!("{}  other\n{a}  a+b.qcow2\n", sha256('c')), format!("sha256:{a}")),
        ] {
            assert_eq!(found_in(&own(extension), &text, "a+b.qcow2"), Ok(expected), "{extension} {text}");
        }
        let two = format!("{a}  one\n{}  two\n", sha256('c'));
        let message = found_in(&own(".sha256"), &two, "a+b.qcow2").unwrap_err().to_string();
        assert_eq!(message, "https://h/13/a+b.qcow2.sha256 has more than one sha256 checksum of a+b.qcow2");
        // The file belongs to another image, or to many images.
        for (sums, text) in [(own(".sha256"), &a), (own(".asc"), &a), (sums(), &a), (sums(), &format!("{a}  x"))] {
            let name = if sums == own(".sha256") { "b.qcow2" } else { "a+b.qcow2" };
            let message = found_in(&sums, text, name).unwrap_err().to_string();
            assert_eq!(message, format!("{sums} has no SHA-256 or SHA-512 checksum of {name}"));
        }
    }

    #[test]
    fn sha256_comes_first() {
        let text = format!("SHA512 (disk.raw) = {}\nSHA256 (disk.raw) = {}\n", sha512('b'), sha256('a'));
        assert_eq!(find(&sums(), text.as_bytes(), "disk.raw").unwrap().algorithm(), Algorithm::Sha256);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<Vec<u8>>(), line in "(SHA256 \\(|[a-f0-9]{64})?[ *)=a-z/\\\\]{0,20}") {
            let _ = find(&sums(), &text, "disk.raw");
            let _ = find(&sums(), line.as_bytes(), "");
        }
    }
}
