// SPDX-License-Identifier: BSD-2-Clause
//! The seed of an instance: the files of cloud-init's NoCloud source, which the guest reads at its first boot.
//! `ganeti::request` makes a [`Plan`], and `install` fetches what it names.

pub(crate) mod clone;
mod dns;
mod entry_list;
mod identity;
mod keys;
mod network;
mod nic;
mod old_seed;
mod plan;
mod user_data;
pub(crate) mod volume;

pub(crate) use dns::Dns;
pub(crate) use identity::{Identity, IdentityError, meta_data, renamed};
pub(crate) use keys::parse as parse_keys;
pub(crate) use network::Network;
pub(crate) use nic::Nic;
pub use old_seed::{LostParameter, OldSeedError, SeedContent};
pub(crate) use plan::{Entries, Keep, NetworkPlan, Placement, Plan, Source, SourceError, SourceName};
pub(crate) use user_data::{UserData, is_html, user_data, vendor_data};

use std::fmt;

use serde::Serialize;

/// The largest meta-data, and the largest network-config, in bytes. With the user-data they have to fit into a FAT
/// volume of 4 MiB.
pub(crate) const MAX_FILE: usize = 512 << 10;

/// The files of a NoCloud seed, ready for the volume. `Debug` shows their sizes only.
#[derive(Clone, PartialEq, Eq)]
pub struct SeedFiles {
    /// The content of `meta-data`: name, UUID and SSH keys.
    pub meta_data: Vec<u8>,
    /// The content of `user-data`. The file has to exist, but it may be empty.
    pub user_data: Vec<u8>,
    /// The content of `network-config`; none leaves the network to the image.
    pub network_config: Option<Vec<u8>>,
    /// The content of `vendor-data`, if there is one.
    pub vendor_data: Option<Vec<u8>>,
}

impl SeedFiles {
    /// Returns the name and the content of every file, in the order in which they are written.
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

/// JSON with a newline at its end, which cloud-init reads as YAML. A YAML serializer would write a MAC address such as
/// 12:34:56:12:34:56 without quotes, and YAML 1.1 takes that for a number to the base of 60.
fn document(value: &impl Serialize) -> Vec<u8> {
    // Serialization fails only for maps whose keys are not texts, which no document here has.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}
