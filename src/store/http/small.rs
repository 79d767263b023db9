// SPDX-License-Identifier: BSD-2-Clause
//! Small files: an image's checksums and signatures, and what an instance reads at its first boot.

use super::client::Client;
use super::error::HttpError;
use super::request::Conditions;
use super::response::{Content, Response};
use super::retry::Attempts;
use super::url::ImageUrl;
use crate::node::report::Report;
use crate::node::size::{ByteSize, MIB};

/// Far more than any SUMS file or signature has, in bytes: what a server sends must not fill the memory. It is also what a
/// file of the first boot may have.
const LIMIT: u64 = MIB;

impl Client {
    /// All of a file of at most 1 MiB, asked for again after transient failures. It is never kept.
    pub(crate) fn fetch_small(&self, url: &ImageUrl, report: &Report) -> Result<Vec<u8>, HttpError> {
        let mut attempts = self.attempts(url, report);
        loop {
            match receive(&attempts, url) {
                Err(error) if attempts.retry(&error) => {}
                done => return done,
            }
        }
    }
}

fn receive(attempts: &Attempts<'_>, url: &ImageUrl) -> Result<Vec<u8>, HttpError> {
    match attempts.get(&Conditions::default(), None)? {
        Response::Content(content) => all_of(*content, url),
        // The client refuses a 304 that nobody asked for.
        Response::NotModified => Ok(Vec::new()),
    }
}

fn all_of(mut content: Content, url: &ImageUrl) -> Result<Vec<u8>, HttpError> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = content.body.receive(&mut buffer)?;
        if count == 0 {
            return Ok(all);
        }
        all.extend_from_slice(&buffer[..count]);
        if all.len() as u64 > LIMIT {
            return Err(HttpError::TooLarge { url: url.to_string(), limit: ByteSize(LIMIT) });
        }
    }
}
