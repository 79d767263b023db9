// SPDX-License-Identifier: BSD-2-Clause
//! The image as the user has named it.

use std::fmt;
use std::path::PathBuf;

use crate::store::http::{ImageUrl, UrlError};

/// A file on the node, or a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ImageRef {
    Path(PathBuf),
    /// A URL with http or https.
    Url(ImageUrl),
}

/// Why a text names no image. URLs are not repeated, because they may hold a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum RefError {
    /// No image was named.
    #[error(
        "no image is given (use -O image=/path or -O image=https://..., or set image in the variant's config.toml)"
    )]
    Missing,
    /// No image was named for a reinstall. It may have been given when the instance was created.
    #[error(
        "no image is given: Ganeti forgets OS parameters that a reinstall's command line does not repeat (use gnt-instance reinstall -O image=... {instance}, or set image in the variant's config.toml)"
    )]
    Forgotten {
        /// The instance's name.
        instance: String,
    },
    /// The text is a path that is not absolute, or something else.
    #[error("image '{}' is neither an absolute path nor an http or https URL (write it as {})", .0, whole_path(.0))]
    Neither(String),
    /// The text could be the name of an image in config.toml, but there is no such name.
    #[error(
        "image '{name}' is neither an absolute path nor an http or https URL, nor a name in config.toml ({known}; a file is written as {})",
        whole_path(name)
    )]
    UnknownName {
        /// The name.
        name: String,
        /// The names that exist, in words.
        known: String,
    },
    /// The URL can't be used.
    #[error("the image's URL can't be used")]
    Url(#[from] UrlError),
}

/// Returns how to write the path of the file that `text` may stand for.
fn whole_path(text: &str) -> String {
    let name = text.rsplit('/').next().filter(|name| !matches!(*name, "" | "." | ".." | "...")).unwrap_or("NAME");
    format!("/FOLDER/{name}")
}

impl ImageRef {
    /// Parses an `image` parameter.
    pub(crate) fn parse(text: &str) -> Result<Self, RefError> {
        match text {
            "" => Err(RefError::Missing),
            path if path.starts_with('/') => Ok(ImageRef::Path(PathBuf::from(path))),
            url if ImageUrl::looks_like_url(url) => Ok(ImageRef::Url(ImageUrl::parse(url)?)),
            // A mistyped URL may hold a password or a token.
            text if text.contains(['@', '?', '=']) => Err(RefError::Neither("...".to_owned())),
            other => Err(RefError::Neither(other.to_owned())),
        }
    }

    /// Returns whether `text` could be the name of an image in config.toml: it begins with an ASCII letter or digit,
    /// and letters, digits, `.`, `_` and `-` follow. No path and no URL has this form.
    pub(crate) fn is_name(text: &str) -> bool {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    }

    /// Returns the names that the file may have in a list: [`Self::base_name`], and the values in the query of a URL such as
    /// `https://host/download?file=debian.qcow2`. A value may be a secret, so none is to be shown.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.base_name().into_iter().collect();
        if let ImageRef::Url(url) = self {
            let values =
                url.as_url().query_pairs().map(|(_, value)| value.rsplit('/').next().unwrap_or_default().to_owned());
            names.extend(values.filter(|name| !name.is_empty()));
        }
        names
    }

    /// Returns the name of the file: the last part of the path or of the URL's path, decoded. Returns `None` if that
    /// ends with a slash.
    pub(crate) fn base_name(&self) -> Option<String> {
        match self {
            ImageRef::Path(path) => path.file_name().map(|name| name.to_string_lossy().into_owned()),
            ImageRef::Url(url) => {
                let name = url.as_url().path_segments()?.next_back()?;
                let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned();
                Some(name).filter(|name| !name.is_empty())
            }
        }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageRef::Path(path) => write!(f, "{}", path.display()),
            ImageRef::Url(url) => write!(f, "{url}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ImageRef, RefError};

    #[test]
    fn takes_paths_and_urls() {
        assert_eq!(ImageRef::parse("/srv/a.raw").unwrap().to_string(), "/srv/a.raw");
        assert_eq!(ImageRef::parse("https://u:p@h/a?t=1").unwrap().to_string(), "https://h/a");
    }

    #[test]
    fn names_are_no_paths_and_no_urls() {
        assert!(["debian-12", "12.5", "A_b"].into_iter().all(ImageRef::is_name));
        assert!(
            !["", "-a", ".a", "/a", "a/b", "http://h/a", "a b", "a:b", "a@b", "caf\u{e9}"]
                .into_iter()
                .any(ImageRef::is_name)
        );
    }

    #[test]
    fn the_base_name_is_the_files() {
        let name = |text: &str| ImageRef::parse(text).unwrap().base_name();
        for text in ["/srv/a b.raw", "https://h/x/a%20b.raw?t=1#f", "http://h/a%20b.raw"] {
            assert_eq!(name(text).as_deref(), Some("a b.raw"), "{text}");
        }
        assert_eq!([name("https://h"), name("https://h/x/"), name("/")], [None, None, None]);
    }

    #[test]
    fn refuses_the_rest() {
        assert_eq!(ImageRef::parse(""), Err(RefError::Missing));
        assert_eq!(ImageRef::parse("a.raw"), Err(RefError::Neither("a.raw".to_owned())));
        for (relative, written) in [("images/a.raw", "/FOLDER/a.raw"), ("../", "/FOLDER/NAME"), ("~/b", "/FOLDER/b")] {
            let message = ImageRef::parse(relative).unwrap_err().to_string();
            let words = "is neither an absolute path nor an http or https URL (write it as";
            assert_eq!(message, format!("image '{relative}' {words} {written})"));
        }
        for typo in ["joe:s3cret@h/a", "h/a?token=s3cret", "token=s3cret"] {
            let message = ImageRef::parse(typo).unwrap_err().to_string();
            assert_eq!(
                message,
                "image '...' is neither an absolute path nor an http or https URL (write it as /FOLDER/NAME)"
            );
        }
        for typo in ["ftp://u:secret@h/a", "http:/joe:s3cret@h/a", "https:///joe:s3cret@h/a"] {
            assert_eq!(ImageRef::parse(typo).unwrap_err().to_string(), "the image's URL can't be used");
        }
    }
}
