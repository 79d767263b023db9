// SPDX-License-Identifier: BSD-2-Clause
//! How far a run is, shown beside its work.
//!
//! It is drawn where the work is done: the confined worker inherits the terminal, and a thread beside its work looks
//! at the counters of the download, the decoder or the writer. Of qemu-img it is what `-p` says.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::node::run::Run;

/// How often it is looked how far the work is.
const POLL: Duration = Duration::from_millis(100);

/// A thread that shows how far something is, until this is dropped. It runs in the process that does the work: the
/// confined one has the terminal open too.
pub(super) struct Watch {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Shows what `position` gives (bytes done, and bytes in all where that is known), if anybody is there to look. What is
    /// done is called `doing`.
    pub(super) fn start(
        run: &Run,
        doing: &'static str,
        position: impl Fn() -> (u64, Option<u64>) + Send + 'static,
    ) -> Self {
        let Some(progress) = run.progress.clone() else { return Watch { end: None, thread: None } };
        let (end, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            progress.begin(doing);
            while ended.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
                let (done, all) = position();
                progress.update(done, all);
            }
            progress.finish();
        });
        Watch { end: Some(end), thread: Some(thread) }
    }
}

/// Bytes that are counted as they are read.
pub(super) struct Counted<R> {
    bytes: R,
    done: Arc<AtomicU64>,
}

impl<R: Read> Counted<R> {
    pub(super) fn new(bytes: R) -> Self {
        Counted { bytes, done: Arc::default() }
    }

    /// How many were read, counted on.
    pub(super) fn done(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.done)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(buf)?;
        self.done.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end = None;
        // It has nothing to say but what it showed.
        self.thread.take().map(JoinHandle::join);
    }
}
