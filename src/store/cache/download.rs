// SPDX-License-Identifier: BSD-2-Clause
//! Downloads one image into the entry's part file, in as many attempts as the settings allow.

use std::os::unix::fs::FileExt;

use serde_json::json;

use super::Clock;
use super::access::Requester;
use super::entry::{Entry, EntryFiles};
use super::error::CacheError;
use super::partial_download::PartialDownload;
use super::room::Room;
use super::shared_download::SharedDownload;
use super::sidecar::Sidecar;
use crate::node::report::Report;
use crate::node::size::ByteSize;
use crate::store::http::{Attempts, Client, Conditions, Content, HttpError, ImageUrl, Response};

/// Bytes by which an image is compared with the cached one. A new version of an image mostly has another length, and
/// else another identifier in its first blocks.
const PROBE: usize = 1 << 20;

/// The result of a request to the server.
pub(super) enum Outcome {
    /// The part file holds the complete image and is synced.
    Complete(Sidecar),
    /// The cached image is current.
    NotModified {
        /// Where the server redirected to.
        redirects: Vec<ImageUrl>,
    },
    /// What the server sends is as long as the cached image and begins as it does. No more of it was received.
    Alike,
}

/// A download to the part file of `files`. The caller holds the entry's lock alone.
pub(super) struct Download<'a> {
    pub(super) files: &'a EntryFiles,
    pub(super) url: &'a ImageUrl,
    pub(super) client: &'a Client,
    pub(super) report: &'a Report,
    pub(super) clock: Clock,
    pub(super) shared: &'a SharedDownload,
    pub(super) requester: &'a Requester<'a>,
    pub(super) room: &'a Room<'a>,
    /// The cached image, if only another one is wanted.
    pub(super) unlike: Option<&'a Entry>,
}

impl<'a> Download<'a> {
    /// Downloads the image if `conditions` hold. Resumes what an earlier run left, and tries again after transient
    /// failures. A failed download stays if it can be resumed.
    pub(super) fn run(&self, conditions: &Conditions) -> Result<Outcome, CacheError> {
        let mut part = PartialDownload::left_by_earlier_run(self.files, self.clock, self.requester, self.report);
        let mut attempts = self.client.attempts(self.url, self.report);
        loop {
            match self.attempt(&mut part, &attempts, conditions) {
                Err(CacheError::Http(error)) if attempts.retry(&error) => {
                    part = part.filter(|_| !matches!(error, HttpError::ResumeRefused { .. }));
                }
                Err(error) => {
                    let left = match part {
                        Some(part) if is_worth_keeping_after(&error) => part.leave(),
                        _ => self.files.discard_part().map(|()| 0),
                    };
                    // A failure to keep it is not told, because the failure of the download matters more.
                    if let Some(bytes) = left.ok().filter(|bytes| *bytes > 0) {
                        self.report.info(resumable_text(self.url, bytes));
                    }
                    return Err(error);
                }
                done => return done,
            }
        }
    }

    fn attempt(
        &self,
        part: &mut Option<PartialDownload<'a>>,
        attempts: &Attempts,
        conditions: &Conditions,
    ) -> Result<Outcome, CacheError> {
        let range = part.as_ref().and_then(PartialDownload::missing_range);
        let mut content = match attempts.get(conditions, range.as_ref())? {
            Response::NotModified { redirects } => {
                // That the rest of an old download stays is no reason not to use the image.
                let _ = self.files.discard_part();
                return Ok(Outcome::NotModified { redirects });
            }
            Response::Content(content) => content,
        };
        if let Some(cached) = self.unlike.filter(|_| conditions.is_empty())
            && is_alike(cached, &mut content)?
        {
            let _ = self.files.discard_part();
            return Ok(Outcome::Alike);
        }
        let complete = self.receive(part, &mut content)?;
        if complete.length() == 0 {
            *part = None;
            return Err(CacheError::Empty { url: self.url.to_string() });
        }
        complete.finish(self.url.to_string(), self.requester).map(Outcome::Complete)
    }

    /// Receives the body. It is appended to `part` if it is the rest of that. After an error `part` holds what has come.
    fn receive(
        &self,
        part: &mut Option<PartialDownload<'a>>,
        content: &mut Content,
    ) -> Result<PartialDownload<'a>, CacheError> {
        let mut current = match part.take() {
            Some(mut cut) if content.start > 0 => {
                cut.resume(content);
                cut
            }
            _ => PartialDownload::begin(self.files, self.clock, content, self.requester)?,
        };
        self.report_start(content);
        let received = current.reserve(self.room).and_then(|()| current.receive(content, self.shared, self.room));
        if let Err(error) = received {
            *part = Some(current);
            return Err(error);
        }
        // The body had its promised length. So the reader may finish while this thread waits for the disk.
        self.shared.end(current.length() > 0);
        Ok(current)
    }

    fn report_start(&self, content: &Content) {
        let url = self.url;
        let message = match (content.content_length, content.start) {
            (Some(length), 0) => format!("downloading {url} ({})", ByteSize(length)),
            (None, 0) => format!("downloading {url}"),
            (length, start) => {
                let missing = length.unwrap_or_default().saturating_sub(start);
                let (start, missing) = (ByteSize(start), ByteSize(missing));
                format!("going on with the download of {url}: {start} are there, {missing} missing")
            }
        };
        let (bytes, start) = (content.content_length, content.start);
        let fields = json!({ "image": url.to_string(), "cache": "miss", "bytes": bytes, "start": start });
        self.report.event("download", fields, message);
    }
}

/// Whether `content` is as long as the cached image and begins as it does. A server without validators can't be asked
/// whether its image is another one. To receive all of it only to find that it is the same would cost a download each
/// time that somebody gives a wrong checksum.
fn is_alike(cached: &Entry, content: &mut Content) -> Result<bool, CacheError> {
    if content.start > 0 || content.content_length != Some(cached.sidecar.length) {
        return Ok(false);
    }
    let (mut received, mut kept, mut buffer) = (Vec::new(), vec![0; PROBE], vec![0; PROBE]);
    while received.len() < PROBE {
        let count = content.body.receive(&mut buffer[..PROBE - received.len()])?;
        let is_same = cached.file.read_exact_at(&mut kept[..count], received.len() as u64).is_ok()
            && kept[..count] == buffer[..count];
        received.extend_from_slice(&buffer[..count]);
        if !is_same {
            content.body.give_back(received);
            return Ok(false);
        }
        if count == 0 {
            break;
        }
    }
    Ok(true)
}

/// The message that another run can resume the download.
pub(super) fn resumable_text(url: &ImageUrl, bytes: u64) -> String {
    format!("{} of {url} are kept: the next run goes on from there", ByteSize(bytes))
}

/// Whether the network caused `error`, and not the image, the disk or the reader.
fn is_worth_keeping_after(error: &CacheError) -> bool {
    match error {
        CacheError::Http(HttpError::ResumeRefused { .. }) => false,
        CacheError::Http(error) => error.is_unavailable(),
        _ => false,
    }
}
