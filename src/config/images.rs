// SPDX-License-Identifier: BSD-2-Clause
//! The named images (`[images.NAME]`), the places from which images may come, and the folders of instances' disks.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::file::open_trusted;
use super::values::shown_text;
use super::{ConfigError, Paths};
use crate::image::checksum::Checksum;
use crate::image::format::{self, DeclaredType};
use crate::image::reference::ImageRef;
use crate::node::value::{Checked, absolute_path, value_kinds};
use crate::store::http::{ImageUrl, Secret, UrlPrefix};

value_kinds! {
    PlaceList: Vec<String> => Vec<ImagePlace>, |places| places.iter().map(|text| place(text)).collect(),
        |places| places.iter().map(ToString::to_string).collect::<Vec<_>>();
}

/// The named images, by their names.
pub(crate) type Images = BTreeMap<String, ImageAlias>;

/// A named image. Each value is well-formed and written as in the file, so that a URL may contain a password.
/// Serializing it gives only what may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "ImageTable", into = "ImageTable")]
pub(crate) struct ImageAlias {
    /// An absolute path or a URL, like the OS parameter `image`.
    pub(crate) image: Secret,
    /// The image type, like the OS parameter `image_type`.
    pub(crate) image_type: Option<String>,
    /// The checksum, like the OS parameter `image_checksum`.
    pub(crate) checksum: Option<Secret>,
    /// The signature, like the OS parameter `image_signature`.
    pub(crate) signature: Option<Secret>,
    /// A text for people, which `simpleimage images` shows.
    pub(crate) note: Option<String>,
}

/// The keys of the table `[images.NAME]`. A missing key is not shown.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ImageTable {
    url: Option<String>,
    path: Option<String>,
    #[serde(rename = "type")]
    image_type: Option<String>,
    checksum: Option<String>,
    signature: Option<String>,
    note: Option<String>,
}

impl TryFrom<ImageTable> for ImageAlias {
    type Error = &'static str;

    fn try_from(table: ImageTable) -> Checked<Self> {
        let image = match (table.url, table.path) {
            (Some(url), None) => checked_url(url)?,
            (None, Some(path)) => match absolute_path(&path) {
                Ok(_) => path,
                Err(_) => return Err("path: must be an absolute path (begin it with /)"),
            },
            _ => return Err("give it a url or a path, one of the two"),
        };
        Ok(ImageAlias {
            image: Secret(image),
            image_type: table.image_type.map(checked_type).transpose()?,
            checksum: table.checksum.map(checked_checksum).transpose()?.map(Secret),
            signature: table.signature.map(checked_signature).transpose()?.map(Secret),
            note: table.note.map(checked_note).transpose()?,
        })
    }
}

impl From<ImageAlias> for ImageTable {
    fn from(alias: ImageAlias) -> Self {
        let place = Some(shown_text(&alias.image.0));
        let (url, path) = if alias.image.0.starts_with('/') { (None, place) } else { (place, None) };
        let shown = |secret: Option<Secret>| secret.map(|secret| shown_text(&secret.0));
        ImageTable {
            url,
            path,
            image_type: alias.image_type,
            checksum: shown(alias.checksum),
            signature: shown(alias.signature),
            note: alias.note,
        }
    }
}

fn checked_url(url: String) -> Checked<String> {
    ImageUrl::parse(&url).map(|_url| url).map_err(|_err| "url: not an http or https URL")
}

fn checked_type(image_type: String) -> Checked<String> {
    static WRONG: LazyLock<String> = LazyLock::new(|| {
        let (formats, suffixes) = (format::formats(), format::suffixes());
        format!("type: not an image type (use auto, {formats}, all but auto also with {suffixes})")
    });
    DeclaredType::parse(&image_type).map(|_type| image_type).map_err(|_err| WRONG.as_str())
}

