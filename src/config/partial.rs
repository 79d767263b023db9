// SPDX-License-Identifier: BSD-2-Clause
//! What one config file sets, and how one file lies over another.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::allowed::{self, ImagePlace};
use super::images::{self, Images};
use super::settings::RequireChecksum;
use super::values::{self, Checked};
use crate::disk::write::Wipe;
use crate::image::format::Format;
use crate::node::report::LogFormat;
use crate::node::size::ByteSize;
use crate::store::http::{NoProxy, Secret};

/// The port of a proxy without one: that of its scheme.
const PROXY_PORT: u16 = 80;

/// What one file says; `None` where it says nothing. Deserializing checks every value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PartialSettings {
    /// Default of the OS parameter `image`; empty for none.
    #[serde(deserialize_with = "text")]
    pub(crate) image: Option<String>,
    /// Default of the OS parameter `image_type`; empty for none.
    #[serde(deserialize_with = "text")]
    pub(crate) image_type: Option<String>,
    /// Default of the OS parameter `image_checksum`; empty for none.
    #[serde(deserialize_with = "text")]
    pub(crate) image_checksum: Option<String>,
    /// Default of the OS parameter `image_signature`; empty for none.
    #[serde(deserialize_with = "text")]
    pub(crate) image_signature: Option<String>,
    /// Default of the OS parameter `cloud_init`; empty for none.
    #[serde(deserialize_with = "text")]
    pub(crate) cloud_init: Option<String>,
    /// Default of the OS parameter `ssh_keys`; empty for none.
    #[serde(deserialize_with = "lines")]
    pub(crate) ssh_keys: Option<Secret>,
    /// Default of the OS parameter `user_data`; empty for none.
    #[serde(deserialize_with = "lines")]
    pub(crate) user_data: Option<Secret>,
    /// Default of the OS parameter `network_config`; empty for none.
    #[serde(deserialize_with = "secret")]
    pub(crate) network_config: Option<Secret>,
    /// Default of the OS parameter `dns_servers`; empty for none.
    #[serde(deserialize_with = "text")]
    pub(crate) dns_servers: Option<String>,
    /// Default of the OS parameter `dns_search`; empty for none.
    #[serde(deserialize_with = "text")]
    pub(crate) dns_search: Option<String>,
    /// Default of the OS parameter `seed_persist`.
    pub(crate) seed_persist: Option<bool>,
    /// Whether a reinstall carries over the keys and the user-data of the seed that the instance had.
    pub(crate) seed_keep: Option<bool>,
    /// Which images need a checksum.
    #[serde(deserialize_with = "require_checksum")]
    pub(crate) require_checksum: Option<RequireChecksum>,
    /// Whether every image needs a signature.
    pub(crate) require_signature: Option<bool>,
    /// The keys that may sign; empty for the variant's own file.
    #[serde(deserialize_with = "optional_path")]
    pub(crate) keyring: Option<PathBuf>,
    /// Write a raw image that looks like nothing known.
    pub(crate) allow_unknown_content: Option<bool>,
    /// The disk formats that are taken; empty for raw and qcow2.
    #[serde(deserialize_with = "formats")]
    pub(crate) image_formats: Option<Vec<Format>>,
    /// How much of an MBR partition may be missing.
    #[serde(deserialize_with = "size")]
    pub(crate) mbr_tolerance: Option<ByteSize>,
    /// What of the disk behind the image is zeroed.
    #[serde(deserialize_with = "wipe")]
    pub(crate) wipe: Option<Wipe>,
    /// Whether the disk is read back and compared.
    pub(crate) verify_readback: Option<bool>,
    /// Whether the other disks of a new instance are zeroed.
    pub(crate) wipe_other_disks: Option<bool>,
    /// The only places that images may come from; empty for anywhere.
    #[serde(deserialize_with = "places")]
    pub(crate) allowed_images: Option<Vec<ImagePlace>>,
    /// What the messages of the OS scripts look like.
    #[serde(deserialize_with = "log_format")]
    pub(crate) log_format: Option<LogFormat>,
    /// The tables `[images.NAME]`.
    #[serde(deserialize_with = "images::deserialize")]
    pub(crate) images: Images,
    /// The table `[http]`.
    pub(crate) http: PartialHttp,
    /// The table `[cache]`.
    pub(crate) cache: PartialCache,
}

