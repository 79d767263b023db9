// SPDX-License-Identifier: BSD-2-Clause
//! Reads Ganeti's environment variables as typed values (ganeti-os-interface(7)). This module accesses nothing else.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::Range;
use std::os::fd::RawFd;
use std::path::PathBuf;

use crate::seed::Nic;

/// The version of the OS interface that this provider implements.
pub(crate) const API_VERSION: &str = "20";

/// The reason why the environment can't come from Ganeti.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub(crate) enum EnvError {
    /// A required variable is missing.
    #[error(
        "the environment variable {0} is missing or empty: this script is run by Ganeti, see ganeti-os-interface(7)"
    )]
    Missing(String),
    /// A variable has an invalid value. The value is not shown, because it may be a secret.
    #[error("the environment variable {0} is {1}")]
    Invalid(String, &'static str),
    /// Ganeti uses another version of the OS interface.
    #[error("Ganeti speaks OS interface version {0}, this provider only {API_VERSION}")]
    ApiVersion(String),
    /// The disk has no block device or file on the node. The URI is not shown, because it may contain a password.
    #[error(
        "{path} is empty: the instance's disk has only a URI of type {kind}, which needs userspace access; use kernelspace access (gnt-cluster modify -D {kind}:access=kernelspace)"
    )]
    OnlyUri {
        /// The name of the variable that should have the path.
        path: String,
        /// The URI's scheme.
        kind: String,
    },
}

/// All environment variables, unchanged.
#[derive(Debug, Clone, Default)]
pub struct Environment(HashMap<OsString, OsString>);

/// The variables that every script gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Core {
    /// The value of `OS_VARIANT`, which is unchecked and may be empty.
    pub(crate) variant: String,
    pub(crate) params: OsParams,
}

/// The OS parameters, unchecked. An empty one counts as not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OsParams {
    pub(crate) image: Option<String>,
    pub(crate) image_type: Option<String>,
    pub(crate) image_checksum: Option<String>,
    pub(crate) image_signature: Option<String>,
    pub(crate) seed: SeedParams,
}

/// The OS parameters for the first boot, unchecked. `Debug` shows none of them, because they may be secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct SeedParams {
    pub(crate) cloud_init: Option<String>,
    pub(crate) ssh_keys: Option<String>,
    pub(crate) user_data: Option<String>,
    pub(crate) network_config: Option<String>,
    pub(crate) dns_servers: Option<String>,
    pub(crate) dns_search: Option<String>,
    pub(crate) seed_persist: Option<String>,
}

impl fmt::Debug for SeedParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeedParams(...)")
    }
}

