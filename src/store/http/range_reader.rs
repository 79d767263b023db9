// SPDX-License-Identifier: BSD-2-Clause
//! Reads any place of an image at its server with range requests, for example the index at the end of an archive.

use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use super::client::Client;
use super::error::HttpError;
use super::request::Conditions;
use super::response::{Content, Response};
use super::resume::{RangeRequest, Validator};
use super::url::ImageUrl;
use crate::node::report::Report;

/// Bytes per request. The index of an archive with thousands of blocks fits.
const BLOCK: u64 = 64 << 10;

/// An archive that needs more requests was made to waste our time.
const MAX_REQUESTS: u32 = 64;

/// One version of an image at its server. The first byte can't be read, because a request for it would get the whole
/// image.
pub(crate) struct RangeReader<'c> {
    client: &'c Client,
    url: &'c ImageUrl,
    report: &'c Report,
    len: u64,
    validator: Validator,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    requests: u32,
    last: Option<Block>,
}

struct Block {
    offset: u64,
    bytes: Vec<u8>,
}

impl<'c> RangeReader<'c> {
    /// A reader of the image of which `content` is the answer. It is none where the server gives no length, or nothing
    /// that tells this version from others.
    pub(crate) fn of(content: &Content, url: &'c ImageUrl, client: &'c Client, report: &'c Report) -> Option<Self> {
        Some(Self::new(content.content_length?, content.validator.clone()?, url, client, report))
    }

    /// A reader of the version that `validator` tells from others and that has `len` bytes.
    pub(crate) fn new(
        len: u64,
        validator: Validator,
        url: &'c ImageUrl,
        client: &'c Client,
        report: &'c Report,
    ) -> Self {
        RangeReader { client, url, report, len, validator, state: Mutex::default() }
    }

    /// Requests the block with `offset`. There are no retries, because a server without ranges will not learn them.
    fn request(&self, offset: u64) -> Result<Block, HttpError> {
        let last = self.len.saturating_sub(BLOCK);
        let from = if offset < last { offset - offset % BLOCK } else { last }.max(1);
        let range = RangeRequest { from, total: Some(self.len), validator: self.validator.clone() };
        let answer = self.client.attempts(self.url, self.report).get(&Conditions::default(), Some(&range))?;
        let bytes = self.receive(answer, from)?;
        Ok(Block { offset: from, bytes })
    }

    /// Reads one block of the answer. Then the connection is closed, and the rest of the image never comes.
    fn receive(&self, answer: Response, from: u64) -> Result<Vec<u8>, HttpError> {
        let reason = "it sent the whole image instead of a part";
        let mut content = match answer {
            Response::Content(content) if content.start == from => content,
            _ => return Err(HttpError::ResumeRefused { url: self.url.to_string(), reason }),
        };
        let wanted = BLOCK.min(self.len - from);
        let mut bytes = vec![0; usize::try_from(wanted).unwrap_or_default()];
        let mut filled = 0;
        while filled < bytes.len() {
            // The body takes an early end for an error, so that this ends.
            filled += content.body.receive(&mut bytes[filled..])?;
        }
        Ok(bytes)
    }
}

impl FileExt for RangeReader<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset == 0 {
            return Err(ErrorKind::Unsupported.into());
        }
        if offset >= self.len || buf.is_empty() {
            return Ok(0);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = state.last.as_ref().and_then(|block| block.read_at(buf, offset)) {
            return Ok(count);
        }
        if state.requests >= MAX_REQUESTS {
            return Err(io::Error::other("it would take too many requests"));
        }
        state.requests += 1;
        match self.request(offset) {
            Ok(block) => {
                let count = block.read_at(buf, offset).unwrap_or_default();
                state.last = Some(block);
                Ok(count)
            }
            Err(error) => {
                state.requests = MAX_REQUESTS;
                self.report.debug(format_args!("the server gives no part of the image by itself: {error}"));
                Err(io::Error::other(error))
            }
        }
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }
}

impl Block {
    /// Copies bytes from `offset` on, if the block has that offset.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Option<usize> {
        let start = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        let found = self.bytes.get(start..).filter(|found| !found.is_empty())?;
        let count = found.len().min(buf.len());
        buf[..count].copy_from_slice(&found[..count]);
        Some(count)
    }
}
