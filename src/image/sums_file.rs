// SPDX-License-Identifier: BSD-2-Clause
//! Finds the checksum of an image in a SUMS file.
//!
//! These forms of a line are read: `HEX name` and `HEX *name` as sha256sum(1) writes them, also with its escapes; `SHA256 (name) =
//! HEX` as BSD's tools and `sha256sum --tag` do; `SHA256(name)= HEX` and `SHA2-256(name)= HEX` as openssl-dgst(1) does. All other
//! lines are ignored, so that a clear-signed file can be read, too. The signature in such a file is not checked, as
//! `image_signature` names a detached one. Gentoo's files have a heading such as `# BLAKE2B HASH` before the lines of each
//! algorithm.
//!
//! The SUMS file may belong to one image: then it has the name of the image and `.sha256` or the like after it. Such a
//! file may consist of the digits alone, as Alpine's do, or have another name, as openSUSE's do. (There the name of the
//! image is a link to one with the number of the build.) A file that is one digest and nothing else needs no name.

use std::borrow::Cow;

use super::checksum::{Algorithm, Digest};
use super::reference::ImageRef;

/// The name of a SUMS file of one image is the name of the image and one of these, in any case.
const SINGLE_SUFFIXES: [&str; 7] =
    [".sha256", ".sha512", ".sha256sum", ".sha512sum", ".sha256.txt", ".sha512.txt", ".checksum"];

/// The names of the algorithms before the name of a file in brackets, in any case.
const TAGS: [(&str, Algorithm); 4] = [
    ("sha256", Algorithm::Sha256),
    ("sha2-256", Algorithm::Sha256),
    ("sha512", Algorithm::Sha512),
    ("sha2-512", Algorithm::Sha512),
];

/// No more characters of a line are shown.
const SHOWN: usize = 200;

/// Why the checksum of an image is not known. `name` is the file name of the image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum SumsError {
    #[error("{sums} has no SHA-256 or SHA-512 checksum of {name}")]
    Missing { sums: String, name: String },
    #[error("{sums} has more than one {algorithm} checksum of {name}: '{first}' and '{second}'")]
    Ambiguous { sums: String, name: String, algorithm: Algorithm, first: String, second: String },
}

/// A line with a digest.
struct Entry<'t> {
    digest: Digest,
    /// The file name, which may be empty.
    name: Cow<'t, str>,
    line: &'t str,
}

/// Returns the digest of an image in the SUMS file that was read from `sums` and has the content `text`. `names` are the names that
/// the image may have there; the first one that is listed counts. Folders in the names of a SUMS file are ignored. Of several
/// digests the strongest counts.
pub(crate) fn find(sums: &ImageRef, text: &[u8], names: &[String]) -> Result<Digest, SumsError> {
    let text = text_of(text);
    let entries = entries(&text);
    let listed = |name: &&String| entries.iter().any(|entry| base_name(&entry.name) == **name);
    let first = names.first().cloned().unwrap_or_default();
    let wanted: Vec<_> = match names.iter().find(listed) {
        Some(name) => entries.iter().filter(|entry| base_name(&entry.name) == name).collect(),
        None if names.iter().any(|name| is_single(sums, name)) || is_bare(&text, &entries) => entries.iter().collect(),
        None => Vec::new(),
    };
    let Some(strongest) = wanted.iter().max_by_key(|entry| entry.digest.algorithm()) else {
        return Err(SumsError::Missing { sums: sums.to_string(), name: first });
    };
    let algorithm = strongest.digest.algorithm();
    let same: Vec<_> = wanted.iter().filter(|entry| entry.digest.algorithm() == algorithm).collect();
    match same.iter().find(|entry| entry.digest != same[0].digest) {
        Some(other) => {
            let (first_line, second) = (shown(same[0].line), shown(other.line));
            Err(SumsError::Ambiguous { sums: sums.to_string(), name: first, algorithm, first: first_line, second })
        }
        None => Ok(same[0].digest.clone()),
    }
}

fn shown(line: &str) -> String {
    line.trim().chars().take(SHOWN).collect::<String>().escape_debug().to_string()
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
    own.strip_prefix(name).is_some_and(|rest| SINGLE_SUFFIXES.contains(&rest.to_ascii_lowercase().as_str()))
}

/// Returns whether the file is one digest and nothing else.
fn is_bare(text: &str, entries: &[Entry<'_>]) -> bool {
    let lines = text.lines().filter(|line| !line.trim().is_empty()).count();
    lines == 1 && entries.iter().all(|entry| entry.name.is_empty())
}

/// Returns the lines with digests. Those below the heading of another algorithm are left out, because BLAKE2b has as many digits
/// as SHA-512.
fn entries(text: &str) -> Vec<Entry<'_>> {
    let mut heading = None;
    let mut entries = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.trim().strip_prefix('#').and_then(|rest| rest.trim().strip_suffix(" HASH")) {
            heading = Some(algorithm_named(name.trim()));
        } else if let Some(entry) = entry(line)
            && heading.is_none_or(|algorithm| algorithm == Some(entry.digest.algorithm()))
        {
            entries.push(entry);
        }
    }
    entries
}

fn algorithm_named(name: &str) -> Option<Algorithm> {
    TAGS.into_iter().find(|(tag, _)| tag.eq_ignore_ascii_case(name)).map(|(_, algorithm)| algorithm)
}

