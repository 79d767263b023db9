// SPDX-License-Identifier: BSD-2-Clause
//! The values of the settings outside `[http]`: how they are checked, and how they are shown.

use std::path::PathBuf;
use std::time::Duration;

use crate::disk::partition::MBR_TOLERANCE;
use crate::disk::write::Wipe;
use crate::image::format::{Format, Formats, Qcow2Decoder};
use crate::node::report::LogFormat;
use crate::node::size::ByteSize;
use crate::node::value::{Checked, absolute_path, size, text, value_kinds, written_size};
use crate::store::http::{ImageUrl, Secret};

/// One day in seconds.
pub(super) const DAY: u64 = 24 * 60 * 60;

/// The images that need a checksum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum RequireChecksum {
    #[default]
    Never,
    /// Images from a URL need a checksum, for http and for https.
    Http,
    Always,
}

/// The number of bytes of an MBR partition without a known file system that may be missing at the end of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MbrTolerance(pub(crate) u64);

impl Default for MbrTolerance {
    fn default() -> Self {
        MbrTolerance(MBR_TOLERANCE)
    }
}

/// The largest age in days: a hundred years, which is enough and does not make any time calculation overflow.
const MAX_DAYS: u64 = 36_500;

value_kinds! {
    /// One line that should contain no secret. What may be a secret all the same is not shown. An empty text means
    /// that there is no value.
    Text: String => Option<String>, |line| text(&line).map(|line| if line.is_empty() { None } else { Some(line) }),
        |line| shown_text(line.as_deref().unwrap_or_default());
    /// One line with a secret. An empty text means that there is no value.
    SecretText: String => Option<Secret>, |line| text(&line).map(some_secret), |text| text.clone().unwrap_or_default();
    /// Several lines without control characters. An empty text means that there is no value.
    Lines: String => Option<Secret>,
        |lines| lines.lines().map(text).collect::<Checked<Vec<_>>>().map(|lines| some_secret(lines.join("\n"))),
        |text| text.clone().unwrap_or_default();
    AbsolutePath: String => PathBuf, |path| absolute_path(&path), |path| path.display().to_string();
    /// An absolute path. An empty text means the variant's own keyring.
    Keyring: String => PathBuf, |path| if path.is_empty() { Ok(PathBuf::new()) } else { absolute_path(&path) },
        |path| path.display().to_string();
    Days: u64 => Duration, days, |age| age.as_secs() / DAY;
    MbrSize: String => MbrTolerance, |text| size(&text).map(|size| MbrTolerance(size.0)),
        |tolerance| written_size(ByteSize(tolerance.0));
    /// A number of bytes, which may be zero; an empty text for the built-in value.
    Reserve: String => Option<ByteSize>, |text| if text.is_empty() { Ok(None) } else { size(&text).map(Some) },
        |size| size.map(written_size).unwrap_or_default();
    ChecksumRule: String => RequireChecksum, |word| match word.as_str() {
        "never" => Ok(RequireChecksum::Never),
        "http" => Ok(RequireChecksum::Http),
        "always" => Ok(RequireChecksum::Always),
        _ => Err("must be \"never\", \"http\" or \"always\""),
    }, |rule| match rule {
        RequireChecksum::Never => "never",
        RequireChecksum::Http => "http",
        RequireChecksum::Always => "always",
    };
    WipeWord: String => Wipe, |word| match word.as_str() {
        "full" => Ok(Wipe::Full),
        "ends" => Ok(Wipe::Ends),
        "none" => Ok(Wipe::None),
        _ => Err("must be \"full\", \"ends\" or \"none\""),
    }, |wipe| wipe.name();
    Qcow2Word: String => Qcow2Decoder, |word| match word.as_str() {
        "auto" => Ok(Qcow2Decoder::Own),
        "qemu-img" => Ok(Qcow2Decoder::QemuImg),
        _ => Err("must be \"auto\" or \"qemu-img\""),
    }, |decoder| match decoder {
        Qcow2Decoder::Own => "auto",
        Qcow2Decoder::QemuImg => "qemu-img",
    };
    LogFormatWord: String => LogFormat, |word| log_format(&word), |format| format.name();
    /// Names of disk formats. An empty list means the formats that are allowed by default.
    FormatList: Vec<String> => Formats, |names| formats(&names),
        |formats| Format::ALL.into_iter().filter(|format| formats.has(*format)).map(Format::name).collect::<Vec<_>>();
}

fn some_secret(text: String) -> Option<Secret> {
    if text.is_empty() { None } else { Some(Secret(text)) }
}

pub(super) fn log_format(word: &str) -> Checked<LogFormat> {
    match word {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be \"text\" or \"json\""),
    }
}

fn formats(names: &[String]) -> Checked<Formats> {
    const UNKNOWN: &str = "not a disk format (there are raw, qcow2, vmdk, vdi and vhdx)";
    if names.is_empty() {
        return Ok(Formats::default());
    }
    names.iter().map(|name| Format::named(name).ok_or(UNKNOWN)).collect()
}

/// Checks an age in whole days.
pub(super) fn days(days: u64) -> Checked<Duration> {
    if days > MAX_DAYS { Err("at most 36500 days") } else { Ok(Duration::from_secs(days * DAY)) }
}

/// Hides a text that may be a mistyped URL with a password or a token. Shows a URL without user, password and query.
pub(super) fn shown_text(text: &str) -> String {
    if text.contains("://") {
        return ImageUrl::parse(text).map_or_else(|_err| Secret::HIDDEN.to_owned(), |url| url.to_string());
    }
    let suspect = !text.starts_with('/') && text.contains(['@', '?', '=']);
    if suspect { Secret::HIDDEN.to_owned() } else { text.to_owned() }
}