/// The table `[http]` of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PartialHttp {
    /// `http://[user:password@]host:port`; empty for none.
    #[serde(deserialize_with = "proxy")]
    pub(crate) proxy: Option<Secret>,
    /// The same for https images alone; empty for the one above.
    #[serde(deserialize_with = "proxy")]
    pub(crate) https_proxy: Option<Secret>,
    /// Hosts reached without it.
    #[serde(deserialize_with = "no_proxy")]
    pub(crate) no_proxy: Option<Vec<NoProxy>>,
    /// PEM file of the authorities to trust; empty for the system's.
    #[serde(deserialize_with = "optional_path")]
    pub(crate) ca_file: Option<PathBuf>,
    /// PEM file of the certificate to show; empty for none.
    #[serde(deserialize_with = "optional_path")]
    pub(crate) client_cert: Option<PathBuf>,
    /// PEM file of its key, where it is another.
    #[serde(deserialize_with = "optional_path")]
    pub(crate) client_key: Option<PathBuf>,
    /// Accept any server certificate.
    pub(crate) insecure_tls: Option<bool>,
    /// Request headers by name.
    #[serde(deserialize_with = "headers")]
    pub(crate) headers: Option<Vec<(String, Secret)>>,
    /// User of the basic authentication; empty for none.
    #[serde(deserialize_with = "user")]
    pub(crate) user: Option<Secret>,
    /// Its password.
    #[serde(deserialize_with = "secret")]
    pub(crate) password: Option<Secret>,
    /// netrc file; empty for none.
    #[serde(deserialize_with = "optional_path")]
    pub(crate) netrc_file: Option<PathBuf>,
    /// The User-Agent header.
    #[serde(deserialize_with = "user_agent")]
    pub(crate) user_agent: Option<String>,
    /// Longest time to reach the server.
    #[serde(deserialize_with = "timeout")]
    pub(crate) connect_timeout: Option<Duration>,
    /// Longest time without a byte.
    #[serde(deserialize_with = "timeout")]
    pub(crate) stall_timeout: Option<Duration>,
    /// Bytes per second that have to come at least; zero for no such bound.
    #[serde(deserialize_with = "rate")]
    pub(crate) min_speed: Option<ByteSize>,
    /// Longest time for the whole; zero for no bound.
    #[serde(deserialize_with = "max_time")]
    pub(crate) max_time: Option<Duration>,
    /// How often a transient failure is tried again.
    pub(crate) retries: Option<u32>,
    /// Bytes per second; zero for no limit.
    #[serde(deserialize_with = "rate")]
    pub(crate) limit_rate: Option<ByteSize>,
}

/// The table `[cache]` of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PartialCache {
    /// Where fetched images are kept.
    #[serde(deserialize_with = "absolute_path")]
    pub(crate) dir: Option<PathBuf>,
    /// How long they serve unasked.
    #[serde(rename = "max_age_days", deserialize_with = "days")]
    pub(crate) max_age: Option<Duration>,
    /// Whether they serve longer when the server is gone.
    pub(crate) stale_if_error: Option<bool>,
    /// Bytes that all of them may have together; zero for no limit.
    #[serde(deserialize_with = "size")]
    pub(crate) max_size: Option<ByteSize>,
    /// Whether a kept image's content is held against its recorded checksum at every use.
    pub(crate) verify_cached: Option<bool>,
}

