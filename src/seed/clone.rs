// SPDX-License-Identifier: BSD-2-Clause
//! Changes the seed of an instance into the seed of its clone.

use serde_json::{Map, Value};

use super::dns::Dns;
use super::document;
use super::identity::Identity;
use super::network::Network;
use super::nic::Nic;
use super::user_data::vendor_data;

/// The name and the content of a file in a seed.
pub(crate) type File = (String, Vec<u8>);

/// A file that was not changed, and may be wrong for the clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unchanged {
    /// The meta-data was not made by this program. With it the clone takes itself for the old instance.
    MetaData,
    /// The network-config was not made by this program, or a new one can't be made from the data of Ganeti.
    Network,
}

impl Unchanged {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Unchanged::MetaData => "meta-data",
            Unchanged::Network => "network-config",
        }
    }
}

/// Changes the files of a seed for the clone `identity` with `nics`: UUID and name in meta-data, NICs in
/// network-config, the volume in vendor-data. SSH keys, user-data, and files that this program did not make stay as
/// they are.
pub(crate) fn for_clone(files: &[File], identity: &Identity, nics: &[Nic]) -> (Vec<File>, Vec<Unchanged>) {
    let old = files.iter().find(|(name, _)| name == "meta-data").and_then(|(_, content)| parse(content));
    let old = old.and_then(|meta_data| Some((identity_of(&meta_data)?, meta_data)));
    let (mut new_files, mut unchanged) = (Vec::with_capacity(files.len()), Vec::new());
    for (name, content) in files {
        let new = match (name.as_str(), &old) {
            ("meta-data", Some((_, meta_data))) => Some(with_identity(meta_data.clone(), identity)),
            ("network-config", _) => network(content, nics),
            ("vendor-data", Some((old, _))) if is_persistent(content, old) => Some(vendor_data(identity)),
            _ => None,
        };
        match (name.as_str(), &new) {
            ("meta-data", None) => unchanged.push(Unchanged::MetaData),
            ("network-config", None) => unchanged.push(Unchanged::Network),
            _ => {}
        }
        new_files.push((name.clone(), new.unwrap_or_else(|| content.clone())));
    }
    (new_files, unchanged)
}

fn parse(content: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(content).ok()
}

fn identity_of(meta_data: &Map<String, Value>) -> Option<Identity> {
    let text = |key: &str| meta_data.get(key).and_then(Value::as_str);
    Identity::new(text("local-hostname")?, text("instance-id")?).ok()
}

fn with_identity(mut meta_data: Map<String, Value>, identity: &Identity) -> Vec<u8> {
    meta_data.insert("instance-id".to_owned(), identity.uuid().into());
    meta_data.insert("local-hostname".to_owned(), identity.name().into());
    document(&meta_data)
}

/// Returns whether `content` is the vendor-data that this program makes for `identity`.
pub(super) fn is_persistent(content: &[u8], identity: &Identity) -> bool {
    content == vendor_data(identity)
}

/// Returns whether a network-config has name servers, and whether it has search domains. Returns `None` if this program
/// did not make it.
pub(super) fn has_resolver(content: &[u8]) -> Option<(bool, bool)> {
    let [servers, search] = resolver(content)?;
    Some((servers.is_some(), search.is_some()))
}

/// Returns the network-config for `nics` with the name servers of `old`, or `None` if this program did not make `old`.
fn network(old: &[u8], nics: &[Nic]) -> Option<Vec<u8>> {
    let [servers, search] = resolver(old)?;
    let dns = Dns::new(servers.as_deref(), search.as_deref()).ok()?;
    Network::new(nics, &dns).ok()?.document()
}

/// Returns the name servers and the search domains in a network-config, as lists for [`Dns`]. Returns `None` if this
/// program did not make it.
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
    use super::{File, Unchanged, for_clone};
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
        let cloned = for_clone(&files(&old, nic("aa:00:00:00:00:01")), &new, &[nic("aa:00:00:00:00:02")]);
        assert!(cloned == (files(&new, nic("aa:00:00:00:00:02")), Vec::new()));
    }

    #[test]
    fn what_others_wrote_stays_and_is_named() {
        let new = identity("web2", "2222");
        let foreign =
            [("meta-data", "instance-id: x\n"), ("network-config", "version: 2\n"), ("vendor-data", "#!/bin/sh\n")];
        let foreign = foreign.map(|(name, content)| (name.to_owned(), content.into())).to_vec();
        assert!(for_clone(&foreign, &new, &[]) == (foreign, vec![Unchanged::MetaData, Unchanged::Network]));
    }
}
