// SPDX-License-Identifier: BSD-2-Clause
//! Loads the settings from the files. The built-in values have the lowest priority, then the site's file, then the
//! variant's file.
//!
//! Each file is checked alone, so that an error has a line. Their tables are then merged.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::parse::{PAIRS, explain, parse_toml};
use super::{ConfigError, ParseError, Paths, Settings, VariantName, Variants, file, parse_legacy, values};
use crate::node::report::LogFormat;

/// The name of the file in the typed format, for the site and for a variant.
const TOML: &str = "config.toml";
/// The name of the file in the predecessor's format, for a variant.
const LEGACY: &str = "config";

/// A config file and what it sets. It has no `Debug`, because the table contains secrets.
pub(crate) struct Layer {
    pub(crate) file: PathBuf,
    /// The keys and values as in config.toml. Each of them was checked.
    pub(crate) table: Table,
}

impl Layer {
    fn read(path: &Path, parse: fn(&str) -> Result<Table, ParseError>) -> Result<Option<Self>, ConfigError> {
        let Some(text) = file::read(path)? else { return Ok(None) };
        match parse(&text) {
            Ok(table) => Ok(Some(Layer { file: path.to_owned(), table })),
            Err(error) => Err(ConfigError::Invalid { path: path.to_owned(), error }),
        }
    }

    /// Returns whether this file decides about `key` in the table `section`. For a key at the top level `section` is
    /// empty.
    pub(super) fn sets(&self, section: &str, key: &str) -> bool {
        match (section, self.table.get(section)) {
            ("", _) => self.table.contains_key(key),
            ("http", Some(Value::Table(http))) => {
                let pair = PAIRS.into_iter().find(|(_, second)| *second == key);
                http.contains_key(pair.map_or(key, |(first, _)| first))
            }
            (_, Some(Value::Table(table))) => table.contains_key(key),
            _ => false,
        }
    }
}

/// Loads the settings of `variant`: its [`layers`], with the built-in values for everything else.
///
/// # Errors
/// The errors of [`layers`].
pub(crate) fn load(paths: &Paths, variant: &VariantName) -> Result<Settings, ConfigError> {
    merge(&layers(paths, variant)?, paths, variant)
}

/// Makes the settings of `variant` from its `layers`. A later layer has priority.
///
/// # Errors
/// [`ConfigError::Invalid`] if the files, each of which is valid, are invalid together.
pub(crate) fn merge(layers: &[Layer], paths: &Paths, variant: &VariantName) -> Result<Settings, ConfigError> {
    let mut merged = Table::new();
    layers.iter().for_each(|layer| lay_over(&mut merged, &layer.table));
    let settings: Settings = merged.try_into().map_err(|error| ConfigError::Invalid {
        path: layers.last().map_or_else(|| paths.config_dir.clone(), |layer| layer.file.clone()),
        error: explain("", error),
    })?;
    Ok(settings.completed(paths, variant))
}

/// Replaces in `below` everything that `over` sets. Lists, header tables and named images are replaced as a whole.
pub(crate) fn lay_over(below: &mut Table, over: &Table) {
    for (key, value) in over {
        let (Some(Value::Table(section)), Value::Table(over)) = (below.get_mut(key), value) else {
            below.insert(key.clone(), value.clone());
            continue;
        };
        if key == "http" {
            for (_, second) in PAIRS.into_iter().filter(|(first, _)| over.contains_key(*first)) {
                section.remove(second);
            }
        }
        section.extend(over.clone());
    }
}

/// Reads the config files that exist, the one with the lowest priority first: the site's `config.toml`, then the
/// `config.toml` or the predecessor's `config` of `variant`. The variant's folder may be missing if the variant is
/// listed in `variants.list`.
///
/// # Errors
/// [`ConfigError`] for a variant that does not exist, for a file that is unreadable, writable by others or invalid,
/// and for a variant that has both formats.
pub(crate) fn layers(paths: &Paths, variant: &VariantName) -> Result<Vec<Layer>, ConfigError> {
    Variants::of(paths)?.check(variant, paths)?;
    let dir = paths.variant_dir(variant);
    let site = Layer::read(&paths.config_dir.join(TOML), parse_toml)?;
    let (typed, legacy) = (dir.join(TOML), dir.join(LEGACY));
    // Two files are the first error to report, because it is unknown which of them is meant.
    if typed.exists() && legacy.exists() {
        return Err(ConfigError::Both { dir });
    }
    let own = [Layer::read(&typed, parse_toml)?, Layer::read(&legacy, parse_legacy)?];
    Ok([site].into_iter().chain(own).flatten().collect())
}

