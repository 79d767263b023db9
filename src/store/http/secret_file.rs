// SPDX-License-Identifier: BSD-2-Clause
//! Files with secrets: read only when nobody else can.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::unistd::Uid;

use super::error::HttpError;

/// Far more than any key or netrc file has, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The permission bits that nobody may have: the group may read, as Debian's `ssl-cert` does, but that is all.
const FORBIDDEN: u32 = 0o037;

/// The content of the file at `path`, which is called `what` in errors.
///
/// # Errors
/// [`HttpError::File`] for what is not a small regular file of root's or the current user's that others can't get at.
pub(super) fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, HttpError> {
    read_checked(path).map_err(|reason| HttpError::File { what, path: path.to_owned(), reason })
}

fn read_checked(path: &Path) -> Result<Vec<u8>, String> {
    let told = |error: io::Error| error.to_string();
    // Not to hang on a FIFO; and the open file is asked, so that it can't be exchanged between check and use.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(told)?;
    let metadata = file.metadata().map_err(told)?;
    if !metadata.is_file() {
        return Err("not a regular file".to_owned());
    }
    fault(metadata.uid(), metadata.mode(), Uid::effective().as_raw()).map_or(Ok(()), Err)?;
    let mut content = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut content).map_err(told)?;
    if content.len() as u64 > MAX_BYTES { Err("larger than 1 MiB".to_owned()) } else { Ok(content) }
}

fn fault(owner: u32, mode: u32, user: u32) -> Option<String> {
    if owner != 0 && owner != user {
        return Some(format!("it belongs to user {owner} and holds secrets (check it, then chown root)"));
    }
    let mode = mode & 0o7777;
    (mode & FORBIDDEN != 0)
        .then(|| format!("its mode {mode:04o} lets others at the secrets in it (check it, then chmod 0600)"))
}

#[cfg(test)]
mod tests {
    use super::{fault, read};
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_ones_own_and_roots_closed_files_are_read() {
        for (owner, mode, user) in [(0, 0o100_600, 0), (0, 0o100_640, 1000), (1000, 0o100_400, 1000)] {
            assert_eq!(fault(owner, mode, user), None);
        }
        let foreign = "it belongs to user 1000 and holds secrets (check it, then chown root)";
        assert_eq!(fault(1000, 0o100_600, 0).as_deref(), Some(foreign));
        for mode in [0o644_u32, 0o604, 0o660, 0o601, 0o620] {
            let shown = format!("its mode {mode:04o} lets others at the secrets in it (check it, then chmod 0600)");
            assert_eq!(fault(0, 0o100_000 | mode, 0), Some(shown));
        }
    }

    #[test]
    fn an_unusable_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let message = |path| read("key", path).unwrap_err().to_string();
        assert_eq!(message(&path), format!("key {}: No such file or directory (os error 2)", path.display()));
        assert_eq!(message(folder.path()), format!("key {}: not a regular file", folder.path().display()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(message(&path), format!("key {}: not a regular file", path.display()));
        std::fs::remove_file(&path).unwrap();
        write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(message(&path), format!("key {}: larger than 1 MiB", path.display()));
        write(&path, "s3cret").unwrap();
        assert_eq!(read("key", &path).unwrap(), b"s3cret");
    }
}
