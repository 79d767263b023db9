// SPDX-License-Identifier: BSD-2-Clause
//! The settings of a variant: their names in config.toml, their types and their built-in values.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::images::{self, ImagePlace, Images, PlaceList};
use super::values::{
    AbsolutePath, ChecksumRule, DAY, Days, FormatList, Keyring, Lines, LogFormatWord, MbrSize, MbrTolerance, Qcow2Word,
    RequireChecksum, Reserve, SecretText, Text, WipeWord,
};
use super::{Paths, VariantName};
use crate::disk::write::{Wipe, WriteOptions};
use crate::image::format::{Formats, Qcow2Decoder};
use crate::node::report::LogFormat;
use crate::node::size::ByteSize;
use crate::node::value::OptionalSize;
use crate::store::cache::CacheSettings;
use crate::store::http::{HttpSettings, Secret};

/// The settings of one variant. The fields are the keys of config.toml, in the order of the manual page. `Default`
/// has the built-in values. Serializing gives what `variants show` prints, without secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// The default of the OS parameter `image`, as written in the file.
    #[serde(with = "Text")]
    pub(crate) image: Option<String>,
    /// The default of the OS parameter `image_type`, as written in the file.
    #[serde(with = "Text")]
    pub(crate) image_type: Option<String>,
    /// The default of the OS parameter `image_checksum`, as written in the file.
    #[serde(with = "Text")]
    pub(crate) image_checksum: Option<String>,
    /// The default of the OS parameter `image_signature`, as written in the file.
    #[serde(with = "Text")]
    pub(crate) image_signature: Option<String>,
    /// The default of the OS parameter `cloud_init`, as written in the file. The next five fields are also the
    /// defaults of OS parameters.
    #[serde(with = "Text")]
    pub(crate) cloud_init: Option<String>,
    #[serde(with = "Lines")]
    pub(crate) ssh_keys: Option<Secret>,
    #[serde(with = "Lines")]
    pub(crate) user_data: Option<Secret>,
    #[serde(with = "SecretText")]
    pub(crate) network_config: Option<Secret>,
    #[serde(with = "Text")]
    pub(crate) dns_servers: Option<String>,
    #[serde(with = "Text")]
    pub(crate) dns_search: Option<String>,
    /// The default of the OS parameter `seed_persist`.
    pub(crate) seed_persist: bool,
    /// Whether a reinstall keeps the SSH keys and the user-data of the instance's old seed.
    pub(crate) seed_keep: bool,
    #[serde(with = "ChecksumRule")]
    pub(crate) require_checksum: RequireChecksum,
    /// Whether every image needs a signature.
    pub(crate) require_signature: bool,
    /// The file with the keys that may sign images. An empty path means the variant's own `keyring.gpg` until the
    /// settings are loaded.
    #[serde(with = "Keyring")]
    pub(crate) keyring: PathBuf,
    /// Whether a raw image with unknown content may be installed.
    pub(crate) allow_unknown_content: bool,
    /// The disk formats that an image may have.
    #[serde(with = "FormatList")]
    pub(crate) image_formats: Formats,
    #[serde(with = "MbrSize")]
    pub(crate) mbr_tolerance: MbrTolerance,
    /// What decodes qcow2 images.
    #[serde(with = "Qcow2Word")]
    pub(crate) qcow2: Qcow2Decoder,
    /// The part of the disk behind the image that is zeroed.
    #[serde(with = "WipeWord")]
    pub(crate) wipe: Wipe,
    /// Whether the disk is read after it was written, and compared.
    pub(crate) verify_readback: bool,
    /// Whether the other disks of a new instance are zeroed.
    pub(crate) wipe_other_disks: bool,
    /// The only places from which images may come. An empty list allows all places.
    #[serde(with = "PlaceList")]
    pub(crate) allowed_images: Vec<ImagePlace>,
    /// The format of the messages of the OS scripts.
    #[serde(with = "LogFormatWord")]
    pub(crate) log_format: LogFormat,
    /// The named images.
    #[serde(deserialize_with = "images::deserialize")]
    pub(crate) images: Images,
    /// The settings for downloads.
    pub(crate) http: HttpSettings,
    /// The settings of the cache.
    pub(crate) cache: CacheTable,
}

/// The table `[cache]`: the settings of the cache.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CacheTable {
    /// The cache folder, which only the provider may use. An empty path means the folder in [`Paths`] until the
    /// settings are loaded.
    #[serde(with = "AbsolutePath")]
    pub(crate) dir: PathBuf,
    /// The time for which a cached image is used without asking its server again.
    #[serde(rename = "max_age_days", with = "Days")]
    pub(crate) max_age: Duration,
    /// Whether a cached image is used after that time if its server can't be reached.
    pub(crate) stale_if_error: bool,
    /// The largest size of all cached images together, in bytes. `None` means no limit.
    #[serde(with = "OptionalSize")]
    pub(crate) max_size: Option<ByteSize>,
    /// Bytes of the folder's file system that no download takes. `None` means a part of the file system.
    #[serde(with = "Reserve")]
    pub(crate) min_free: Option<ByteSize>,
    /// Whether a cached image's content is compared with its recorded checksum at every use.
    pub(crate) verify_cached: bool,
}

impl Default for CacheTable {
    fn default() -> Self {
        CacheTable {
            dir: PathBuf::new(),
            // The predecessor has this default for DOWNLOAD_CACHE_MAX_DAYS.
            max_age: Duration::from_secs(7 * DAY),
            stale_if_error: true,
            max_size: None,
            min_free: None,
            verify_cached: false,
        }
    }
}

