// SPDX-License-Identifier: BSD-2-Clause
//! The output of `variants show`: the effective settings without their secrets, and the file that each comes from.

use serde::Serialize;
use toml::{Table, Value, ser};

use super::Settings;
use super::load::Layer;

/// An effective setting.
#[derive(Serialize)]
pub(crate) struct ShownSetting {
    /// The name of the setting, with the name of its table.
    pub(crate) key: String,
    /// The value as in config.toml. A secret is `<hidden>`. If nothing is set, this is the value that removes a
    /// setting of a lower priority: an empty text, list or table, or zero.
    pub(crate) value: Value,
    /// The file that sets the value. `None` for the built-in value.
    pub(crate) source: Option<String>,
}

/// Shows `settings`, which were made from `layers`, in the order of the manual page. Each named image is one setting.
pub(crate) fn show(settings: &Settings, layers: &[Layer]) -> Result<Vec<ShownSetting>, ser::Error> {
    let source = |section: &str, key: &str| {
        let strongest = layers.iter().rev().find(|layer| layer.sets(section, key));
        strongest.map(|layer| layer.file.display().to_string())
    };
    let mut shown = Vec::new();
    for (name, value) in Table::try_from(settings)? {
        let Value::Table(section) = value else {
            let source = source("", &name);
            shown.push(ShownSetting { key: name, value, source });
            continue;
        };
        for (key, value) in section {
            let source = source(&name, &key);
            // Without quotes, TOML would read a dot as the beginning of another table.
            let key = if key.contains('.') { format!("{name}.\"{key}\"") } else { format!("{name}.{key}") };
            shown.push(ShownSetting { key, value, source });
        }
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::show;
    use crate::config::Settings;
    use crate::config::tests::{FULL, merged};
    use std::fmt::Write as _;

    fn lines(settings: &Settings) -> String {
        show(settings, &[]).unwrap().iter().fold(String::new(), |mut text, setting| {
            writeln!(text, "{} = {}", setting.key, setting.value).unwrap();
            text
        })
    }

    #[test]
    fn every_key_is_shown_in_its_place() {
        let keys = |settings: &Settings| show(settings, &[]).unwrap().into_iter().map(|setting| setting.key);
        let full: Vec<_> = keys(&merged(&[FULL])).collect();
        let (images, others): (Vec<_>, Vec<_>) = full.iter().cloned().partition(|key| key.starts_with("images."));
        assert_eq!(images, ["images.debian-12", "images.\"golden-1.2\""]);
        assert_eq!(
            (others.len(), &others[0], &others[47]),
            (48, &"image".to_owned(), &"cache.verify_cached".to_owned())
        );
        assert_eq!(full[24..26], images, "behind the top level");
        assert_eq!(others, keys(&Settings::default()).collect::<Vec<_>>());
    }

    /// The shown settings are a config.toml with the same meaning, except for secrets.
    #[test]
    fn what_is_shown_can_be_written_so() {
        let secret = |line: &&str| {
            [
                "ssh_keys",
                "user_data",
                "network_config",
                "headers",
                "user",
                "password",
                "ssh-",
                "https://images.example/team",
                "\"\"\"",
                "proxy = \"joe",
            ]
            .iter()
            .any(|key| line.starts_with(key))
        };
        let open: Vec<_> = FULL.lines().filter(|line| !secret(line)).collect();
        for text in [
            open.join("\n").as_str(),
            "",
            "allowed_images = ['/a b\"']\nhttp.min_speed = '0'\nhttp.limit_rate = '1025'",
        ] {
            let settings = merged(&[text]);
            assert_eq!(merged(&[&lines(&settings)]), settings);
        }
    }

    #[test]
    fn secrets_are_hidden() {
        let settings = merged(&[FULL]);
        let text = lines(&settings);
        for line in [
            "ssh_keys = \"<hidden>\"\n",
            "user_data = \"<hidden>\"\n",
            "network_config = \"<hidden>\"\n",
            "http.proxy = \"http://proxy.example:3128\"\n",
            "http.headers = { Authorization = \"<hidden>\", X-Site = \"<hidden>\" }\n",
            "http.user = \"<hidden>\"\n",
            "http.password = \"<hidden>\"\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        for (image, shown) in [
            ("https://joe:s3cret@h/a.raw?token=s3cret#s3cret", "https://h/a.raw"),
            ("ftp://joe:s3cret@h/a", "<hidden>"),
            ("joe:s3cret@h/a", "<hidden>"),
            ("/srv/a=b.raw", "/srv/a=b.raw"),
        ] {
            let settings =
                merged(&[&format!("image = '{image}'\nimage_checksum = '{image}'\nimage_signature = '{image}'")]);
            let text = lines(&settings);
            let expected = format!(
                "image = \"{shown}\"\nimage_type = \"\"\nimage_checksum = \"{shown}\"\nimage_signature = \"{shown}\"\n"
            );
            assert!(text.starts_with(&expected), "{text}");
        }
        let settings = merged(&["[http]\nuser = 'joe'\nproxy = 'joe:s3cret@p:1'"]);
        assert!(lines(&settings).contains("http.password = \"\"\n"), "that a password is empty is no secret");
    }
}
