// SPDX-License-Identifier: BSD-2-Clause
//! Compares an old seed with a new one: what a reinstall would lose, and what it may keep. The guest may have changed
//! the old seed, so only its well-formed parts are used.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::MAX_FILE;
use super::clone::{has_resolver, is_persistent};
use super::identity::{Identity, KEYS};
use super::keys::{self, Key};
use super::user_data::MAX_USER_DATA;
use crate::node::size::ByteSize;

/// What a seed gives to its instance. `Debug` shows no content.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedContent {
    #[serde(serialize_with = "as_lines", deserialize_with = "from_lines")]
    pub(crate) keys: Vec<Key>,
    /// The text is empty if there is no user-data.
    #[serde(serialize_with = "as_base64", deserialize_with = "from_base64")]
    pub(crate) user_data: Vec<u8>,
    network: NetworkOrigin,
    persist: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum NetworkOrigin {
    /// There is no network-config, or it only has what Ganeti says of the NICs.
    #[default]
    Plain,
    /// It has name servers or search domains, too.
    Resolver { servers: bool, search: bool },
    /// The user gave it.
    Given,
}

/// Why an old seed is not used. The messages do not repeat its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OldSeedError {
    /// The meta-data has another form.
    #[error("its meta-data is not as simpleimage writes it")]
    MetaData,
    /// A file is too large.
    #[error("its {file} has {size}, more than simpleimage writes")]
    TooLarge {
        /// The name of the file.
        file: &'static str,
        /// Its size.
        size: ByteSize,
    },
}

impl SeedContent {
    /// Reads a seed with these files (name and content), which was made for `identity`.
    pub(crate) fn of<'n, 'c>(
        files: impl IntoIterator<Item = (&'n str, &'c [u8])>,
        identity: &Identity,
    ) -> Result<Self, OldSeedError> {
        let mut held = SeedContent::default();
        for (name, content) in files {
            match name.to_ascii_lowercase().as_str() {
                "meta-data" => held.keys = keys_of(at_most("meta-data", MAX_FILE, content)?)?,
                "user-data" => held.user_data = at_most("user-data", MAX_USER_DATA, content)?.to_vec(),
                "network-config" => held.network = NetworkOrigin::of(at_most("network-config", MAX_FILE, content)?),
                "vendor-data" => held.persist = is_persistent(content, identity),
                _ => {}
            }
        }
        Ok(held)
    }

    /// Adds what only `other` has.
    #[must_use]
    pub(crate) fn with(self, other: Self) -> Self {
        SeedContent {
            keys: keys::unique(self.keys.into_iter().chain(other.keys)),
            user_data: if self.user_data.is_empty() { other.user_data } else { self.user_data },
            network: if self.network == NetworkOrigin::Plain { other.network } else { self.network },
            persist: self.persist || other.persist,
        }
    }

    /// Returns the OS parameters whose effect this seed has and `new` has not.
    pub(crate) fn lost_in(&self, new: &SeedContent) -> Vec<LostParameter> {
        let missing = keys::missing(&self.keys, &new.keys);
        let mut lost = Vec::new();
        if missing > 0 {
            lost.push(LostParameter::keys(missing, self.keys.len()));
        }
        let (servers, search) = self.network.lost_in(new.network);
        let others = [
            ("user_data", !self.user_data.is_empty() && new.user_data.is_empty()),
            ("network_config", self.network == NetworkOrigin::Given && new.network != NetworkOrigin::Given),
            ("dns_servers", servers),
            ("dns_search", search),
            ("seed_persist", self.persist && !new.persist),
        ];
        lost.extend(others.into_iter().filter(|(_, is_lost)| *is_lost).map(|(name, _)| LostParameter::plain(name)));
        lost
    }
}

/// An OS parameter whose effect a reinstall would lose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostParameter {
    pub(crate) parameter: &'static str,
    details: String,
}

impl LostParameter {
    /// `missing` of `total` SSH keys would get lost.
    pub(crate) fn keys(missing: usize, total: usize) -> Self {
        let plural = if total == 1 { "" } else { "s" };
        LostParameter { parameter: "ssh_keys", details: format!(" ({missing} of {total} key{plural})") }
    }

