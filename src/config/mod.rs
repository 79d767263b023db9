// SPDX-License-Identifier: BSD-2-Clause
//! What an administrator has set: built-in values, under the site's `config.toml`, under the variant's own file.
//!
//! A variant is configured by a typed `config.toml` or by the shell predecessor's `config` of `KEY=VALUE` lines, never
//! by both. Either is read as data: nothing in it is ever executed. The manual page simpleimage.toml(5) describes both.

mod allowed;
mod curl;
mod error;
mod file;
mod images;
mod known;
mod legacy;
mod load;
mod nearly;
mod partial;
mod paths;
mod seed;
mod settings;
pub(crate) mod shell;
mod shown;
mod toml;
mod values;
mod variant;

pub(crate) use allowed::{ImagePlace, instance_storage};
pub(crate) use error::{ConfigError, ParseError};
pub(crate) use file::{open_below, open_trusted};
pub(crate) use images::{ImageAlias, Images};
pub(crate) use known::Variants;
pub(crate) use legacy::parse_legacy;
pub(crate) use load::{layers, load, log_format, resolve, source_of};
pub(crate) use nearly::nearly_read;
pub(crate) use partial::{PartialHttp, PartialSettings};
pub use paths::{HookPhase, Paths};
pub(crate) use seed::SeedDefaults;
pub(crate) use settings::{RequireChecksum, Settings};
pub(crate) use shown::shown;
pub(crate) use toml::parse_toml;
pub(crate) use variant::{VariantName, VariantNameError};

#[cfg(test)]
mod tests {
    use super::{legacy, parse_legacy, parse_toml};
    use std::collections::BTreeSet;

    const MANUAL: &str = include_str!("../../man/simpleimage.toml.5");

    /// Every key of config.toml, those of an image with a name among them.
    fn keys() -> BTreeSet<String> {
        let of_images =
            ["url", "path", "type", "checksum", "signature", "note"].map(|key| format!("images.NAME.{key}"));
        let all = parse_toml(include_str!("testdata/full.toml")).unwrap();
        all.keys().into_iter().map(str::to_owned).chain(of_images).collect()
    }

    /// The entries of the manual, each below the table that its heading names.
    fn entries() -> BTreeSet<String> {
        let (mut table, mut found) = (String::new(), BTreeSet::new());
        for line in MANUAL.lines() {
            if let Some(heading) = line.strip_prefix(".Ss ") {
                let name = heading.split_once('[').map(|(_, rest)| rest.trim_end_matches(']'));
                table = name.map(|name| format!("{name}.")).unwrap_or_default();
            }
            let key = line.strip_prefix(".It Ic ").and_then(|entry| entry.split_once(" No = "));
            found.extend(key.map(|(key, _)| format!("{table}{key}")));
        }
        found
    }

    #[test]
    fn the_manual_describes_every_key_and_no_other() {
        assert_eq!(entries(), keys());
    }

    #[test]
    fn the_manual_describes_every_key_of_the_predecessor_and_no_other() {
        let keys: BTreeSet<_> = legacy::KEYS.map(str::to_owned).into();
        let entries =
            MANUAL.split_once(".Sh CONFIG\n").unwrap().1.lines().filter_map(|line| line.strip_prefix(".It Ev "));
        assert_eq!(entries.map(str::to_owned).collect::<BTreeSet<_>>(), keys);
    }

    #[test]
    fn the_manuals_examples_are_valid() {
        let examples: Vec<_> = MANUAL.split(".Bd -literal -offset indent\n").skip(1).collect();
        let keys =
            [parse_toml, parse_toml, parse_toml, parse_legacy].into_iter().zip(&examples).map(|(parse, example)| {
                let text = example.split(".Ed").next().unwrap();
                parse(text).unwrap_or_else(|error| panic!("{error} in\n{text}")).keys().len()
            });
        assert_eq!(keys.collect::<Vec<_>>(), [5, 1, 2, 5]);
        assert_eq!(examples.len(), 4);
    }
}
