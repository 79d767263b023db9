// SPDX-License-Identifier: BSD-2-Clause
//! From the files to the settings: built-in values, under the site's file, under the variant's.
//!
//! Each file is checked alone, so that an error has a line. Their tables are then laid over each other.

use std::path::{Path, PathBuf};

use toml::de::DeTable;
use toml::{Table, Value};

use super::{ConfigError, ParseError, Paths, Settings, VariantName, Variants, file, parse_legacy, values};
use crate::node::report::LogFormat;

/// The typed format, for the site and for a variant.
const TOML: &str = "config.toml";
/// The predecessor's format, for a variant.
const LEGACY: &str = "config";

/// The keys in `[http]` of which the second belongs to the first: one file's user never gets another file's password, and
/// its certificate never another file's key.
const PAIRS: [(&str, &str); 2] = [("user", "password"), ("client_cert", "client_key")];

/// A config file and what it sets. There is no `Debug`, for the table has secrets.
pub(crate) struct Layer {
    pub(super) file: PathBuf,
    /// Keys and values as config.toml has them, each checked.
    pub(super) table: Table,
}

impl Layer {
    fn read(path: &Path, parse: fn(&str) -> Result<Table, ParseError>) -> Result<Option<Self>, ConfigError> {
        let Some(text) = file::read(path)? else { return Ok(None) };
        match parse(&text) {
            Ok(table) => Ok(Some(Layer { file: path.to_owned(), table })),
            Err(error) => Err(ConfigError::Invalid { path: path.to_owned(), error }),
        }
    }

