// SPDX-License-Identifier: BSD-2-Clause
//! The values of the settings outside `[http]`: their checks, and what may be shown of them.

use std::path::PathBuf;
use std::time::Duration;

use crate::disk::partition::MBR_TOLERANCE;
use crate::disk::write::Wipe;
use crate::image::format::{Format, Formats};
use crate::node::report::LogFormat;
use crate::node::size::ByteSize;
use crate::node::value::{Checked, absolute_path, size, text, value_kinds, written_size};
use crate::store::http::{ImageUrl, Secret};

/// One day in seconds.
pub(super) const DAY: u64 = 24 * 60 * 60;

/// Which images need a checksum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum RequireChecksum {
    #[default]
    Never,
    /// Those from a URL, http and https alike.
    Http,
    Always,
}

/// How many bytes of an MBR partition without a known file system may be missing at an image's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MbrTolerance(pub(crate) u64);

impl Default for MbrTolerance {
    fn default() -> Self {
        MbrTolerance(MBR_TOLERANCE)
    }
}

/// A hundred years: far enough, and no clock arithmetic overflows with it.
const MAX_DAYS: u64 = 36_500;

value_kinds! {
    /// One line that should hold no secret, shown without what may be one all the same; an empty text for none.
    Text: String => Option<String>, |line| text(&line).map(|line| Some(line).filter(|line| !line.is_empty())),
        |line| shown_text(line.as_deref().unwrap_or_default());
    /// One line; an empty text for none.
    SecretText: String => Option<Secret>, |line| text(&line).map(some_secret), |text| text.clone().unwrap_or_default();
    /// Several lines without control characters; an empty text for none.
    Lines: String => Option<Secret>,
        |lines| lines.lines().map(text).collect::<Checked<Vec<_>>>().map(|lines| some_secret(lines.join("\n"))),
        |text| text.clone().unwrap_or_default();
    AbsolutePath: String => PathBuf, |path| absolute_path(&path), |path| path.display().to_string();
    /// An absolute path; an empty text for the variant's own keyring.
    Keyring: String => PathBuf, |path| if path.is_empty() { Ok(PathBuf::new()) } else { absolute_path(&path) },
        |path| path.display().to_string();
    Days: u64 => Duration, days, |age| age.as_secs() / DAY;
    MbrSize: String => MbrTolerance, |text| size(&text).map(|size| MbrTolerance(size.0)),
        |tolerance| written_size(ByteSize(tolerance.0));
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
    LogFormatWord: String => LogFormat, |word| log_format(&word), |format| format.name();
    /// Names of disk formats; an empty list for those that are taken by default.
    FormatList: Vec<String> => Formats, |names| formats(&names),
        |formats| Format::ALL.into_iter().filter(|format| formats.has(*format)).map(Format::name).collect::<Vec<_>>();
}

fn some_secret(text: String) -> Option<Secret> {
    Some(Secret(text)).filter(|secret| !secret.0.is_empty())
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

/// Takes an age in whole days.
pub(super) fn days(days: u64) -> Checked<Duration> {
    if days > MAX_DAYS { Err("at most 36500 days") } else { Ok(Duration::from_secs(days * DAY)) }
}

/// Hides what may be a mistyped URL with a password or a token, and shows a URL without user, password and query.
pub(super) fn shown_text(text: &str) -> String {
    if text.contains("://") {
        return ImageUrl::parse(text).map_or_else(|_err| Secret::HIDDEN.to_owned(), |url| url.to_string());
    }
    let suspect = !text.starts_with('/') && text.contains(['@', '?', '=']);
    if suspect { Secret::HIDDEN.to_owned() } else { text.to_owned() }
}
