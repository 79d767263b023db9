// SPDX-License-Identifier: BSD-2-Clause
//! Settings as an administrator would write them, without their secrets.

use std::path::PathBuf;
use std::time::Duration;

use ::toml::{Table, Value};

use super::settings::DAY;
use super::{ImageAlias, Paths, SeedDefaults, Settings, VariantName};
use crate::disk::write::WriteOptions;
use crate::image::format::Format;
use crate::node::size::ByteSize;
use crate::store::http::{HttpSettings, ImageUrl, Secret};

/// What stands in a secret's place.
const HIDDEN: &str = "<hidden>";

/// A setting: its key as of [`super::PartialSettings::keys`], and its value as config.toml has it.
type Shown = (&'static str, Value);

/// All `settings` of `variant`, as keys and values of config.toml; secrets hidden, URLs without user, password and query.
/// What is not set is what would take it back: an empty text, list or table, or a zero. Each image with a name has a key
/// of its own.
pub(crate) fn shown(settings: &Settings, paths: &Paths, variant: &VariantName) -> Vec<(String, Value)> {
    // Not a field may be forgotten.
    let Settings {
        image,
        image_type,
        image_checksum,
        image_signature,
        seed,
        require_checksum,
        require_signature,
        keyring,
        allow_unknown_content,
        image_formats,
        mbr_tolerance,
        write: WriteOptions { wipe, verify_readback },
        wipe_other_disks,
        allowed_paths,
        log_format,
        images,
        http,
        cache_dir,
        cache_max_age,
        stale_if_error,
        cache_max_size,
        verify_cached,
    } = settings;
    let formats = Format::ALL.into_iter().filter(|format| image_formats.has(*format));
    let keyring = keyring.clone().unwrap_or_else(|| paths.keyring(variant));
    let first = vec![
        ("image", text(image.as_ref())),
        ("image_type", text(image_type.as_ref())),
        ("image_checksum", text(image_checksum.as_ref())),
        ("image_signature", text(image_signature.as_ref())),
    ];
    let policy = vec![
        ("require_checksum", require_checksum.name().into()),
        ("require_signature", (*require_signature).into()),
        ("keyring", path(Some(&keyring))),
        ("allow_unknown_content", (*allow_unknown_content).into()),
        ("image_formats", list(formats.map(Format::name))),
        ("mbr_tolerance", size(Some(*mbr_tolerance))),
        ("wipe", wipe.name().into()),
        ("verify_readback", (*verify_readback).into()),
        ("wipe_other_disks", (*wipe_other_disks).into()),
        ("allowed_images", places(http, allowed_paths.as_deref())),
        ("log_format", log_format.name().into()),
    ];
    let cache = vec![
        ("cache.dir", path(Some(cache_dir))),
        ("cache.max_age_days", integer(cache_max_age.as_secs() / DAY)),
        ("cache.stale_if_error", (*stale_if_error).into()),
        ("cache.max_size", size(*cache_max_size)),
        ("cache.verify_cached", (*verify_cached).into()),
    ];
    let owned = |settings: [Vec<Shown>; 3]| settings.into_iter().flatten().map(|(key, value)| (key.to_owned(), value));
    let before = [first, shown_seed(seed), policy];
    owned(before).chain(images.iter().map(shown_image)).chain(owned([shown_http(http), cache, Vec::new()])).collect()
}

fn shown_image((name, alias): (&String, &ImageAlias)) -> (String, Value) {
    let ImageAlias { image, image_type, checksum, signature, note } = alias;
    let secret = |value: &Option<Secret>| value.as_ref().map(|value| text(Some(&value.0)));
    let place = if image.0.starts_with('/') { "path" } else { "url" };
    let values = [
        (place, Some(text(Some(&image.0)))),
        ("type", image_type.as_ref().map(|image_type| text(Some(image_type)))),
        ("checksum", secret(checksum)),
        ("signature", secret(signature)),
        ("note", note.clone().map(Value::String)),
    ];
    let set = values.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    // A dot would begin a table of its own.
    let key = if name.contains('.') { format!("images.\"{name}\"") } else { format!("images.{name}") };
    (key, Value::Table(set.collect::<Table>()))
}

fn shown_seed(seed: &SeedDefaults) -> Vec<Shown> {
    let SeedDefaults { cloud_init, ssh_keys, user_data, network_config, dns_servers, dns_search, seed_persist, keep } =
        seed;
    vec![
        ("cloud_init", text(cloud_init.as_ref())),
        ("ssh_keys", hidden(ssh_keys.as_ref())),
        ("user_data", hidden(user_data.as_ref())),
        ("network_config", hidden(network_config.as_ref())),
        ("dns_servers", text(dns_servers.as_ref())),
        ("dns_search", text(dns_search.as_ref())),
        ("seed_persist", (*seed_persist).into()),
        ("seed_keep", (*keep).into()),
    ]
}

fn shown_http(http: &HttpSettings) -> Vec<Shown> {
    let HttpSettings {
        allowed: _, // Shown as a part of allowed_images.
        proxy,
        https_proxy,
        no_proxy,
        ca_file,
        client_cert,
        client_key,
        insecure_tls,
        headers,
        credentials,
        netrc_file,
        user_agent,
        connect_timeout,
        stall_timeout,
        min_speed,
        max_time,
        retries,
        limit_rate,
    } = http;
    let headers = headers.iter().map(|(name, value)| (name.clone(), hidden(Some(value))));
    vec![
        ("http.proxy", proxy_url(proxy.as_ref())),
        ("http.https_proxy", proxy_url(https_proxy.as_ref())),
        ("http.no_proxy", list(no_proxy)),
        ("http.ca_file", path(ca_file.as_ref())),
        ("http.client_cert", path(client_cert.as_ref())),
        ("http.client_key", path(client_key.as_ref())),
        ("http.insecure_tls", (*insecure_tls).into()),
        ("http.headers", Value::Table(headers.collect::<Table>())),
        ("http.user", hidden(credentials.as_ref().map(|credentials| &credentials.user))),
        ("http.password", hidden(credentials.as_ref().map(|credentials| &credentials.password))),
        ("http.netrc_file", path(netrc_file.as_ref())),
        ("http.user_agent", user_agent.as_str().into()),
        ("http.connect_timeout", seconds(*connect_timeout)),
        ("http.stall_timeout", seconds(*stall_timeout)),
        ("http.min_speed", size(*min_speed)),
        ("http.max_time", seconds(max_time.unwrap_or_default())),
        ("http.retries", i64::from(*retries).into()),
        ("http.limit_rate", size(*limit_rate)),
    ]
}

/// A text that should hold no secret, without what may be one all the same.
fn text(text: Option<&String>) -> Value {
    let shown = match text.map(String::as_str).unwrap_or_default() {
        url if url.contains("://") => ImageUrl::parse(url).map_or_else(|_err| HIDDEN.to_owned(), |url| url.to_string()),
        // A mistyped URL, perhaps with a password or a token.
        text if !text.starts_with('/') && text.contains(['@', '?', '=']) => HIDDEN.to_owned(),
        text => text.to_owned(),
    };
    shown.into()
}

/// An empty secret is none: that there is nothing is to be seen.
fn hidden(secret: Option<&Secret>) -> Value {
    secret.filter(|secret| !secret.0.is_empty()).map_or("", |_secret| HIDDEN).into()
}

/// Without the user and the password.
fn proxy_url(proxy: Option<&Secret>) -> Value {
    let shown =
        proxy.map(|proxy| ImageUrl::parse(&proxy.0).map_or_else(|_err| HIDDEN.to_owned(), |url| url.to_string()));
    shown.unwrap_or_default().trim_end_matches('/').into()
}

fn path(path: Option<&PathBuf>) -> Value {
    path.map(|path| path.display().to_string()).unwrap_or_default().into()
}

fn list(entries: impl IntoIterator<Item = impl ToString>) -> Value {
    Value::Array(entries.into_iter().map(|entry| entry.to_string().into()).collect())
}

fn places(http: &HttpSettings, paths: Option<&[PathBuf]>) -> Value {
    let urls = http.allowed.iter().flatten().map(ToString::to_string);
    list(urls.chain(paths.into_iter().flatten().map(|path| path.display().to_string())))
}

/// Whole seconds, as config.toml has them, or those with decimals of a curl option.
fn seconds(time: Duration) -> Value {
    if time.subsec_nanos() == 0 { integer(time.as_secs()) } else { time.as_secs_f64().into() }
}

fn integer(number: u64) -> Value {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

/// In the largest unit of which it is a whole number.
fn size(size: Option<ByteSize>) -> Value {
    const UNITS: [(&str, u32); 5] = [("T", 40), ("G", 30), ("M", 20), ("K", 10), ("", 0)];
    let bytes = size.map_or(0, |size| size.0);
    let whole = UNITS.into_iter().find(|(_, shift)| bytes >= 1 << shift && bytes.is_multiple_of(1 << shift));
    let (unit, shift) = whole.unwrap_or(("", 0));
    format!("{}{unit}", bytes >> shift).into()
}

#[cfg(test)]
mod tests {
    use super::shown;
    use crate::config::{PartialSettings, Paths, Settings, VariantName, parse_toml};
    use std::fmt::Write as _;
    use std::path::Path;

    const FULL: &str = include_str!("testdata/full.toml");

    fn resolved(text: &str) -> (PartialSettings, Settings) {
        let set = parse_toml(text).unwrap_or_else(|error| panic!("{error} in\n{text}"));
        (set.clone(), Settings::resolve(&Paths::below(Path::new("/")), set))
    }

    fn lines(settings: &Settings) -> String {
        let (paths, variant) = (Paths::below(Path::new("/")), VariantName::parse("web").unwrap());
        shown(settings, &paths, &variant).iter().fold(String::new(), |mut text, (key, value)| {
            writeln!(text, "{key} = {value}").unwrap();
            text
        })
    }

    #[test]
    fn every_key_is_shown_in_its_place() {
        let (set, settings) = resolved(FULL);
        let (paths, variant) = (Paths::below(Path::new("/")), VariantName::parse("web").unwrap());
        let shown = shown(&settings, &paths, &variant).into_iter();
        let mut keys: Vec<_> =
            shown.map(|(key, _)| if key.starts_with("images.") { "images".to_owned() } else { key }).collect();
        keys.dedup();
        assert_eq!(keys, set.keys());
    }

    /// What is shown is a config.toml that says the same, but for secrets.
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
            let (_, settings) = resolved(text);
            let keyring =
                settings.keyring.clone().or_else(|| Some("/etc/ganeti/instance-simpleimage/web/keyring.gpg".into()));
            let (_, again) = resolved(&lines(&settings));
            assert_eq!(again, Settings { keyring, ..settings });
        }
    }

    #[test]
    fn secrets_are_hidden() {
        let (_, settings) = resolved(FULL);
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
            let (_, settings) =
                resolved(&format!("image = '{image}'\nimage_checksum = '{image}'\nimage_signature = '{image}'"));
            let text = lines(&settings);
            let expected = format!(
                "image = \"{shown}\"\nimage_type = \"\"\nimage_checksum = \"{shown}\"\nimage_signature = \"{shown}\"\n"
            );
            assert!(text.starts_with(&expected), "{text}");
        }
        let (_, settings) = resolved("[http]\nuser = 'joe'\nproxy = 'joe:s3cret@p:1'");
        assert!(lines(&settings).contains("http.password = \"\"\n"), "that a password is empty is no secret");
    }
}
