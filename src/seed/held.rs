// SPDX-License-Identifier: BSD-2-Clause
//! What a seed gives its instance, compared with another seed: what a reinstall would take away, and what of it may be
//! kept. A guest could have written an old seed, so that only what is well-formed counts.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::adopt::{is_persistent, servers_of};
use super::keys::{self, Key};
use super::metadata::KEYS;
use super::userdata::MAX_USER_DATA;
use super::{Identity, MAX_FILE};
use crate::node::size::ByteSize;

/// What a seed gives. `Debug` shows no content.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The SSH keys, each once.
    #[serde(serialize_with = "as_lines", deserialize_with = "from_lines")]
    pub(crate) keys: Vec<Key>,
    /// The user-data; empty for none.
    #[serde(serialize_with = "as_base64", deserialize_with = "from_base64")]
    pub(crate) user_data: Vec<u8>,
    network: HeldNetwork,
    persist: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum HeldNetwork {
    /// There is none, or one with nothing in it but what Ganeti says of the NICs.
    #[default]
    Plain,
    /// One of Ganeti's NICs, with name servers or search domains.
    Resolver { servers: bool, search: bool },
    /// One that was given.
    Given,
}

/// Why an old seed is not looked at any closer. Its content is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeldError {
    /// No seed of ours has it like that.
    #[error("its meta-data is not as simpleimage writes it")]
    MetaData,
    /// No seed of ours has so much.
    #[error("its {file} has {size}, more than simpleimage writes")]
    TooLarge {
        /// The file.
        file: &'static str,
        /// Its size.
        size: ByteSize,
    },
}

impl Held {
    /// What the seed with `files` gives to `identity`, by name.
    ///
    /// # Errors
    /// [`HeldError`] for what is no seed of ours any more.
    pub(crate) fn of<'n, 'c>(
        files: impl IntoIterator<Item = (&'n str, &'c [u8])>,
        identity: &Identity,
    ) -> Result<Self, HeldError> {
        let mut held = Held::default();
        for (name, content) in files {
            match name.to_ascii_lowercase().as_str() {
                "meta-data" => held.keys = keys_of(at_most("meta-data", MAX_FILE, content)?)?,
                "user-data" => held.user_data = at_most("user-data", MAX_USER_DATA, content)?.to_vec(),
                "network-config" => held.network = HeldNetwork::of(at_most("network-config", MAX_FILE, content)?),
                "vendor-data" => held.persist = is_persistent(content, identity),
                _ => {}
            }
        }
        Ok(held)
    }

    /// This, and of `other` what this has not.
    #[must_use]
    pub(crate) fn with(self, other: Self) -> Self {
        Held {
            keys: keys::unique(self.keys.into_iter().chain(other.keys)),
            user_data: if self.user_data.is_empty() { other.user_data } else { self.user_data },
            network: if self.network == HeldNetwork::Plain { other.network } else { self.network },
            persist: self.persist || other.persist,
        }
    }

    /// The OS parameters to which this seed owes what `new` has not, each with words on it.
    pub(crate) fn lost_in(&self, new: &Held) -> Vec<Lost> {
        let missing = keys::missing(&self.keys, &new.keys);
        let mut lost = Vec::new();
        if missing > 0 {
            lost.push(Lost::keys(missing, self.keys.len()));
        }
        let (servers, search) = self.network.lost_in(new.network);
        let others = [
            ("user_data", !self.user_data.is_empty() && new.user_data.is_empty()),
            ("network_config", self.network == HeldNetwork::Given && new.network != HeldNetwork::Given),
            ("dns_servers", servers),
            ("dns_search", search),
            ("seed_persist", self.persist && !new.persist),
        ];
        lost.extend(others.into_iter().filter(|(_, is_lost)| *is_lost).map(|(name, _)| Lost::plain(name)));
        lost
    }
}

/// An OS parameter whose effect gets lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Its name.
    pub(crate) parameter: &'static str,
    words: String,
}

impl Lost {
    /// `missing` of the `total` keys.
    pub(crate) fn keys(missing: usize, total: usize) -> Self {
        let plural = if total == 1 { "" } else { "s" };
        Lost { parameter: "ssh_keys", words: format!(" ({missing} of {total} key{plural})") }
    }