/// Returns the format of the messages of a run of `variant`; an OS need not have a variant. A file that is
/// unreadable, refused or invalid is ignored here, because `load` reports it later, in the format found so far. The
/// predecessor's format has no such key.
pub(crate) fn log_format(paths: &Paths, variant: Option<&VariantName>) -> LogFormat {
    let format_in = |folder: &Path| {
        let layer = Layer::read(&folder.join(TOML), parse_toml).ok()??;
        values::log_format(layer.table.get("log_format")?.as_str()?).ok()
    };
    let own = variant.and_then(|variant| format_in(&paths.variant_dir(variant)));
    own.or_else(|| format_in(&paths.config_dir)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Layer, layers, load, log_format};
    use crate::config::{Paths, Settings, VariantName};
    use crate::node::report::LogFormat;
    use std::fs::{Permissions, create_dir_all, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    /// A root with files below its config folder, for tests of the variant `default`.
    struct Site(tempfile::TempDir, Paths);

    impl Site {
        fn with(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let paths = Paths::below(dir.path());
            for (name, text) in files {
                let path = paths.config_dir.join(name);
                create_dir_all(path.parent().unwrap()).unwrap();
                write(&path, text).unwrap();
                set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
            }
            Site(dir, paths)
        }

        fn load(&self) -> Result<Settings, String> {
            load(&self.1, &VariantName::parse("default").unwrap()).map_err(|err| err.to_string())
        }

        fn built_in(&self) -> Settings {
            Settings::default().completed(&self.1, &VariantName::parse("default").unwrap())
        }

        fn path(&self, name: &str) -> String {
            self.1.config_dir.join(name).display().to_string()
        }
    }

    #[test]
    fn defect_25_no_config_at_all_is_fine() {
        let site = Site::with(&[]);
        let settings = site.load().unwrap();
        assert_eq!(settings.cache.dir, site.0.path().join("var/cache/ganeti-instance-simpleimage"));
        assert_eq!(settings, site.built_in());
    }

    #[test]
    fn an_empty_config_is_fine() {
        for name in ["default/config", "default/config.toml", "config.toml"] {
            let site = Site::with(&[(name, "")]);
            assert_eq!(site.load(), Ok(site.built_in()), "{name}");
        }
    }

    #[test]
    fn the_variant_lies_over_the_site() {
        let toml =
            "image = '/site'\n[http]\nretries = 9\nuser = 'site'\npassword = 'sesame'\n[cache]\nmax_age_days = 1\n";
        for (name, text) in [
            ("default/config.toml", "[http]\nuser = 'variant'\n[cache]\nmax_age_days = 2\n"),
            ("default/config", "CUSTOM_CURL_OPTS='-u variant:'\nDOWNLOAD_CACHE_MAX_DAYS=2\n"),
        ] {
            let site = Site::with(&[("config.toml", toml), (name, text), ("other/config", "oops")]);
            let settings = site.load().unwrap();
            assert_eq!((settings.image.as_deref(), settings.http.retries), (Some("/site"), 9));
            assert_eq!(settings.cache.max_age.as_secs(), 2 * 86_400);
            let credentials = settings.http.credentials().unwrap();
            assert_eq!((credentials.user.0.as_str(), credentials.password.0.as_str()), ("variant", ""));
        }
    }

    fn source_of(layers: &[Layer], section: &str, key: &str) -> Option<String> {
        let strongest = layers.iter().rev().find(|layer| layer.sets(section, key));
        strongest.map(|layer| layer.file.display().to_string())
    }

    #[test]
    fn the_source_of_each_value_is_known() {
        let files =
            [("config.toml", "image = '/i'\n[http]\nretries = 1"), ("default/config", "CUSTOM_CURL_OPTS='--retry 2'")];
        let site = Site::with(&files);
        let layers = layers(&site.1, &VariantName::parse("default").unwrap()).unwrap();
        let source = |section, key| source_of(&layers, section, key);
        assert_eq!(source("", "image"), Some(site.path("config.toml")));
        assert_eq!(source("http", "retries"), Some(site.path("default/config")));
        assert_eq!(source("http", "proxy"), None);
        let image =
            |path| format!("[images.a]\npath = '{path}'\n[images.'b.{path}']\npath = '/'\n").replace("b./", "b.");
        let site = Site::with(&[("config.toml", &image("/s")), ("default/config.toml", &image("/v"))]);
        let layers = super::layers(&site.1, &VariantName::parse("default").unwrap()).unwrap();
        let own = Some(site.path("default/config.toml"));
        assert_eq!(["a", "b.v"].map(|name| source_of(&layers, "images", name)), [own.clone(), own]);
        assert_eq!(source_of(&layers, "images", "b.s"), Some(site.path("config.toml")));
    }

    #[test]
    fn the_log_has_the_format_of_the_strongest_file_that_can_be_read() {
        let (text, json) = ("log_format = 'text'", "log_format = 'json'");
        let (site, own, legacy) = ("config.toml", "default/config.toml", "default/config");
        for (files, expected) in [
            (&[][..], LogFormat::Text),
            (&[(site, json)], LogFormat::Json),
            (&[(own, json)], LogFormat::Json),
            (&[(site, json), (own, text)], LogFormat::Text),
            (&[(site, json), (own, "image = '/i'"), (legacy, "")], LogFormat::Json),
            (&[(site, json), (own, "log_format = 'text'\noops")], LogFormat::Json),
            (&[(site, json), (legacy, "oops")], LogFormat::Json),
            (&[(site, "oops = 1\nlog_format = 'json'")], LogFormat::Text),
        ] {
            let site = Site::with(files);
            let variant = VariantName::parse("default").unwrap();
            assert_eq!(log_format(&site.1, Some(&variant)), expected, "{files:?}");
        }
        let site = Site::with(&[("config.toml", json), ("default/config.toml", text)]);
        assert_eq!(log_format(&site.1, None), LogFormat::Json, "an OS without a variant");
        set_permissions(site.1.config_dir.join("config.toml"), Permissions::from_mode(0o666)).unwrap();
        assert_eq!(log_format(&site.1, None), LogFormat::Text, "what others may write is not believed");
    }

    #[test]
    fn two_formats_are_an_error() {
        let site = Site::with(&[("default/config", "x"), ("default/config.toml", "x")]);
        let rest = "has both config.toml and config: move the settings to config.toml and remove config";
        assert_eq!(site.load(), Err(format!("{} {rest}", site.path("default"))));
    }

    #[test]
    fn errors_name_file_line_and_column() {
        for (name, text, message) in [
            ("config.toml", "image = 'x'\nimage = 'y'", "2:1: duplicate key"),
            ("default/config.toml", "[http]\nretry = 1", "2:1: http: unknown key `retry`, allowed are `proxy`, "),
            ("default/config", "# fine\n PROXIES=x", "2:2: unknown key PROXIES (allowed are PROXY, "),
        ] {
            let site = Site::with(&[(name, text)]);
            let error = site.load().unwrap_err();
            assert!(error.starts_with(&format!("{}:{message}", site.path(name))), "{error}");
        }
    }

    #[test]
    fn a_config_that_others_can_write_is_refused() {
        for name in ["config.toml", "default/config", "default/config.toml"] {
            let site = Site::with(&[(name, "")]);
            set_permissions(site.1.config_dir.join(name), Permissions::from_mode(0o664)).unwrap();
            let rest = "its mode 0664 lets others write what runs as root (check it, then chmod go-w)";
            assert_eq!(site.load(), Err(format!("refusing {}: {rest}", site.path(name))));
        }
    }

    #[test]
    fn a_variant_that_is_a_file_is_an_error() {
        let site = Site::with(&[("default", "")]);
        let error = site.load().unwrap_err();
        assert!(
            error.starts_with(&format!("reading {}: Not a directory", site.path("default/config.toml"))),
            "{error}"
        );
        assert!(!Path::new(&site.path("default/config")).exists());
    }
}
