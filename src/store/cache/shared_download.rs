// SPDX-License-Identifier: BSD-2-Clause
//! Reading a download while it grows, so that the disk is written before the network is done.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::store::http::Validator;

/// A download that its writer and its reader share. Each side may stop at any time.
#[derive(Default)]
pub(crate) struct SharedDownload {
    state: Mutex<State>,
    changed: Condvar,
}

/// What a server says of an image before it sends it.
#[derive(Debug, Clone, Default)]
pub(crate) struct DownloadInfo {
    /// Length in bytes.
    pub(crate) length: Option<u64>,
    /// Tells this version of the image from every other.
    pub(crate) validator: Option<Validator>,
}

#[derive(Default)]
struct State {
    /// The file of the download, once bytes may come.
    part: Option<(File, DownloadInfo)>,
    /// Bytes that can be read.
    available: u64,
    /// Number of files. With a second one the bytes may be another image's. A resumed download keeps its file.
    files: u32,
    /// How many of the `available` bytes belong to earlier files.
    earlier: u64,
    /// Length of the current file's image.
    length: Option<u64>,
    /// Set at the end: whether the file is complete.
    complete: Option<bool>,
    abandoned: bool,
    /// The reader got the error that the download failed or began again.
    lost: bool,
}

impl SharedDownload {
    /// Waits for the first bytes, and gives a reader. It is none if there is no download: the image is in the cache, or
    /// the download failed before.
    pub(crate) fn reader(&self) -> io::Result<Option<DownloadReader<'_>>> {
        let mut state = self.wait_while(|state| state.part.is_none() && state.complete.is_none());
        let Some((file, info)) = state.part.take() else { return Ok(None) };
        Ok(Some(DownloadReader { shared: self, file, info, at: 0 }))
    }

    /// Bytes of the image received, and the length that the server promised.
    pub(crate) fn progress(&self) -> (u64, Option<u64>) {
        let state = self.state();
        (state.available - state.earlier, state.length)
    }

    /// Whether the download stopped the reader. Then the reader's error says nothing about the image.
    pub(crate) fn lost(&self) -> bool {
        self.state().lost
    }

    /// Called by the reader when it needs no more bytes. A download that has not ended yet then ends with an error.
    pub(crate) fn abandon(&self) {
        let mut state = self.state();
        state.abandoned = state.complete.is_none();
    }

    /// Whether the reader stopped before the download ended.
    pub(crate) fn abandoned(&self) -> bool {
        self.state().abandoned
    }

    /// Starts a file. Its bytes come into `part`, which has `available` bytes already.
    pub(super) fn begin(&self, part: &File, info: DownloadInfo, available: u64) -> io::Result<()> {
        let (part, length) = (part.try_clone()?, info.length);
        let mut state = self.state();
        state.files += 1;
        if state.files == 1 {
            state.part = Some((part, info));
            state.available = available;
        }
        (state.earlier, state.length) = (state.available.saturating_sub(available), length);
        self.changed.notify_all();
        Ok(())
    }

    /// Adds `count` bytes, and tells whether anybody still wants more.
    pub(super) fn advance(&self, count: usize) -> bool {
        let mut state = self.state();
        state.available += count as u64;
        self.changed.notify_all();
        !state.abandoned
    }

    /// Ends the download. Only the first call counts.
    pub(super) fn end(&self, complete: bool) {
        self.state().complete.get_or_insert(complete);
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, condition: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        self.changed.wait_while(self.state(), |state| condition(state)).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the bytes of a download in their order, and waits for those that have not come yet. It ends with the download,
/// if that has the right length. Any other end is an error.
pub(crate) struct DownloadReader<'s> {
    shared: &'s SharedDownload,
    file: File,
    info: DownloadInfo,
    at: u64,
}

impl<'s> DownloadReader<'s> {
    pub(crate) fn info(&self) -> &DownloadInfo {
        &self.info
    }

    /// Returns what reads any place of the download. It is none if the server told no length.
    pub(crate) fn file(&self) -> io::Result<Option<DownloadFile<'s>>> {
        let Some(len) = self.info.length else { return Ok(None) };
        Ok(Some(DownloadFile { shared: self.shared, file: self.file.try_clone()?, len }))
    }
}

impl Read for DownloadReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let at = self.at;
        let mut state =
            self.shared.wait_while(|state| state.available <= at && state.complete.is_none() && state.files == 1);
        if state.files > 1 || state.complete == Some(false) {
            state.lost = true;
            return Err(lost());
        }
        let available = state.available - at;
        drop(state);
        // At the end of a complete download `available` is 0, which ends the reader too.
        let len = usize::try_from(available).unwrap_or(buf.len()).min(buf.len());
        self.file.read_exact_at(&mut buf[..len], at)?;
        self.at += len as u64;
        Ok(len)
    }
}

/// The file of a download, whose bytes come in their order.
pub(crate) struct DownloadFile<'s> {
    shared: &'s SharedDownload,
    file: File,
    len: u64,
}

impl DownloadFile<'_> {
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Returns the length that the server told, in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Waits until the file has its first `end` bytes. Any other end of the download is an error, and so is [`Self::stop`].
    pub(crate) fn wait_for(&self, end: u64) -> io::Result<()> {
        let is_short = |state: &State| state.available < end && state.complete.is_none() && !state.abandoned;
        let mut state = self.shared.wait_while(|state| is_short(state) && state.files == 1);
        if state.files == 1 && state.available >= end {
            return Ok(());
        }
        if state.complete == Some(true) && state.files == 1 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        state.lost |= state.files > 1 || state.complete == Some(false);
        Err(lost())
    }

    /// Ends each thread that waits for bytes, and the download, because its bytes are of no use. One that began again goes on.
    pub(crate) fn stop(&self) {
        if !self.shared.lost() {
            self.shared.abandon();
        }
        self.shared.changed.notify_all();
    }
}

fn lost() -> io::Error {
    io::Error::other("the download failed or began again")
}

/// Ends the download for its reader, no matter how the writer returns.
pub(super) struct EndOnDrop<'s>(pub(super) &'s SharedDownload);

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
        let shared = SharedDownload::default();
        let mut part = tempfile::tempfile().unwrap();
        thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut all = Vec::new();
                let mut reader = shared.reader().unwrap().unwrap();
                assert_eq!(reader.info().length, Some(data.len() as u64));
                reader.read_to_end(&mut all).map(|_| all)
            });
            // An earlier run left the first bytes.
            let (early, late) = data.split_at(100_000);
            part.write_all(early).unwrap();
            let promise = DownloadInfo { length: Some(data.len() as u64), validator: None };
            shared.begin(&part, promise, 100_000).unwrap();
            for piece in late.chunks(7777) {
                part.write_all(piece).unwrap();
                assert!(shared.advance(piece.len()));
            }
            shared.end(true);
            assert!(reading.join().unwrap().unwrap() == data);
        });
    }

    #[test]
    fn a_download_that_fails_or_restarts_is_an_error_and_one_that_never_begins_is_nothing() {
        let file = tempfile::tempfile().unwrap();
        let read =
            |shared: &SharedDownload| shared.reader().unwrap().unwrap().read(&mut [0; 8]).unwrap_err().to_string();
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