fn checked_checksum(checksum: String) -> Checked<String> {
    let wrong =
        "checksum: not a checksum (use sha256:HEX, sha512:HEX, the URL of a SHA256SUMS or SHA512SUMS file, or none)";
    Checksum::parse(&checksum).map(|_checksum| checksum).map_err(|_err| wrong)
}

fn checked_signature(signature: String) -> Checked<String> {
    let wrong = "signature: neither an absolute path (begin it with /) nor an http or https URL, nor none";
    if signature == "none" || ImageRef::parse(&signature).is_ok() { Ok(signature) } else { Err(wrong) }
}

/// Checks a note, which is written to terminals.
fn checked_note(note: String) -> Checked<String> {
    if note.chars().any(char::is_control) { Err("note: must be one line of text") } else { Ok(note) }
}

/// Reads all named images. A name must not look like a path or a URL.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Images, D::Error> {
    let images = Images::deserialize(deserializer)?;
    if images.keys().all(|name| ImageRef::is_name(name)) {
        return Ok(images);
    }
    // The error does not repeat the name, because it may be a URL in the wrong place.
    let wrong = "the name of an image has ASCII letters, digits, '.', '_' and '-', and starts with a letter or digit";
    Err(de::Error::custom(wrong))
}

/// A place from which images may come: one entry of `allowed_images`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ImagePlace {
    /// A URL, and everything below it.
    Url(UrlPrefix),
    /// A folder and everything in it, or a file.
    Path(PathBuf),
}

impl fmt::Display for ImagePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImagePlace::Url(url) => url.fmt(f),
            ImagePlace::Path(path) => path.display().fmt(f),
        }
    }
}

/// Reads one entry of `allowed_images`.
pub(super) fn place(text: &str) -> Checked<ImagePlace> {
    if text.contains("://") && !text.starts_with('/') {
        return UrlPrefix::parse(text).map(ImagePlace::Url);
    }
    if !text.starts_with('/') {
        return Err("not a URL or an absolute path (begin it with /)");
    }
    let path = absolute_path(text)?;
    if path.components().any(|component| component == Component::ParentDir) {
        return Err("a path must not have '..' in it");
    }
    Ok(ImagePlace::Path(path))
}

/// Reads the folders that may contain instances' disks from Ganeti's list. The list has one folder on each line, `#`
/// begins a comment, and relative paths are ignored. There is no list on clusters without file storage, and the
/// result is empty.
///
/// # Errors
/// [`ConfigError::Read`] for a list that exists and can't be read, [`ConfigError::Unsafe`] for one that others may write.
pub(crate) fn instance_storage(paths: &Paths) -> Result<Vec<PathBuf>, ConfigError> {
    let list = &paths.file_storage_paths;
    let exports = paths.exports.to_vec();
    let Some(mut file) = open_trusted(list)? else { return Ok(exports) };
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(|reason| ConfigError::Read { path: list.clone(), reason })?;
    // Ganeti reads the list in the same way (`FilterEmptyLinesAndComments` of ganeti.utils.text).
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines = text.lines().map(str::trim).filter(|line| line.starts_with('/'));
    Ok(lines.map(|line| Path::new(line).components().collect()).chain(exports).collect())
}

#[cfg(test)]
mod tests {
    use super::{ImagePlace, instance_storage, place};
    use crate::config::Paths;
    use crate::config::tests::{merged, message};
    use crate::store::http::UrlPrefix;
    use std::path::Path;

    #[test]
    fn every_value_is_as_the_parameter() {
        let text = "[images.a]\nurl = 'https://joe:s3cret@h/a'\ntype = 'auto'\nchecksum = 'none'\nsignature = 'none'\n\
                    [images.'debian-12.5']\npath = '/a'\nsignature = '/a.sig'\n";
        let images = merged(&[text]).images;
        assert_eq!(images.keys().collect::<Vec<_>>(), ["a", "debian-12.5"]);
        assert_eq!(images["a"].image.0, "https://joe:s3cret@h/a");
        assert!(!format!("{images:?}").contains("s3cret"));
    }

