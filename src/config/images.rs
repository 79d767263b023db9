// SPDX-License-Identifier: BSD-2-Clause
//! Images by names of the administrator's: the tables `[images.NAME]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};

use super::values::{self, Checked};
use crate::image::checksum::Checksum;
use crate::image::format::ImageType;
use crate::image::reference::ImageRef;
use crate::store::http::{ImageUrl, Secret};

/// Images by name.
pub(crate) type Images = BTreeMap<String, ImageAlias>;

/// What a name stands for. Each value is well-formed, and as written in the file: URLs may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Raw")]
pub(crate) struct ImageAlias {
    /// As the OS parameter `image`: an absolute path or a URL.
    pub(crate) image: Secret,
    /// As the OS parameter `image_type`.
    pub(crate) image_type: Option<String>,
    /// As the OS parameter `image_checksum`.
    pub(crate) checksum: Option<Secret>,
    /// As the OS parameter `image_signature`.
    pub(crate) signature: Option<Secret>,
    /// What people shall know of it.
    pub(crate) note: Option<String>,
}

/// The keys of the table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    url: Option<String>,
    path: Option<String>,
    #[serde(rename = "type")]
    image_type: Option<String>,
    checksum: Option<String>,
    signature: Option<String>,
    note: Option<String>,
}

impl TryFrom<Raw> for ImageAlias {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Checked<Self> {
        let image = match (raw.url, raw.path) {
            (Some(url), None) => checked_url(url)?,
            (None, Some(path)) => values::absolute_path(&path)
                .map(|_path| path)
                .map_err(|_err| "path: must be an absolute path (begin it with /)")?,
            _ => return Err("give it a url or a path, one of the two"),
        };
        Ok(ImageAlias {
            image: Secret(image),
            image_type: raw.image_type.map(checked_type).transpose()?,
            checksum: raw.checksum.map(checked_checksum).transpose()?.map(Secret),
            signature: raw.signature.map(checked_signature).transpose()?.map(Secret),
            note: raw.note.map(checked_note).transpose()?,
        })
    }
}

fn checked_url(url: String) -> Checked<String> {
    ImageUrl::parse(&url).map(|_url| url).map_err(|_err| "url: not an http or https URL")
}

fn checked_type(image_type: String) -> Checked<String> {
    let wrong = "type: not an image type (there are auto, raw, qcow2, vmdk, vdi and vhdx, all but auto also with +gz, \
                 +bz2, +xz or +zst)";
    ImageType::parse(&image_type).map(|_type| image_type).map_err(|_err| wrong)
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

/// It is written to terminals.
fn checked_note(note: String) -> Checked<String> {
    if note.chars().any(char::is_control) { Err("note: must be one line of text") } else { Ok(note) }
}

/// All the tables; their names are what nobody takes for a path or a URL.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Images, D::Error> {
    let images = Images::deserialize(deserializer)?;
    if images.keys().all(|name| ImageRef::is_name(name)) {
        return Ok(images);
    }
    // The name is not repeated: it may be a URL in the wrong place.
    let wrong = "the name of an image has ASCII letters, digits, '.', '_' and '-', and starts with a letter or digit";
    Err(de::Error::custom(wrong))
}

#[cfg(test)]
mod tests {
    use crate::config::parse_toml;

    fn message(text: &str) -> String {
        parse_toml(text).unwrap_err().to_string()
    }

    #[test]
    fn every_value_is_as_the_parameter() {
        let text = "[images.a]\nurl = 'https://joe:s3cret@h/a'\ntype = 'auto'\nchecksum = 'none'\nsignature = 'none'\n\
                    [images.'debian-12.5']\npath = '/a'\nsignature = '/a.sig'\n";
        let images = parse_toml(text).unwrap().images;
        assert_eq!(images.keys().collect::<Vec<_>>(), ["a", "debian-12.5"]);
        assert_eq!(images["a"].image.0, "https://joe:s3cret@h/a");
        assert!(!format!("{images:?}").contains("s3cret"));
    }

    #[test]
    fn a_name_is_replaced_as_a_whole() {
        let site = parse_toml("[images.a]\nurl = 'http://h/a'\nchecksum = 'none'\n[images.b]\npath = '/b'\n").unwrap();
        let both = site.overlaid_by(parse_toml("[images.a]\npath = '/own'\n").unwrap()).images;
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
            ("[images.a]\npath = '/a'\ntype = 's3cret'\n", "type: not an image type (there are auto, "),
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
}
