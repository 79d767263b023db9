// SPDX-License-Identifier: BSD-2-Clause
//! The plan of a seed: from which files, URLs and parameters it is made, before anything was fetched.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::entry_list;
use super::identity::Identity;
use super::keys;
use super::network::Network;
use crate::store::http::ImageUrl;

/// The longest file name, in bytes. A longer text is probably a document without its `base64:`.
const MAX_NAME: usize = 128;
/// How many files and URLs a list may name. All of them are opened or fetched, one after the other.
const MAX_PLACES: usize = 64;
/// Base64 with or without padding, as people lose the padding when they copy.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Where the seed is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// The disk named `cidata` if there is one, otherwise a partition.
    Auto,
    /// The disk named `cidata`.
    Disk,
    /// A partition at the end of the first disk.
    Partition,
}

/// Which parts of the old seed a reinstall keeps, unless an OS parameter gives new ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Keep {
    /// The SSH keys, in addition to those of the variant.
    pub(crate) keys: bool,
    /// The user-data, instead of that of the variant.
    pub(crate) user_data: bool,
}

/// Everything that a seed is made from. `Debug` shows no secret.
#[derive(Debug)]
pub struct Plan {
    pub(crate) placement: Placement,
    /// Whether the instance copies the seed at its first boot and removes the partition.
    pub(crate) persist: bool,
    pub(crate) keep: Keep,
    pub(crate) identity: Identity,
    /// Each source has SSH keys, one in a line.
    pub(crate) keys: Vec<Source>,
    /// Each source is a part of the user-data.
    pub(crate) user_data: Vec<Source>,
    pub(crate) network: NetworkPlan,
}

impl Plan {
    /// Returns whether a source has to be fetched from a server.
    pub(crate) fn asks_servers(&self) -> bool {
        let network = match &self.network {
            NetworkPlan::Given(source) => Some(source),
            NetworkPlan::Ganeti(_) | NetworkPlan::Off => None,
        };
        self.keys.iter().chain(&self.user_data).chain(network).any(|source| matches!(source, Source::Url(_)))
    }
}

#[derive(Debug)]
pub(crate) enum NetworkPlan {
    /// The network-config is made from what Ganeti says of the NICs.
    Ganeti(Network),
    Given(Source),
    /// There is no network-config, and the image decides.
    Off,
}

/// Where a part of the seed comes from; files are open. `Debug` shows no secret.
pub(crate) enum Source {
    /// The content itself was given.
    Inline(Vec<u8>),
    /// A file in the `user-data` folder of the variant.
    File {
        file: File,
        path: PathBuf,
    },
    Url(ImageUrl),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Inline(_) => f.write_str("Inline(...)"),
            Source::File { path, .. } => write!(f, "File({})", path.display()),
            Source::Url(url) => write!(f, "Url({url})"),
        }
    }
}

/// The name of a source, as an OS parameter gives it. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum SourceName {
    /// The content itself was given.
    Inline(Vec<u8>),
    /// A file below the `user-data` folder of the variant.
    File(PathBuf),
    Url(ImageUrl),
}

/// Why a text is not the name of a source. The message does not repeat the text, as it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("what follows base64: is not base64")]
    Base64,
    #[error("it is not a valid http or https URL")]
    Url,
    #[error(
        "it is neither an http or https URL, nor base64: and a document, nor the name of a file below the variant's user-data folder (letters, digits, '.', '_', '-' and '/', without '..')"
    )]
    Neither,
    #[error("it is not a key: {0}")]
    Key(#[from] keys::KeyError),
    #[error("it is one more than the {MAX_PLACES} files and URLs that a list may name (put several into one)")]
    TooMany,
}

/// The entries of a list, or the number of the first wrong entry, counted from 1, and the reason.
pub(crate) type Entries = Result<Vec<SourceName>, (usize, SourceError)>;

