// SPDX-License-Identifier: BSD-2-Clause
//! Fetching over HTTP and HTTPS.
//!
//! ureq speaks HTTP; what is decided here is whom to ask, what may be said to whom, when to try again, and what counts
//! as the image. The bytes are never decoded: a `.gz` that a server labels `Content-Encoding: gzip` arrives as it is.

mod allow;
mod certificate;
pub(crate) mod client;
mod error;
pub(crate) mod netrc;
mod no_proxy;
mod pem;
mod proxy;
mod range_reader;
mod request;
mod resolver;
mod response;
mod resume;
mod retry;
mod secret_file;
mod settings;
mod small;
mod tls;
mod tls_transport;
mod transport_error;
mod url;

pub use allow::UrlPrefix;
pub use client::Client;
pub use error::HttpError;
pub(crate) use no_proxy::{NoProxy, NoProxyError};
pub(crate) use range_reader::RangeReader;
pub use request::Conditions;
pub use response::{Body, Content, Response};
pub(crate) use resume::{RangeRequest, Validator};
pub use retry::{Attempts, Backoff};
pub use settings::{Credentials, HttpSettings, Secret};
pub use url::{ImageUrl, UrlError};
