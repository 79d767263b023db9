// SPDX-License-Identifier: BSD-2-Clause
//! Fetching over HTTP and HTTPS.

mod settings;
mod url;

pub use settings::{Credentials, HttpSettings, Secret};
pub use url::{ImageUrl, UrlError};
