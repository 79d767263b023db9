// SPDX-License-Identifier: BSD-2-Clause
//! Image types: a disk format, possibly inside a compression.

use std::fmt;
use std::str::FromStr;

/// How the disk's bytes are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

/// What the image file is compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip, RFC 1952.
    Gzip,
    /// bzip2.
    Bzip2,
    /// The .xz format.
    Xz,
    /// Zstandard, RFC 8878.
    Zstd,
}

/// A declared image type, such as `raw` or `qcow2+xz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageType {
    /// The disk format.
    pub format: Format,
    /// The compression around it.
    pub compression: Option<Compression>,
}

/// A text that is no image type.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown image type '{0}' (use auto, raw or qcow2, the latter two also with +gz, +bz2, +xz or +zst)")]
pub struct UnknownType(String);

impl ImageType {
    /// Parses an `image_type` parameter; `auto` gives none: the content decides.
    pub fn parse(text: &str) -> Result<Option<Self>, UnknownType> {
        if text == "auto" { Ok(None) } else { text.parse().map(Some) }
    }
}

impl FromStr for ImageType {
    type Err = UnknownType;

    fn from_str(text: &str) -> Result<Self, UnknownType> {
        // A URL that stands in the wrong parameter may hold a password.
        let plain = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
        let unknown = || UnknownType(if text.chars().all(plain) { text } else { "..." }.to_owned());
        let (format, compression) = text.split_once('+').map_or((text, None), |(format, rest)| (format, Some(rest)));
        let format = match format {
            "raw" => Format::Raw,
            "qcow2" => Format::Qcow2,
            _ => return Err(unknown()),
        };
        let compression = match compression {
            None => None,
            Some("gz") => Some(Compression::Gzip),
            Some("bz2" | "bzip2") => Some(Compression::Bzip2),
            Some("xz") => Some(Compression::Xz),
            Some("zst") => Some(Compression::Zstd),
            Some(_) => return Err(unknown()),
        };
        Ok(ImageType { format, compression })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::Gzip => "gz",
            Compression::Bzip2 => "bz2",
            Compression::Xz => "xz",
            Compression::Zstd => "zst",
        })
    }
}

impl fmt::Display for ImageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.compression {
            None => write!(f, "{}", self.format),
            Some(compression) => write!(f, "{}+{compression}", self.format),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ImageType;

    #[test]
    fn every_type_parses_and_displays() {
        for text in
            ["raw", "qcow2", "raw+gz", "raw+bz2", "raw+xz", "raw+zst", "qcow2+gz", "qcow2+bz2", "qcow2+xz", "qcow2+zst"]
        {
            assert_eq!(ImageType::parse(text).unwrap().unwrap().to_string(), text);
        }
        assert_eq!(ImageType::parse("raw+bzip2").unwrap().unwrap().to_string(), "raw+bz2");
        assert_eq!(ImageType::parse("auto"), Ok(None));
    }

    #[test]
    fn anything_else_is_named() {
        for text in ["", "RAW", "vmdk", "raw+", "raw+gz+xz", "+gz", "raw+lz4", "auto+gz", "qcow"] {
            let message = ImageType::parse(text).unwrap_err().to_string();
            assert!(message.starts_with(&format!("unknown image type '{text}' (use auto, raw or qcow2")), "{message}");
        }
        let message = ImageType::parse("https://joe:s3cret@h/a.raw").unwrap_err().to_string();
        assert!(message.starts_with("unknown image type '...' (use auto"), "{message}");
    }
}