    /// Tells whether this file decides about `key`, which stands in the table `section` if that is not empty.
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

/// Loads the settings of `variant`: its [`layers`] over the built-in values.
///
/// # Errors
/// As of [`layers`].
pub(crate) fn load(paths: &Paths, variant: &VariantName) -> Result<Settings, ConfigError> {
    merge(&layers(paths, variant)?, paths, variant)
}

/// Makes the settings of `variant` from its `layers`, the weakest of which comes first.
///
/// # Errors
/// [`ConfigError::Invalid`] if the files, each of which was right, are wrong together.
pub(crate) fn merge(layers: &[Layer], paths: &Paths, variant: &VariantName) -> Result<Settings, ConfigError> {
    let mut merged = Table::new();
    layers.iter().for_each(|layer| lay_over(&mut merged, &layer.table));
    let settings: Settings = merged.try_into().map_err(|error| ConfigError::Invalid {
        path: layers.last().map_or_else(|| paths.config_dir.clone(), |layer| layer.file.clone()),
        error: explain("", error),
    })?;
    Ok(settings.completed(paths, variant))
}

/// Replaces in `below` whatever `over` sets. Lists, header tables and images are replaced as a whole.
pub(super) fn lay_over(below: &mut Table, over: &Table) {
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

/// Reads the config files that are there, the weakest first: the site's `config.toml`, then `config.toml` or the
/// predecessor's `config` of `variant`, whose folder need not exist where it is listed in `variants.list`.
///
/// # Errors
/// [`ConfigError`] for a variant that does not exist, for a file that is unreadable, writable by others or wrong, and for a
/// variant that has both formats.
pub(crate) fn layers(paths: &Paths, variant: &VariantName) -> Result<Vec<Layer>, ConfigError> {
    Variants::of(paths)?.check(variant, paths)?;
    let dir = paths.variant_dir(variant);
    let site = Layer::read(&paths.config_dir.join(TOML), parse_toml)?;
    let (typed, legacy) = (dir.join(TOML), dir.join(LEGACY));
    // Which file is meant has to be told before what is wrong in one of them.
    if typed.exists() && legacy.exists() {
        return Err(ConfigError::Both { dir });
    }
    let own = [Layer::read(&typed, parse_toml)?, Layer::read(&legacy, parse_legacy)?];
    Ok([site].into_iter().chain(own).flatten().collect())
}

/// Finds out what the messages of a run of `variant` look like; an OS need not have a variant. A file that is unreadable,
/// refused or wrong has no say: the settings are loaded later, and tell the error in the format that is left. The
/// predecessor's format has no such key.
pub(crate) fn log_format(paths: &Paths, variant: Option<&VariantName>) -> LogFormat {
    let format_in = |folder: &Path| {
        let layer = Layer::read(&folder.join(TOML), parse_toml).ok()??;
        values::log_format(layer.table.get("log_format")?.as_str()?).ok()
    };
    let own = variant.and_then(|variant| format_in(&paths.variant_dir(variant)));
    own.or_else(|| format_in(&paths.config_dir)).unwrap_or_default()
}

/// Reads the text of a `config.toml`, and checks every value.
///
/// # Errors
/// [`ParseError`] with line and column for a syntax error, an unknown key (the allowed ones are named) or a wrong
/// value, which is never repeated.
pub(crate) fn parse_toml(text: &str) -> Result<Table, ParseError> {
    toml::from_str::<Settings>(text).map_err(|error| explain(text, error))?;
    let table: Table = toml::from_str(text).map_err(|error| explain(text, error))?;
    refuse_decimals(text)?;
    if let Some(Value::Table(http)) = table.get("http") {
        for (first, second) in PAIRS {
            if http.contains_key(second) && !http.contains_key(first) {
                return Err(ParseError::somewhere(&format!("http.{second} needs http.{first} in the same file")));
            }
        }
    }
    Ok(table)
}

/// Refuses times with decimals: only curl's options have those.
fn refuse_decimals(text: &str) -> Result<(), ParseError> {
    let document = DeTable::parse(text).map_err(|error| explain(text, error))?;
    let http = document.get_ref().get("http").and_then(|http| http.get_ref().as_table());
    match http.and_then(|http| http.iter().find(|(_, value)| value.get_ref().is_float())) {
        None => Ok(()),
        Some((key, value)) => {
            let words = "expected a whole number that is not negative, found a decimal number";
            Err(ParseError::at(text, value.span().start, &format!("http.{}: {words}", key.get_ref())))
        }
    }
}

fn explain(text: &str, mut error: toml::de::Error) -> ParseError {
    // Without the input, toml shows no line of the file, which may hold a password, but the path of the key instead.
    error.set_input(None);
    let words = error.to_string();
    let key = words.trim_end().rsplit_once("\nin `").map(|(_, key)| key.trim_end_matches('`'));
    let message = without_values(error.message());
    let message = key.map_or_else(|| message.clone(), |key| format!("{key}: {message}"));
    match error.span() {
        Some(span) => ParseError::at(text, span.start, &message),
        None => ParseError::somewhere(&message),
    }
}

/// Takes the value out of serde's words, such as `invalid type: string "x", expected a boolean`.
fn without_values(message: &str) -> String {
    let found = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    if let Some((found, expected)) = found.and_then(|found| found.rsplit_once(", expected ")) {
        let found = found.split(['"', '`']).next().unwrap_or_default().trim_end();
        return format!("expected {}, found {}", plain(expected), plain(found));
    }
    message.replace("unknown field", "unknown key").replace("expected one of", "allowed are")
}

/// Says serde's word for a kind of value in those of the manual page.
fn plain(kind: &str) -> &str {
    match kind {
        "u32" | "u64" | "f64" => "a whole number that is not negative",
        "integer" => "an integer",
        "floating point" => "a decimal number",
        "boolean" => "true or false",
        "string" => "a string",
        "sequence" => "an array",
        "map" | "a map" => "a table",
        other => other,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Layer, layers, load, log_format, merge, parse_toml};
    use crate::config::images::{ImageAlias, ImagePlace, Images};
    use crate::config::settings::{CacheTable, MbrTolerance};
    use crate::config::{Paths, RequireChecksum, Settings, VariantName};
    use crate::disk::write::Wipe;
    use crate::image::format::Format;
    use crate::node::report::LogFormat;
    use crate::node::size::ByteSize;
    use crate::store::http::{HttpSettings, Secret, UrlPrefix};
    use proptest::prelude::*;
    use std::fs::{Permissions, create_dir_all, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::time::Duration;

    pub(in crate::config) const FULL: &str = include_str!("testdata/full.toml");

    /// The settings of the variant `default` of which each of `texts` is a config.toml.
    pub(in crate::config) fn merged(texts: &[&str]) -> Settings {
        let layer = |text: &&str| Layer {
            file: "config.toml".into(),
            table: parse_toml(text).unwrap_or_else(|error| panic!("{error} in\n{text}")),
        };
        let layers: Vec<_> = texts.iter().map(layer).collect();
        merge(&layers, &Paths::below(Path::new("/")), &VariantName::parse("default").unwrap()).unwrap()
    }

    pub(in crate::config) fn message(text: &str) -> String {
        parse_toml(text).unwrap_err().to_string()
    }

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
    fn secret(text: &str) -> Option<Secret> {
        Some(Secret(text.to_owned()))
    }

    fn full_images() -> Images {
        let debian = ImageAlias {
            image: Secret("https://images.example/debian-12.qcow2".to_owned()),
            image_type: Some("qcow2".to_owned()),
            checksum: secret("https://images.example/SHA512SUMS"),
            signature: secret("https://images.example/SHA512SUMS.sign"),
            note: Some("Debian 12, genericcloud".to_owned()),
        };
        let golden = Secret("/srv/images/golden.raw".to_owned());
        let golden = ImageAlias { image: golden, image_type: None, checksum: None, signature: None, note: None };
        Images::from([("debian-12".to_owned(), debian), ("golden-1.2".to_owned(), golden)])
    }

    fn full_http() -> HttpSettings {
        let header = |name: &str, value: &str| (name.to_owned(), Secret(value.to_owned()));
        HttpSettings {
            proxy: secret("http://joe:p%40ss@proxy.example:3128"),
            https_proxy: secret("http://tunnels.example:8443"),
            allowed: Some(vec![UrlPrefix::parse("https://images.example/debian").unwrap()]),
            no_proxy: ["localhost", ".example.com", "10.0.0.0/8:8080"].map(|host| host.parse().unwrap()).into(),
            ca_file: Some("/etc/ssl/site-ca.pem".into()),
            client_cert: Some("/etc/ssl/node.pem".into()),
            client_key: Some("/etc/ssl/private/node.key".into()),
            insecure_tls: false,
            headers: vec![header("Authorization", "Bearer abc"), header("X-Site", "fra1")],
            user: secret("images"),
            password: Secret("s3cret".to_owned()),
            netrc_file: Some("/etc/ganeti/instance-simpleimage/netrc".into()),
            user_agent: "our-cluster/1".to_owned(),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(20),
            min_speed: Some(ByteSize(20 << 10)),
            max_time: Some(Duration::from_secs(3600)),
            retries: 3,
            limit_rate: Some(ByteSize(10 << 20)),
        }
    }

    fn full_cache() -> CacheTable {
        CacheTable {
            dir: "/srv/simpleimage-cache".into(),
            max_age: Duration::from_secs(14 * 86_400),
            stale_if_error: false,
            max_size: Some(ByteSize(50 << 30)),
            verify_cached: true,
        }
    }

    #[test]
    fn golden_every_key() {
        let expected = Settings {
            image: Some("https://images.example/debian.qcow2".to_owned()),
            image_type: Some("qcow2".to_owned()),
            image_checksum: Some("https://images.example/SHA256SUMS".to_owned()),
            image_signature: Some("https://images.example/SHA256SUMS.sign".to_owned()),
            cloud_init: Some("auto".to_owned()),
            ssh_keys: secret(
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH joe\n\
                 https://images.example/team.keys",
            ),
            user_data: secret("base.yaml;web.yaml"),
            network_config: secret("network.yaml"),
            dns_servers: Some("192.0.2.53 2001:db8::53".to_owned()),
            dns_search: Some("example.org".to_owned()),
            seed_persist: true,
            seed_keep: true,
            require_checksum: RequireChecksum::Http,
            require_signature: true,
            keyring: "/etc/keys/images.gpg".into(),
            allow_unknown_content: true,
            image_formats: [Format::Raw, Format::Qcow2, Format::Vmdk].into_iter().collect(),
            mbr_tolerance: MbrTolerance(128 << 20),
            wipe: Wipe::Ends,
            verify_readback: true,
            wipe_other_disks: true,
            allowed_images: vec![
                ImagePlace::Path("/srv/images".into()),
                ImagePlace::Url(UrlPrefix::parse("https://images.example/debian").unwrap()),
            ],
            log_format: LogFormat::Json,
            images: full_images(),
            http: full_http(),
            cache: full_cache(),
        };
        let settings = merged(&[FULL]);
        assert_eq!(settings, expected);
        let debug = format!("{settings:?}");
        assert!(
            !["s3cret", "p%40ss", "abc", "AAAA", "web.yaml"].into_iter().any(|secret| debug.contains(secret)),
            "{debug}"
        );
    }

    #[test]
    fn nothing_is_fine() {
        for text in ["", "# only this\n", "[http]\n[cache]\n", "[http.headers]\r\n"] {
            assert_eq!(merged(&[text]), merged(&[]), "{text}");
        }
    }

    #[test]
    fn unknown_keys_are_named_with_the_allowed_ones() {
        let top = "allowed are `image`, `image_type`, `image_checksum`, `image_signature`, `cloud_init`, \
                   `ssh_keys`, `user_data`, `network_config`, `dns_servers`, `dns_search`, `seed_persist`, `seed_keep`, `require_checksum`, \
                   `require_signature`, `keyring`, `allow_unknown_content`, `image_formats`, `mbr_tolerance`, `wipe`, `verify_readback`, \
                   `wipe_other_disks`, `allowed_images`, `log_format`, `images`, `http`, `cache`";
        assert_eq!(message("# x\nimgs = 1"), format!("2:1: unknown key `imgs`, {top}"));
        assert_eq!(message("\"a\\nb\" = 1"), format!("1:1: unknown key `a\\nb`, {top}"));
        let cache = "allowed are `dir`, `max_age_days`, `stale_if_error`, `max_size`, `verify_cached`";
        assert_eq!(message("[cache]\n  path = '/x'"), format!("2:3: cache: unknown key `path`, {cache}"));
        assert!(message("http.retry = 1").starts_with("1:6: http: unknown key `retry`, allowed are `proxy`, "));
    }

    #[test]
    fn wrong_values_name_place_key_and_reason() {
        for (text, expected) in [
            ("image = 5", "1:9: image: expected a string, found an integer"),
            ("require_checksum = 's3cret'", "1:20: require_checksum: must be \"never\", \"http\" or \"always\""),
            (
                "image_formats = ['raw', 'iso']",
                "1:17: image_formats: not a disk format (there are raw, qcow2, vmdk, vdi and vhdx)",
            ),
            ("wipe = 'all'", "1:8: wipe: must be \"full\", \"ends\" or \"none\""),
            ("log_format = 'xml'", "1:14: log_format: must be \"text\" or \"json\""),
            ("seed_persist = 'yes'", "1:16: seed_persist: expected a boolean, found a string"),
            ("ssh_keys = \"a\\nb\\tc\"", "1:12: ssh_keys: control characters are not allowed"),
            ("keyring = 'k.gpg'", "1:11: keyring: must be an absolute path (begin it with /)"),
            (
                "[cache]\nmax_size = '50 GB!'",
                "2:12: cache.max_size: not a size (use whole bytes, with K, M, G or T for binary units)",
            ),
            ("allow_unknown_content = 'yes'", "1:25: allow_unknown_content: expected a boolean, found a string"),
            (
                "[http]\nproxy = 'ftp://p'",
                "2:9: http.proxy: only http:// proxies are supported (https images go through them too)",
            ),
            (
                "[http]\nno_proxy = ['a', 'b c']",
                "2:12: http.no_proxy: not a host for the no-proxy list (use host names, .domain, addresses, networks such as 10.0.0.0/8, or *, each with :port where only that is meant)",
            ),
            ("[http]\nca_file = 'ca.pem'", "2:11: http.ca_file: must be an absolute path (begin it with /)"),
            (
                "[http]\nheaders = { 'A b' = 'c' }",
                "2:11: http.headers: a header needs a name of letters, digits and '-'",
            ),
            ("[http]\nheaders = { Range = 'c' }", "2:11: http.headers: this header is set by the download itself"),
            ("[http]\nuser = 'a:b'", "2:8: http.user: a user name can't hold a colon"),
            ("[http]\npassword = 'x'", "http.password needs http.user in the same file"),
            ("[http]\npassword = \"x\\n\"\nuser = 'u'", "2:12: http.password: control characters are not allowed"),
            ("[http]\nuser_agent = ''", "2:14: http.user_agent: must not be empty"),
            (
                "[http]\nstall_timeout = 0",
                "2:17: http.stall_timeout: must be at least 1 second: a silent server would block the job for ever",
            ),
            (
                "[http]\nstall_timeout = 2.5",
                "2:17: http.stall_timeout: expected a whole number that is not negative, found a decimal number",
            ),
            ("[http]\nmax_time = 4000000000", "2:12: http.max_time: too long a time"),
            (
                "[http]\nretries = -1",
                "2:11: http.retries: expected a whole number that is not negative, found an integer",
            ),
            (
                "[http]\nlimit_rate = 'fast'",
                "2:14: http.limit_rate: not a rate (use whole bytes per second, with K, M, G or T for binary units)",
            ),
            ("[http]\nlimit_rate = 5", "2:14: http.limit_rate: expected a string, found an integer"),
            ("[cache]\ndir = 'x'", "2:7: cache.dir: must be an absolute path (begin it with /)"),
            ("[cache]\nmax_age_days = 40000", "2:16: cache.max_age_days: at most 36500 days"),
            (
                "[cache]\nmax_age_days = 1.5",
                "2:16: cache.max_age_days: expected a whole number that is not negative, found a decimal number",
            ),
        ] {
            assert_eq!(message(text), expected, "{text}");
        }
    }

    #[test]
    fn syntax_errors_name_the_place() {
        assert_eq!(message("image = x"), "1:9: string values must be quoted, expected literal string");
        assert_eq!(message("[http]\nproxy = 'a\n"), "2:11: invalid literal string, expected `'`");
        let legacy = message("PROXY=http://joe:s3cret@proxy:1");
        assert_eq!(legacy, "1:7: string values must be quoted, expected literal string");
    }

    #[test]
    fn no_error_repeats_a_value() {
        for text in [
            "http = 's3cret'",
            "http = { password = 's3cret', user = 5 }",
            "[http]\npassword = s3cret",
            "[http]\npassword = 's3cret",
            "[http]\npassword = ['s3cret, expected x']",
            "[http]\nheaders = 'X: s3cret, expected y'",
            "[http]\nheaders = { X = ['s3cret'] }",
            "[http]\nproxy = 'joe:s3cret@p:x'",
            "[http]\nproxy = 's3cret' 's3cret'",
            "[http]\nno_proxy = 's3cret'",
            "[http]\nretries = 's3cret'",
            "[http]\nconnect_timeout = 's3cret'",
            "s3cret",
        ] {
            let error = message(text);
            assert!(!error.contains("s3cret") && !error.contains('\n'), "{error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_errors_are_one_line(cut in 0..FULL.len(), text in "\\PC{0,8}|[\"'=\\[\\]{}\n\t ]{0,4}", skip in 0..40_usize) {
            let rest = FULL.get(cut + skip..).unwrap_or_default();
            if let Err(error) = parse_toml(&format!("{}{text}{rest}", &FULL[..cut])) {
                prop_assert!(!error.to_string().contains('\n'), "{}", error);
            }
        }
    }
}