/// Returns the digest in a line, if there is one, and the file name.
fn entry(line: &str) -> Option<Entry<'_>> {
    let text = line.trim();
    if let Some((tag, rest)) = text.split_once('(')
        && let Some(algorithm) = algorithm_named(tag.trim_end())
    {
        let (name, hex) = rest.rsplit_once('=')?;
        let name = name.trim_end().strip_suffix(')')?;
        return Some(Entry { digest: Digest::new(algorithm, hex.trim())?, name: name.into(), line });
    }
    // A backslash says that the name has escapes.
    let (escaped, text) = text.strip_prefix('\\').map_or((false, text), |text| (true, text));
    let (hex, name) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    let name = name.trim_start();
    let name = name.strip_prefix('*').unwrap_or(name);
    let digest = Digest::new(Algorithm::Sha256, hex).or_else(|| Digest::new(Algorithm::Sha512, hex))?;
    Some(Entry { digest, name: if escaped { unescape(name).into() } else { name.into() }, line })
}

/// Takes back what sha256sum(1) does to line breaks and backslashes.
fn unescape(name: &str) -> String {
    let mut plain = String::new();
    let mut rest = name.chars();
    while let Some(c) = rest.next() {
        plain.push(match (c, c == '\\') {
            (_, true) => match rest.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                other => other.unwrap_or('\\'),
            },
            (plain, false) => plain,
        });
    }
    plain
}

/// The name without its folders, which may be those of Windows.
fn base_name(path: &str) -> &str {
    path.rsplit('/').next().map_or(path, |name| name.strip_prefix(".\\").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::{ImageRef, SumsError, find};
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
        find(sums, text.as_bytes(), &[name.to_owned()]).map(|digest| format!("{}:{}", digest.algorithm(), digest.hex()))
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
            (format!("SHA256(disk.raw)= {a}"), format!("sha256:{a}")),
            (format!("SHA2-512(./disk.raw)= {}", b.to_uppercase()), format!("sha512:{b}")),
            (format!("sha256 (disk.raw) = {a}"), format!("sha256:{a}")),
            (format!("  {a}   disk.raw  "), format!("sha256:{a}")),
            (format!("\\{a} *./disk.raw"), format!("sha256:{a}")),
            (format!("{a} *.\\disk.raw"), format!("sha256:{a}")),
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
            assert_eq!(find(&sums(), &text, &["disk.raw".to_owned()]).unwrap().hex(), sha256('a'), "{text:?}");
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
        let lines = format!("'{}  a/disk.raw' and '{}  b/disk.raw'", sha256('a'), sha256('b'));
        assert_eq!(message, format!("/SUMS has more than one sha256 checksum of disk.raw: {lines}"));
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
            (".SHA256SUM", format!("{a}\n"), format!("sha256:{a}")),
            (".CHECKSUM", format!("# x: 5 bytes\nSHA512 (x) = {b}\n"), format!("sha512:{b}")),
            (".sha256.txt", format!("{a}\r\n\r\n"), format!("sha256:{a}")),
            (".sha256", format!("{}  other\n{a}  a+b.qcow2\n", sha256('c')), format!("sha256:{a}")),
        ] {
            assert_eq!(found_in(&own(extension), &text, "a+b.qcow2"), Ok(expected), "{extension} {text}");
        }
        let two = format!("{a}  one\n{}  two\n", sha256('c'));
        let message = found_in(&own(".sha256"), &two, "a+b.qcow2").unwrap_err().to_string();
        let start = "https://h/13/a+b.qcow2.sha256 has more than one sha256 checksum of a+b.qcow2: ";
        assert!(message.starts_with(start), "{message}");
        // One digest and nothing else can mean nothing else.
        for sums in [own(".asc"), sums()] {
            assert_eq!(found_in(&sums, &format!("\n{a}\n"), "disk.raw"), Ok(format!("sha256:{a}")));
        }
        // The file belongs to another image, or to many images.
        let named = format!("{a}  x");
        for (sums, text) in
            [(own(".sha256"), &named), (own(".asc"), &named), (sums(), &format!("{a}\n{a}")), (sums(), &named)]
        {
            let name = if sums == own(".sha256") { "b.qcow2" } else { "a+b.qcow2" };
            let message = found_in(&sums, text, name).unwrap_err().to_string();
            assert_eq!(message, format!("{sums} has no SHA-256 or SHA-512 checksum of {name}"));
        }
    }

    #[test]
    fn the_strongest_digest_counts() {
        let text = format!("SHA512 (disk.raw) = {}\nSHA256 (disk.raw) = {}\n", sha512('b'), sha256('a'));
        assert_eq!(found(&text, "disk.raw"), Ok(format!("sha512:{}", sha512('b'))));
    }

    /// As Gentoo publishes them.
    #[test]
    fn lines_below_the_heading_of_another_algorithm_are_left_out() {
        let text = format!(
            "# BLAKE2B HASH\n{}  disk.raw\n# SHA512 HASH\n{}  disk.raw\n# SHA3 HASH\n{}  disk.raw\n",
            sha512('1'),
            sha512('b'),
            sha256('2')
        );
        assert_eq!(found(&text, "disk.raw"), Ok(format!("sha512:{}", sha512('b'))));
    }

    #[test]
    fn the_first_name_that_is_listed_counts() {
        let text = format!("{}  disk.raw\n{}  download\n", sha256('a'), sha256('b'));
        let find = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            find(&sums(), text.as_bytes(), &names).map(|digest| digest.hex().to_owned())
        };
        assert_eq!(find(&["download", "disk.raw"]), Ok(sha256('b')));
        assert_eq!(find(&["get", "disk.raw"]), Ok(sha256('a')));
        let missing = "/SUMS has no SHA-256 or SHA-512 checksum of get";
        assert_eq!(find(&["get", "s3cret"]).unwrap_err().to_string(), missing);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<Vec<u8>>(), line in "(SHA256 \\(|[a-f0-9]{64})?[ *)=a-z/\\\\]{0,20}") {
            let _ = find(&sums(), &text, &["disk.raw".to_owned()]);
            let _ = find(&sums(), line.as_bytes(), &[String::new()]);
        }
    }
}
