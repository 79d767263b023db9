// SPDX-License-Identifier: BSD-2-Clause
//! Fetching over HTTP and HTTPS.
//!
//! ureq speaks HTTP. These modules decide which server is asked, which secrets it gets, when to try again, and what counts
//! as the image. The bytes are never decoded: a `.gz` that a server labels `Content-Encoding: gzip` arrives as it is.

mod agent;
mod certificate;
pub(crate) mod client;
mod deadline;
mod error;
mod means;
pub(crate) mod netrc;
pub(crate) mod no_proxy;
mod proxy;
mod range_reader;
mod request;
mod resolver;
mod response;
mod resume;
pub(crate) mod retry;
mod secret_file;
mod settings;
mod tls;
mod tls_transport;
mod transport_error;
mod url;
pub(crate) mod values;

pub use client::{Attempts, Client};
pub use error::HttpError;
pub(crate) use means::{Means, Trust};
pub(crate) use range_reader::RangeReader;
pub use request::Conditions;
pub use response::{Body, Content, Response};
pub(crate) use resume::{RangeRequest, Validator};
pub use retry::Backoff;
pub use settings::{Credentials, HttpSettings, Secret};
pub use url::{ImageUrl, UrlError, UrlPrefix};
