// SPDX-License-Identifier: BSD-2-Clause
//! SUMS files: the checksums of many files in one text.
//!
//! Three forms of a line are read: `HEX  name` and `HEX *name` as sha256sum(1) writes them, and `SHA256 (name) = HEX`
//! as BSD's tools and `sha256sum --tag` do. All other lines are passed over, so that a clear-signed file can be read
//! too (its own signature is not looked at: `image_signature` names a detached one).

use super::checksum::{Algorithm, Digest};

/// Why a SUMS file does not say what an image's checksum is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SumsError {
    /// The image is not in it.
    #[error("{sums} has no SHA-256 or SHA-512 checksum of {name}")]
    Missing {
        /// The SUMS file, without secrets.
        sums: String,
        /// The image's base name.
        name: String,
    },
    /// It is there with different checksums.
    #[error("{sums} has more than one {algorithm} checksum of {name}")]
    Ambiguous {
        /// The SUMS file, without secrets.
        sums: String,
        /// The image's base name.
        name: String,
        /// Of which kind.
        algorithm: Algorithm,
    },
}

/// The digest of the file with the base name `name`, as the SUMS file with this `text` has it; folders in the file's
/// names don't count. SHA-256 comes first where both are there: the cache knows it of every image. `sums` is what the
/// SUMS file is called in messages.
pub fn find(sums: &str, text: &[u8], name: &str) -> Result<Digest, SumsError> {
    let text = String::from_utf8_lossy(text);
    let entries = text.lines().filter_map(entry).filter(|(_, entry)| base_name(entry) == name);
    let mut digests: Vec<_> = entries.map(|(digest, _)| digest).collect();
    digests.sort_by_key(Digest::algorithm);
    let Some(first) = digests.first() else {
        return Err(SumsError::Missing { sums: sums.to_owned(), name: name.to_owned() });
    };
    let algorithm = first.algorithm();
    if digests.iter().any(|other| other.algorithm() == algorithm && other != first) {
        return Err(SumsError::Ambiguous { sums: sums.to_owned(), name: name.to_owned(), algorithm });
    }
    Ok(first.clone())
}

/// A line's digest and file name, if it has them.
fn entry(line: &str) -> Option<(Digest, &str)> {
    let line = line.trim_end_matches('\r');
    for (tag, algorithm) in [("SHA256 (", Algorithm::Sha256), ("SHA512 (", Algorithm::Sha512)] {
        if let Some(rest) = line.strip_prefix(tag) {
            let (name, hex) = rest.rsplit_once(") = ")?;
            return Some((Digest::new(algorithm, hex.trim_end())?, name));
        }
    }
    let (hex, name) = line.split_once([' ', '\t'])?;
    let name = name.strip_prefix([' ', '*']).unwrap_or(name);
    let digest = Digest::new(Algorithm::Sha256, hex).or_else(|| Digest::new(Algorithm::Sha512, hex))?;
    Some((digest, name))
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::{SumsError, find};
    use crate::image::checksum::Algorithm;
    use proptest::prelude::{any, proptest};

    fn sha256(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn sha512(digit: char) -> String {
        digit.to_string().repeat(128)
    }

    fn found(text: &str, name: &str) -> Result<String, SumsError> {
        find("SUMS", text.as_bytes(), name).map(|digest| format!("{}:{}", digest.algorithm(), digest.hex()))
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
        let missing = "SUMS has no SHA-256 or SHA-512 checksum of disk.raw";
        let md5 = format!("{}  disk.raw\nMD5 (disk.raw) = {}\n", "a".repeat(32), "a".repeat(32));
        for text in ["", "<html>disk.raw</html>", &md5, &format!("{}  DISK.RAW\n{}\n", sha256('a'), sha256('b'))] {
            assert_eq!(found(text, "disk.raw").unwrap_err().to_string(), missing, "{text}");
        }
        let twice = format!("{}  a/disk.raw\n{}  b/disk.raw\n", sha256('a'), sha256('b'));
        let message = found(&twice, "disk.raw").unwrap_err().to_string();
        assert_eq!(message, "SUMS has more than one sha256 checksum of disk.raw");
        let same = format!("{}  a/disk.raw\n{}  b/disk.raw\n", sha256('a'), sha256('a'));
        assert!(found(&same, "disk.raw").is_ok());
    }

    #[test]
    fn sha256_comes_first() {
        let text = format!("SHA512 (disk.raw) = {}\nSHA256 (disk.raw) = {}\n", sha512('b'), sha256('a'));
        assert_eq!(find("SUMS", text.as_bytes(), "disk.raw").unwrap().algorithm(), Algorithm::Sha256);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<Vec<u8>>(), line in "(SHA256 \\(|[a-f0-9]{64})?[ *)=a-z/\\\\]{0,20}") {
            let _ = find("SUMS", &text, "disk.raw");
            let _ = find("SUMS", line.as_bytes(), "");
        }
    }
}
