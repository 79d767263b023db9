// SPDX-License-Identifier: BSD-2-Clause
//! RangeReader of an image at its server, wherever they lie: what stands at an archive's end can be read without the rest.

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

/// What is asked for at once, in bytes: the index of an archive of thousands of blocks.
const PIECE: u64 = 64 << 10;

/// Requests at most: an archive that needs more was made to keep us busy.
const MAX_REQUESTS: u32 = 64;

/// One version of an image at its server, to be read at any place.
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
    /// The last piece, and where it begins.
    last: Option<(u64, Vec<u8>)>,
}

impl<'c> RangeReader<'c> {
    /// Of the image that `content` is the answer with; none where its server does not say how long it is, or gives nothing
    /// that tells this version from another.
    pub(crate) fn of(content: &Content, url: &'c ImageUrl, client: &'c Client, report: &'c Report) -> Option<Self> {
        Some(Self::new(content.content_length?, content.validator.clone()?, url, client, report))
    }

    /// Of the version of `len` bytes that `validator` tells from others.
    pub(crate) fn new(
        len: u64,
        validator: Validator,
        url: &'c ImageUrl,
        client: &'c Client,
        report: &'c Report,
    ) -> Self {
        RangeReader { client, url, report, len, validator, state: Mutex::default() }
    }

    /// The piece that `offset` lies in, and where it begins. Nothing begins at 0: that would be the whole image. It is asked
    /// for once: a server that knows no ranges won't learn them.
    fn piece(&self, offset: u64) -> Result<(u64, Vec<u8>), HttpError> {
        let last = self.len.saturating_sub(PIECE);
        let from = if offset < last { offset - offset % PIECE } else { last }.max(1);
        let rest = RangeRequest { from, total: Some(self.len), validator: self.validator.clone() };
        let answer = self.client.attempts(self.url, self.report).get(&Conditions::default(), Some(&rest))?;
        Ok((from, self.receive(answer, from)?))
    }

    /// As much of the answer as a piece has. The rest of it never comes: the connection is closed.
    fn receive(&self, answer: Response, from: u64) -> Result<Vec<u8>, HttpError> {
        let reason = "it sent the whole image instead of a part";
        let mut content = match answer {
            Response::Content(content) if content.start == from => content,
            _ => return Err(HttpError::ResumeRefused { url: self.url.to_string(), reason }),
        };
        let wanted = PIECE.min(self.len - from);
        let mut piece = vec![0; usize::try_from(wanted).unwrap_or_default()];
        let mut there = 0;
        while there < piece.len() {
            match content.body.receive(&mut piece[there..])? {
                // The body takes an early end for an error.
                0 => break,
                count => there += count,
            }
        }
        piece.truncate(there);
        Ok(piece)
    }
}

impl FileExt for RangeReader<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset == 0 || offset >= self.len || buf.is_empty() {
            return if offset == 0 { Err(ErrorKind::Unsupported.into()) } else { Ok(0) };
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |last: &&(u64, Vec<u8>)| (last.0..last.0 + last.1.len() as u64).contains(&offset);
        if state.last.as_ref().filter(holds).is_none() {
            if state.requests >= MAX_REQUESTS {
                return Err(io::Error::other("it would take too many requests"));
            }
            state.requests += 1;
            let piece = self.piece(offset);
            if let Err(error) = &piece {
                state.requests = MAX_REQUESTS;
                self.report.debug(format_args!("no part of the image is to be had by itself: {error}"));
            }
            state.last = Some(piece.map_err(io::Error::other)?);
        }
        let Some((start, piece)) = &state.last else { return Ok(0) };
        let there = usize::try_from(offset - start).ok().and_then(|at| piece.get(at..)).unwrap_or_default();
        let count = there.len().min(buf.len());
        buf[..count].copy_from_slice(&there[..count]);
        Ok(count)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }
}
