// SPDX-License-Identifier: BSD-2-Clause
//! Ganeti's environment variables as typed values (ganeti-os-interface(7)). Pure: touches nothing.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::Range;
use std::os::fd::RawFd;
use std::path::PathBuf;

use crate::seed::Nic;

/// The version of the OS interface that this provider implements.
pub(crate) const API_VERSION: &str = "20";

/// Why the environment is not one that Ganeti makes.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub(crate) enum EnvError {
    /// A variable that must be there is not.
    #[error(
        "the environment variable {0} is missing or empty: this script is run by Ganeti, see ganeti-os-interface(7)"
    )]
    Missing(String),
    /// A variable has a value that it can't have. The value itself may be a secret.
    #[error("the environment variable {0} is {1}")]
    Invalid(String, &'static str),
    /// Another version of the interface.
    #[error("Ganeti speaks OS interface version {0}, this provider only {API_VERSION}")]
    ApiVersion(String),
    /// The disk has no block device or file on the node. The URI may hold a password.
    #[error(
        "{path} is empty: the instance's disk has only a URI of type {kind}, which needs userspace access; use kernelspace access (gnt-cluster modify -D {kind}:access=kernelspace)"
    )]
    OnlyUri {
        /// The variable with the path.
        path: String,
        /// The URI's scheme.
        kind: String,
    },
}

/// All variables, as they came.
#[derive(Debug, Clone, Default)]
pub struct Environment(HashMap<OsString, OsString>);

/// What every script gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Core {
    /// `OS_VARIANT`, unchecked; may be empty.
    pub(crate) variant: String,
    /// The OS parameters that were given.
    pub(crate) params: OsParams,
}

/// OS parameters, unchecked; an empty one counts as not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OsParams {
    /// `OSP_IMAGE`.
    pub(crate) image: Option<String>,
    /// `OSP_IMAGE_TYPE`.
    pub(crate) image_type: Option<String>,
    /// `OSP_IMAGE_CHECKSUM`.
    pub(crate) image_checksum: Option<String>,
    /// `OSP_IMAGE_SIGNATURE`.
    pub(crate) image_signature: Option<String>,
    /// Those of the first boot.
    pub(crate) seed: SeedParams,
}

/// The OS parameters of the first boot, unchecked. `Debug` shows none of them: they may be secret ones.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct SeedParams {
    /// `OSP_CLOUD_INIT`.
    pub(crate) cloud_init: Option<String>,
    /// `OSP_SSH_KEYS`.
    pub(crate) ssh_keys: Option<String>,
    /// `OSP_USER_DATA`.
    pub(crate) user_data: Option<String>,
    /// `OSP_NETWORK_CONFIG`.
    pub(crate) network_config: Option<String>,
    /// `OSP_DNS_SERVERS`.
    pub(crate) dns_servers: Option<String>,
    /// `OSP_DNS_SEARCH`.
    pub(crate) dns_search: Option<String>,
    /// `OSP_SEED_PERSIST`.
    pub(crate) seed_persist: Option<String>,
}

impl fmt::Debug for SeedParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeedParams(...)")
    }
}

impl Environment {
    /// From a snapshot of the process's environment.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Environment(variables.into_iter().collect())
    }

    /// Every variable, as hooks get them.
    pub(crate) fn to_vec(&self) -> Vec<(OsString, OsString)> {
        let mut all: Vec<_> = self.0.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        all.sort();
        all
    }

    /// `DEBUG_LEVEL` above 0.
    pub(crate) fn debug(&self) -> bool {
        self.get("DEBUG_LEVEL").ok().flatten().and_then(|level| level.parse().ok()).is_some_and(|level: u32| level > 0)
    }

    /// The variables that every script gets; an error for another `OS_API_VERSION`.
    pub(crate) fn core(&self) -> Result<Core, EnvError> {
        match self.get("OS_API_VERSION")? {
            None | Some(API_VERSION) => {}
            Some(other) => return Err(EnvError::ApiVersion(other.to_owned())),
        }
        Ok(Core { variant: self.variant()?.to_owned(), params: self.os_params()? })
    }

    /// `OS_VARIANT`, unchecked; may be empty.
    pub(crate) fn variant(&self) -> Result<&str, EnvError> {
        Ok(self.get("OS_VARIANT")?.unwrap_or_default())
    }

    /// `INSTANCE_NAME`.
    pub(crate) fn instance_name(&self) -> Result<&str, EnvError> {
        self.required("INSTANCE_NAME")
    }

    /// `INSTANCE_UUID`.
    pub(crate) fn instance_uuid(&self) -> Result<&str, EnvError> {
        self.required("INSTANCE_UUID")
    }

    /// `INSTANCE_REINSTALL`, which Ganeti sets to 1 when the instance was installed before and else leaves out. An error
    /// for any other word: nobody knows what the disk holds.
    pub(crate) fn reinstall(&self) -> Result<bool, EnvError> {
        match self.get("INSTANCE_REINSTALL")? {
            None | Some("0") => Ok(false),
            Some("1") => Ok(true),
            Some(_) => Err(EnvError::Invalid("INSTANCE_REINSTALL".to_owned(), "neither 0 nor 1")),
        }
    }

    /// The path of the first disk; none when the instance has no disk.
    pub(crate) fn first_disk(&self) -> Result<Option<PathBuf>, EnvError> {
        if self.get("DISK_COUNT")? == Some("0") {
            return Ok(None);
        }
        self.numbered_disk(0).map(Some)
    }

    /// The path of the first of the instance's other disks that is called `name` (`DISK_n_NAME`).
    pub(crate) fn other_disk(&self, name: &str) -> Result<Option<PathBuf>, EnvError> {
        for index in self.other_indexes()? {
            if self.get(&format!("DISK_{index}_NAME"))? == Some(name) {
                return self.numbered_disk(index).map(Some);
            }
        }
        Ok(None)
    }

    /// The paths of all disks but the first. Here a missing number of them is an error: one would be forgotten.
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

    /// The disk to export, which may be a snapshot of the instance's.
    pub(crate) fn export_device(&self) -> Result<PathBuf, EnvError> {
        self.disk_path("EXPORT_DEVICE", "EXPORT_DISK_URI")
    }

    /// The disk to restore a dump to.
    pub(crate) fn import_device(&self) -> Result<PathBuf, EnvError> {
        self.disk_path("IMPORT_DEVICE", "IMPORT_DISK_URI")
    }

    /// `EXP_SIZE_FD`: the descriptor that the size of the dump shall be written to.
    pub(crate) fn size_descriptor(&self) -> Result<Option<RawFd>, EnvError> {
        let number = self.get("EXP_SIZE_FD")?.map(str::parse).transpose();
        number.map_err(|_not_a_number| EnvError::Invalid("EXP_SIZE_FD".to_owned(), "not a descriptor number"))
    }

    /// The NICs in their order; none when the instance has none.
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

    /// A variable's value, none when it is absent or empty.
    fn get(&self, name: &str) -> Result<Option<&str>, EnvError> {
        let Some(value) = self.0.get(OsStr::new(name)) else { return Ok(None) };
        let text = value.to_str().ok_or_else(|| EnvError::Invalid(name.to_owned(), "not valid UTF-8"))?;
        Ok(Some(text).filter(|text| !text.is_empty()))
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

    /// Defect 29 of the predecessor: "'' is neither".
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
