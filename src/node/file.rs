// SPDX-License-Identifier: BSD-2-Clause
//! Opens a file whose path somebody else chose. Opening alone can have an effect: a FIFO lets its writer go on, a
//! terminal may block, and `/dev/watchdog` reboots the node. So the type of the file is checked before it is opened,
//! and the path is looked up only once.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Returns the path under which this process, and a child that inherits the descriptor, opens the same file again.
pub fn descriptor_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Returns the device and the inode number, by which the same file is known under another name (inode(7)).
pub(crate) fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// A file that was found and not opened: O_PATH in open(2).
#[derive(Debug)]
pub(crate) struct FoundFile(File);

impl From<File> for FoundFile {
    /// Takes a file that was opened with O_PATH elsewhere.
    fn from(found: File) -> Self {
        FoundFile(found)
    }
}

impl FoundFile {
    /// Finds the file at `path`. Links are followed.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).map(FoundFile)
    }

    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }

    /// Returns the found file, which `/sys` and `/proc` can be asked about.
    pub(crate) fn as_file(&self) -> &File {
        &self.0
    }

    /// Opens the found file, even if its path leads to another one by now.
    pub(crate) fn open(&self, options: &OpenOptions) -> io::Result<File> {
        options.open(descriptor_path(&self.0))
    }

    /// Opens the found file for reading.
    ///
    /// # Errors
    /// Fails with "not a regular file" before anything else is opened.
    pub(crate) fn open_regular(&self) -> io::Result<File> {
        if !self.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        self.open(OpenOptions::new().read(true))
    }
}

/// Opens the regular file at `path` for reading, as [`FoundFile::open_regular`] does.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    FoundFile::at(path)?.open_regular()
}

#[cfg(test)]
mod tests {
    use super::open_regular;
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    use nix::sys::stat::Mode;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, link) = (dir.path().join("fifo"), dir.path().join("link"));
        nix::unistd::mkfifo(&fifo, Mode::S_IRUSR).unwrap();
        symlink(&fifo, &link).unwrap();
        let opened = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        opened.add_watch(&fifo, AddWatchFlags::IN_OPEN).unwrap();
        for path in [&fifo, &link] {
            assert_eq!(open_regular(path).unwrap_err().to_string(), "not a regular file");
        }
        assert!(opened.read_events().is_err(), "the FIFO was opened");
    }

    #[test]
    fn a_regular_file_is_opened_by_its_path_or_by_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "content").unwrap();
        symlink("file", &link).unwrap();
        for path in [&file, &link] {
            let mut content = String::new();
            open_regular(path).unwrap().read_to_string(&mut content).unwrap();
            assert_eq!(content, "content");
        }
        assert_eq!(open_regular(&dir.path().join("none")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }
}
