// SPDX-License-Identifier: BSD-2-Clause
//! Reports an installation: what it is going to do and what it did in the node's log, and its progress on a terminal.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::job::{Job, SeedWish};
use crate::disk::write::{Wipe, Written};
use crate::image::stored::StoredImage;
use crate::node::report::Report;
use crate::node::run::Run;
use crate::node::size::ByteSize;

/// The time between two updates of the progress.
const POLL: Duration = Duration::from_millis(100);

/// The place from which an image was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Origin {
    Node,
    Cache,
    Download,
}

impl Origin {
    pub(super) fn of(image: &StoredImage) -> Self {
        match image.download() {
            None => Origin::Node,
            Some(download) if download.hit => Origin::Cache,
            Some(_) => Origin::Download,
        }
    }
}

/// The result of an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Summary {
    pub(super) origin: Origin,
    /// The size of the disk in the image, in bytes.
    pub(super) len: u64,
    /// The bytes that were written. `None` after qemu-img, which does not tell.
    pub(super) written: Option<Written>,
    /// The time from the first byte written until everything was on stable storage.
    pub(super) writing: Duration,
}

/// Reports which image will be installed onto which disk.
pub(super) fn tell_start(job: &Job, report: &Report) {
    let Job { instance, variant, image, disk, .. } = job;
    let (version, disk) = (env!("CARGO_PKG_VERSION"), disk.display());
    let fields = json!({ "version": version, "image": image.to_string(), "disk": disk.to_string() });
    let message = format_args!(
        "version {version}: installing instance {instance} (variant {variant}) from image {image} onto disk {disk}"
    );
    report.event("start", fields, message);
    for (path, known) in &job.mistyped_names {
        let path = path.display();
        report
            .warn(format_args!("nothing reads {path} (rename it to {known} if that is meant, else to something else)"));
    }
    job.no_effect.iter().for_each(|words| report.warn(words));
}

/// Reports what was done. `took` is the time that the whole run took.
pub(super) fn tell_end(job: &Job, done: &Summary, took: Duration, report: &Report) {
    let fields = json!({
        "image": job.image.to_string(),
        "cache": match done.origin {
            Origin::Node => None,
            Origin::Cache => Some("hit"),
            Origin::Download => Some("miss"),
        },
        "bytes": done.len,
        "data_bytes": done.written.map(|written| written.data),
        "zero_bytes": done.written.map(|written| written.zeros),
        "write_seconds": done.writing.as_secs_f64(),
        "seconds": took.as_secs_f64(),
    });
    report.event("done", fields, format_args!("done in {}: {done}", seconds(took)));
}

/// Reports what is going to be done. `size` is the size of the disk in bytes.
pub(super) fn tell_plan(job: &Job, size: u64, report: &Report) {
    let fields = json!({ "reinstall": job.reinstall, "disk_bytes": size });
    report.event("plan", fields, plan(job, size));
}

/// Describes the plan of `job` for a disk of `size` bytes in words.
fn plan(job: &Job, size: u64) -> String {
    let Job { expected, checks, write, seed, reinstall, .. } = job;
    let instance = if *reinstall { "reinstall onto" } else { "new instance with" };
    let declared = expected.image_type.map_or_else(|| "auto".to_owned(), |image_type| image_type.to_string());
    let wipe = if write.wipe == Wipe::Full { String::new() } else { format!(", wipe {}", write.wipe.name()) };
    let readback = if write.verify_readback { ", read back" } else { "" };
    let seed = if matches!(seed, SeedWish::Given(_)) { ", first-boot seed" } else { "" };
    let disk = ByteSize(size);
    format!("{instance} a disk of {disk}; declared type {declared}, {checks}{wipe}{readback}{seed}")
}

/// Formats a time for people who read the log.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { origin, len, written, writing } = self;
        let origin = match origin {
            Origin::Node => "a file on the node",
            Origin::Cache => "a cache hit",
            Origin::Download => "a cache miss",
        };
        write!(f, "a disk image of {} ({origin})", ByteSize(*len))?;
        let all = match written {
            Some(Written { data, zeros }) => {
                write!(
                    f,
                    ", {} of data and {} of zeros written",
                    ByteSize(*data).rounded(),
                    ByteSize(*zeros).rounded()
                )?;
                data.saturating_add(*zeros)
            }
            None => {
                f.write_str(", written by qemu-img")?;
                *len
            }
        };
        let rate = u128::from(all) * 1000 / writing.as_millis().max(1);
        let rate = ByteSize(u64::try_from(rate).unwrap_or(u64::MAX)).rounded();
        write!(f, " in {} ({rate}/s)", seconds(*writing))
    }
}

/// A thread that shows progress until this value is dropped.
///
/// It runs in the process that does the work, because a worker has the terminal open too. It reads the counters of
/// the download, the decoder or the writer. The progress of qemu-img comes from its option `-p`.
pub(super) struct ProgressDisplay {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ProgressDisplay {
    /// Starts to show the progress that `position` returns: the bytes done, and the total where it is known. Shows
    /// nothing if nobody watches. `doing` is the name of the activity.
    pub(super) fn start(
        run: &Run,
        doing: &'static str,
        position: impl Fn() -> (u64, Option<u64>) + Send + 'static,
    ) -> Self {
        let Some(progress) = run.progress.clone() else { return ProgressDisplay { end: None, thread: None } };
        let (end, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            progress.begin(doing);
            while ended.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
                let (done, all) = position();
                progress.update(done, all);
            }
            progress.finish();
        });
        ProgressDisplay { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        self.end = None;
        // The thread returns nothing, and an error in it does not matter to the work.
        self.thread.take().map(JoinHandle::join);
    }
}

/// A reader that counts the bytes that are read from it.
pub(super) struct Counted<R> {
    bytes: R,
    done: Arc<AtomicU64>,
}

impl<R: Read> Counted<R> {
    pub(super) fn new(bytes: R) -> Self {
        Counted { bytes, done: Arc::default() }
    }

    /// Returns the counter, which keeps growing while bytes are read.
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

#[cfg(test)]
mod tests {
    use super::{Origin, Summary};
    use crate::disk::write::Written;
    use std::time::Duration;

    #[test]
    fn it_reads_as_a_sentence() {
        let written = Some(Written { data: 3 << 20, zeros: 5 << 20 });
        let summary = Summary { origin: Origin::Cache, len: 4 << 20, written, writing: Duration::from_millis(500) };
        let words = "a disk image of 4 MiB (a cache hit), 3 MiB of data and 5 MiB of zeros written in 0.5 s (16 MiB/s)";
        assert_eq!(summary.to_string(), words);
        let summary = Summary { origin: Origin::Node, written: None, writing: Duration::ZERO, ..summary };
        let words = "a disk image of 4 MiB (a file on the node), written by qemu-img in 0.0 s (3.90 GiB/s)";
        assert_eq!(summary.to_string(), words);
    }
}
