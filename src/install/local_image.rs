// SPDX-License-Identifier: BSD-2-Clause
//! An image that is a file of the node: opened, and watched while it is read. One that somebody writes is no image yet.
//!
//! This is the script's business, for the worker can't see what others have open. Images of the cache are not
//! watched: their folder is root's alone, and whoever publishes one there puts a whole new file into its place.

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

/// What was changed so short a time ago may be a copy that is only pausing, as one over a slow network does.
const RECENT: Duration = Duration::from_secs(5);

/// Why an image is not read, or was read in vain.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnsteadyImage {
    /// Somebody can write to it.
    #[error("image {image} is open for writing: {user}")]
    Written {
        /// The image.
        image: String,
        /// Who, and the way out.
        user: String,
    },
    /// It is not what it was.
    #[error("image {image} changed while it was read: {how} (is somebody writing a new one there?)")]
    Changed {
        /// The image.
        image: String,
        /// What shows it.
        how: String,
    },
    /// It can't be looked at.
    #[error("looking at image {image}")]
    Look {
        /// The image.
        image: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl UnsteadyImage {
    fn changed(image: &StoredImage, how: String) -> Self {
        UnsteadyImage::Changed { image: image.name().to_owned(), how }
    }
}

/// Opens an image on the node, which `policy` allows if there is one; no byte of it is read here. Waits until nobody can
/// write to it, and only then takes its length: a copy that is just finished grows until then.
pub(super) fn open_local(path: &Path, policy: Option<&LocalPolicy>) -> anyhow::Result<StoredImage> {
    let mut image = match policy {
        Some(policy) => StoredImage::open_allowed(path, policy)?,
        None => StoredImage::open(path)?,
    };
    refuse_writers(&image)?;
    image.measure()?;
    Ok(image)
}

/// An image that is being read.
pub(super) struct ImageWatch<'i> {
    image: &'i StoredImage,
    before: State,
}

impl<'i> ImageWatch<'i> {
    /// Of an image that has settled, before the first byte is read. As long as the image is open no qemu starts to write to it.
    pub(super) fn begin(image: &'i StoredImage, now: SystemTime, report: &Report) -> Result<Self, UnsteadyImage> {
        let before = State::of(image)?;
        // It was settled. Whoever has written since had it open for too short a time to be seen.
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

    /// When all was read: an error unless the image is as it was, and nobody has begun to write it.
    pub(super) fn end(&self) -> Result<(), UnsteadyImage> {
        match State::of(self.image)?.difference(&self.before) {
            Some(how) => Err(UnsteadyImage::changed(self.image, how)),
            None => refuse_writers(self.image),
        }
    }
}

/// An error if somebody can write to the image.
fn refuse_writers(image: &StoredImage) -> Result<(), UnsteadyImage> {
    match device::find_writer(image.file()) {
        Some(user) => Err(UnsteadyImage::Written { image: image.name().to_owned(), user }),
        None => Ok(()),
    }
}

/// What tells of a change. Times are seconds and nanoseconds since 1970.
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

    /// A device's node keeps no times of its bytes.
    fn of_device(device: &File) -> io::Result<Self> {
        let len = io::Seek::seek(&mut &*device, io::SeekFrom::End(0))?;
        Ok(State { len, written: (0, 0), changed: (0, 0), names: 0 })
    }

    /// How long ago it was written, if that is not long. The time of its last change would also tell of a new name or
    /// mode, which leave its bytes alone. What seems to come only tells of a clock that was set.
    fn age(&self, now: SystemTime) -> Option<Duration> {
        let (seconds, nanoseconds) = self.written;
        let since = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?);
        let age = now.duration_since(UNIX_EPOCH.checked_add(since)?).ok()?;
        (age < RECENT).then_some(age)
    }

    /// What of it is no longer as it was `before`. Whoever sets a file's times can't set that of its last change.
    fn difference(&self, before: &Self) -> Option<String> {
        if self.len != before.len {
            return Some(format!("its size was {} and is {}", ByteSize(before.len), ByteSize(self.len)));
        }
        let how = match () {
            () if self.written != before.written => "it was written to",
            () if self.names < before.names => "another file took its place, or it was removed",
            () if self != before => "its attributes were changed, as by one that writes it and hides that",
            () => return None,
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
        // The clock was set back, or is now.
        assert_eq!(age(STATE, 500_000), None);
        assert_eq!(age(State { written: (-5, 0), changed: (0, 0), ..STATE }, 60_000), None);
    }
}