    /// The whole effect of the parameter would get lost.
    pub(crate) fn plain(parameter: &'static str) -> Self {
        LostParameter { parameter, details: String::new() }
    }
}

impl fmt::Display for LostParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.parameter, self.details)
    }
}

impl NetworkOrigin {
    fn of(content: &[u8]) -> Self {
        match has_resolver(content) {
            None => NetworkOrigin::Given,
            Some((false, false)) => NetworkOrigin::Plain,
            Some((servers, search)) => NetworkOrigin::Resolver { servers, search },
        }
    }

    /// Returns whether `new` lacks name servers, and whether it lacks search domains. Those of a network-config that
    /// the user gave are not compared.
    fn lost_in(self, new: Self) -> (bool, bool) {
        match (self, new) {
            (NetworkOrigin::Resolver { .. }, NetworkOrigin::Given) => (false, false),
            (NetworkOrigin::Resolver { servers, search }, NetworkOrigin::Plain) => (servers, search),
            (
                NetworkOrigin::Resolver { servers, search },
                NetworkOrigin::Resolver { servers: new, search: new_search },
            ) => (servers && !new, search && !new_search),
            (NetworkOrigin::Plain | NetworkOrigin::Given, _) => (false, false),
        }
    }
}

fn at_most<'c>(file: &'static str, most: usize, content: &'c [u8]) -> Result<&'c [u8], OldSeedError> {
    let size = ByteSize(content.len() as u64);
    if content.len() > most { Err(OldSeedError::TooLarge { file, size }) } else { Ok(content) }
}

/// Returns the keys in a meta-data. Anything else in their list is ignored.
fn keys_of(meta_data: &[u8]) -> Result<Vec<Key>, OldSeedError> {
    let meta_data: Map<String, Value> =
        serde_json::from_slice(meta_data).map_err(|_not_ours| OldSeedError::MetaData)?;
    let lines = match meta_data.get(KEYS) {
        None => return Ok(Vec::new()),
        Some(lines) => lines.as_array().ok_or(OldSeedError::MetaData)?,
    };
    let keys = lines.iter().filter_map(|line| keys::parse(line.as_str()?.as_bytes()).ok());
    Ok(keys::unique(keys.flatten()))
}

impl fmt::Debug for SeedContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SeedContent { keys, user_data, network, persist } = self;
        let mut shown = f.debug_struct("SeedContent");
        shown.field("keys", &keys.len()).field("user_data", &user_data.len());
        shown.field("network", network).field("persist", persist).finish()
    }
}

fn as_lines<S: Serializer>(keys: &[Key], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(keys.iter().map(Key::line))
}

