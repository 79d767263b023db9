// SPDX-License-Identifier: BSD-2-Clause
//! The identity of an instance, and the file `meta-data` that tells it to the guest.

use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::document;
use super::keys::{Key, unique};

/// The longest name that DNS can hold, in bytes (RFC 1035, section 2.3.4, without the length bytes).
const MAX_NAME: usize = 253;
/// A longer text is not a UUID, in bytes.
const MAX_UUID: usize = 64;

/// The longest host name that Linux accepts, in bytes (HOST_NAME_MAX, sethostname(2)).
const MAX_HOST_NAME: usize = 64;

/// The key of meta-data that a rename changes.
const HOST_NAME: &str = "local-hostname";
/// The key of meta-data with the SSH keys.
pub(super) const KEYS: &str = "public-keys";

/// The name and the UUID of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    name: String,
    uuid: String,
}

/// Why a seed can't be made for an instance.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum IdentityError {
    #[error(
        "the instance's name (INSTANCE_NAME) is not a host name, and its seed needs one (letters, digits, '-' and '.', at most 253; simpleimage install takes another one with --name)"
    )]
    Name,
    #[error("INSTANCE_UUID is not a UUID")]
    Uuid,
}

impl Identity {
    /// Checks `INSTANCE_NAME` and `INSTANCE_UUID`.
    pub(crate) fn new(name: &str, uuid: &str) -> Result<Self, IdentityError> {
        let label = |label: &str| {
            let inside = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
            !label.is_empty() && inside && !label.starts_with('-') && !label.ends_with('-')
        };
        if name.len() > MAX_NAME || !name.split('.').all(label) {
            return Err(IdentityError::Name);
        }
        let hex = uuid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if uuid.is_empty() || uuid.len() > MAX_UUID || !hex {
            return Err(IdentityError::Uuid);
        }
        Ok(Identity { name: name.to_owned(), uuid: uuid.to_owned() })
    }

    /// Returns the name of the instance, which becomes `local-hostname`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns a warning about the name, if Linux can't use it as a whole.
    pub(crate) fn warning(&self) -> Option<String> {
        let len = self.name.len();
        (len > MAX_HOST_NAME).then(|| {
            format!(
                "the instance's name has {len} characters, and a host name in Linux {MAX_HOST_NAME} at most: the instance may not get all of it"
            )
        })
    }

    /// Returns the UUID of the instance, which becomes `instance-id`.
    pub(crate) fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Returns the serial number of the FAT volume with the instance's seed. It follows from the UUID, so that the seed
    /// of another instance is recognised.
    pub(crate) fn volume_serial(&self) -> u32 {
        let digest = Sha256::digest(self.uuid.as_bytes());
        u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
    }
}

#[derive(Serialize)]
struct MetaData<'m> {
    #[serde(rename = "instance-id")]
    instance_id: &'m str,
    #[serde(rename = "local-hostname")]
    local_hostname: &'m str,
    #[serde(rename = "public-keys", skip_serializing_if = "Vec::is_empty")]
    public_keys: Vec<String>,
}

/// Returns the content of `meta-data`. A rename keeps the UUID, so that cloud-init does not take the instance for a new
/// one. A clone has another UUID, and so it gets its own first boot.
pub(crate) fn meta_data(identity: &Identity, keys: impl IntoIterator<Item = Key>) -> Vec<u8> {
    document(&MetaData {
        instance_id: identity.uuid(),
        local_hostname: identity.name(),
        public_keys: unique(keys).iter().map(Key::line).collect(),
    })
}

/// Changes the name in `old`, a content of `meta-data`, to that of `identity`. Returns `None` if `old` was not made by
/// [`meta_data`], or is that of another instance.
pub(crate) fn renamed(old: &[u8], identity: &Identity) -> Option<Vec<u8>> {
    let mut all: Map<String, Value> = serde_json::from_slice(old).ok()?;
    if all.get("instance-id")? != identity.uuid() || !all.contains_key(HOST_NAME) {
        return None;
    }
    all.insert(HOST_NAME.to_owned(), identity.name().into());
    Some(document(&all))
}

#[cfg(test)]
mod tests {
    use super::{Identity, IdentityError, meta_data, renamed};
    use crate::seed::keys::parse;

    const UUID: &str = "5ae2a4f5-8d24-4a2e-9f6b-0a7b1c2d3e4f";
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH joe";

    #[test]
    fn names_are_host_names_and_uuids_are_hexadecimal() {
        let identity = Identity::new("web1.example.org", UUID).unwrap();
        assert_eq!((identity.name(), identity.uuid()), ("web1.example.org", UUID));
        for name in ["", ".", "a..b", "-a", "a-.b", "a b", "a\nb", "caf\u{e9}", &"a".repeat(254)] {
            assert_eq!(Identity::new(name, UUID), Err(IdentityError::Name), "{name}");
        }
        for uuid in ["", "x", "5ae2 ", &"a".repeat(65)] {
            assert_eq!(Identity::new("web1", uuid), Err(IdentityError::Uuid), "{uuid}");
        }
    }

    #[test]
    fn a_name_that_linux_does_not_take_as_a_whole_is_told() {
        let warning = |len: usize| {
            let name = format!("{}.org", "a".repeat(len - 4));
            Identity::new(&name, UUID).unwrap().warning()
        };
        assert_eq!(warning(64), None);
        assert!(warning(65).unwrap().starts_with("the instance's name has 65 characters, and a host name in Linux 64"));
    }

    #[test]
    fn the_serial_is_the_uuids() {
        let serial = |name, uuid| Identity::new(name, uuid).unwrap().volume_serial();
        assert_eq!(serial("a", UUID), serial("b", UUID));
        assert_ne!(serial("a", UUID), serial("a", "5ae2a4f5-8d24-4a2e-9f6b-0a7b1c2d3e50"));
    }

    fn identity(name: &str) -> Identity {
        Identity::new(name, UUID).unwrap()
    }

    #[test]
    fn golden() {
        let keys = parse(format!("{KEY}\n{KEY} again\n").as_bytes()).unwrap();
        let expected = format!(
            "{{\n  \"instance-id\": \"{UUID}\",\n  \"local-hostname\": \"web1.example.org\",\n  \"public-keys\": [\n    \"{KEY}\"\n  ]\n}}\n"
        );
        assert_eq!(String::from_utf8(meta_data(&identity("web1.example.org"), keys)).unwrap(), expected);
        let without = String::from_utf8(meta_data(&identity("web1"), [])).unwrap();
        assert!(!without.contains("public-keys"), "{without}");
    }

    #[test]
    fn a_rename_changes_the_name_and_nothing_else() {
        let keys = || parse(KEY.as_bytes()).unwrap();
        let old = meta_data(&identity("web1.example.org"), keys());
        let new = renamed(&old, &identity("db1.example.org")).unwrap();
        assert_eq!(new, meta_data(&identity("db1.example.org"), keys()));
        let other = Identity::new("db1", "0").unwrap();
        let none = [renamed(&old, &other), renamed(b"instance-id: x\n", &other), renamed(b"{}", &other)];
        assert_eq!(none, [None, None, None]);
    }
}
