// SPDX-License-Identifier: BSD-2-Clause
//! What an installation tells in the node's log: what it is going to do, and at its end what it did.

use std::fmt;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::job::{Job, SeedWish};
use crate::disk::write::{Wipe, Written};
use crate::node::report::Report;
use crate::node::size::ByteSize;

/// Bytes of a [`Summary`] on its way to another process.
const LEN: usize = 5 * 8;

/// Where the image came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Node,
    Cache,
    Download,
}

/// What an installation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) origin: Origin,
    /// Size of the disk in the image, in bytes.
    pub(super) len: u64,
    /// Not known of what qemu-img writes.
    pub(super) written: Option<Written>,
    /// From the first byte written until all of it was on stable storage.
    pub(super) writing: Duration,
}

/// Which image is meant for which disk.
pub(super) fn tell_start(job: &Job, report: &Report) {
    let Job { instance, variant, image, disk, .. } = job;
    let (version, disk) = (env!("CARGO_PKG_VERSION"), disk.display());
    let fields = json!({ "version": version, "image": image.to_string(), "disk": disk.to_string() });
    let message = format_args!(
        "version {version}: installing instance {instance} (variant {variant}) from image {image} onto disk {disk}"
    );
    report.event("start", fields, message);
    for (path, known) in &job.nearly_read {
        let path = path.display();
        report.warn(format_args!("{path} is read by nothing (is {known} meant? else call it something else)"));
    }
    job.no_effect.iter().for_each(|words| report.warn(words));
}

/// What was done, all of it in the time `took`.
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

/// What is going to be done, once the disk's `size` in bytes is known.
pub(super) fn tell_plan(job: &Job, size: u64, report: &Report) {
    let fields = json!({ "reinstall": job.reinstall, "disk_bytes": size });
    report.event("plan", fields, plan(job, size));
}

/// All that `job` says of the image, and the disk's `size` in bytes, in words.
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

/// A time as people read it in a log.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

impl Summary {
    pub(super) fn to_bytes(self) -> [u8; LEN] {
        // No disk has so many bytes.
        let (data, zeros) = self.written.map_or((u64::MAX, u64::MAX), |written| (written.data, written.zeros));
        let millis = u64::try_from(self.writing.as_millis()).unwrap_or(u64::MAX);
        let mut bytes = [0; LEN];
        let numbers = [self.origin as u64, self.len, data, zeros, millis];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// The summary at the beginning of `bytes`, and what is behind it.
    pub(super) fn split_from(bytes: &[u8]) -> anyhow::Result<(Self, &[u8])> {
        let (own, rest) = bytes.split_first_chunk::<LEN>().context("the working process gave no answer")?;
        let mut numbers = own.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number));
        let mut next = || numbers.next().unwrap_or_default();
        let origin = [Origin::Node, Origin::Cache, Origin::Download].into_iter().nth(usize::try_from(next())?);
        let (origin, len, data, zeros) =
            (origin.context("the working process gave a wrong answer")?, next(), next(), next());
        let written = (data != u64::MAX).then_some(Written { data, zeros });
        Ok((Summary { origin, len, written, writing: Duration::from_millis(next()) }, rest))
    }
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
                write!(f, ", {} of data and {} of zeros", ByteSize(*data).rounded(), ByteSize(*zeros).rounded())?;
                data.saturating_add(*zeros)
            }
            None => {
                f.write_str(", by qemu-img,")?;
                *len
            }
        };
        let rate = u128::from(all) * 1000 / writing.as_millis().max(1);
        let rate = ByteSize(u64::try_from(rate).unwrap_or(u64::MAX)).rounded();
        write!(f, " written in {} ({rate}/s)", seconds(*writing))
    }
}

#[cfg(test)]
mod tests {
    use super::{Origin, Summary};
    use crate::disk::write::Written;
    use std::time::Duration;

    #[test]
    fn a_summary_is_the_same_in_another_process() {
        for origin in [Origin::Node, Origin::Cache, Origin::Download] {
            for written in [None, Some(Written { data: 0, zeros: 7 })] {
                let summary = Summary { origin, len: 1 << 40, written, writing: Duration::from_millis(1234) };
                let bytes = [&summary.to_bytes()[..], b"rest"].concat();
                assert_eq!(Summary::split_from(&bytes).unwrap(), (summary, &b"rest"[..]));
            }
        }
        assert!(Summary::split_from(&[0; 39]).is_err() && Summary::split_from(&[9; 40]).is_err());
    }

    #[test]
    fn it_reads_as_a_sentence() {
        let written = Some(Written { data: 3 << 20, zeros: 5 << 20 });
        let summary = Summary { origin: Origin::Cache, len: 4 << 20, written, writing: Duration::from_millis(500) };
        let words = "a disk image of 4 MiB (a cache hit), 3 MiB of data and 5 MiB of zeros written in 0.5 s (16 MiB/s)";
        assert_eq!(summary.to_string(), words);
        let summary = Summary { origin: Origin::Node, written: None, writing: Duration::ZERO, ..summary };
        let words = "a disk image of 4 MiB (a file on the node), by qemu-img, written in 0.0 s (3.90 GiB/s)";
        assert_eq!(summary.to_string(), words);
    }
}
