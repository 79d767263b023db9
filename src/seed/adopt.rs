// SPDX-License-Identifier: BSD-2-Clause
//! The seed of one instance made another's: what a clone reads at its first boot.

use serde_json::{Map, Value};

use super::identity::Identity;
use super::network::Network;
use super::{Dns, json, vendor_data};
use crate::seed::Nic;

/// A file of a seed: name and content.
pub(crate) type File = (String, Vec<u8>);

/// What stayed as it was, and can be wrong for the clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// A meta-data that we did not write: the clone takes itself for the old instance.
    MetaData,
    /// A network-config that we did not write, or for which Ganeti's data is not enough.
    Network,
}

impl Kept {
    /// The file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kept::MetaData => "meta-data",
            Kept::Network => "network-config",
        }
    }
}

/// `files` for the instance `identity` with `nics`: another id and name in meta-data, its own NICs in network-config, its
/// own volume in our vendor-data. Keys and user-data stay, and so does what others wrote.
pub(crate) fn adopted(files: &[File], identity: &Identity, nics: &[Nic]) -> (Vec<File>, Vec<Kept>) {
    let mut kept = Vec::new();
    let old = files.iter().find(|(name, _)| name == "meta-data").and_then(|(_, content)| parse(content));
    let old = old.and_then(|meta_data| Some((identity_of(&meta_data)?, meta_data)));
    let adopt = |(name, content): &File| {
        let new = match (name.as_str(), &old) {
            ("meta-data", Some((_, meta_data))) => Some(with_identity(meta_data.clone(), identity)),
            ("meta-data", None) => {
                kept.push(Kept::MetaData);
                None
            }
            ("network-config", _) => network(content, nics).or_else(|| {
                kept.push(Kept::Network);
                None
            }),
            ("vendor-data", Some((old, _))) => is_persistent(content, old).then(|| vendor_data(identity)),
            _ => None,
        };
        (name.clone(), new.unwrap_or_else(|| content.clone()))
    };
    let files = files.iter().map(adopt).collect();
    (files, kept)
}

fn parse(content: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(content).ok()
}

/// Whose meta-data it is.
fn identity_of(meta_data: &Map<String, Value>) -> Option<Identity> {
    let text = |key: &str| meta_data.get(key).and_then(Value::as_str);
    Identity::new(text("local-hostname")?, text("instance-id")?).ok()
}

fn with_identity(mut meta_data: Map<String, Value>, identity: &Identity) -> Vec<u8> {
    meta_data.insert("instance-id".to_owned(), identity.uuid().into());
    meta_data.insert("local-hostname".to_owned(), identity.name().into());
    json::document(&meta_data)
}

/// Whether a vendor-data is the one of ours for `identity`, which keeps the seed without its partition.
pub(super) fn is_persistent(content: &[u8], identity: &Identity) -> bool {
    content == vendor_data(identity)
}

/// Whether a network-config that we made from NICs has name servers, and search domains; none for one that we did not make.
pub(super) fn servers_of(content: &[u8]) -> Option<(bool, bool)> {
    let [servers, search] = resolver(content)?;
    Some((servers.is_some(), search.is_some()))
}

/// The network-config of `nics`, with the name servers of `old`; none if `old` is not one that we make from NICs.
fn network(old: &[u8], nics: &[Nic]) -> Option<Vec<u8>> {
    let [servers, search] = resolver(old)?;
    let dns = Dns::new(servers.as_deref(), search.as_deref()).ok()?;
    Network::new(nics, &dns).ok()?.document()
}

/// The name servers and the search domains in a network-config that we made from NICs, as lists that [`Dns`] takes.
fn resolver(content: &[u8]) -> Option<[Option<String>; 2]> {
    let old = parse(content)?;
    let interfaces = old.get("ethernets").and_then(Value::as_object)?;
    let ours =
        |interface: &Value| interface.pointer("/match/macaddress").is_some() && interface.get("set-name").is_some();
    if old.get("version") != Some(&2.into()) || old.len() != 2 || !interfaces.values().all(ours) {
        return None;
    }
    let servers = interfaces.values().find_map(|interface| interface.get("nameservers"));
    let list = |key: &str| {
        let entries = servers.and_then(|servers| servers.get(key)?.as_array());
        entries.map(|entries| entries.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "))
    };
    Some([list("addresses"), list("search")])
}

#[cfg(test)]
mod tests {
    use super::{File, Kept, adopted};
    use crate::seed::Nic;
    use crate::seed::{Dns, Identity, Network, meta_data, vendor_data};

    fn identity(name: &str, uuid: &str) -> Identity {
        Identity::new(name, uuid).unwrap()
    }

    fn nic(mac: &str) -> Nic {
        Nic { mac: mac.to_owned(), ..Nic::default() }
    }

    fn files(identity: &Identity, nic: Nic) -> Vec<File> {
        let dns = Dns::new(Some("192.0.2.53"), Some("example.org")).unwrap();
        [
            ("meta-data", meta_data(identity, [])),
            ("user-data", b"#cloud-config\n".to_vec()),
            ("network-config", Network::new(&[nic], &dns).unwrap().document().unwrap()),
            ("vendor-data", vendor_data(identity)),
            ("other", b"kept".to_vec()),
        ]
        .map(|(name, content)| (name.to_owned(), content))
        .to_vec()
    }

    #[test]
    fn a_clones_seed_is_the_one_that_it_would_have_got() {
        let (old, new) = (identity("web1", "1111"), identity("web2", "2222"));
        let cloned = adopted(&files(&old, nic("aa:00:00:00:00:01")), &new, &[nic("aa:00:00:00:00:02")]);
        assert!(cloned == (files(&new, nic("aa:00:00:00:00:02")), Vec::new()));
    }

    #[test]
    fn what_others_wrote_stays_and_is_named() {
        let new = identity("web2", "2222");
        let foreign =
            [("meta-data", "instance-id: x\n"), ("network-config", "version: 2\n"), ("vendor-data", "#!/bin/sh\n")];
        let foreign = foreign.map(|(name, content)| (name.to_owned(), content.into())).to_vec();
        assert!(adopted(&foreign, &new, &[]) == (foreign, vec![Kept::MetaData, Kept::Network]));
    }
}
