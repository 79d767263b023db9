// SPDX-License-Identifier: BSD-2-Clause
//! What several tests need.

pub(crate) mod disk;
pub(crate) mod gpg;
pub(crate) mod images;
pub(crate) mod log;
pub(crate) mod processes;
pub(crate) mod proxy;
pub(crate) mod server;
pub(crate) mod tls;
pub(crate) mod tmpfs;
pub(crate) mod watched;
pub(crate) mod world;

/// Writes a file that only its owner can read.
pub(crate) fn save_private(path: &std::path::Path, content: &str) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

/// `len` bytes that no compression or block boundary makes alike, the same for the same `seed`.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}