impl PartialSettings {
    /// These settings with everything that `over` sets in their place. Lists, header tables and images of
    /// the same name are replaced as a whole.
    #[must_use]
    pub(crate) fn overlaid_by(self, over: Self) -> Self {
        PartialSettings {
            image: over.image.or(self.image),
            image_type: over.image_type.or(self.image_type),
            image_checksum: over.image_checksum.or(self.image_checksum),
            image_signature: over.image_signature.or(self.image_signature),
            cloud_init: over.cloud_init.or(self.cloud_init),
            ssh_keys: over.ssh_keys.or(self.ssh_keys),
            user_data: over.user_data.or(self.user_data),
            network_config: over.network_config.or(self.network_config),
            dns_servers: over.dns_servers.or(self.dns_servers),
            dns_search: over.dns_search.or(self.dns_search),
            seed_persist: over.seed_persist.or(self.seed_persist),
            seed_keep: over.seed_keep.or(self.seed_keep),
            require_checksum: over.require_checksum.or(self.require_checksum),
            require_signature: over.require_signature.or(self.require_signature),
            keyring: over.keyring.or(self.keyring),
            allow_unknown_content: over.allow_unknown_content.or(self.allow_unknown_content),
            image_formats: over.image_formats.or(self.image_formats),
            mbr_tolerance: over.mbr_tolerance.or(self.mbr_tolerance),
            wipe: over.wipe.or(self.wipe),
            verify_readback: over.verify_readback.or(self.verify_readback),
            wipe_other_disks: over.wipe_other_disks.or(self.wipe_other_disks),
            allowed_images: over.allowed_images.or(self.allowed_images),
            log_format: over.log_format.or(self.log_format),
            images: self.images.into_iter().chain(over.images).collect(),
            http: self.http.overlaid_by(over.http),
            cache: PartialCache {
                dir: over.cache.dir.or(self.cache.dir),
                max_age: over.cache.max_age.or(self.cache.max_age),
                stale_if_error: over.cache.stale_if_error.or(self.cache.stale_if_error),
                max_size: over.cache.max_size.or(self.cache.max_size),
                verify_cached: over.cache.verify_cached.or(self.cache.verify_cached),
            },
        }
    }

    /// The keys that this file sets, named as in config.toml: `image`, `http.proxy`, `cache.dir`, ...
    pub(crate) fn keys(&self) -> Vec<&'static str> {
        let (http, cache) = (&self.http, &self.cache);
        let all = [
            ("image", self.image.is_some()),
            ("image_type", self.image_type.is_some()),
            ("image_checksum", self.image_checksum.is_some()),
            ("image_signature", self.image_signature.is_some()),
            ("cloud_init", self.cloud_init.is_some()),
            ("ssh_keys", self.ssh_keys.is_some()),
            ("user_data", self.user_data.is_some()),
            ("network_config", self.network_config.is_some()),
            ("dns_servers", self.dns_servers.is_some()),
            ("dns_search", self.dns_search.is_some()),
            ("seed_persist", self.seed_persist.is_some()),
            ("seed_keep", self.seed_keep.is_some()),
            ("require_checksum", self.require_checksum.is_some()),
            ("require_signature", self.require_signature.is_some()),
            ("keyring", self.keyring.is_some()),
            ("allow_unknown_content", self.allow_unknown_content.is_some()),
            ("image_formats", self.image_formats.is_some()),
            ("mbr_tolerance", self.mbr_tolerance.is_some()),
            ("wipe", self.wipe.is_some()),
            ("verify_readback", self.verify_readback.is_some()),
            ("wipe_other_disks", self.wipe_other_disks.is_some()),
            ("allowed_images", self.allowed_images.is_some()),
            ("log_format", self.log_format.is_some()),
            ("images", !self.images.is_empty()),
            ("http.proxy", http.proxy.is_some()),
            ("http.https_proxy", http.https_proxy.is_some()),
            ("http.no_proxy", http.no_proxy.is_some()),
            ("http.ca_file", http.ca_file.is_some()),
            ("http.client_cert", http.client_cert.is_some()),
            // As user and password: a certificate of one file never gets another file's key.
            ("http.client_key", http.client_cert.is_some()),
            ("http.insecure_tls", http.insecure_tls.is_some()),
            ("http.headers", http.headers.is_some()),
            ("http.user", http.user.is_some()),
            // The pair goes together: a user without a password has an empty one.
            ("http.password", http.user.is_some()),
            ("http.netrc_file", http.netrc_file.is_some()),
            ("http.user_agent", http.user_agent.is_some()),
            ("http.connect_timeout", http.connect_timeout.is_some()),
            ("http.stall_timeout", http.stall_timeout.is_some()),
            ("http.min_speed", http.min_speed.is_some()),
            ("http.max_time", http.max_time.is_some()),
            ("http.retries", http.retries.is_some()),
            ("http.limit_rate", http.limit_rate.is_some()),
            ("cache.dir", cache.dir.is_some()),
            ("cache.max_age_days", cache.max_age.is_some()),
            ("cache.stale_if_error", cache.stale_if_error.is_some()),
            ("cache.max_size", cache.max_size.is_some()),
            ("cache.verify_cached", cache.verify_cached.is_some()),
        ];
        all.into_iter().filter(|(_, set)| *set).map(|(key, _)| key).collect()
    }
}

