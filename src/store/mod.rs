// SPDX-License-Identifier: BSD-2-Clause
//! Where images come from and where they are kept: HTTP, the cache, signatures.

pub mod cache;
pub mod http;
pub mod signature;
