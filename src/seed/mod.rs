// SPDX-License-Identifier: BSD-2-Clause
//! What an instance reads at its first boot: the files of cloud-init's NoCloud seed. Pure content; `ganeti::request`
//! decides about a [`Plan`], `install` fetches what it names.

pub(crate) mod adopt;
mod dns;
mod held;
mod identity;
mod interface;
mod json;
mod key_types;
mod keys;
mod list;
mod metadata;
mod network;
mod nic;
mod plan;
mod source;
mod userdata;
mod vendor;
pub(crate) mod volume;

pub(crate) use adopt::adopted;
pub(crate) use dns::Dns;
pub use held::{Held, HeldError, Lost};
pub(crate) use identity::{Identity, IdentityError};
pub(crate) use keys::parse as parse_keys;
pub(crate) use metadata::{meta_data, renamed};
pub(crate) use network::Network;
pub(crate) use nic::Nic;
pub(crate) use plan::{Keep, NetworkPlan, Placement, Plan, Source};
pub(crate) use source::{Entries, SourceError, SourceName};
pub(crate) use userdata::{UserData, is_html, user_data};
pub(crate) use vendor::vendor_data;

use std::fmt;

/// What meta-data and network-config may have, in bytes. With the user-data they have to fit into a FAT volume of 4 MiB.
pub(crate) const MAX_FILE: usize = 512 << 10;

/// The files of a NoCloud seed, ready for the volume. `Debug` shows their sizes only.
#[derive(Clone, PartialEq, Eq)]
pub struct SeedFiles {
    /// `meta-data`: name, id and SSH keys.
    pub meta_data: Vec<u8>,
    /// `user-data`, which may be empty, but has to be there.
    pub user_data: Vec<u8>,
    /// `network-config`; none leaves the network to the image.
    pub network_config: Option<Vec<u8>>,
    /// `vendor-data`.
    pub vendor_data: Option<Vec<u8>>,
}

impl SeedFiles {
    /// Every file with its name, in the order in which they are written.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let given = [("meta-data", Some(&self.meta_data)), ("user-data", Some(&self.user_data))];
        let optional = [("network-config", self.network_config.as_ref()), ("vendor-data", self.vendor_data.as_ref())];
        given.into_iter().chain(optional).filter_map(|(name, file)| Some((name, file?.as_slice())))
    }
}

impl fmt::Debug for SeedFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, file)| (name, file.len()))).finish()
    }
}
