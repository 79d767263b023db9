// SPDX-License-Identifier: BSD-2-Clause
//! Opens an image that is a file on the node, and watches it while it is read. A file that somebody writes is not an
//! image yet.
//!
//! The script does this, because the worker can't see the files that other processes have open. Images in the cache
//! are not watched: only root can write to their folder, and the cache always replaces an image by a whole new file.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::disk::device;
use crate::image::policy::LocalPolicy;
use crate::image::stored::StoredImage;
use crate::node::report::Report;
use crate::node::size::ByteSize;

/// A file that was changed this short a time ago may be the target of a copy that only pauses, as one over a slow
/// network does.
const RECENT: Duration = Duration::from_secs(5);

/// The reason why an image is not read, or why what was read is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnsteadyImage {
    #[error("image {image} is open for writing: {user}")]
    Written {
        image: String,
        /// The process or device that has the image open, and what to do about it.
        user: String,
    },
    #[error("image {image} changed while it was read: {how} (is somebody writing a new one there?)")]
    Changed {
        image: String,
        /// The attribute of the file that changed.
        how: String,
    },
    #[error("looking at image {image}")]
    Look { image: String, source: io::Error },
}

impl UnsteadyImage {
    fn changed(image: &StoredImage, how: String) -> Self {
        UnsteadyImage::Changed { image: image.name().to_owned(), how }
    }
}

/// Opens an image on the node without reading any of it. If there is a `policy`, then it must allow the image.
///
/// The length is read after the check that nobody can write to the file, because a copy that is about to end grows
/// the file until then.
pub(super) fn open_local(path: &Path, policy: Option<&LocalPolicy>, report: &Report) -> anyhow::Result<StoredImage> {
    let mut image = match policy {
        Some(policy) => StoredImage::open_allowed(path, policy)?,
        None => StoredImage::open(path)?,
    };
    // The members of a device's group could write to it anyway, and it is listed by its name.
    if let Some(policy) = policy.filter(|_| image.file().metadata().is_ok_and(|data| data.is_file()))
        && let Some(reason) = policy.other_writers(Path::new(image.name()))?
    {
        report.info(format_args!("image {} could be written by others: {reason}", image.name()));
    }
    refuse_writers(&image)?;
    image.measure()?;
    Ok(image)
}

/// Watches an image while it is read.
pub(super) struct ImageWatch<'i> {
    image: &'i StoredImage,
    before: State,
}

impl<'i> ImageWatch<'i> {
    /// Begins to watch an image that nobody can write to, before its first byte is read. As long as we have the image
    /// open, qemu does not start to write to it.
    pub(super) fn begin(image: &'i StoredImage, now: SystemTime, report: &Report) -> Result<Self, UnsteadyImage> {
        let before = State::of(image)?;
        // Nobody had it open for writing when it was opened. A process that has changed it since then had it open for
        // too short a time to be seen.
        let opened = State { len: image.size(), ..before };
        if let Some(how) = before.difference(&opened) {
            return Err(UnsteadyImage::changed(image, how));
        }
        if let Some(age) = before.age(now) {
            let (name, age) = (image.name(), age.as_secs());
            report.warn(format_args!(
                "image {name} was changed {age} s ago: if it was not whole then, neither is what is installed"
            ));
        }
        Ok(ImageWatch { image, before })
    }

    /// Ends the watch after everything was read. Fails if the image changed, or if somebody can write to it now.
    pub(super) fn end(&self) -> Result<(), UnsteadyImage> {
        match State::of(self.image)?.difference(&self.before) {
            Some(how) => Err(UnsteadyImage::changed(self.image, how)),
            None => refuse_writers(self.image),
        }
    }
}

/// Fails if somebody can write to the image.
fn refuse_writers(image: &StoredImage) -> Result<(), UnsteadyImage> {
    match device::find_writer(image.file()) {
        Some(user) => Err(UnsteadyImage::Written { image: image.name().to_owned(), user }),
        None => Ok(()),
    }
}

/// The attributes that show a change of a file. Times are seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    len: u64,
    written: (i64, i64),
    changed: (i64, i64),
    names: u64,
}

impl State {
    fn of(image: &StoredImage) -> Result<Self, UnsteadyImage> {
        let look = || -> io::Result<State> {
            let file = image.file();
            let data = file.metadata()?;
            if data.file_type().is_block_device() { State::of_device(file) } else { Ok(State::of_file(&data)) }
        };
        look().map_err(|source| UnsteadyImage::Look { image: image.name().to_owned(), source })
    }

    fn of_file(data: &Metadata) -> Self {
        let (written, changed) = ((data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec()));
        State { len: data.len(), written, changed, names: data.nlink() }
    }

    /// Returns the state of a block device. Its node has no times that tell when its bytes changed.
    fn of_device(device: &File) -> io::Result<Self> {
        let len = io::Seek::seek(&mut &*device, io::SeekFrom::End(0))?;
        Ok(State { len, written: (0, 0), changed: (0, 0), names: 0 })
    }

    /// Returns how long ago the file was written, if that is less than [`RECENT`].
    ///
    /// The time of its last change (ctime) is not used, because a new name or mode also changes it and leaves the
    /// bytes alone. A time in the future is ignored, because it only shows that a clock was set.
    fn age(&self, now: SystemTime) -> Option<Duration> {
        let (seconds, nanoseconds) = self.written;
        let since = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?);
        let age = now.duration_since(UNIX_EPOCH.checked_add(since)?).ok()?;
        if age < RECENT { Some(age) } else { None }
    }

    /// Returns what is different from `before`, in words. A process that sets a file's times can't set the time of
    /// its last change (ctime).
    fn difference(&self, before: &Self) -> Option<String> {
        if self.len != before.len {
            return Some(format!("its size was {} and is {}", ByteSize(before.len), ByteSize(self.len)));
        }
        let how = if self.written != before.written {
            "it was written to"
        } else if self.names < before.names {
            "another file took its place, or it was removed"
        } else if self != before {
            "its attributes were changed, as by one that writes it and hides that"
        } else {
            return None;
        };
        Some(how.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::State;
    use std::time::{Duration, UNIX_EPOCH};

    const STATE: State = State { len: 4096, written: (1000, 5), changed: (2000, 5), names: 1 };

    #[test]
    fn every_change_is_told_by_what_shows_it() {
        let how = |after: State| after.difference(&STATE);
        assert_eq!(how(STATE), None);
        assert_eq!(how(State { len: 8192, ..STATE }).unwrap(), "its size was 4 KiB and is 8 KiB");
        assert_eq!(how(State { written: (1000, 6), changed: (2001, 0), ..STATE }).unwrap(), "it was written to");
        let replaced = State { changed: (2001, 0), names: 0, ..STATE };
        assert_eq!(how(replaced).unwrap(), "another file took its place, or it was removed");
        assert!(how(State { changed: (2000, 6), ..STATE }).unwrap().starts_with("its attributes were changed"));
    }

    #[test]
    fn only_what_changed_in_the_last_seconds_is_recent() {
        let age = |state: State, now| state.age(UNIX_EPOCH + Duration::from_millis(now)).map(|age| age.as_secs());
        assert_eq!(age(STATE, 1_003_500), Some(3));
        assert_eq!(age(STATE, 1_005_500), None);
        // In the first case the clock was set back after the file was written; in the second, the file's time is
        // before 1970.
        assert_eq!(age(STATE, 500_000), None);
        assert_eq!(age(State { written: (-5, 0), changed: (0, 0), ..STATE }, 60_000), None);
    }
}
