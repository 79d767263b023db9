// SPDX-License-Identifier: BSD-2-Clause
//! Image types: a disk format, the archive in which it lies, and the compression around that.

use std::fmt;
use std::iter::Peekable;
use std::str::{FromStr, Split};

use super::compression::Compression;

/// The format of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Raw,
    /// QEMU's own format.
    Qcow2,
    /// VMware's format. Only images that are one file are accepted.
    Vmdk,
    /// VirtualBox's format.
    Vdi,
    /// Hyper-V's format.
    Vhdx,
}

/// An archive that holds a disk image as one of its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Archive {
    /// tar(5), which an OVA is too.
    Tar,
}

/// A set of disk formats. The default is what a variant accepts without `image_formats`: raw and qcow2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Formats([bool; Format::ALL.len()]);

impl Format {
    pub(crate) const ALL: [Format; 5] = [Format::Raw, Format::Qcow2, Format::Vmdk, Format::Vdi, Format::Vhdx];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Returns the name, which is also the name of the driver in qemu-img.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
            Format::Vdi => "vdi",
            Format::Vhdx => "vhdx",
        }
    }
}

impl Formats {
    pub(crate) const ALL: Self = Formats([true; Format::ALL.len()]);

    pub(crate) fn has(self, format: Format) -> bool {
        self.0[format as usize]
    }
}

impl Default for Formats {
    fn default() -> Self {
        [Format::Raw, Format::Qcow2].into_iter().collect()
    }
}

impl FromIterator<Format> for Formats {
    fn from_iter<I: IntoIterator<Item = Format>>(formats: I) -> Self {
        formats.into_iter().fold(Formats([false; Format::ALL.len()]), |mut all, format| {
            all.0[format as usize] = true;
            all
        })
    }
}

/// The type of an image that was looked at: `raw`, `qcow2+xz` or `raw+tar+gz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageType {
    pub(crate) format: Format,
    pub(crate) archive: Option<Archive>,
    pub(crate) compression: Option<Compression>,
}

impl ImageType {
    /// The file is the disk.
    pub(crate) const PLAIN_RAW: Self = ImageType { format: Format::Raw, archive: None, compression: None };
}

/// What decodes qcow2 images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Qcow2Decoder {
    /// This program, but for what it leaves to qemu-img.
    #[default]
    Own,
    QemuImg,
}

/// A declared image type. One that names an archive may leave the format to the content: `tar+gz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeclaredType {
    pub(crate) format: Option<Format>,
    pub(crate) archive: Option<Archive>,
    /// The compression of the whole file.
    pub compression: Option<Compression>,
}

/// The text is not an image type.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown image type '{0}' (use auto, {formats}, all but auto also with {suffixes})", formats = formats(), suffixes = suffixes())]
pub struct UnknownType(String);

/// Returns `raw, qcow2 or ...`, for messages.
pub(crate) fn formats() -> String {
    let formats = Format::ALL.into_iter().map(Format::name);
    let names: Vec<_> = formats.chain(Archive::ALL.into_iter().map(Archive::name)).map(str::to_owned).collect();
    alternatives(&names)
}

/// Returns `+gz, +bz2 or ...`, for messages.
pub(crate) fn suffixes() -> String {
    alternatives(&Compression::ALL.map(|compression| format!("+{compression}")))
}

/// Returns `a, b or c`.
fn alternatives(names: &[String]) -> String {
    match names {
        [others @ .., last] => format!("{} or {last}", others.join(", ")),
        [] => String::new(),
    }
}

impl Archive {
    pub(crate) const ALL: [Archive; 1] = [Archive::Tar];

    /// The archive that an image type calls `name`.
    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|archive| archive.name() == name).or((name == "ova").then_some(Archive::Tar))
    }

    fn name(self) -> &'static str {
        match self {
            Archive::Tar => "tar",
        }
    }
}

impl DeclaredType {
    /// Parses an `image_type` parameter. Returns `None` for `auto`, which lets the content decide.
    pub fn parse(text: &str) -> Result<Option<Self>, UnknownType> {
        if text == "auto" { Ok(None) } else { text.parse().map(Some) }
    }

