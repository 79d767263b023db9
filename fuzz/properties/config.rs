// SPDX-License-Identifier: BSD-2-Clause
//! Properties of the rooms `config` and `ganeti`: the files of an administrator, and the variables of Ganeti.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use toml::Table;

use super::store::hides_secrets;
use super::text;
use crate::config::legacy::shell::{assignments, words};
use crate::config::load::{Layer, lay_over};
use crate::config::parse::parse_toml;
use crate::config::{ParseError, Paths, VariantName, merge, parse_legacy};
use crate::ganeti::env::Environment;
use crate::ganeti::request;
use crate::node::report::ascii_line;

/// Parses a `config.toml`.
pub(super) fn config_toml(data: &[u8]) {
    settle(parse_toml(&text(data)));
}

/// Parses a `config` of the predecessor. The same text is also used as a value in such a file, and as options of curl.
pub(super) fn config_legacy(data: &[u8]) {
    let text = text(data);
    let text = text.as_str();
    settle(parse_legacy(text));
    let quoted = text.replace('\'', r"'\''");
    settle(parse_legacy(&format!("CUSTOM_CURL_OPTS='{quoted}'\n")));
    settle(parse_legacy(&format!("PROXY='{quoted}'")));
    if !text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t')) {
        let found = assignments(&format!(" export KEY='{quoted}' # more\n")).expect("a quoted value is a value");
        assert_eq!((found.len(), found[0].key.as_str(), found[0].value.as_str()), (1, "KEY", text));
    }
    if let Ok(found) = words(text) {
        // A backslash would be refused, so a quote in a word stands inside the other kind of quotes.
        let quoted: Vec<_> = found.iter().map(|word| format!("'{}'", word.replace('\'', "'\"'\"'"))).collect();
        assert_eq!(words(&quoted.join(" ")), Ok(found));
    }
}

/// Checks that an error is one line, that settings merged with themselves or with nothing stay the same, and that
/// everything that was accepted makes settings.
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

/// Reads variables in the form of /proc/PID/environ, ended by zero bytes. An error is one line of ASCII and has no
/// password.
pub(super) fn environment(data: &[u8]) {
    let env = variables(data);
    let nowhere = Paths::below(Path::new("/nonexistent"));
    let core = env.core();
    let image = core.as_ref().ok().and_then(|core| core.params.image.clone()).unwrap_or_default();
    let errors = [
        core.err().map(|error| error.to_string()),
        env.instance_name().err().map(|error| error.to_string()),
        env.first_disk().err().map(|error| error.to_string()),
        env.export_device().err().map(|error| error.to_string()),
        env.import_device().err().map(|error| error.to_string()),
        env.size_descriptor().err().map(|error| error.to_string()),
        request::verify(&env, &nowhere).err().map(|error| format!("{error:#}")),
    ];
    let (_, _, all) = (env.debug(), env.reinstall(), env.to_vec());
    assert_eq!(Environment::new(all.clone()).to_vec(), all);
    // The names of the variant and the version are no secrets, whatever they are.
    let named = all.iter().any(|(name, value)| {
        ["OS_VARIANT", "OS_API_VERSION"].iter().any(|known| name == known) && value.to_string_lossy().contains(':')
    });
    for error in errors.into_iter().flatten() {
        let line = ascii_line(&error);
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
        assert_eq!(ascii_line(&line), line);
        assert!(named || hides_secrets(&image, &line), "{line}");
    }
}

pub(super) fn variables(data: &[u8]) -> Environment {
    let bytes = |part: &[u8]| OsString::from_vec(part.to_vec());
    Environment::new(data.split(|byte| *byte == 0).filter_map(|variable| {
        let at = variable.iter().position(|byte| *byte == b'=')?;
        Some((bytes(&variable[..at]), bytes(&variable[at + 1..])))
    }))
}
