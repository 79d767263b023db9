// SPDX-License-Identifier: BSD-2-Clause
//! Where images come from and where they are kept: HTTP, the cache, signatures.

pub mod cache;
pub mod http;
pub mod signature;

/// Returns `bytes`, mostly those of a hash, as lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
