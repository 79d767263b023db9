// SPDX-License-Identifier: BSD-2-Clause
//! From the files to the settings: built-in values, under the site's file, under the variant's.

use std::path::{Path, PathBuf};

use super::{
    ConfigError, ParseError, PartialSettings, Paths, Settings, VariantName, Variants, file, parse_legacy, parse_toml,
};
use crate::node::report::LogFormat;

/// The typed format, for the site and for a variant.
const TOML: &str = "config.toml";
/// The predecessor's format, for a variant.
const LEGACY: &str = "config";

/// One config file and what it sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    /// The file.
    pub(crate) file: PathBuf,
    /// What it sets.
    pub(crate) settings: PartialSettings,
}

/// The settings of `variant`: the [`layers`] over the built-in values.
///
/// # Errors
/// As of [`layers`].
pub(crate) fn load(paths: &Paths, variant: &VariantName) -> Result<Settings, ConfigError> {
    Ok(resolve(paths, &layers(paths, variant)?))
}

/// The settings that `layers` make over the built-in values.
pub(crate) fn resolve(paths: &Paths, layers: &[Layer]) -> Settings {
    let set = layers.iter().map(|layer| layer.settings.clone());
    Settings::resolve(paths, set.fold(PartialSettings::default(), PartialSettings::overlaid_by))
}

/// The config files that are there, the weakest first: the site's `config.toml`, then `config.toml` or the
/// predecessor's `config` of `variant`, whose folder need not exist where it is listed in `variants.list`.
///
/// # Errors
/// [`ConfigError`] for a variant that there is not, a file that is unreadable, writable by others or wrong, and for a variant that has both formats.
pub(crate) fn layers(paths: &Paths, variant: &VariantName) -> Result<Vec<Layer>, ConfigError> {
    Variants::of(paths)?.check(variant, paths)?;
    let dir = paths.variant_dir(variant);
    let site = layer(&paths.config_dir.join(TOML), parse_toml)?;
    let (typed, legacy) = (dir.join(TOML), dir.join(LEGACY));
    // Existence before content: which file is meant comes before what is wrong in it.
    if typed.exists() && legacy.exists() {
        return Err(ConfigError::Both { dir });
    }
    let own = [layer(&typed, parse_toml)?, layer(&legacy, parse_legacy)?];
    Ok(site.into_iter().chain(own.into_iter().flatten()).collect())
}

/// What the messages of a run of `variant` look like; of none for an OS without a variant. A file that is unreadable,
/// refused or wrong has no say: that is told, in the format that is left, by who needs what else stands there. The
/// predecessor's format has no such key.
pub(crate) fn log_format(paths: &Paths, variant: Option<&VariantName>) -> LogFormat {
    let says = |folder: &Path| layer(&folder.join(TOML), parse_toml).ok().flatten()?.settings.log_format;
    let own = variant.and_then(|variant| says(&paths.variant_dir(variant)));
    own.or_else(|| says(&paths.config_dir)).unwrap_or_default()
}

/// The file that decides about `key` (named as by [`PartialSettings::keys`], or `images.NAME`), none for the built-in
/// value.
pub(crate) fn source_of<'a>(layers: &'a [Layer], key: &str) -> Option<&'a Path> {
    let sets = |layer: &&Layer| match key.strip_prefix("images.") {
        Some(name) => layer.settings.images.contains_key(name.trim_matches('"')),
        None => layer.settings.keys().contains(&key),
    };
    let strongest = layers.iter().rev().find(sets);
    strongest.map(|layer| layer.file.as_path())
}

fn layer(path: &Path, parse: fn(&str) -> Result<PartialSettings, ParseError>) -> Result<Option<Layer>, ConfigError> {
    let Some(text) = file::read(path)? else { return Ok(None) };
    match parse(&text) {
        Ok(settings) => Ok(Some(Layer { file: path.to_owned(), settings })),
        Err(error) => Err(ConfigError::Invalid { path: path.to_owned(), error }),
    }
}

#[cfg(test)]
mod tests {
    use super::{layers, load, log_format, source_of};
    use crate::config::{Paths, Settings, VariantName};
    use crate::node::report::LogFormat;
    use std::fs::{Permissions, create_dir_all, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    /// A root with these files below its config folder, and the outcome for the variant `default`.
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

        fn path(&self, name: &str) -> String {
            self.1.config_dir.join(name).display().to_string()
        }
    }

    #[test]
    fn defect_25_no_config_at_all_is_fine() {
        let site = Site::with(&[]);
        let cache_dir = site.0.path().join("var/cache/ganeti-instance-simpleimage");
        assert_eq!(site.load(), Ok(Settings { cache_dir, ..Settings::default() }));
    }

    #[test]
    fn an_empty_config_is_fine() {
        for name in ["default/config", "default/config.toml", "config.toml"] {
            let site = Site::with(&[(name, "")]);
            let cache_dir = site.1.cache_dir.clone();
            assert_eq!(site.load(), Ok(Settings { cache_dir, ..Settings::default() }), "{name}");
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
            assert_eq!(settings.cache_max_age.as_secs(), 2 * 86_400);
            let credentials = settings.http.credentials.unwrap();
            assert_eq!((credentials.user.0.as_str(), credentials.password.0.as_str()), ("variant", ""));
        }
    }

    #[test]
    fn the_source_of_each_value_is_known() {
        let files =
            [("config.toml", "image = '/i'\n[http]\nretries = 1"), ("default/config", "CUSTOM_CURL_OPTS='--retry 2'")];
        let site = Site::with(&files);
        let layers = layers(&site.1, &VariantName::parse("default").unwrap()).unwrap();
        let source = |key| source_of(&layers, key).map(|path| path.display().to_string());
        assert_eq!(source("image"), Some(site.path("config.toml")));
        assert_eq!(source("http.retries"), Some(site.path("default/config")));
        assert_eq!(source("http.proxy"), None);
        let image =
            |path| format!("[images.a]\npath = '{path}'\n[images.'b.{path}']\npath = '/'\n").replace("b./", "b.");
        let site = Site::with(&[("config.toml", &image("/s")), ("default/config.toml", &image("/v"))]);
        let layers = super::layers(&site.1, &VariantName::parse("default").unwrap()).unwrap();
        let source = |key| source_of(&layers, key).map(|path| path.display().to_string());
        let own = Some(site.path("default/config.toml"));
        assert_eq!([source("images.a"), source("images.\"b.v\"")], [own.clone(), own]);
        assert_eq!(source("images.\"b.s\""), Some(site.path("config.toml")));
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
