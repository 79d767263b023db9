// SPDX-License-Identifier: BSD-2-Clause
//! The settings of one run, every one of them decided.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{ImagePlace, Images, PartialSettings, Paths, SeedDefaults};
use crate::disk::partition::MBR_TOLERANCE;
use crate::disk::write::WriteOptions;
use crate::image::format::Formats;
use crate::node::report::LogFormat;
use crate::node::size::ByteSize;
use crate::store::http::{Credentials, HttpSettings, Secret, UrlPrefix};

/// One day in seconds.
pub(super) const DAY: u64 = 24 * 60 * 60;
/// The predecessor's default for DOWNLOAD_CACHE_MAX_DAYS.
const DEFAULT_MAX_AGE: Duration = Duration::from_secs(7 * DAY);

/// Which images need a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequireChecksum {
    /// None.
    Never,
    /// Those from a URL, http and https alike.
    Http,
    /// All.
    Always,
}

impl RequireChecksum {
    /// Its word in config.toml.
    pub(crate) fn name(self) -> &'static str {
        match self {
            RequireChecksum::Never => "never",
            RequireChecksum::Http => "http",
            RequireChecksum::Always => "always",
        }
    }
}

/// What holds for one variant. `Default` is what a variant without a config gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The image of instances without the OS parameter `image`, as written in the file.
    pub(crate) image: Option<String>,
    /// The type of images without the OS parameter `image_type`, as written in the file.
    pub(crate) image_type: Option<String>,
    /// The checksum of images without the OS parameter `image_checksum`, as written in the file.
    pub(crate) image_checksum: Option<String>,
    /// The signature of images without the OS parameter `image_signature`, as written in the file.
    pub(crate) image_signature: Option<String>,
    /// For instances without OS parameters of the first boot.
    pub(crate) seed: SeedDefaults,
    /// Which images need a checksum.
    pub(crate) require_checksum: RequireChecksum,
    /// Whether every image needs a signature.
    pub(crate) require_signature: bool,
    /// The keys that may sign; none means the variant's own `keyring.gpg`.
    pub(crate) keyring: Option<PathBuf>,
    /// Write a raw image that looks like nothing known.
    pub(crate) allow_unknown_content: bool,
    /// The disk formats that are taken.
    pub(crate) image_formats: Formats,
    /// How much of an MBR partition without a known file system may be missing at an image's end.
    pub(crate) mbr_tolerance: ByteSize,
    /// How careful the disk is written.
    pub(crate) write: WriteOptions,
    /// Whether the other disks of a new instance are zeroed.
    pub(crate) wipe_other_disks: bool,
    /// The only folders and files that images may come from; none for all. The URLs are in `http`.
    pub(crate) allowed_paths: Option<Vec<PathBuf>>,
    /// What the messages of the OS scripts look like.
    pub(crate) log_format: LogFormat,
    /// Images that instances can name in a word.
    pub(crate) images: Images,
    /// How images are fetched, and from where.
    pub(crate) http: HttpSettings,
    /// Where fetched images are kept: a folder that is the provider's alone.
    pub(crate) cache_dir: PathBuf,
    /// How long a kept image serves without asking its server again.
    pub(crate) cache_max_age: Duration,
    /// Use a kept image past that time when its server can't be reached.
    pub(crate) stale_if_error: bool,
    /// Bytes that all kept images may have together; none means no limit.
    pub(crate) cache_max_size: Option<ByteSize>,
    /// Hold a kept image's content against its recorded checksum at every use.
    pub(crate) verify_cached: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            image: None,
            image_type: None,
            image_checksum: None,
            image_signature: None,
            seed: SeedDefaults::default(),
            require_checksum: RequireChecksum::Never,
            require_signature: false,
            keyring: None,
            allow_unknown_content: false,
            image_formats: Formats::default(),
            mbr_tolerance: ByteSize(MBR_TOLERANCE),
            write: WriteOptions::default(),
            wipe_other_disks: false,
            allowed_paths: None,
            log_format: LogFormat::default(),
            images: Images::new(),
            http: HttpSettings::default(),
            cache_dir: Paths::below(Path::new("/")).cache_dir,
            cache_max_age: DEFAULT_MAX_AGE,
            stale_if_error: true,
            cache_max_size: None,
            verify_cached: false,
        }
    }
}

