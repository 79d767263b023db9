// SPDX-License-Identifier: BSD-2-Clause
//! The folder of the cache: ours alone, or not used at all.
//!
//! Whoever can write there decides what root installs, so a folder that others own or may write to is refused.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::error::CacheError;

/// <https://bford.info/cachedir/>: backup programs leave such folders out.
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This folder holds downloaded images, kept by ganeti-instance-simpleimage.\n";

/// The folder `dir`, made when missing, if it can be trusted.
pub(super) fn open(dir: &Path) -> Result<PathBuf, CacheError> {
    // A final slash would make the system follow a symbolic link.
    let dir: PathBuf = dir.components().collect();
    create(&dir).map_err(CacheError::io("creating", &dir))?;
    let metadata = fs::symlink_metadata(&dir).map_err(CacheError::io("looking at", &dir))?;
    match fault(&metadata, nix::unistd::geteuid().as_raw()) {
        Some(reason) => Err(CacheError::Folder { dir, reason }),
        None => Ok(dir),
    }
}

fn create(dir: &Path) -> io::Result<()> {
    if fs::symlink_metadata(dir).is_ok() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        // Only a folder of our own making gets the tag: in another, it would hide the owner's files from backups.
        Ok(()) => fs::write(dir.join("CACHEDIR.TAG"), CACHEDIR_TAG),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn fault(metadata: &Metadata, user: u32) -> Option<String> {
    if metadata.is_symlink() {
        return Some("it is a symbolic link".to_owned());
    }
    if !metadata.is_dir() {
        return Some("it is not a folder".to_owned());
    }
    if metadata.uid() != user {
        return Some(format!("it belongs to user {}, not to user {user}", metadata.uid()));
    }
    let mode = metadata.mode() & 0o7777;
    (mode & 0o022 != 0).then(|| format!("others may write to it (mode {mode:04o})"))
}

/// Bytes that may be written to the file system of `dir`, the reserve for root left alone; none where it does not tell.
pub(super) fn free_space(dir: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    stat.blocks_available().checked_mul(stat.fragment_size())
}

/// Makes the names in `dir` survive a power cut.
pub(super) fn sync(dir: &Path) -> Result<(), CacheError> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(CacheError::io("syncing", dir))
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