impl Environment {
    /// Takes a snapshot of the process's environment.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Environment(variables.into_iter().collect())
    }

    /// Returns all variables for the environment of hooks, sorted by name.
    pub(crate) fn to_vec(&self) -> Vec<(OsString, OsString)> {
        let mut all: Vec<_> = self.0.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        all.sort();
        all
    }

    /// Returns whether `DEBUG_LEVEL` is above 0.
    pub(crate) fn debug(&self) -> bool {
        let Ok(Some(level)) = self.get("DEBUG_LEVEL") else { return false };
        level.parse::<u32>().is_ok_and(|level| level > 0)
    }

    /// Reads the variables that every script gets. Fails for an unknown `OS_API_VERSION`.
    pub(crate) fn core(&self) -> Result<Core, EnvError> {
        match self.get("OS_API_VERSION")? {
            None | Some(API_VERSION) => {}
            Some(other) => return Err(EnvError::ApiVersion(other.to_owned())),
        }
        Ok(Core { variant: self.variant()?.to_owned(), params: self.os_params()? })
    }

    /// Returns the value of `OS_VARIANT`, which is unchecked and may be empty.
    pub(crate) fn variant(&self) -> Result<&str, EnvError> {
        Ok(self.get("OS_VARIANT")?.unwrap_or_default())
    }

    pub(crate) fn instance_name(&self) -> Result<&str, EnvError> {
        self.required("INSTANCE_NAME")
    }

    pub(crate) fn instance_uuid(&self) -> Result<&str, EnvError> {
        self.required("INSTANCE_UUID")
    }

    /// Returns whether `INSTANCE_REINSTALL` says that the instance was installed before. Ganeti sets it to 1 in this
    /// case, and omits it otherwise. Any other value is an error, because then it is unknown what the disk contains.
    pub(crate) fn reinstall(&self) -> Result<bool, EnvError> {
        match self.get("INSTANCE_REINSTALL")? {
            None | Some("0") => Ok(false),
            Some("1") => Ok(true),
            Some(_) => Err(EnvError::Invalid("INSTANCE_REINSTALL".to_owned(), "neither 0 nor 1")),
        }
    }

    /// Returns the path of the first disk, or `None` if the instance has no disk.
    pub(crate) fn first_disk(&self) -> Result<Option<PathBuf>, EnvError> {
        if self.get("DISK_COUNT")? == Some("0") {
            return Ok(None);
        }
        self.numbered_disk(0).map(Some)
    }

    /// Returns the path of the disk with the name `name` (`DISK_n_NAME`), without considering the instance's first
    /// disk. If several disks have this name, then it is the one with the lowest number.
    pub(crate) fn other_disk(&self, name: &str) -> Result<Option<PathBuf>, EnvError> {
        for index in self.other_indexes()? {
            if self.get(&format!("DISK_{index}_NAME"))? == Some(name) {
                return self.numbered_disk(index).map(Some);
            }
        }
        Ok(None)
    }

    /// Returns the paths of all disks except the first. A missing `DISK_COUNT` is an error here, because a disk could
    /// be overlooked.
    pub(crate) fn other_disks(&self) -> Result<Vec<PathBuf>, EnvError> {
        self.required("DISK_COUNT")?;
        self.other_indexes()?.map(|index| self.numbered_disk(index)).collect()
    }

    fn other_indexes(&self) -> Result<Range<u16>, EnvError> {
        let count = self.get("DISK_COUNT")?.unwrap_or("0").parse();
        let count = count.map_err(|_not_a_number| EnvError::Invalid("DISK_COUNT".to_owned(), "not a number of disks"));
        Ok(1..count?)
    }

    fn numbered_disk(&self, index: u16) -> Result<PathBuf, EnvError> {
        self.disk_path(&format!("DISK_{index}_PATH"), &format!("DISK_{index}_URI"))
    }

    /// Returns the path of the disk to export, which may be a snapshot of the instance's disk.
    pub(crate) fn export_device(&self) -> Result<PathBuf, EnvError> {
        self.disk_path("EXPORT_DEVICE", "EXPORT_DISK_URI")
    }

    /// Returns the path of the disk to which a dump is restored.
    pub(crate) fn import_device(&self) -> Result<PathBuf, EnvError> {
        self.disk_path("IMPORT_DEVICE", "IMPORT_DISK_URI")
    }

    /// Returns the file descriptor `EXP_SIZE_FD`, to which the size of the dump has to be written.
    pub(crate) fn size_descriptor(&self) -> Result<Option<RawFd>, EnvError> {
        let number = self.get("EXP_SIZE_FD")?.map(str::parse).transpose();
        number.map_err(|_not_a_number| EnvError::Invalid("EXP_SIZE_FD".to_owned(), "not a descriptor number"))
    }

    /// Returns the instance's NICs in the order of their numbers.
    pub(crate) fn nics(&self) -> Result<Vec<Nic>, EnvError> {
        let count = self.get("NIC_COUNT")?.unwrap_or("0").parse::<u16>();
        let count = count.map_err(|_not_a_number| EnvError::Invalid("NIC_COUNT".to_owned(), "not a number of NICs"))?;
        (0..count).map(|index| self.nic(index)).collect()
    }

    fn nic(&self, index: u16) -> Result<Nic, EnvError> {
        let owned = |name| self.get(&format!("NIC_{index}_{name}")).map(|value| value.map(str::to_owned));
        Ok(Nic {
            name: owned("NAME")?,
            mac: self.required(&format!("NIC_{index}_MAC"))?.to_owned(),
            ip: owned("IP")?,
            routed: self.get(&format!("NIC_{index}_MODE"))? == Some("routed"),
            subnet: owned("NETWORK_SUBNET")?,
            gateway: owned("NETWORK_GATEWAY")?,
            subnet6: owned("NETWORK_SUBNET6")?,
            gateway6: owned("NETWORK_GATEWAY6")?,
        })
    }

    fn os_params(&self) -> Result<OsParams, EnvError> {
        let owned = |name| self.get(name).map(|value| value.map(str::to_owned));
        Ok(OsParams {
            image: owned("OSP_IMAGE")?,
            image_type: owned("OSP_IMAGE_TYPE")?,
            image_checksum: owned("OSP_IMAGE_CHECKSUM")?,
            image_signature: owned("OSP_IMAGE_SIGNATURE")?,
            seed: SeedParams {
                cloud_init: owned("OSP_CLOUD_INIT")?,
                ssh_keys: owned("OSP_SSH_KEYS")?,
                user_data: owned("OSP_USER_DATA")?,
                network_config: owned("OSP_NETWORK_CONFIG")?,
                dns_servers: owned("OSP_DNS_SERVERS")?,
                dns_search: owned("OSP_DNS_SEARCH")?,
                seed_persist: owned("OSP_SEED_PERSIST")?,
            },
        })
    }

    fn disk_path(&self, path: &str, uri: &str) -> Result<PathBuf, EnvError> {
        match (self.get(path)?, self.get(uri)?) {
            (Some(value), _) if value.starts_with('/') => Ok(PathBuf::from(value)),
            (Some(_), _) => Err(EnvError::Invalid(path.to_owned(), "not an absolute path")),
            (None, Some(uri)) => {
                let scheme = |kind: &&str| kind.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
                let kind = uri.split_once(':').map(|(kind, _)| kind).filter(scheme).unwrap_or("TYPE").to_owned();
                Err(EnvError::OnlyUri { path: path.to_owned(), kind })
            }
            (None, None) => Err(EnvError::Missing(path.to_owned())),
        }
    }

    fn required(&self, name: &str) -> Result<&str, EnvError> {
        self.get(name)?.ok_or_else(|| EnvError::Missing(name.to_owned()))
    }

    /// Returns the value of a variable, or `None` if it is missing or empty.
    fn get(&self, name: &str) -> Result<Option<&str>, EnvError> {
        let Some(value) = self.0.get(OsStr::new(name)) else { return Ok(None) };
        let text = value.to_str().ok_or_else(|| EnvError::Invalid(name.to_owned(), "not valid UTF-8"))?;
        if text.is_empty() { Ok(None) } else { Ok(Some(text)) }
    }
}

