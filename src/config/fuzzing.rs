// SPDX-License-Identifier: BSD-2-Clause
//! What has to hold for any text of a config file.

use std::path::Path;

use super::shell::{assignments, words};
use super::{ParseError, PartialSettings, Paths, Settings, parse_legacy, parse_toml};

/// A `config.toml`.
pub(crate) fn toml(text: &str) {
    settle(parse_toml(text));
}

/// A predecessor's `config`; and the same text as a value in one, and as curl's options.
pub(crate) fn legacy(text: &str) {
    settle(parse_legacy(text));
    let quoted = text.replace('\'', r"'\''");
    settle(parse_legacy(&format!("CUSTOM_CURL_OPTS='{quoted}'\n")));
    settle(parse_legacy(&format!("PROXY='{quoted}'")));
    if !text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t')) {
        let found = assignments(&format!(" export KEY='{quoted}' # more\n")).expect("a quoted value is a value");
        assert_eq!((found.len(), found[0].key.as_str(), found[0].value.as_str()), (1, "KEY", text));
    }
    if let Ok(found) = words(text) {
        // A backslash would be refused, so a quote in a word stands in the other quotes.
        let quoted: Vec<_> = found.iter().map(|word| format!("'{}'", word.replace('\'', "'\"'\"'"))).collect();
        assert_eq!(words(&quoted.join(" ")), Ok(found));
    }
}

/// An error is one line, and settings are the same over themselves and over or under nothing.
fn settle(parsed: Result<PartialSettings, ParseError>) {
    match parsed {
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error}"),
        Ok(settings) => {
            let over = |under: &PartialSettings, over: &PartialSettings| under.clone().overlaid_by(over.clone());
            let nothing = PartialSettings::default();
            for same in [over(&settings, &settings), over(&nothing, &settings), over(&settings, &nothing)] {
                assert_eq!(same, settings);
            }
            assert_eq!(settings.keys().is_empty(), settings == nothing);
            Settings::resolve(&Paths::below(Path::new("/")), settings);
        }
    }
}