impl SourceName {
    /// Parses a file name, a URL, or `base64:` and the content in one or more lines.
    pub(crate) fn parse(text: &str) -> Result<Self, SourceError> {
        if let Some(encoded) = text.strip_prefix("base64:") {
            let encoded: String = encoded.split_ascii_whitespace().collect();
            return BASE64.decode(&encoded).map(SourceName::Inline).map_err(|_not_base64| SourceError::Base64);
        }
        if text.contains("://") {
            return ImageUrl::parse(text).map(SourceName::Url).map_err(|_not_a_url| SourceError::Url);
        }
        let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(word);
        if text.len() > MAX_NAME || !text.split('/').all(part) {
            return Err(SourceError::Neither);
        }
        Ok(SourceName::File(PathBuf::from(text)))
    }

    /// Parses the parameter `user_data`: entries with line breaks, `;`, `,` or blanks between them. `none` is an empty
    /// list.
    pub(crate) fn documents(text: &str) -> Entries {
        entries(text, entry_list::documents, SourceName::parse)
    }

    /// Parses the parameter `ssh_keys`, in which an entry may also be a key.
    pub(crate) fn keys(text: &str) -> Entries {
        entries(text, entry_list::keys_and_places, |entry| {
            let name = if keys::is_key(entry) && !entry.starts_with("base64:") {
                SourceName::Inline(entry.as_bytes().to_vec())
            } else {
                SourceName::parse(entry)?
            };
            if let SourceName::Inline(content) = &name {
                keys::parse(content)?;
            }
            Ok(name)
        })
    }
}

fn entries(
    text: &str,
    split: fn(&str) -> Vec<&str>,
    parse: impl Fn(&str) -> Result<SourceName, SourceError>,
) -> Entries {
    if text.trim() == "none" {
        return Ok(Vec::new());
    }
    let (mut names, mut places) = (Vec::new(), 0);
    for (number, entry) in (1..).zip(split(text)) {
        let name = parse(entry).map_err(|error| (number, error))?;
        places += usize::from(!matches!(name, SourceName::Inline(_)));
        if places > MAX_PLACES {
            return Err((number, SourceError::TooMany));
        }
        names.push(name);
    }
    Ok(names)
}