    #[test]
    fn a_name_is_replaced_as_a_whole() {
        let site = "[images.a]\nurl = 'http://h/a'\nchecksum = 'none'\n[images.b]\npath = '/b'\n";
        let both = merged(&[site, "[images.a]\npath = '/own'\n"]).images;
        assert_eq!((both["a"].image.0.as_str(), &both["a"].checksum), ("/own", &None));
        assert_eq!(both["b"].image.0, "/b");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_without_its_value() {
        let sums = "checksum: not a checksum (use sha256:HEX, ";
        for (text, expected) in [
            ("[images.a]\n", "give it a url or a path, one of the two"),
            ("[images.a]\nurl = 'http://h/s3cret'\npath = '/s3cret'\n", "give it a url or a path, one of the two"),
            ("[images.a]\nurl = '/s3cret'\n", "url: not an http or https URL"),
            ("[images.a]\npath = 's3cret'\n", "path: must be an absolute path"),
            ("[images.a]\npath = '/a'\ntype = 's3cret'\n", "type: not an image type (use auto, "),
            ("[images.a]\npath = '/a'\nchecksum = 's3cret'\n", sums),
            (
                "[images.a]\npath = '/a'\nsignature = 's3cret'\n",
                "signature: neither an absolute path (begin it with /) nor",
            ),
            ("[images.a]\npath = '/a'\nnote = \"s3cret\\nb\"\n", "note: must be one line of text"),
        ] {
            let message = message(text);
            assert!(message.starts_with(&format!("1:1: images.a: {expected}")), "{message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
        let keys = "allowed are `url`, `path`, `type`, `checksum`, `signature`, `note`";
        assert_eq!(message("[images.a]\nsize = 1\n"), format!("2:1: images.a: unknown key `size`, {keys}"));
        for name in ["''", "'-a'", "'a b'", "'https://joe:s3cret@h/'", "'/a'"] {
            let message = message(&format!("[images.{name}]\npath = '/a'\n"));
            assert!(message.contains("images: the name of an image has ASCII letters"), "{message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
    }
    #[test]
    fn places_are_urls_and_absolute_paths() {
        assert_eq!(place("/srv/images/"), Ok(ImagePlace::Path("/srv/images".into())));
        assert_eq!(place("https://h/x"), Ok(ImagePlace::Url(UrlPrefix::parse("https://h/x").unwrap())));
        for (text, reason) in [
            ("", "not a URL or an absolute path (begin it with /)"),
            ("srv/images", "not a URL or an absolute path (begin it with /)"),
            ("images.example.com", "not a URL or an absolute path (begin it with /)"),
            ("ftp://h/x", "not an http or https URL"),
            ("https://joe:s3cret@h/", "a user or password has no meaning here"),
            ("/srv/../etc", "a path must not have '..' in it"),
            ("/srv\n", "control characters are not allowed"),
        ] {
            assert_eq!(place(text), Err(reason), "{text}");
        }
    }

    #[test]
    fn instance_storage_is_read_as_ganeti_does() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        assert_eq!(instance_storage(&paths).unwrap(), paths.exports);
        std::fs::create_dir_all(paths.file_storage_paths.parent().unwrap()).unwrap();
        std::fs::write(&paths.file_storage_paths, "# ours\n\n  /srv/ganeti/file-storage/ \n/srv/shared\nrelative\n")
            .unwrap();
        let [first, second] = ["/srv/ganeti/file-storage", "/srv/shared"].map(Path::new);
        let [debian, other] = &paths.exports;
        assert_eq!(instance_storage(&paths).unwrap(), [first, second, debian, other]);
        std::fs::remove_file(&paths.file_storage_paths).unwrap();
        std::fs::create_dir(&paths.file_storage_paths).unwrap();
        let message = instance_storage(&paths).unwrap_err().to_string();
        assert!(message.starts_with(&format!("reading {}: ", paths.file_storage_paths.display())), "{message}");
    }
}
