// SPDX-License-Identifier: BSD-2-Clause
//! Reads the files that requests need, and refuses those that other users can write, and of secret ones those that they can
//! read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::Uid;

use super::error::HttpError;
use crate::node::file::open_regular;
use crate::node::trust::untrusted;

/// No key, netrc file or list of certificates comes near this size in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// Permission bits that such a file must not have. The group may read it, as with Debian's `ssl-cert`.
const FORBIDDEN: u32 = 0o037;

/// Reads the file at `path`, which errors call `what`.
///
/// # Errors
/// [`HttpError::File`], unless it is a small regular file that belongs to root or the current user and is closed to
/// others.
pub(super) fn read_secret_file(what: &'static str, path: &Path) -> Result<Vec<u8>, HttpError> {
    let failed = |error: io::Error| HttpError::file(what, path, error.to_string());
    let file = open_regular(path).map_err(failed)?;
    // The open file is asked, so that another one can't take its place after the check.
    let metadata = file.metadata().map_err(failed)?;
    if let Some(reason) = access_fault(metadata.uid(), metadata.mode(), Uid::effective().as_raw()) {
        return Err(HttpError::file(what, path, reason));
    }
    read(what, path, file, "what is sent to servers")
}

/// Reads the file with certificates at `path`, which errors call `what`.
///
/// # Errors
/// [`HttpError::File`], unless it is a regular file of a sensible size that nobody but root and the current user can write.
pub(super) fn read_public_file(what: &'static str, path: &Path) -> Result<Vec<u8>, HttpError> {
    let file = open_regular(path).map_err(|error| HttpError::file(what, path, error.to_string()))?;
    read(what, path, file, "which servers are trusted")
}

fn read(what: &'static str, path: &Path, file: File, decided: &str) -> Result<Vec<u8>, HttpError> {
    let failed = |error: io::Error| HttpError::file(what, path, error.to_string());
    if let Some(found) = untrusted(path).map_err(failed)? {
        return Err(HttpError::file(what, path, found.words(path, decided)));
    }
    let mut content = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > MAX_BYTES { Err(HttpError::file(what, path, "larger than 4 MiB")) } else { Ok(content) }
}

fn access_fault(owner: u32, mode: u32, user: u32) -> Option<String> {
    let mode = mode & 0o7777;
    if owner != 0 && owner != user {
        Some(format!("it belongs to user {owner} and holds secrets (check it, then chown root)"))
    } else if mode & FORBIDDEN != 0 {
        Some(format!("its mode {mode:04o} lets others read or change the secrets in it (check it, then chmod 0600)"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{access_fault, read_public_file, read_secret_file};
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_ones_own_and_roots_closed_files_are_read() {
        for (owner, mode, user) in [(0, 0o100_600, 0), (0, 0o100_640, 1000), (1000, 0o100_400, 1000)] {
            assert_eq!(access_fault(owner, mode, user), None);
        }
        let foreign = "it belongs to user 1000 and holds secrets (check it, then chown root)";
        assert_eq!(access_fault(1000, 0o100_600, 0).as_deref(), Some(foreign));
        for mode in [0o644_u32, 0o604, 0o660, 0o601, 0o620] {
            let shown =
                format!("its mode {mode:04o} lets others read or change the secrets in it (check it, then chmod 0600)");
            assert_eq!(access_fault(0, 0o100_000 | mode, 0), Some(shown));
        }
    }

    #[test]
    fn an_unusable_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let message = |path| read_secret_file("key", path).unwrap_err().to_string();
        assert_eq!(message(&path), format!("key {}: No such file or directory (os error 2)", path.display()));
        assert_eq!(message(folder.path()), format!("key {}: not a regular file", folder.path().display()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(message(&path), format!("key {}: not a regular file", path.display()));
        std::fs::remove_file(&path).unwrap();
        write(&path, vec![b' '; (4 << 20) + 1]).unwrap();
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(message(&path), format!("key {}: larger than 4 MiB", path.display()));
        write(&path, "s3cret").unwrap();
        assert_eq!(read_secret_file("key", &path).unwrap(), b"s3cret");
    }

    #[test]
    fn what_others_can_write_or_exchange_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let (path, shown) = (folder.path().join("file"), folder.path().display());
        write(&path, "text").unwrap();
        set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(read_public_file("CA file", &path).unwrap(), b"text");
        set_permissions(&path, Permissions::from_mode(0o664)).unwrap();
        let own = "its mode 0664 lets others write which servers are trusted (check it, then chmod go-w)";
        let message = read_public_file("CA file", &path).unwrap_err().to_string();
        assert_eq!(message, format!("CA file {shown}/file: {own}"));
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        let message = read_secret_file("key", &path).unwrap_err().to_string();
        let way = format!("the mode 0777 of {shown} lets others write what is sent to servers");
        assert_eq!(message, format!("key {shown}/file: {way} (check it, then chmod go-w)"));
    }
}