impl fmt::Debug for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceName::Inline(_) => f.write_str("Inline(...)"),
            SourceName::File(path) => write!(f, "File({})", path.display()),
            SourceName::Url(url) => write!(f, "Url({url})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BASE64, SourceError, SourceName};
    use crate::seed::keys::KeyError;
    use crate::store::http::ImageUrl;
    use base64::Engine as _;
    use proptest::prelude::proptest;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH joe";

    fn inline(text: &str) -> SourceName {
        SourceName::Inline(text.as_bytes().to_vec())
    }

    #[test]
    fn a_document_is_a_file_a_url_or_stands_there() {
        let url = "https://joe:pw@h/x?a=b,c%3Bd";
        let list = format!("base.yaml;\n web/site-1.yaml;base64:I2Nsb3VkLWNvbmZpZwo=;base64:eA; {url}\n;\n");
        let expected = [
            SourceName::File("base.yaml".into()),
            SourceName::File("web/site-1.yaml".into()),
            inline("#cloud-config\n"),
            inline("x"),
            SourceName::Url(ImageUrl::parse(url).unwrap()),
        ];
        assert_eq!(SourceName::documents(&list.replace(';', ",")).unwrap(), expected);
        let documents = SourceName::documents(&list).unwrap();
        assert_eq!(documents, expected);
        let shown = format!("{documents:?}");
        assert!(!shown.contains("pw") && !shown.contains("cloud"), "{shown}");
        assert_eq!(SourceName::documents("none"), Ok(Vec::new()));
    }

    #[test]
    fn anything_else_is_refused_by_number() {
        for (text, number, error) in [
            ("a;;b\u{a0}c", 2, SourceError::Neither),
            ("base64:s3cret!", 1, SourceError::Base64),
            ("a\nftp://joe:s3cret@h/x", 2, SourceError::Url),
            ("/etc/shadow", 1, SourceError::Neither),
            ("../config.toml", 1, SourceError::Neither),
            ("a/../../b", 1, SourceError::Neither),
            ("a//b", 1, SourceError::Neither),
            ("a \"b", 2, SourceError::Neither),
            ("#cloud-config", 1, SourceError::Neither),
            (&"s3cret".repeat(22), 1, SourceError::Neither),
        ] {
            assert_eq!(SourceName::documents(text), Err((number, error)), "{text}");
            assert!(!error.to_string().contains("s3cret"));
        }
    }

    #[test]
    fn base64_is_taken_as_the_command_wraps_it() {
        let content = "#cloud-config\nhostname: web\n".repeat(12);
        let encoded = BASE64.encode(&content);
        let lines = |encoded: &str, width| -> Vec<String> {
            encoded.as_bytes().chunks(width).map(|line| String::from_utf8(line.to_vec()).unwrap()).collect()
        };
        for width in [64, 76] {
            let lines = lines(&encoded, width);
            for line_break in ["\n", "\r\n", " "] {
                let wrapped = format!("base64:{}", lines.join(line_break));
                assert_eq!(SourceName::parse(&wrapped), Ok(inline(&content)));
                let list = format!("{wrapped}{line_break}more.yaml");
                let expected = [inline(&content), SourceName::File("more.yaml".into())];
                assert_eq!(SourceName::documents(&list).as_deref(), Ok(&expected[..]), "{list:?}");
            }
        }
        let keys = BASE64.encode(format!("{KEY}\n{KEY} again\n"));
        let wrapped = format!("base64:{}", lines(&keys, 76).join("\n"));
        assert_eq!(SourceName::keys(&wrapped), Ok(vec![inline(&format!("{KEY}\n{KEY} again\n"))]));
    }

    #[test]
    fn a_list_names_no_more_places_than_can_be_fetched_in_a_sensible_time() {
        let list = |count| (0..count).map(|number| format!("https://h/{number}")).collect::<Vec<_>>().join("\n");
        for parse in [SourceName::documents, SourceName::keys] {
            assert_eq!(parse(&list(64)).unwrap().len(), 64);
            assert_eq!(parse(&list(5000)), Err((65, SourceError::TooMany)));
            assert_eq!(parse(&format!("{}\nlast.yaml", list(64))), Err((65, SourceError::TooMany)));
        }
        let documents = format!("base64:eA\n{}\nlast.yaml", list(64));
        assert_eq!(
            SourceName::documents(&documents),
            Err((66, SourceError::TooMany)),
            "what stands there costs nothing"
        );
        let keys = vec![KEY; 500].join("\n");
        assert_eq!(SourceName::keys(&keys).unwrap().len(), 500, "keys that stand there cost nothing");
    }

    #[test]
    fn keys_may_stand_there_themselves() {
        let list = format!("{KEY}\nteam.keys; https://h/joe.keys;base64:{}", "eA");
        let no_key = SourceError::Key(KeyError::Line { line: 1, reason: NO_KEY });
        assert_eq!(SourceName::keys(&list), Err((4, no_key)));
        let names = SourceName::keys(list.rsplit_once(';').unwrap().0).unwrap();
        let url = SourceName::Url(ImageUrl::parse("https://h/joe.keys").unwrap());
        assert_eq!(names, [inline(KEY), SourceName::File("team.keys".into()), url]);
        assert!(matches!(SourceName::keys("ssh-ed25519"), Err((1, SourceError::Key(_)))));
    }

    #[test]
    fn keys_that_were_joined_by_a_comma_are_two_keys() {
        let other = KEY.replace("HBwc joe", "ICAg ann, of sales").replace("AAAAIAc", "AAAAIAg");
        for separator in [",", "\\n", ";", "\n"] {
            let text = format!("{KEY}{separator}{other}");
            assert_eq!(SourceName::keys(&text), Ok(vec![inline(KEY), inline(&other)]), "{separator:?}");
        }
        let joined = SourceName::keys(&format!("{KEY} {other}")).unwrap_err();
        assert!(joined.1.to_string().contains("has another key in its comment"), "{}", joined.1);
    }

    const NO_KEY: &str = "is not a public SSH key (use ssh-ed25519, ssh-rsa, ecdsa-sha2-nistp* or sk-* and the key)";

    proptest! {
        #[test]
        fn no_name_leaves_its_folder(text in "\\PC{0,8}|[./a-]{0,8}") {
            if let Ok(SourceName::File(path)) = SourceName::parse(&text) {
                let normal = |part| matches!(part, std::path::Component::Normal(_));
                assert!(path.components().all(normal), "{}", path.display());
            }
        }
    }
}
