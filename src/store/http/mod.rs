// SPDX-License-Identifier: BSD-2-Clause
//! Fetching over HTTP and HTTPS.
//!
//! ureq speaks HTTP; what is decided here is whom to ask, what may be said to whom, when to try again, and what counts
//! as the image. The bytes are never decoded: a `.gz` that a server labels `Content-Encoding: gzip` arrives as it is.

mod allow;
mod certificate;
mod client;
mod error;
mod exchange;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod netrc;
mod no_proxy;
mod pem;
mod pieces;
mod private;
mod proxy;
mod request;
mod resolver;
mod response;
mod rest;
mod retry;
mod secure;
mod settings;
mod small;
mod tls;
mod url;
pub(crate) mod values;

pub use allow::UrlPrefix;
pub use client::Client;
pub use error::HttpError;
pub(crate) use pieces::Pieces;
pub use request::Conditions;
pub use response::{Body, Content, Response};
pub(crate) use rest::{Rest, Validator};
pub use retry::{Attempts, Backoff};
pub use settings::{Credentials, HttpSettings, Secret};
pub use url::{ImageUrl, UrlError};
