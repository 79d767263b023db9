// SPDX-License-Identifier: BSD-2-Clause
//! Sizes in bytes, as people read and write them.

use std::fmt;
use std::str::FromStr;

/// One mebibyte in bytes.
pub const MIB: u64 = 1 << 20;

/// A number of bytes. It is displayed with a binary unit (`10 GiB`) and parsed with one (`10M`, `10MiB`, `512`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// Returns the size without the exact number of bytes: `10 GiB`, `1.50 GiB`.
    pub(crate) fn rounded(self) -> String {
        let exact = self.to_string();
        exact.split(" (").next().unwrap_or(&exact).to_owned()
    }
}

const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

impl fmt::Display for ByteSize {
    /// Shows whole units alone (`10 GiB`), and other sizes with the exact number (`1.50 GiB (1610612737 bytes)`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        let Some((unit, shift)) = UNITS.iter().find(|(_, shift)| bytes >= 1 << shift) else {
            return write!(f, "{bytes} bytes");
        };
        if bytes.is_multiple_of(1 << shift) {
            return write!(f, "{} {unit}", bytes >> shift);
        }
        let hundredths = (u128::from(bytes) * 100) >> shift;
        write!(f, "{}.{:02} {unit} ({bytes} bytes)", hundredths / 100, hundredths % 100)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    /// Parses a whole number with an optional binary unit `K`, `M`, `G` or `T`, optionally followed by `iB` or `B`, in
    /// any case.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = text[..digits].parse().map_err(|err| format!("not a size: '{text}' ({err})"))?;
        let shift = match text[digits..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(format!("not a size: '{text}' (use a whole number with K, M, G or T)")),
        };
        number.checked_mul(1 << shift).map(ByteSize).ok_or_else(|| format!("too large: '{text}'"))
    }
}

#[cfg(test)]
mod tests {
    use super::ByteSize;

    #[test]
    fn displays_whole_and_odd_sizes() {
        let shown: Vec<_> = [0, 1023, 1024, 10 << 30, (3 << 29) + 1].map(|n| ByteSize(n).to_string()).into();
        assert_eq!([ByteSize(10 << 30), ByteSize((3 << 29) + 1)].map(ByteSize::rounded), ["10 GiB", "1.50 GiB"]);
        assert_eq!(shown, ["0 bytes", "1023 bytes", "1 KiB", "10 GiB", "1.50 GiB (1610612737 bytes)"]);
    }

    #[test]
    fn parses_units_and_refuses_the_rest() {
        assert_eq!("10M".parse(), Ok(ByteSize(10 << 20)));
        assert_eq!("2 GiB".parse(), Ok(ByteSize(2 << 30)));
        assert_eq!("512".parse(), Ok(ByteSize(512)));
        for bad in ["", "M", "1.5G", "10X", "99999999T", "-1"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }
}