    /// Returns the type of images in `format` without an archive or a compression around it.
    pub(crate) fn plain(format: Format) -> Self {
        DeclaredType { format: Some(format), archive: None, compression: None }
    }
}

impl From<ImageType> for DeclaredType {
    fn from(ImageType { format, archive, compression }: ImageType) -> Self {
        DeclaredType { format: Some(format), archive, compression }
    }
}

impl FromStr for DeclaredType {
    type Err = UnknownType;

    fn from_str(text: &str) -> Result<Self, UnknownType> {
        // A URL that was given as the wrong parameter may contain a password.
        let plain = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
        let unknown = || UnknownType(if text.chars().all(plain) { text } else { "..." }.to_owned());
        let mut parts = text.split('+').peekable();
        let format = take(&mut parts, Format::named);
        let archive = take(&mut parts, Archive::named);
        let compression = take(&mut parts, Compression::with_suffix);
        if parts.next().is_some() || (format.is_none() && archive.is_none()) {
            return Err(unknown());
        }
        Ok(DeclaredType { format, archive, compression })
    }
}

/// Takes the next part if it is a name that `named` knows.
fn take<'t, T>(parts: &mut Peekable<Split<'t, char>>, named: impl Fn(&'t str) -> Option<T>) -> Option<T> {
    let found = named(parts.peek()?);
    if found.is_some() {
        parts.next();
    }
    found
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Formats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Format::ALL.into_iter().filter(|format| self.has(*format)).map(Format::name).collect();
        f.write_str(&names.join(", "))
    }
}

impl fmt::Display for ImageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        DeclaredType::from(*self).fmt(f)
    }
}

impl fmt::Display for DeclaredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = self.format.map(|format| format.name().to_owned());
        let archive = self.archive.map(|archive| archive.name().to_owned());
        let compression = self.compression.map(|compression| compression.to_string());
        let parts: Vec<_> = [format, archive, compression].into_iter().flatten().collect();
        f.write_str(&parts.join("+"))
    }
}

#[cfg(test)]
mod tests {
    use super::{DeclaredType, Format, Formats};

    #[test]
    fn every_type_parses_and_displays() {
        for format in Format::ALL.map(Format::name) {
            for archive in ["", "+tar"] {
                for compression in ["", "+gz", "+bz2", "+xz", "+zst"] {
                    let text = format!("{format}{archive}{compression}");
                    assert_eq!(DeclaredType::parse(&text).unwrap().unwrap().to_string(), text);
                }
            }
        }
        assert_eq!(DeclaredType::parse("tar+gz").unwrap().unwrap().to_string(), "tar+gz");
        assert_eq!(DeclaredType::parse("ova").unwrap().unwrap().to_string(), "tar");
        assert_eq!(DeclaredType::parse("raw+bzip2").unwrap().unwrap().to_string(), "raw+bz2");
        assert_eq!(DeclaredType::parse("auto"), Ok(None));
    }

    #[test]
    fn anything_else_is_named() {
        for text in [
            "",
            "RAW",
            "vmdk3",
            "raw+",
            "raw+gz+xz",
            "+gz",
            "raw+lz4",
            "auto+gz",
            "qcow",
            "gz",
            "tar+raw",
            "raw+gz+tar",
        ] {
            let message = DeclaredType::parse(text).unwrap_err().to_string();
            assert!(message.starts_with(&format!("unknown image type '{text}' (use auto, raw, qcow2")), "{message}");
        }
        let message = DeclaredType::parse("https://joe:s3cret@h/a.raw").unwrap_err().to_string();
        assert!(message.starts_with("unknown image type '...' (use auto"), "{message}");
    }

    #[test]
    fn only_raw_and_qcow2_unless_somebody_says_so() {
        assert_eq!(Formats::default().to_string(), "raw, qcow2");
        assert_eq!(Formats::ALL.to_string(), "raw, qcow2, vmdk, vdi, vhdx");
        let one: Formats = [Format::Vdi].into_iter().collect();
        assert!(one.has(Format::Vdi) && !one.has(Format::Raw));
    }
}
