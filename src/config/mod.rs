// SPDX-License-Identifier: BSD-2-Clause
//! What an administrator has set: built-in values, under the site's `config.toml`, under the variant's own file.
//!
//! A variant is configured by a typed `config.toml` or by the shell predecessor's `config` of `KEY=VALUE` lines, never
//! by both. Either is read as data: nothing in it is ever executed. The manual page simpleimage.toml(5) describes both.

mod allowed;
mod curl;
mod error;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod images;
mod legacy;
mod load;
mod partial;
mod paths;
mod seed;
mod settings;
mod shell;
mod shown;
mod toml;
mod values;
mod variant;

pub use allowed::{ImagePlace, instance_storage};
pub use error::{ConfigError, ParseError};
pub use file::{open_below, open_trusted};
pub use images::{ImageAlias, Images};
pub use legacy::parse_legacy;
pub use load::{Layer, layers, load, resolve, source_of};
pub use partial::{PartialCache, PartialHttp, PartialSettings};
pub use paths::{HookPhase, Paths};
pub use seed::SeedDefaults;
pub use settings::{RequireChecksum, Settings};
pub use shown::shown;
pub use toml::parse_toml;
pub use variant::{VariantName, VariantNameError};

#[cfg(test)]
mod tests {
    use super::{parse_legacy, parse_toml};

    const MANUAL: &str = include_str!("../../man/simpleimage.toml.5");

    #[test]
    fn the_manual_describes_every_key() {
        let of_images = ["url", "path", "type", "checksum", "signature"];
        for key in parse_toml(include_str!("testdata/full.toml")).unwrap().keys().into_iter().chain(of_images) {
            let name = key.rsplit('.').next().unwrap();
            assert!(MANUAL.contains(&format!("\n.It Ic {name} No = ")), "{key}");
        }
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
