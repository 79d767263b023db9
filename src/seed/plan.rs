// SPDX-License-Identifier: BSD-2-Clause
//! What an instance's seed shall be made of, before anything of it was fetched.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;

use super::identity::Identity;
use super::network::Network;
use crate::store::http::ImageUrl;

/// Where the seed goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Onto the disk named `cidata` if there is one, else into a partition.
    Auto,
    /// Onto the disk named `cidata`.
    Disk,
    /// Into a partition at the end of the first disk.
    Partition,
}

/// What of the old seed a reinstall carries over, if there is one. It stands where no OS parameter says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Keep {
    /// Its SSH keys, besides those of the variant.
    pub(crate) keys: bool,
    /// Its user-data, instead of the variant's.
    pub(crate) user_data: bool,
}

/// All that decides about a seed's content and place. `Debug` shows no secret.
#[derive(Debug)]
pub struct Plan {
    /// Where the seed goes.
    pub(crate) placement: Placement,
    /// Whether the instance shall keep a copy of the seed and remove its partition.
    pub(crate) persist: bool,
    /// What of the old seed is to be in it.
    pub(crate) keep: Keep,
    /// Who the instance is.
    pub(crate) identity: Identity,
    /// What holds SSH keys, one a line.
    pub(crate) keys: Vec<Source>,
    /// The parts of the user-data.
    pub(crate) user_data: Vec<Source>,
    /// What the network-config says.
    pub(crate) network: NetworkPlan,
}

impl Plan {
    /// Whether anything of it has to be fetched.
    pub(crate) fn asks_servers(&self) -> bool {
        let network = match &self.network {
            NetworkPlan::Given(source) => Some(source),
            NetworkPlan::Ganeti(_) | NetworkPlan::Off => None,
        };
        self.keys.iter().chain(&self.user_data).chain(network).any(|source| matches!(source, Source::Url(_)))
    }
}

/// Where the network-config comes from.
#[derive(Debug)]
pub(crate) enum NetworkPlan {
    /// From what Ganeti says of the instance's NICs.
    Ganeti(Network),
    /// As it was given.
    Given(Source),
    /// There is none: the image decides.
    Off,
}

/// Where a part of the seed comes from. `Debug` shows no secret.
pub(crate) enum Source {
    /// It was given itself.
    Inline(Vec<u8>),
    /// A file in the variant's `user-data` folder.
    File {
        /// The file, open.
        file: File,
        /// Where it is.
        path: PathBuf,
    },
    /// A file on a server.
    Url(ImageUrl),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Inline(_) => f.write_str("Inline(...)"),
            Source::File { path, .. } => write!(f, "File({})", path.display()),
            Source::Url(url) => write!(f, "Url({url})"),
        }
    }
}
