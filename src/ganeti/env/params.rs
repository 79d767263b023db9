// SPDX-License-Identifier: BSD-2-Clause
//! The OS parameters: public, private and secret ones alike come as `OSP_NAME`.

use std::fmt;

use super::{EnvError, Environment};

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

impl OsParams {
    pub(super) fn new(env: &Environment) -> Result<Self, EnvError> {
        let owned = |name| env.get(name).map(|value| value.map(str::to_owned));
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
}