#[cfg(test)]
mod tests {
    use super::{EnvError, Environment, OsParams};
    use crate::seed::Nic;
    use proptest::prelude::{any, proptest};
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::path::Path;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::new(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    fn missing(name: &str) -> EnvError {
        EnvError::Missing(name.to_owned())
    }

    fn invalid(name: &str, what: &'static str) -> EnvError {
        EnvError::Invalid(name.to_owned(), what)
    }

    #[test]
    fn reads_what_ganeti_gives() {
        let env = environment(&[
            ("OS_API_VERSION", "20"),
            ("OS_VARIANT", "default"),
            ("OSP_IMAGE", "/srv/a.raw"),
            ("OSP_IMAGE_TYPE", ""),
            ("OSP_IMAGE_CHECKSUM", "sha256:00"),
            ("OSP_IMAGE_SIGNATURE", "/srv/a.sig"),
            ("INSTANCE_NAME", "web1.example.org"),
            ("INSTANCE_REINSTALL", "1"),
            ("DEBUG_LEVEL", "1"),
            ("DISK_COUNT", "2"),
            ("DISK_0_PATH", "/dev/drbd0"),
            ("EXP_SIZE_FD", "9"),
        ]);
        let core = env.core().unwrap();
        assert_eq!(core.variant, "default");
        let given = |text: &str| Some(text.to_owned());
        let (image_checksum, image_signature) = (given("sha256:00"), given("/srv/a.sig"));
        let image = given("/srv/a.raw");
        let params = OsParams { image, image_checksum, image_signature, ..OsParams::default() };
        assert_eq!(core.params, params);
        assert_eq!(env.instance_name(), Ok("web1.example.org"));
        assert_eq!(env.first_disk().unwrap().as_deref(), Some(Path::new("/dev/drbd0")));
        assert_eq!(env.size_descriptor(), Ok(Some(9)));
        assert!(env.debug());
    }

    #[test]
    fn a_reinstall_is_known_by_one_word() {
        let reinstall = |word: &str| environment(&[("INSTANCE_REINSTALL", word)]).reinstall();
        assert_eq!([reinstall("1"), reinstall("0"), reinstall("")], [Ok(true), Ok(false), Ok(false)]);
        assert_eq!(environment(&[]).reinstall(), Ok(false));
        for word in ["yes", "True", "2", "01", " 1"] {
            assert_eq!(reinstall(word), Err(invalid("INSTANCE_REINSTALL", "neither 0 nor 1")), "{word}");
        }
    }

    #[test]
    fn other_disks_are_found_by_name() {
        let env = environment(&[
            ("DISK_COUNT", "3"),
            ("DISK_0_NAME", "cidata"),
            ("DISK_0_PATH", "/dev/drbd0"),
            ("DISK_2_NAME", "cidata"),
            ("DISK_2_PATH", "/dev/drbd2"),
        ]);
        assert_eq!(env.other_disk("cidata").unwrap().as_deref(), Some(Path::new("/dev/drbd2")));
        assert_eq!(env.other_disk("data"), Ok(None));
        assert_eq!(environment(&[]).other_disk("cidata"), Ok(None));
        let broken = environment(&[("DISK_COUNT", "2"), ("DISK_1_NAME", "cidata")]).other_disk("cidata");
        assert_eq!(broken, Err(EnvError::Missing("DISK_1_PATH".to_owned())));
        assert_eq!(env.other_disks(), Err(EnvError::Missing("DISK_1_PATH".to_owned())));
        let two = environment(&[("DISK_COUNT", "2"), ("DISK_1_PATH", "/dev/drbd1"), ("DISK_2_PATH", "/dev/drbd2")]);
        assert_eq!(two.other_disks(), Ok(vec!["/dev/drbd1".into()]));
        assert_eq!(environment(&[("DISK_COUNT", "0")]).other_disks(), Ok(Vec::new()));
    }

    #[test]
    fn names_what_is_missing() {
        let env = environment(&[("DISK_0_PATH", ""), ("EXPORT_DEVICE", "sda"), ("EXP_SIZE_FD", "x")]);
        assert_eq!(env.first_disk(), Err(missing("DISK_0_PATH")));
        assert_eq!(env.export_device(), Err(invalid("EXPORT_DEVICE", "not an absolute path")));
        assert_eq!(env.size_descriptor(), Err(invalid("EXP_SIZE_FD", "not a descriptor number")));
        assert_eq!(env.instance_name(), Err(missing("INSTANCE_NAME")));
        assert_eq!(environment(&[("OS_API_VERSION", "15")]).core(), Err(EnvError::ApiVersion("15".to_owned())));
        assert_eq!(environment(&[("DISK_COUNT", "0")]).first_disk(), Ok(None));
    }

    /// The predecessor's message for such a disk was "'' is neither" (defect 29).
    #[test]
    fn a_disk_that_has_only_a_uri_is_named() {
        let error = environment(&[("DISK_COUNT", "1"), ("DISK_0_URI", "rbd:rbd/x")]).first_disk().unwrap_err();
        let message = error.to_string();
        assert!(
            message.starts_with("DISK_0_PATH is empty") && message.contains("-D rbd:access=kernelspace"),
            "{message}"
        );
        for uri in ["iscsi://joe%s3cret@h/x", "joe%s3cret", "joe%s3cret@h:1"] {
            let message = environment(&[("DISK_0_URI", uri)]).first_disk().unwrap_err().to_string();
            assert!(!message.contains("s3cret"), "{message}");
        }
    }

    fn nics(variables: &[(&str, &str)]) -> Result<Vec<Nic>, EnvError> {
        environment(variables).nics()
    }

    #[test]
    fn every_nic_is_read_with_its_network() {
        let read = nics(&[
            ("NIC_COUNT", "2"),
            ("NIC_0_MAC", "aa:00:00:00:00:01"),
            ("NIC_0_NAME", ""),
            ("NIC_0_MODE", "bridged"),
            ("NIC_1_MAC", "aa:00:00:00:00:02"),
            ("NIC_1_NAME", "lan"),
            ("NIC_1_IP", "192.0.2.10"),
            ("NIC_1_MODE", "routed"),
            ("NIC_1_NETWORK_SUBNET", "192.0.2.0/24"),
            ("NIC_1_NETWORK_GATEWAY", "192.0.2.1"),
            ("NIC_1_NETWORK_SUBNET6", "2001:db8::/64"),
            ("NIC_1_NETWORK_GATEWAY6", "2001:db8::1"),
        ]);
        let given = |text: &str| Some(text.to_owned());
        let plain = Nic { mac: "aa:00:00:00:00:01".to_owned(), ..Nic::default() };
        let full = Nic {
            name: given("lan"),
            mac: "aa:00:00:00:00:02".to_owned(),
            ip: given("192.0.2.10"),
            routed: true,
            subnet: given("192.0.2.0/24"),
            gateway: given("192.0.2.1"),
            subnet6: given("2001:db8::/64"),
            gateway6: given("2001:db8::1"),
        };
        assert_eq!(read, Ok(vec![plain, full]));
        assert_eq!([nics(&[]), nics(&[("NIC_COUNT", "0")])], [Ok(Vec::new()), Ok(Vec::new())]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        assert_eq!(nics(&[("NIC_COUNT", "1")]), Err(EnvError::Missing("NIC_0_MAC".to_owned())));
        let wrong = EnvError::Invalid("NIC_COUNT".to_owned(), "not a number of NICs");
        assert_eq!(nics(&[("NIC_COUNT", "-1")]), Err(wrong));
    }

    proptest! {
        #[test]
        fn no_environment_panics(name in 0..8_usize, value in any::<Vec<u8>>()) {
            let names = ["OS_API_VERSION", "OS_VARIANT", "OSP_IMAGE", "DISK_0_PATH", "DISK_0_URI", "EXP_SIZE_FD",
                "IMPORT_DEVICE", "DEBUG_LEVEL"];
            let env = Environment::new([(names[name].into(), OsString::from_vec(value))]);
            let _ = (env.core(), env.first_disk(), env.size_descriptor(), env.import_device(), env.debug());
            let _ = (env.export_device(), env.reinstall(), env.to_vec());
        }
    }
}
