// SPDX-License-Identifier: BSD-2-Clause
//! What has to hold for any text of a config file.

use std::path::Path;

use toml::Table;

use super::legacy::shell::{assignments, words};
use super::load::{Layer, lay_over};
use super::parse::parse_toml;
use super::{ParseError, Paths, VariantName, merge, parse_legacy};

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

/// An error is one line. Settings are the same over themselves and over or under nothing, and whatever was accepted makes
/// settings.
fn settle(parsed: Result<Table, ParseError>) {
    match parsed {
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error}"),
        Ok(table) => {
            for (below, over) in [(&table, &table), (&Table::new(), &table), (&table, &Table::new())] {
                let mut both = below.clone();
                lay_over(&mut both, over);
                assert_eq!(both, table);
            }
            let layers = [Layer { file: "config".into(), table }];
            let variant = VariantName::parse("default").expect("it is a name");
            merge(&layers, &Paths::below(Path::new("/")), &variant).expect("each value was checked");
        }
    }
}
