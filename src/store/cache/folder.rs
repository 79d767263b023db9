// SPDX-License-Identifier: BSD-2-Clause
//! The folder of the cache, and operations on its files that follow no symbolic link.
//!
//! Whoever can write to the folder decides what root installs. So a folder that belongs to another user, or that others
//! may write to, is refused, and so is one in a folder where others could put another one in its place.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::CacheError;
use crate::node::trust::untrusted_folder;

/// Backup programs leave out folders with this file: <https://bford.info/cachedir/>.
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This folder holds downloaded images, kept by ganeti-instance-simpleimage.\n";

/// Makes the folder if it is missing, and checks that it can be trusted.
pub(super) fn open(dir: &Path) -> Result<PathBuf, CacheError> {
    // With a slash at its end the path would lead through a symbolic link.
    let dir: PathBuf = dir.components().collect();
    if let Some(found) = untrusted_folder(&dir).map_err(CacheError::io("looking at", &dir))? {
        let reason = found.words(&dir, "what is installed");
        return Err(CacheError::Folder { dir, reason });
    }
    create_dir(&dir).map_err(CacheError::io("creating", &dir))?;
    let metadata = fs::symlink_metadata(&dir).map_err(CacheError::io("looking at", &dir))?;
    match fault(&metadata, nix::unistd::geteuid().as_raw()) {
        Some(reason) => Err(CacheError::Folder { dir, reason }),
        None => Ok(dir),
    }
}

fn create_dir(dir: &Path) -> io::Result<()> {
    if fs::symlink_metadata(dir).is_ok() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        // An existing folder gets no tag, which would hide its owner's files from backups.
        Ok(()) => fs::write(dir.join("CACHEDIR.TAG"), CACHEDIR_TAG),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn fault(metadata: &Metadata, user: u32) -> Option<String> {
    let mode = metadata.mode() & 0o7777;
    if metadata.is_symlink() {
        Some("it is a symbolic link".to_owned())
    } else if !metadata.is_dir() {
        Some("it is not a folder".to_owned())
    } else if metadata.uid() != user {
        Some(format!("it belongs to user {}, not to user {user}", metadata.uid()))
    } else if mode & 0o022 != 0 {
        Some(format!("others may write to it (mode {mode:04o})"))
    } else {
        None
    }
}

/// Bytes that may be written to the file system of `dir` without the reserve for root, if the system tells.
pub(super) fn free_space(dir: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    stat.blocks_available().checked_mul(stat.fragment_size())
}

/// Bytes that the file system of `dir` has in all, if the system tells.
pub(super) fn total_space(dir: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    stat.blocks().checked_mul(stat.fragment_size())
}

/// Makes the names in `dir` survive a power cut.
pub(super) fn sync(dir: &Path) -> Result<(), CacheError> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(CacheError::io("syncing", dir))
}

/// Creates an empty file for reading and writing, or empties the file that is there.
pub(super) fn create_file(path: &Path) -> Result<File, CacheError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path).map_err(CacheError::io("creating", path))
}

/// Opens a file for reading, and for writing if asked for; none if there is no file.
pub(super) fn open_file(path: &Path, write: bool) -> Result<Option<File>, CacheError> {
    match OpenOptions::new().read(true).write(write).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CacheError::io("opening", path)(error)),
    }
}

/// Metadata of a regular file; none for anything else, which the cache never makes.
pub(super) fn regular_file(path: &Path) -> Option<Metadata> {
    fs::symlink_metadata(path).ok().filter(Metadata::is_file)
}

/// Removes a file if there is one.
pub(super) fn remove(path: &Path) -> Result<(), CacheError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CacheError::io("removing", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a regular file if there is one.
pub(super) fn remove_regular(path: &Path) -> Result<(), CacheError> {
    if regular_file(path).is_some() { remove(path) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::{fault, open};
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    fn refusal(dir: &Path) -> String {
        open(dir).unwrap_err().to_string()
    }

    #[test]
    fn a_missing_folder_is_made_for_us_alone() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("a/b");
        assert_eq!(open(&dir).unwrap(), dir);
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, 0o700);
        assert!(fs::read_to_string(dir.join("CACHEDIR.TAG")).unwrap().starts_with("Signature: 8a477f597d28d1"));
        open(&dir).unwrap();
    }

    #[test]
    fn an_existing_folder_is_left_as_it_is() {
        let base = tempfile::tempdir().unwrap();
        open(base.path()).unwrap();
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_others_control_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("cache");
        fs::create_dir(&dir).unwrap();
        for (mode, shown) in [(0o770, "0770"), (0o707, "0707"), (0o1777, "1777")] {
            fs::set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
            let expected = format!("cache folder {}: others may write to it (mode {shown})", dir.display());
            assert_eq!(refusal(&dir), expected);
        }
        let metadata = fs::metadata(base.path()).unwrap();
        let (owner, user) = (metadata.uid(), metadata.uid() + 1);
        assert_eq!(fault(&metadata, user), Some(format!("it belongs to user {owner}, not to user {user}")));
    }

    #[test]
    fn a_folder_that_others_can_exchange_is_refused_and_not_made() {
        let base = tempfile::tempdir().unwrap();
        let (shared, link) = (base.path().join("shared"), base.path().join("link"));
        fs::create_dir(&shared).unwrap();
        std::os::unix::fs::symlink(&shared, &link).unwrap();
        for mode in [0o775, 0o757] {
            fs::set_permissions(&shared, Permissions::from_mode(mode)).unwrap();
            for folder in [&shared, &link] {
                let (dir, shown) = (folder.join("a/cache"), shared.display());
                let reason = format!("the mode {mode:04o} of {shown} lets others write what is installed");
                let way_out = "(check it, then chmod go-w)";
                assert_eq!(refusal(&dir), format!("cache folder {}: {reason} {way_out}", dir.display()));
                assert_eq!(fs::read_dir(&shared).unwrap().count(), 0);
            }
        }
        fs::set_permissions(&shared, Permissions::from_mode(0o1777)).unwrap();
        open(&link.join("cache")).unwrap();
        open(&link.join("cache")).unwrap();
    }

    #[test]
    fn what_is_not_a_folder_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let (link, file) = (base.path().join("link"), base.path().join("file"));
        std::os::unix::fs::symlink(base.path(), &link).unwrap();
        fs::write(&file, "").unwrap();
        let expected = format!("cache folder {}: it is a symbolic link", link.display());
        assert_eq!(refusal(&link), expected);
        assert_eq!(refusal(&link.join("")), expected);
        assert_eq!(refusal(&file), format!("cache folder {}: it is not a folder", file.display()));
    }
}