impl PartialHttp {
    fn overlaid_by(self, over: Self) -> Self {
        // One file's user never gets another file's password.
        let (user, password) =
            if over.user.is_some() { (over.user, over.password) } else { (self.user, self.password) };
        // And one file's certificate never another file's key.
        let (client_cert, client_key) = if over.client_cert.is_some() {
            (over.client_cert, over.client_key)
        } else {
            (self.client_cert, self.client_key)
        };
        PartialHttp {
            proxy: over.proxy.or(self.proxy),
            https_proxy: over.https_proxy.or(self.https_proxy),
            no_proxy: over.no_proxy.or(self.no_proxy),
            ca_file: over.ca_file.or(self.ca_file),
            client_cert,
            client_key,
            insecure_tls: over.insecure_tls.or(self.insecure_tls),
            headers: over.headers.or(self.headers),
            user,
            password,
            netrc_file: over.netrc_file.or(self.netrc_file),
            user_agent: over.user_agent.or(self.user_agent),
            connect_timeout: over.connect_timeout.or(self.connect_timeout),
            stall_timeout: over.stall_timeout.or(self.stall_timeout),
            min_speed: over.min_speed.or(self.min_speed),
            max_time: over.max_time.or(self.max_time),
            retries: over.retries.or(self.retries),
            limit_rate: over.limit_rate.or(self.limit_rate),
        }
    }
}

fn checked<'de, D, T, U>(deserializer: D, check: impl Fn(T) -> Checked<U>) -> Result<Option<U>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    check(T::deserialize(deserializer)?).map(Some).map_err(serde::de::Error::custom)
}

/// The functions that serde's attributes name, one per kind of value.
macro_rules! deserializers {
    ($($name:ident: $raw:ty => $value:ty, $check:expr;)*) => {$(
        fn $name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<$value>, D::Error> {
            checked(deserializer, |raw: $raw| $check(raw))
        }
    )*};
}

deserializers! {
    text: String => String, |raw: String| values::text(&raw);
    require_checksum: String => RequireChecksum, |raw: String| values::require_checksum(&raw);
    wipe: String => Wipe, |raw: String| values::wipe(&raw);
    log_format: String => LogFormat, |raw: String| values::log_format(&raw);
    lines: String => Secret, |raw: String| values::lines(&raw).map(Secret);
    secret: String => Secret, |raw: String| values::text(&raw).map(Secret);
    user: String => Secret, |raw: String| values::user(&raw);
    user_agent: String => String, |raw: String| values::user_agent(&raw);
    formats: Vec<String> => Vec<Format>, |raw: Vec<String>| raw.iter().map(|name| values::format(name)).collect();
    places: Vec<String> => Vec<ImagePlace>, |raw: Vec<String>| raw.iter().map(|text| allowed::place(text)).collect();
    proxy: String => Secret, |raw: String| values::proxy(&raw, PROXY_PORT);
    no_proxy: Vec<String> => Vec<NoProxy>, |raw: Vec<String>| raw.iter().map(|host| values::no_proxy_host(host)).collect();
    absolute_path: String => PathBuf, |raw: String| values::absolute_path(&raw);
    optional_path: String => PathBuf, |raw: String| values::optional_path(&raw);
    rate: String => ByteSize, |raw: String| values::rate(&raw);
    size: String => ByteSize, |raw: String| values::size(&raw);
    timeout: u32 => Duration, values::timeout;
    max_time: u32 => Duration, values::max_time;
    days: u64 => Duration, values::days;
    headers: BTreeMap<String, String> => Vec<(String, Secret)>, |raw: BTreeMap<String, String>| {
        raw.iter().map(|(name, value)| values::header(name, value)).collect()
    };
}
