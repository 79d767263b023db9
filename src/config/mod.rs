// SPDX-License-Identifier: BSD-2-Clause
//! The settings that an administrator makes: the site's `config.toml` has priority over built-in values, and the
//! variant's own file has priority over both.
//!
//! A variant is configured by a typed `config.toml`, or by the shell predecessor's `config` of `KEY=VALUE` lines, but
//! never by both. Either is read as data: nothing in it is ever executed. The manual page simpleimage.toml(5)
//! describes both.

mod error;
mod file;
mod images;
pub(crate) mod legacy;
pub(crate) mod load;
pub(crate) mod parse;
mod paths;
mod settings;
mod show;
mod values;
mod variants;

pub(crate) use error::{ConfigError, ParseError};
pub(crate) use file::{open_below, open_trusted};
pub(crate) use images::{ImageAlias, instance_storage};
pub(crate) use legacy::parse_legacy;
pub(crate) use load::{layers, load, log_format, merge};
pub use paths::{HookPhase, Paths};
pub(crate) use settings::Settings;
pub(crate) use show::{ShownSetting, show};
pub(crate) use values::RequireChecksum;

pub(crate) use variants::{VariantName, VariantNameError, Variants, mistyped_names};

#[cfg(test)]
mod tests {
    use super::load::Layer;
    use super::parse::parse_toml;
    use super::{Paths, Settings, VariantName, legacy, merge, parse_legacy, show};
    use std::collections::BTreeSet;
    use std::path::Path;
    use toml::{Table, Value};

    const MANUAL: &str = include_str!("../../man/simpleimage.toml.5");

    pub(super) const FULL: &str = include_str!("testdata/full.toml");

    /// Returns the settings of the variant `default`, with each of `texts` as a config.toml.
    pub(super) fn merged(texts: &[&str]) -> Settings {
        let layer = |text: &&str| Layer {
            file: "config.toml".into(),
            table: parse_toml(text).unwrap_or_else(|error| panic!("{error} in\n{text}")),
        };
        let layers: Vec<_> = texts.iter().map(layer).collect();
        merge(&layers, &Paths::below(Path::new("/")), &VariantName::parse("default").unwrap()).unwrap()
    }

    pub(super) fn message(text: &str) -> String {
        parse_toml(text).unwrap_err().to_string()
    }

    /// Returns every key of config.toml according to the fields of the settings, and the keys of a named image.
    fn keys() -> BTreeSet<String> {
        let fields = show(&Settings::default(), &[]).unwrap().into_iter().map(|setting| setting.key);
        let image = parse_toml("images.NAME.size = 1").unwrap_err().to_string();
        let of_images = image.split('`').skip(3).step_by(2).map(|key| format!("images.NAME.{key}"));
        fields.chain(["images".to_owned()]).chain(of_images).collect()
    }

    /// Returns the entries of the manual, each with the table that its heading names.
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

    /// Counts the settings in a file. All its named images count as one.
    fn count(file: &Table) -> usize {
        let in_section = |(name, value): (&String, &Value)| match value {
            Value::Table(section) if name != "images" => section.len(),
            _ => 1,
        };
        file.iter().map(in_section).sum()
    }

    #[test]
    fn the_manuals_examples_are_valid() {
        let examples: Vec<_> = MANUAL.split(".Bd -literal -offset indent\n").skip(1).collect();
        let keys =
            [parse_toml, parse_toml, parse_toml, parse_legacy].into_iter().zip(&examples).map(|(parse, example)| {
                let text = example.split(".Ed").next().unwrap();
                count(&parse(text).unwrap_or_else(|error| panic!("{error} in\n{text}")))
            });
        assert_eq!(keys.collect::<Vec<_>>(), [5, 1, 2, 5]);
        assert_eq!(examples.len(), 4);
    }
}