    /// All that the parameter gave.
    pub(crate) fn plain(parameter: &'static str) -> Self {
        Lost { parameter, words: String::new() }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.parameter, self.words)
    }
}

impl HeldNetwork {
    fn of(content: &[u8]) -> Self {
        match servers_of(content) {
            None => HeldNetwork::Given,
            Some((false, false)) => HeldNetwork::Plain,
            Some((servers, search)) => HeldNetwork::Resolver { servers, search },
        }
    }

    /// Whether `new` lacks name servers, and search domains. One that was given has what it has.
    fn lost_in(self, new: Self) -> (bool, bool) {
        match (self, new) {
            (HeldNetwork::Resolver { .. }, HeldNetwork::Given) => (false, false),
            (HeldNetwork::Resolver { servers, search }, HeldNetwork::Plain) => (servers, search),
            (HeldNetwork::Resolver { servers, search }, HeldNetwork::Resolver { servers: new, search: new_search }) => {
                (servers && !new, search && !new_search)
            }
            (HeldNetwork::Plain | HeldNetwork::Given, _) => (false, false),
        }
    }
}

fn at_most<'c>(file: &'static str, most: usize, content: &'c [u8]) -> Result<&'c [u8], HeldError> {
    let size = ByteSize(content.len() as u64);
    if content.len() > most { Err(HeldError::TooLarge { file, size }) } else { Ok(content) }
}

/// The keys in a meta-data; what is no key is left out.
fn keys_of(meta_data: &[u8]) -> Result<Vec<Key>, HeldError> {
    let meta_data: Map<String, Value> = serde_json::from_slice(meta_data).map_err(|_not_ours| HeldError::MetaData)?;
    let lines = match meta_data.get(KEYS) {
        None => return Ok(Vec::new()),
        Some(lines) => lines.as_array().ok_or(HeldError::MetaData)?,
    };
    let keys = lines.iter().filter_map(|line| keys::parse(line.as_str()?.as_bytes()).ok());
    Ok(keys::unique(keys.flatten()))
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Held { keys, user_data, network, persist } = self;
        let mut shown = f.debug_struct("Held");
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
    use super::{Held, HeldError};
    use crate::node::size::ByteSize;
    use crate::seed::Nic;
    use crate::seed::userdata::MAX_USER_DATA;
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

    fn held(files: &[(&str, &[u8])]) -> Held {
        Held::of(files.iter().copied(), &identity()).unwrap()
    }

    fn lost(old: &Held, new: &Held) -> String {
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
        let none = Held::default();
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
        let of = |name, content: &[u8]| Held::of([(name, content)], &identity());
        for text in ["", "instance-id: x\n", "[]", r#"{"public-keys": {"a": "b"}}"#, "\u{feff}{}"] {
            assert_eq!(of("meta-data", text.as_bytes()), Err(HeldError::MetaData), "{text}");
        }
        for (file, most) in [("meta-data", MAX_FILE), ("network-config", MAX_FILE), ("user-data", MAX_USER_DATA)] {
            let size = ByteSize(most as u64 + 1);
            assert_eq!(of(file, &vec![b' '; most + 1]), Err(HeldError::TooLarge { file, size }));
        }
        assert_eq!(of("user-data", &vec![b' '; MAX_USER_DATA]).unwrap().user_data.len(), MAX_USER_DATA);
    }

    proptest! {
        #[test]
        fn it_is_the_same_in_another_process(user_data in any::<Vec<u8>>(), keys in prop::sample::subsequence(KEYS.to_vec(), 0..=2), by_hand in any::<bool>()) {
            let network = if by_hand { b"x".to_vec() } else { network(Some("192.0.2.53"), None) };
            let old = held(&[("meta-data", &with_keys(&keys)), ("user-data", &user_data), ("network-config", &network)]);
            let bytes = serde_json::to_vec(&old).unwrap();
            assert_eq!(serde_json::from_slice::<Held>(&bytes).unwrap(), old);
        }

        #[test]
        fn no_seed_panics(meta_data in any::<Vec<u8>>(), network in "\\PC{0,40}") {
            let _ = Held::of([("meta-data", &meta_data[..]), ("network-config", network.as_bytes())], &identity());
        }
    }
}
