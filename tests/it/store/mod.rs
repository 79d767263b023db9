// SPDX-License-Identifier: BSD-2-Clause
//! Where images come from and are kept.

mod cache;
mod http;
mod real_servers;
mod signature;
