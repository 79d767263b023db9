// SPDX-License-Identifier: BSD-2-Clause
//! Who an instance is: the part of a seed that a rename changes.

use sha2::{Digest as _, Sha256};

/// The longest name that DNS can hold, in bytes (RFC 1035, section 2.3.4, without the length bytes).
const MAX_NAME: usize = 253;
/// More than a UUID has, in bytes.
const MAX_UUID: usize = 64;

/// The longest host name that Linux takes, in bytes (HOST_NAME_MAX, sethostname(2)).
const MAX_HOST_NAME: usize = 64;

/// The instance as Ganeti knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    name: String,
    uuid: String,
}

/// Why a seed can't say who the instance is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum IdentityError {
    /// The name is no host name.
    #[error(
        "the instance's name (INSTANCE_NAME) is not a host name, and its seed needs one (letters, digits, '-' and '.', at most 253; simpleimage install takes another one with --name)"
    )]
    Name,
    /// The UUID is none.
    #[error("INSTANCE_UUID is not a UUID")]
    Uuid,
}

impl Identity {
    /// From `INSTANCE_NAME` and `INSTANCE_UUID`.
    ///
    /// # Errors
    /// [`IdentityError`] for what is not a host name or a UUID.
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

    /// The instance's name: what `local-hostname` says.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What will become of the name that is no error here, if there is such a thing.
    pub(crate) fn warning(&self) -> Option<String> {
        let len = self.name.len();
        (len > MAX_HOST_NAME).then(|| {
            format!(
                "the instance's name has {len} characters, and a host name in Linux {MAX_HOST_NAME} at most: the instance may not get all of it"
            )
        })
    }

    /// The instance's UUID: what `instance-id` says.
    pub(crate) fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The serial number of the FAT volume that holds the instance's seed: the same for the same UUID, so that a
    /// volume is known as the instance's own.
    pub(crate) fn volume_serial(&self) -> u32 {
        let digest = Sha256::digest(self.uuid.as_bytes());
        u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
    }
}

#[cfg(test)]
mod tests {
    use super::{Identity, IdentityError};

    const UUID: &str = "5ae2a4f5-8d24-4a2e-9f6b-0a7b1c2d3e4f";

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
}
