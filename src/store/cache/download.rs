// SPDX-License-Identifier: BSD-2-Clause
//! One image from the network to the entry's `.part` file, in as many attempts as it takes.

use serde_json::json;

use super::Clock;
use super::entry::{EntryFiles, Sidecar};
use super::error::CacheError;
use super::partial_download::PartialDownload;
use super::shared_download::SharedDownload;
use crate::node::report::Report;
use crate::node::size::ByteSize;
use crate::store::http::{Attempts, Client, Conditions, Content, HttpError, ImageUrl, Response};

/// What came of asking the server.
pub(super) enum Outcome {
    /// `.part` holds the image, complete and on the disk. The sidecar's times are not set yet.
    Complete(Sidecar),
    /// The kept image is current.
    NotModified,
}

/// A download to the `.part` file of `files`. The caller holds the entry's lock alone.
pub(super) struct Download<'a> {
    pub(super) files: &'a EntryFiles,
    pub(super) url: &'a ImageUrl,
    pub(super) client: &'a Client,
    pub(super) report: &'a Report,
    pub(super) clock: Clock,
    pub(super) follow: &'a SharedDownload,
}

impl<'a> Download<'a> {
    /// Downloads the image if `conditions` hold, going on with what an earlier run left, and again after transient
    /// failures. What can be gone on from stays when it fails.
    pub(super) fn run(&self, conditions: &Conditions) -> Result<Outcome, CacheError> {
        let mut part = PartialDownload::left_by_earlier_run(self.files, self.clock, self.report);
        let mut attempts = self.client.attempts(self.url, self.report);
        loop {
            match self.attempt(&mut part, &attempts, conditions) {
                Err(CacheError::Http(error)) if attempts.retry(&error) => {
                    part = part.filter(|_| !matches!(error, HttpError::ResumeRefused { .. }));
                }
                Err(error) => {
                    // The failure of the download is what has to be told.
                    let kept = match part {
                        Some(part) if can_go_on_after(&error) => part.leave(),
                        _ => self.files.discard_part().map(|()| 0),
                    };
                    self.tell_kept(kept.unwrap_or_default());
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
        let rest = part.as_ref().and_then(PartialDownload::rest);
        let mut content = match attempts.get(conditions, rest.as_ref())? {
            Response::NotModified => {
                self.files.discard_part()?;
                return Ok(Outcome::NotModified);
            }
            Response::Content(content) => content,
        };
        let whole = self.receive(part, &mut content)?;
        if whole.length() == 0 {
            *part = None;
            return Err(CacheError::Empty { url: self.url.to_string() });
        }
        whole.finish(self.url.to_string()).map(Outcome::Complete)
    }

    /// Takes in the body, behind what is there where it is the rest of that; gives the whole image.
    fn receive(
        &self,
        part: &mut Option<PartialDownload<'a>>,
        content: &mut Content,
    ) -> Result<PartialDownload<'a>, CacheError> {
        let mut current = match part.take() {
            Some(mut cut) if content.start > 0 => {
                cut.go_on(content);
                cut
            }
            _ => PartialDownload::begin(self.files, self.clock, content)?,
        };
        self.tell(content);
        let received = current.reserve().and_then(|()| current.receive(content, self.follow));
        if let Err(error) = received {
            *part = Some(current);
            return Err(error);
        }
        // The body had its promised length: who reads along may finish while the rest waits for the disk.
        self.follow.end(current.length() > 0);
        Ok(current)
    }

    fn tell_kept(&self, bytes: u64) {
        if bytes > 0 {
            self.report.info(kept_words(self.url, bytes));
        }
    }

    fn tell(&self, content: &Content) {
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

/// That another run goes on where this one ends.
pub(super) fn kept_words(url: &ImageUrl, bytes: u64) -> String {
    format!("{} of {url} are kept: the next run goes on from there", ByteSize(bytes))
}

/// Whether the bytes that came before `error` are worth keeping: it was the network that failed, not the image, the disk
/// or the reader.
fn can_go_on_after(error: &CacheError) -> bool {
    match error {
        CacheError::Http(HttpError::ResumeRefused { .. }) => false,
        CacheError::Http(error) => error.is_unavailable(),
        _ => false,
    }
}
