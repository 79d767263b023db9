// SPDX-License-Identifier: BSD-2-Clause
//! The values of settings: how config.toml writes them, and the checks that settings of several rooms share.

use std::path::PathBuf;

use super::size::ByteSize;

/// A value, or what is wrong with it. The message never repeats the value, because it may hold a password.
pub(crate) type Checked<T> = Result<T, &'static str>;

/// Declares kinds of values for `#[serde(with = "KIND")]`. A line has the type in config.toml, the type of the field,
/// the check that converts the first into the second, and the function that returns what `variants show` may print.
macro_rules! value_kinds {
    ($($(#[$doc:meta])* $kind:ident: $written:ty => $value:ty, $check:expr, $show:expr;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $kind;

        impl $kind {
            pub(crate) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<$value, D::Error> {
                let check: fn($written) -> Result<$value, &'static str> = $check;
                check(serde::Deserialize::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }

            pub(crate) fn serialize<S: serde::Serializer>(value: &$value, serializer: S) -> Result<S::Ok, S::Error> {
                fn shown<R>(value: &$value, show: impl Fn(&$value) -> R) -> R {
                    show(value)
                }
                serde::Serialize::serialize(&shown(value, $show), serializer)
            }
        }
    )*};
}
pub(crate) use value_kinds;

value_kinds! {
    /// An absolute path. An empty text stands for none.
    OptionalPath: String => Option<PathBuf>, |path| match path.as_str() {
        "" => Ok(None),
        path => absolute_path(path).map(Some),
    }, |path| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    /// A number of bytes. Zero stands for no limit.
    OptionalSize: String => Option<ByteSize>, |text| size(&text).map(not_zero),
        |size| written_size(size.unwrap_or(ByteSize(0)));
}

/// Accepts a text without control characters, because they would forge a header or break a line of a log.
pub(crate) fn text(text: &str) -> Checked<String> {
    if text.chars().any(char::is_control) { Err("control characters are not allowed") } else { Ok(text.to_owned()) }
}

/// Accepts an absolute path. The error does not repeat any other text, because a password may stand in the wrong place.
pub(crate) fn absolute_path(path: &str) -> Checked<PathBuf> {
    let absolute = path.starts_with('/');
    if absolute { text(path).map(PathBuf::from) } else { Err("must be an absolute path (begin it with /)") }
}

pub(crate) fn size(size: &str) -> Checked<ByteSize> {
    size.parse().map_err(|_err| "not a size (use whole bytes, with K, M, G or T for binary units)")
}

/// Returns `None` for zero bytes, which stand for no limit.
pub(crate) fn not_zero(size: ByteSize) -> Option<ByteSize> {
    Some(size).filter(|size| size.0 > 0)
}

/// Writes a size in the largest unit of which it is a whole number.
pub(crate) fn written_size(size: ByteSize) -> String {
    const UNITS: [(&str, u32); 4] = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];
    let whole = |shift: u32| size.0 >= 1 << shift && size.0.is_multiple_of(1 << shift);
    match UNITS.into_iter().find(|(_, shift)| whole(*shift)) {
        Some((unit, shift)) => format!("{}{unit}", size.0 >> shift),
        None => size.0.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{size, written_size};
    use crate::node::size::ByteSize;

    #[test]
    fn sizes_are_read_and_written() {
        assert_eq!(size("50G"), Ok(ByteSize(50 << 30)));
        assert_eq!(size("1.5G"), Err("not a size (use whole bytes, with K, M, G or T for binary units)"));
        for text in ["0", "1025", "1K", "10M", "1536M", "3T"] {
            assert_eq!(size(text).map(written_size).as_deref(), Ok(text));
        }
    }
}