impl Settings {
    /// Fills in what depends on the variant, and what one setting means for another room.
    pub(super) fn completed(mut self, paths: &Paths, variant: &VariantName) -> Self {
        if self.keyring.as_os_str().is_empty() {
            self.keyring = paths.keyring(variant);
        }
        if self.cache.dir.as_os_str().is_empty() {
            self.cache.dir.clone_from(&paths.cache_dir);
        }
        self.http.allowed = self.allowed(|place| match place {
            ImagePlace::Url(url) => Some(url),
            ImagePlace::Path(_) => None,
        });
        self
    }

    /// The only folders and files on the node from which images may come. `None` allows all of them. A list that has
    /// only URLs allows no file.
    pub(crate) fn allowed_paths(&self) -> Option<Vec<PathBuf>> {
        self.allowed(|place| match place {
            ImagePlace::Path(path) => Some(path),
            ImagePlace::Url(_) => None,
        })
    }

    fn allowed<T: Clone>(&self, of_kind: impl Fn(&ImagePlace) -> Option<&T>) -> Option<Vec<T>> {
        if self.allowed_images.is_empty() {
            return None;
        }
        Some(self.allowed_images.iter().filter_map(of_kind).cloned().collect())
    }

    /// The options for writing disks.
    pub(crate) fn write_options(&self) -> WriteOptions {
        WriteOptions { wipe: self.wipe, verify_readback: self.verify_readback }
    }

    /// The settings of the cache, without those for verifying an image.
    pub(crate) fn cache_settings(&self) -> CacheSettings {
        CacheSettings {
            dir: self.cache.dir.clone(),
            max_age: self.cache.max_age,
            stale_if_error: self.cache.stale_if_error,
            max_size: self.cache.max_size,
            min_free: self.cache.min_free,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CacheTable, Settings};
    use crate::config::images::{ImageAlias, ImagePlace, Images};
    use crate::config::tests::{FULL, merged};
    use crate::config::values::{MbrTolerance, RequireChecksum};
    use crate::config::{Paths, VariantName};
    use crate::disk::write::Wipe;
    use crate::image::format::Format;
    use crate::image::format::Qcow2Decoder;
    use crate::node::report::LogFormat;
    use crate::node::size::ByteSize;
    use crate::store::http::{HttpSettings, Secret, UrlPrefix};
    use std::path::Path;
    use std::time::Duration;

    fn built_in() -> Settings {
        Settings::default().completed(&Paths::below(Path::new("/")), &VariantName::parse("default").unwrap())
    }

    #[test]
    fn nothing_set_is_the_default() {
        let settings = merged(&[]);
        assert_eq!(settings, built_in());
        assert_eq!(settings.cache.dir, Path::new("/var/cache/ganeti-instance-simpleimage"));
        assert_eq!(settings.cache.max_age.as_secs(), 604_800);
        assert!(settings.cache.stale_if_error);
        assert!(!settings.allow_unknown_content);
    }

    #[test]
    fn allowed_places_are_urls_or_paths_and_a_list_of_one_kind_allows_none_of_the_other() {
        let allowed = |text| {
            let settings = merged(&[text]);
            let paths = settings.allowed_paths().map(|paths| paths.len());
            (settings.http.allowed.map(|urls| urls.len()), paths)
        };
        assert_eq!(allowed(""), (None, None));
        assert_eq!(allowed("allowed_images = []"), (None, None));
        assert_eq!(allowed("allowed_images = ['/a', '/b']"), (Some(0), Some(2)));
        assert_eq!(allowed("allowed_images = ['https://h/']"), (Some(1), Some(0)));
    }

    #[test]
    fn a_minimum_speed_of_zero_is_none() {
        let speed = |text| merged(&[text]).http.min_speed;
        let speeds = ["", "http.min_speed = '0'", "http.min_speed = '5K'"].map(speed);
        assert_eq!(speeds.map(|speed| speed.map(|speed| speed.0)), [Some(1024), None, Some(5120)]);
    }

    #[test]
    fn empty_and_zero_take_back_what_the_site_set() {
        let site = "image = '/i'\nimage_type = 'raw'\nimage_checksum = 'c'\nimage_signature = '/s'\n\
                    cloud_init = 'auto'\nssh_keys = 'k'\nuser_data = 'u'\nnetwork_config = 'n'\ndns_servers = 's'\n\
                    dns_search = 'd'\nseed_persist = true\nseed_keep = true\nkeyring = '/k'\nimage_formats = ['vdi']\nallowed_images = ['/i']\n[http]\nproxy = 'p:1'\nhttps_proxy = 'p:2'\nno_proxy = ['a']\nca_file = '/c'\n\
                    user = 'u'\npassword = 'p'\nmax_time = 5\nlimit_rate = '1M'\nheaders = { X-A = 'b' }\n\
                    client_cert = '/e'\nclient_key = '/k'\nnetrc_file = '/n'\n[cache]\nmax_size = '50G'\n";
        let variant = "image = ''\nimage_type = ''\nimage_checksum = ''\nimage_signature = ''\nkeyring = ''\n\
                       cloud_init = ''\nssh_keys = ''\nuser_data = ''\nnetwork_config = ''\ndns_servers = ''\n\
                       dns_search = ''\nseed_persist = false\nseed_keep = false\n\
                       image_formats = []\nallowed_images = []\n[http]\nproxy = ''\nhttps_proxy = ''\nno_proxy = []\nca_file = ''\nuser = ''\n\
                       max_time = 0\nlimit_rate = '0'\nheaders = {}\nclient_cert = ''\nnetrc_file = ''\n\
                       [cache]\nmax_size = '0'\n";
        assert_ne!(merged(&[site]), built_in());
        assert_eq!(merged(&[site, variant]), built_in());
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
            min_free: Some(ByteSize(2 << 30)),
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
            qcow2: Qcow2Decoder::QemuImg,
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
}
