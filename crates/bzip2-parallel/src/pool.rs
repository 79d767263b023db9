// SPDX-License-Identifier: BSD-2-Clause
//! The threads that decode blocks.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::Fault;
use super::block::{Decoded, Decoder};
use super::runs::Expanded;
use super::scan::Piece;

/// A block to decode. Its buffers go round.
struct Job {
    piece: Piece,
    block: Expanded,
    reply: SyncSender<Outcome>,
}

/// What became of a job.
pub(super) struct Outcome {
    pub(super) piece: Piece,
    pub(super) block: Expanded,
    pub(super) result: Result<Decoded, Fault>,
}

/// A job that was given to a thread.
pub(super) struct Pending(Receiver<Outcome>);

impl Pending {
    /// Waits until it is done.
    pub(super) fn wait(self) -> io::Result<Outcome> {
        // The only reason is that the thread panicked.
        self.0.recv().map_err(|_gone| io::Error::other("a thread that decodes bzip2 died"))
    }
}

/// Threads that are started as there is work for them, and end with the pool.
pub(super) struct Pool {
    max_threads: usize,
    threads: Vec<JoinHandle<()>>,
    /// None once the pool ends.
    jobs: Option<Sender<Job>>,
    queue: Arc<Mutex<Receiver<Job>>>,
    stop: Arc<AtomicBool>,
}

impl Pool {
    pub(super) fn new(max_threads: usize) -> Self {
        let (jobs, queue) = channel();
        Pool {
            max_threads,
            threads: Vec::new(),
            jobs: Some(jobs),
            queue: Arc::new(Mutex::new(queue)),
            stop: Arc::default(),
        }
    }

    /// Decodes `piece` to `block`, whose content is replaced.
    pub(super) fn decode(&mut self, piece: Piece, block: Expanded) -> io::Result<Pending> {
        if self.threads.len() < self.max_threads {
            let (queue, stop) = (Arc::clone(&self.queue), Arc::clone(&self.stop));
            let thread = thread::Builder::new().name("bzip2".to_owned()).spawn(move || work(&queue, &stop))?;
            self.threads.push(thread);
        }
        let (reply, outcome) = sync_channel(1);
        if let Some(jobs) = &self.jobs {
            // The queue lives as long as the pool.
            let _ = jobs.send(Job { piece, block, reply });
        }
        Ok(Pending(outcome))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.jobs.take());
        for thread in self.threads.drain(..) {
            // A panic was reported to whoever waited for the job.
            let _ = thread.join();
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>, stop: &AtomicBool) {
    let mut decoder = Decoder::new();
    loop {
        // Nothing panics that holds the lock.
        let Ok(queue) = queue.lock() else { return };
        let job = queue.recv();
        drop(queue);
        let Ok(Job { piece, mut block, reply }) = job else { return };
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let result = decoder.decode(piece.bits(), &mut block);
        // The reader may be gone.
        let _ = reply.send(Outcome { piece, block, result });
    }
}

#[cfg(test)]
mod tests {
    use super::{Pending, Piece, Pool, sync_channel};
    use crate::Fault;
    use crate::runs::Expanded;

    #[test]
    fn a_thread_that_panicked_is_an_error() {
        let (reply, outcome) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            let _reply = reply;
            panic!("on purpose");
        });
        let error = Pending(outcome).wait().err().unwrap();
        assert_eq!(error.to_string(), "a thread that decodes bzip2 died");
        assert!(thread.join().is_err());
    }

    #[test]
    fn no_more_threads_than_jobs_or_allowed() {
        let mut pool = Pool::new(2);
        for threads in [1, 2, 2] {
            let piece = Piece { end: 64, bytes: vec![0; 16], ..Piece::default() };
            let outcome = pool.decode(piece, Expanded::default()).unwrap().wait().unwrap();
            assert!(matches!(outcome.result, Err(Fault::Corrupt(_))));
            assert_eq!(pool.threads.len(), threads);
        }
    }
}
