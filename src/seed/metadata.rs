// SPDX-License-Identifier: BSD-2-Clause
//! meta-data: who the instance is, and whose keys open it.

use serde::Serialize;
use serde_json::{Map, Value};

use super::identity::Identity;
use super::json;
use super::keys::{Key, unique};

/// The key that a rename changes.
const HOST_NAME: &str = "local-hostname";
/// The key with the SSH keys.
pub(super) const KEYS: &str = "public-keys";

#[derive(Serialize)]
struct MetaData<'m> {
    #[serde(rename = "instance-id")]
    instance_id: &'m str,
    #[serde(rename = "local-hostname")]
    local_hostname: &'m str,
    #[serde(rename = "public-keys", skip_serializing_if = "Vec::is_empty")]
    public_keys: Vec<String>,
}

/// The file `meta-data`. A rename keeps the id, so that cloud-init does not take the instance for a new one; a clone,
/// which has another UUID, gets a first boot of its own.
pub(crate) fn meta_data(identity: &Identity, keys: impl IntoIterator<Item = Key>) -> Vec<u8> {
    json::document(&MetaData {
        instance_id: identity.uuid(),
        local_hostname: identity.name(),
        public_keys: unique(keys).iter().map(Key::line).collect(),
    })
}

/// `meta_data`, which [`meta_data`] wrote, with the name of `identity` in it and nothing else changed; none when it is
/// another one's: not of this form, or not for this instance.
pub(crate) fn renamed(meta_data: &[u8], identity: &Identity) -> Option<Vec<u8>> {
    let mut all: Map<String, Value> = serde_json::from_slice(meta_data).ok()?;
    if all.get("instance-id")? != identity.uuid() || !all.contains_key(HOST_NAME) {
        return None;
    }
    all.insert(HOST_NAME.to_owned(), identity.name().into());
    Some(json::document(&all))
}

#[cfg(test)]
mod tests {
    use super::{meta_data, renamed};
    use crate::seed::Identity;
    use crate::seed::keys::parse;

    const UUID: &str = "5ae2a4f5-8d24-4a2e-9f6b-0a7b1c2d3e4f";
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH joe";

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
