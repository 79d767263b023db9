// SPDX-License-Identifier: BSD-2-Clause
//! Checksums of image files. The checksum of a compressed image is that of the compressed file.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest as _, Sha256, Sha512};

use crate::store::hex;
use crate::store::http::{ImageUrl, UrlError};

/// A file is hashed in pieces of this many bytes.
const BUFFER_LEN: usize = 1 << 20;

/// A hash function. MD5 and SHA-1 are not offered, as both allow collisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Algorithm {
    Sha256,
    Sha512,
}

/// The hash of a file. It is displayed as an `image_checksum` parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digest {
    algorithm: Algorithm,
    /// The digits are in lower case.
    hex: String,
}

/// An `image_checksum` parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// `sha256:HEX` or `sha512:HEX`.
    Digest(Digest),
    /// The URL of a SHA256SUMS or SHA512SUMS file.
    Sums(ImageUrl),
}

/// Why a text is not a checksum. The message does not repeat the text, as a URL may contain a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ChecksumSyntax {
    #[error("not a checksum (use sha256:HEX, sha512:HEX, or the URL of a SHA256SUMS or SHA512SUMS file)")]
    Unknown,
    #[error("a {0} checksum has {len} hex digits", len = .0.digits())]
    Digits(Algorithm),
    #[error("the SUMS file's URL can't be used")]
    Url(#[from] UrlError),
}

impl Algorithm {
    fn digits(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        })
    }
}

impl Digest {
    /// Returns a digest from hex digits in any case, or `None` if their number is wrong, or if they are not hex digits.
    pub(crate) fn new(algorithm: Algorithm, hex: &str) -> Option<Self> {
        let valid = hex.len() == algorithm.digits() && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        valid.then(|| Digest { algorithm, hex: hex.to_ascii_lowercase() })
    }

    /// Returns the digest of `file`, whose position does not matter and does not move.
    pub(crate) fn of_file(file: &File, algorithm: Algorithm) -> io::Result<Self> {
        let mut hasher = Hasher::new(algorithm);
        for_each_piece(file, |piece, _| hasher.update(piece))?;
        Ok(hasher.finish())
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the hex digits, in lower case.
    pub(crate) fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex)
    }
}

impl Checksum {
    /// Parses an `image_checksum` parameter in upper or lower case. Returns `None` for `none`, which overrides the
    /// configuration.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, ChecksumSyntax> {
        if text == "none" {
            return Ok(None);
        }
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let named = |name: &&str| name.eq_ignore_ascii_case(&algorithm.to_string());
            if let Some((_, hex)) = text.split_once(':').filter(|(name, _)| named(name)) {
                let digest = Digest::new(algorithm, hex).ok_or(ChecksumSyntax::Digits(algorithm))?;
                return Ok(Some(Checksum::Digest(digest)));
            }
        }
        if text.contains("://") {
            return Ok(Some(Checksum::Sums(ImageUrl::parse(text)?)));
        }
        Err(ChecksumSyntax::Unknown)
    }
}

/// Computes a digest piece by piece.
#[derive(Debug)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hash) => hash.update(bytes),
            Hasher::Sha512(hash) => hash.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(hash) => Digest { algorithm: Algorithm::Sha256, hex: hex(&hash.finalize()) },
            Hasher::Sha512(hash) => Digest { algorithm: Algorithm::Sha512, hex: hex(&hash.finalize()) },
        }
    }
}

/// Calls `take` with each piece of `file` and its offset, in order. The position of `file` does not matter and does not
/// move. Each piece but the last has `BUFFER_LEN` bytes.
pub(crate) fn for_each_piece(file: &File, mut take: impl FnMut(&[u8], u64)) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_LEN];
    let mut at = 0;
    loop {
        let len = fill_at(file, &mut buffer, at)?;
        if len > 0 {
            take(&buffer[..len], at);
        }
        at += len as u64;
        if len < buffer.len() {
            return Ok(());
        }
    }
}

/// Reads until `buffer` is full or the file ends. Returns the number of bytes.
fn fill_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read_at(&mut buffer[len..], offset + len as u64) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::{Algorithm, Checksum, ChecksumSyntax, Digest};
    use std::io::Write;

    #[test]
    fn a_parameter_is_a_digest_or_a_url() {
        let hex = "0123456789ABCDEF".repeat(4);
        let Ok(Some(Checksum::Digest(digest))) = Checksum::parse(&format!("sha256:{hex}")) else { panic!("no digest") };
        assert_eq!((digest.algorithm(), digest.hex()), (Algorithm::Sha256, hex.to_lowercase().as_str()));
        assert_eq!(digest.to_string(), format!("sha256:{}", hex.to_lowercase()));
        assert_eq!(Checksum::parse(&format!("SHA256:{hex}")), Ok(Some(Checksum::Digest(digest))));
        let sha512 = Checksum::parse(&format!("sha512:{hex}{hex}"));
        assert!(matches!(sha512, Ok(Some(Checksum::Digest(digest))) if digest.algorithm() == Algorithm::Sha512));
        let sums = Checksum::parse("https://joe:s3cret@h/SHA256SUMS?k=s3cret");
        assert!(
            matches!(&sums, Ok(Some(Checksum::Sums(url))) if url.to_string() == "https://h/SHA256SUMS"),
            "{sums:?}"
        );
        assert!(!format!("{sums:?}").contains("s3cret"));
        assert_eq!(Checksum::parse("none"), Ok(None));
    }

    #[test]
    fn anything_else_is_refused_with_the_way_out_and_without_its_text() {
        let message = |text: &str| Checksum::parse(text).unwrap_err().to_string();
        for text in ["", "md5:d41d8cd98f00b204e9800998ecf8427e", "/srv/SHA256SUMS", &"a".repeat(64), "SHA-256:aa"] {
            assert_eq!(Checksum::parse(text), Err(ChecksumSyntax::Unknown), "{text}");
        }
        assert!(
            message("s3cret").starts_with("not a checksum (use sha256:HEX, sha512:HEX, or the URL of a SHA256SUMS")
        );
        for (algorithm, digits) in [("sha256", 64), ("sha512", 128)] {
            for hex in ["", "abc", &"a".repeat(65), &"g".repeat(64), &"g".repeat(128), " "] {
                let expected = format!("a {algorithm} checksum has {digits} hex digits");
                assert_eq!(message(&format!("{algorithm}:{hex}")), expected);
            }
        }
        assert_eq!(message("ftp://u:s3cret@h/x"), "the SUMS file's URL can't be used");
    }

    #[test]
    fn files_hash_as_the_standard_says() {
        let mut file = tempfile::tempfile().unwrap();
        // This is the example of FIPS 180-4.
        file.write_all(b"abc").unwrap();
        let digest = |algorithm| Digest::of_file(&file, algorithm).unwrap().hex().to_owned();
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(Algorithm::Sha256), sha256);
        assert!(digest(Algorithm::Sha512).starts_with("ddaf35a193617abacc417349ae204131"));
    }
}
