// SPDX-License-Identifier: BSD-2-Clause
//! Reading a download while it grows: the disk is written before the network is done.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::store::http::Validator;

/// One download, as its reader sees it. Both sides share it; each may go away at any time.
#[derive(Default)]
pub(crate) struct SharedDownload {
    state: Mutex<State>,
    changed: Condvar,
}

/// What a server says of an image before it sends it.
#[derive(Debug, Clone, Default)]
pub(crate) struct DownloadInfo {
    /// Its length in bytes.
    pub(crate) length: Option<u64>,
    /// What tells this version of it from every other.
    pub(crate) validator: Option<Validator>,
}

#[derive(Default)]
struct State {
    /// The download's file and what the server said of it, once the first bytes may come.
    part: Option<(File, DownloadInfo)>,
    /// Bytes of it that are there.
    available: u64,
    /// How many of them belong to earlier files, and what the server promised for this one.
    attempt: (u64, Option<u64>),
    /// Files begun: with a second one the bytes may be another image's. An attempt that goes on with a cut one adds none.
    attempts: u32,
    /// Set at the end: whether the file is whole.
    whole: Option<bool>,
    abandoned: bool,
    /// The reader was told that the download failed or began again.
    lost: bool,
}

impl SharedDownload {
    /// Waits until there is something to read; none when there never will be: the image was kept already, or the
    /// download failed before.
    pub(crate) fn reader(&self) -> io::Result<Option<DownloadReader<'_>>> {
        let mut state = self.wait_while(|state| state.part.is_none() && state.whole.is_none());
        let Some((file, promise)) = state.part.take() else { return Ok(None) };
        Ok(Some(DownloadReader { follow: self, file, promise, at: 0 }))
    }

    /// How many bytes of the image are there, and how many the server promised.
    pub(crate) fn progress(&self) -> (u64, Option<u64>) {
        let state = self.state();
        (state.available - state.attempt.0, state.attempt.1)
    }

    /// Whether it was the download that stopped the reader: what it read says nothing about the image.
    pub(crate) fn lost(&self) -> bool {
        self.state().lost
    }

    /// The reader has no use for the rest: a download that has not ended yet does so with an error.
    pub(crate) fn abandon(&self) {
        let mut state = self.state();
        state.abandoned = state.whole.is_none();
    }

    /// Whether the reader gave up before the download ended.
    pub(crate) fn abandoned(&self) -> bool {
        self.state().abandoned
    }

    /// An attempt begins; its bytes come to be in `part`, and `available` of them are there already.
    pub(super) fn begin(&self, part: &File, promise: DownloadInfo, available: u64) -> io::Result<()> {
        let (part, length) = (part.try_clone()?, promise.length);
        let mut state = self.state();
        state.attempts += 1;
        if state.attempts == 1 {
            state.part = Some((part, promise));
            state.available = available;
        }
        state.attempt = (state.available.saturating_sub(available), length);
        self.changed.notify_all();
        Ok(())
    }

    /// `count` more bytes are there; gives whether anybody still wants more.
    pub(super) fn advance(&self, count: usize) -> bool {
        let mut state = self.state();
        state.available += count as u64;
        self.changed.notify_all();
        !state.abandoned
    }

    /// Nothing more comes. What is said first counts.
    pub(super) fn end(&self, whole: bool) {
        self.state().whole.get_or_insert(whole);
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, condition: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        self.changed.wait_while(self.state(), |state| condition(state)).unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of a download in their order; waits for those that have not come yet. Its end is the end of a download
/// whose length was right; any other end is an error.
pub(crate) struct DownloadReader<'f> {
    follow: &'f SharedDownload,
    file: File,
    promise: DownloadInfo,
    at: u64,
}

impl DownloadReader<'_> {
    /// What the server said of the image.
    pub(crate) fn info(&self) -> &DownloadInfo {
        &self.promise
    }
}

impl Read for DownloadReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let at = self.at;
        let mut state =
            self.follow.wait_while(|state| state.available <= at && state.whole.is_none() && state.attempts == 1);
        if state.attempts > 1 || state.whole == Some(false) {
            state.lost = true;
            return Err(io::Error::other("the download failed or began again"));
        }
        let available = state.available - at;
        drop(state);
        let len = usize::try_from(available).unwrap_or(buf.len()).min(buf.len());
        // All of it is there; only the end of the download is an end.
        self.file.read_exact_at(&mut buf[..len], at)?;
        self.at += len as u64;
        Ok(len)
    }
}

/// Ends the download for its reader, however the downloading side leaves.
pub(super) struct EndOnDrop<'f>(pub(super) &'f SharedDownload);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end(false);
    }
}

#[cfg(test)]
mod tests {
    use super::{DownloadInfo, EndOnDrop, SharedDownload};
    use std::io::{Read, Write};
    use std::thread;

    #[test]
    fn every_byte_arrives_in_order() {
        let data: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let follow = SharedDownload::default();
        let mut part = tempfile::tempfile().unwrap();
        thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut all = Vec::new();
                let mut reader = follow.reader().unwrap().unwrap();
                assert_eq!(reader.info().length, Some(data.len() as u64));
                reader.read_to_end(&mut all).map(|_| all)
            });
            // An earlier run left the first bytes.
            let (early, late) = data.split_at(100_000);
            part.write_all(early).unwrap();
            let promise = DownloadInfo { length: Some(data.len() as u64), validator: None };
            follow.begin(&part, promise, 100_000).unwrap();
            for piece in late.chunks(7777) {
                part.write_all(piece).unwrap();
                assert!(follow.advance(piece.len()));
            }
            follow.end(true);
            assert!(reading.join().unwrap().unwrap() == data);
        });
    }

    #[test]
    fn a_download_that_fails_or_restarts_is_an_error_and_one_that_never_begins_is_nothing() {
        let file = tempfile::tempfile().unwrap();
        let read =
            |follow: &SharedDownload| follow.reader().unwrap().unwrap().read(&mut [0; 8]).unwrap_err().to_string();
        let failed = SharedDownload::default();
        failed.begin(&file, DownloadInfo::default(), 0).unwrap();
        drop(EndOnDrop(&failed));
        assert_eq!(read(&failed), "the download failed or began again");
        assert!(failed.lost());
        let restarted = SharedDownload::default();
        restarted.begin(&file, DownloadInfo::default(), 0).unwrap();
        restarted.begin(&file, DownloadInfo::default(), 0).unwrap();
        assert_eq!(read(&restarted), "the download failed or began again");
        assert!(restarted.lost());
        let kept = SharedDownload::default();
        kept.end(true);
        assert!(kept.reader().unwrap().is_none());
        let left = SharedDownload::default();
        left.abandon();
        assert!(!left.advance(1));
    }
}