impl Settings {
    /// `set`, and the built-in value where it says nothing. An empty text and a zero take back what a lower file set,
    /// where "none" is a value.
    pub(crate) fn resolve(paths: &Paths, set: PartialSettings) -> Self {
        let built_in = Settings { cache_dir: paths.cache_dir.clone(), ..Settings::default() };
        let seed = SeedDefaults::resolve(&set);
        let (allowed, allowed_paths) = resolve_places(set.allowed_images.unwrap_or_default());
        let formats = set.image_formats.filter(|formats| !formats.is_empty());
        Settings {
            seed,
            image: set.image.filter(|image| !image.is_empty()),
            image_type: set.image_type.filter(|image_type| !image_type.is_empty()),
            image_checksum: set.image_checksum.filter(|checksum| !checksum.is_empty()),
            image_signature: set.image_signature.filter(|signature| !signature.is_empty()),
            require_checksum: set.require_checksum.unwrap_or(built_in.require_checksum),
            require_signature: set.require_signature.unwrap_or(built_in.require_signature),
            keyring: set.keyring.filter(|file| !file.as_os_str().is_empty()),
            allow_unknown_content: set.allow_unknown_content.unwrap_or(built_in.allow_unknown_content),
            image_formats: formats.map_or(built_in.image_formats, |formats| formats.into_iter().collect()),
            mbr_tolerance: set.mbr_tolerance.unwrap_or(built_in.mbr_tolerance),
            write: WriteOptions {
                wipe: set.wipe.unwrap_or(built_in.write.wipe),
                verify_readback: set.verify_readback.unwrap_or(built_in.write.verify_readback),
            },
            wipe_other_disks: set.wipe_other_disks.unwrap_or(built_in.wipe_other_disks),
            allowed_paths,
            log_format: set.log_format.unwrap_or(built_in.log_format),
            images: set.images,
            cache_dir: set.cache.dir.unwrap_or(built_in.cache_dir),
            cache_max_age: set.cache.max_age.unwrap_or(built_in.cache_max_age),
            stale_if_error: set.cache.stale_if_error.unwrap_or(built_in.stale_if_error),
            cache_max_size: set.cache.max_size.filter(|size| size.0 > 0),
            verify_cached: set.cache.verify_cached.unwrap_or(built_in.verify_cached),
            http: HttpSettings { allowed, ..resolve_http(built_in.http, set.http) },
        }
    }
}

/// The URLs and the paths of `allowed_images`. A list with entries of one kind only allows nothing of the other.
fn resolve_places(places: Vec<ImagePlace>) -> (Option<Vec<UrlPrefix>>, Option<Vec<PathBuf>>) {
    if places.is_empty() {
        return (None, None);
    }
    let (mut urls, mut paths) = (Vec::new(), Vec::new());
    for place in places {
        match place {
            ImagePlace::Url(url) => urls.push(url),
            ImagePlace::Path(path) => paths.push(path),
        }
    }
    (Some(urls), Some(paths))
}

fn resolve_http(built_in: HttpSettings, set: super::PartialHttp) -> HttpSettings {
    let password = set.password.unwrap_or(Secret(String::new()));
    HttpSettings {
        allowed: built_in.allowed,
        proxy: set.proxy.filter(|proxy| !proxy.0.is_empty()),
        https_proxy: set.https_proxy.filter(|proxy| !proxy.0.is_empty()),
        no_proxy: set.no_proxy.unwrap_or(built_in.no_proxy),
        ca_file: set.ca_file.filter(|file| !file.as_os_str().is_empty()),
        client_cert: set.client_cert.filter(|file| !file.as_os_str().is_empty()),
        client_key: set.client_key.filter(|file| !file.as_os_str().is_empty()),
        insecure_tls: set.insecure_tls.unwrap_or(built_in.insecure_tls),
        headers: set.headers.unwrap_or(built_in.headers),
        credentials: set.user.filter(|user| !user.0.is_empty()).map(|user| Credentials { user, password }),
        netrc_file: set.netrc_file.filter(|file| !file.as_os_str().is_empty()),
        user_agent: set.user_agent.unwrap_or(built_in.user_agent),
        connect_timeout: set.connect_timeout.unwrap_or(built_in.connect_timeout),
        stall_timeout: set.stall_timeout.unwrap_or(built_in.stall_timeout),
        min_speed: set.min_speed.or(built_in.min_speed).filter(|speed| speed.0 > 0),
        max_time: set.max_time.filter(|time| !time.is_zero()),
        retries: set.retries.unwrap_or(built_in.retries),
        limit_rate: set.limit_rate.filter(|rate| rate.0 > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;
    use crate::config::{PartialSettings, Paths, parse_toml};
    use std::path::Path;

    #[test]
    fn nothing_set_is_the_default() {
        let settings = Settings::resolve(&Paths::below(Path::new("/")), PartialSettings::default());
        assert_eq!(settings, Settings::default());
        assert_eq!(settings.cache_dir, Path::new("/var/cache/ganeti-instance-simpleimage"));
        assert_eq!(settings.cache_max_age.as_secs(), 604_800);
        assert!(settings.stale_if_error);
        assert!(!settings.allow_unknown_content);
    }

    #[test]
    fn allowed_places_are_urls_or_paths_and_a_list_of_one_kind_allows_none_of_the_other() {
        let allowed = |text| {
            let settings = Settings::resolve(&Paths::below(Path::new("/")), parse_toml(text).unwrap());
            (settings.http.allowed.map(|urls| urls.len()), settings.allowed_paths.map(|paths| paths.len()))
        };
        assert_eq!(allowed(""), (None, None));
        assert_eq!(allowed("allowed_images = []"), (None, None));
        assert_eq!(allowed("allowed_images = ['/a', '/b']"), (Some(0), Some(2)));
        assert_eq!(allowed("allowed_images = ['https://h/']"), (Some(1), Some(0)));
    }

    #[test]
    fn a_minimum_speed_of_zero_is_none() {
        let speed = |text| Settings::resolve(&Paths::below(Path::new("/")), parse_toml(text).unwrap()).http.min_speed;
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
        let both = parse_toml(site).unwrap().overlaid_by(parse_toml(variant).unwrap());
        assert_eq!(Settings::resolve(&Paths::below(Path::new("/")), both), Settings::default());
    }
}
