// SPDX-License-Identifier: BSD-2-Clause
//! The name of a variant.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// Linux's NAME_MAX: a longer name could not be a folder's, in bytes.
const MAX_BYTES: usize = 255;
/// How much of a wrong name an error repeats, in characters.
const SHOWN_CHARS: usize = 64;

/// The part after the `+` of Ganeti's `simpleimage+default`: a name that is safe as a folder's.
///
/// It starts with an ASCII letter or digit; letters, digits, `.`, `_` and `-` follow, 255 bytes at most.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct VariantName(String);

/// Why a text is no [`VariantName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VariantNameError {
    /// No variant at all: the instance's OS is plain `simpleimage`.
    #[error("OS_VARIANT is empty: use -o simpleimage+default")]
    Empty,
    /// More bytes than a folder's name may have.
    #[error("the variant name '{0}' is longer than 255 bytes: use a shorter one, as in -o simpleimage+default")]
    TooLong(String),
    /// A character that the name must not have, the escaped text with it.
    #[error(
        "'{0}' is not a variant name: use ASCII letters, digits, '.', '_' and '-', starting with a letter or digit, \
         as in -o simpleimage+default"
    )]
    Malformed(String),
}

impl VariantName {
    /// Takes `OS_VARIANT` as Ganeti gives it.
    ///
    /// # Errors
    /// [`VariantNameError`] for an empty, overlong or malformed name.
    pub(crate) fn parse(text: &str) -> Result<Self, VariantNameError> {
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        match text.chars().next() {
            None => Err(VariantNameError::Empty),
            Some(first) if !first.is_ascii_alphanumeric() || !text.chars().all(word) => {
                Err(VariantNameError::Malformed(escaped(text)))
            }
            Some(_) if text.len() > MAX_BYTES => Err(VariantNameError::TooLong(escaped(text))),
            Some(_) => Ok(VariantName(text.to_owned())),
        }
    }

    /// The names in the text of a `variants.list`, as Ganeti reads it: one per line, `#` begins a comment line.
    pub(crate) fn in_list(text: &str) -> impl Iterator<Item = Result<Self, VariantNameError>> {
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(Self::parse)
    }

    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

fn escaped(text: &str) -> String {
    let shown: String = text.chars().take(SHOWN_CHARS).flat_map(char::escape_default).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() { shown + "..." } else { shown }
}

impl FromStr for VariantName {
    type Err = VariantNameError;

    fn from_str(text: &str) -> Result<Self, VariantNameError> {
        Self::parse(text)
    }
}

impl fmt::Display for VariantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<Path> for VariantName {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::VariantName;
    use proptest::prelude::*;

    #[test]
    fn takes_the_names_that_folders_have() {
        for name in ["default", "0", "debian-12.5_amd64", "a..b", "X", &"a".repeat(255)] {
            assert_eq!(VariantName::parse(name).map(|variant| variant.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn defect_05_a_name_never_leaves_the_config_folder() {
        for (text, shown) in [
            ("../evil", "'../evil'"),
            (".", "'.'"),
            ("..", "'..'"),
            ("-x", "'-x'"),
            ("a/b", "'a/b'"),
            ("/etc", "'/etc'"),
            (" default", "' default'"),
            ("default\n", "'default\\n'"),
            ("a\0", "'a\\u{0}'"),
            ("caf\u{e9}", "'caf\\u{e9}'"),
            (&"/".repeat(300), &format!("'{}...'", "/".repeat(64))),
        ] {
            let message = VariantName::parse(text).unwrap_err().to_string();
            let rest = " is not a variant name: use ASCII letters, digits, '.', '_' and '-', starting with a letter or \
                        digit, as in -o simpleimage+default";
            assert_eq!(message, format!("{shown}{rest}"));
        }
    }

    #[test]
    fn an_empty_name_and_a_long_one_have_their_own_message() {
        let message = |text: &str| VariantName::parse(text).unwrap_err().to_string();
        assert_eq!(message(""), "OS_VARIANT is empty: use -o simpleimage+default");
        let long = message(&"a".repeat(256));
        let shown = "a".repeat(64);
        assert!(long.starts_with(&format!("the variant name '{shown}...' is longer than 255 bytes")), "{long}");
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_one_folder_below(text in "\\PC{0,8}|[./a-]{0,6}") {
            if let Ok(variant) = VariantName::parse(&text) {
                let path = std::path::Path::new("/etc").join(&variant);
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("/etc")));
                prop_assert_eq!(path.file_name().and_then(|name| name.to_str()), Some(text.as_str()));
            }
        }
    }
}
