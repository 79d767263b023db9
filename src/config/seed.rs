// SPDX-License-Identifier: BSD-2-Clause
//! What a variant's instances get at their first boot when they have no OS parameters for it.

use super::PartialSettings;
use crate::store::http::Secret;

/// Defaults of the OS parameters of the first boot, as written in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SeedDefaults {
    /// Of `cloud_init`.
    pub(crate) cloud_init: Option<String>,
    /// Of `ssh_keys`.
    pub(crate) ssh_keys: Option<Secret>,
    /// Of `user_data`.
    pub(crate) user_data: Option<Secret>,
    /// Of `network_config`.
    pub(crate) network_config: Option<Secret>,
    /// Of `dns_servers`.
    pub(crate) dns_servers: Option<String>,
    /// Of `dns_search`.
    pub(crate) dns_search: Option<String>,
    /// Of `seed_persist`.
    pub(crate) seed_persist: bool,
    /// Whether a reinstall carries over what the old seed has.
    pub(crate) keep: bool,
}

impl SeedDefaults {
    /// What `set` says; an empty text says nothing.
    pub(super) fn resolve(set: &PartialSettings) -> Self {
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let secret = |secret: &Option<Secret>| secret.clone().filter(|secret| !secret.0.is_empty());
        SeedDefaults {
            cloud_init: text(&set.cloud_init),
            ssh_keys: secret(&set.ssh_keys),
            user_data: secret(&set.user_data),
            network_config: secret(&set.network_config),
            dns_servers: text(&set.dns_servers),
            dns_search: text(&set.dns_search),
            seed_persist: set.seed_persist.unwrap_or(false),
            keep: set.seed_keep.unwrap_or(false),
        }
    }
}