fn from_lines<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Key>, D::Error> {
    let lines = Vec::<String>::deserialize(deserializer)?;
    let keys = lines.iter().map(|line| keys::parse(line.as_bytes()).map_err(serde::de::Error::custom));
    Ok(keys.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

fn as_base64<S: Serializer>(content: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(content))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    STANDARD.decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::{OldSeedError, SeedContent};
    use crate::node::size::ByteSize;
    use crate::seed::Nic;
    use crate::seed::user_data::MAX_USER_DATA;
    use crate::seed::{Dns, Identity, MAX_FILE, Network, meta_data, parse_keys, vendor_data};
    use proptest::prelude::{any, prop, proptest};

    const KEYS: [&str; 2] = [
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH joe",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI ann",
    ];

    fn identity() -> Identity {
        Identity::new("web1", "1111").unwrap()
    }

    fn with_keys(keys: &[&str]) -> Vec<u8> {
        meta_data(&identity(), keys.iter().flat_map(|key| parse_keys(key.as_bytes()).unwrap()))
    }

    fn network(servers: Option<&str>, search: Option<&str>) -> Vec<u8> {
        let nic = Nic { mac: "aa:00:00:00:00:01".to_owned(), ..Nic::default() };
        Network::new(&[nic], &Dns::new(servers, search).unwrap()).unwrap().document().unwrap()
    }

    fn held(files: &[(&str, &[u8])]) -> SeedContent {
        SeedContent::of(files.iter().copied(), &identity()).unwrap()
    }

    fn lost(old: &SeedContent, new: &SeedContent) -> String {
        old.lost_in(new).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn what_gets_lost_is_named() {
        let (both, one) = (with_keys(&KEYS), with_keys(&KEYS[1..]));
        let (resolver, script) = (network(Some("192.0.2.53"), Some("example.org")), vendor_data(&identity()));
        let given = b"version: 2\n";
        let old = held(&[
            ("META-DATA", &both),
            ("user-data", b"#!/bin/sh\n"),
            ("network-config", &resolver),
            ("vendor-data", &script),
            ("other", b"x"),
        ]);
        let none = SeedContent::default();
        assert_eq!(lost(&old, &none), "ssh_keys (2 of 2 keys), user_data, dns_servers, dns_search, seed_persist");
        assert_eq!(lost(&old, &old), "");
        assert_eq!(lost(&none, &old), "");
        let less = held(&[
            ("meta-data", &one),
            ("user-data", b"#!/bin/sh\nother\n"),
            ("network-config", &network(None, Some("example.net"))),
            ("vendor-data", &script),
        ]);
        assert_eq!(lost(&old, &less), "ssh_keys (1 of 2 keys), dns_servers");
        assert_eq!(lost(&less, &old), "");
        let by_hand = held(&[("meta-data", &one), ("network-config", given), ("vendor-data", b"#!/bin/sh\n")]);
        assert_eq!(lost(&by_hand, &none), "ssh_keys (1 of 1 key), network_config");
        assert_eq!(lost(&old, &by_hand), "ssh_keys (1 of 2 keys), user_data, seed_persist");
    }

    #[test]
    fn two_seeds_are_one_with_all_of_both() {
        let first = held(&[("meta-data", &with_keys(&KEYS[..1])), ("user-data", b"one")]);
        let second =
            held(&[("meta-data", &with_keys(&KEYS)), ("user-data", b"two"), ("network-config", b"version: 2")]);
        let all = held(&[("meta-data", &with_keys(&KEYS)), ("user-data", b"one"), ("network-config", b"version: 2")]);
        assert_eq!(first.with(second), all);
    }

    #[test]
    fn what_a_guest_made_of_it_is_no_key_or_no_seed() {
        let odd = format!(r#"{{"public-keys": ["{}", "no key", 7, "command=\"x\" {}", "a\nb"]}}"#, KEYS[0], KEYS[1]);
        assert_eq!(held(&[("meta-data", odd.as_bytes())]).keys, parse_keys(KEYS[0].as_bytes()).unwrap());
        let of = |name, content: &[u8]| SeedContent::of([(name, content)], &identity());
        for text in ["", "instance-id: x\n", "[]", r#"{"public-keys": {"a": "b"}}"#, "\u{feff}{}"] {
            assert_eq!(of("meta-data", text.as_bytes()), Err(OldSeedError::MetaData), "{text}");
        }
        for (file, most) in [("meta-data", MAX_FILE), ("network-config", MAX_FILE), ("user-data", MAX_USER_DATA)] {
            let size = ByteSize(most as u64 + 1);
            assert_eq!(of(file, &vec![b' '; most + 1]), Err(OldSeedError::TooLarge { file, size }));
        }
        assert_eq!(of("user-data", &vec![b' '; MAX_USER_DATA]).unwrap().user_data.len(), MAX_USER_DATA);
    }

    proptest! {
        #[test]
        fn it_is_the_same_in_another_process(user_data in any::<Vec<u8>>(), keys in prop::sample::subsequence(KEYS.to_vec(), 0..=2), by_hand in any::<bool>()) {
            let network = if by_hand { b"x".to_vec() } else { network(Some("192.0.2.53"), None) };
            let old = held(&[("meta-data", &with_keys(&keys)), ("user-data", &user_data), ("network-config", &network)]);
            let bytes = serde_json::to_vec(&old).unwrap();
            assert_eq!(serde_json::from_slice::<SeedContent>(&bytes).unwrap(), old);
        }

        #[test]
        fn no_seed_panics(meta_data in any::<Vec<u8>>(), network in "\\PC{0,40}") {
            let _ = SeedContent::of([("meta-data", &meta_data[..]), ("network-config", network.as_bytes())], &identity());
        }
    }
}
