// SPDX-License-Identifier: BSD-2-Clause
//! The types of public SSH keys.

/// The types of keys that OpenSSH takes for logins (ssh-keygen(1)), and how many strings follow the type in each
/// (RFC 4253, section 6.6; RFC 5656; RFC 8709; PROTOCOL.u2f). ssh-dss is left out: OpenSSH has refused it since 2015.
pub(super) const TYPES: [(&str, usize); 7] = [
    ("ssh-ed25519", 1),
    ("ssh-rsa", 2),
    ("ecdsa-sha2-nistp256", 2),
    ("ecdsa-sha2-nistp384", 2),
    ("ecdsa-sha2-nistp521", 2),
    ("sk-ssh-ed25519@openssh.com", 2),
    ("sk-ecdsa-sha2-nistp256@openssh.com", 3),
];

/// Whether `word` is the type of a key, also of one that is not taken.
pub(super) fn is_type(word: &str) -> bool {
    TYPES.iter().any(|(name, _)| *name == word) || word == "ssh-dss" || word.ends_with("-cert-v01@openssh.com")
}
