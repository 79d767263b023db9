// SPDX-License-Identifier: BSD-2-Clause
//! Opens and reads config files, which nobody but root may be able to write.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::Uid;

use super::ConfigError;
use crate::node::file::{FoundFile, open_regular};

/// The largest size of a config file in bytes. It is far more than any config needs, and keeps a wrong file from
/// filling the memory.
const MAX_BYTES: u64 = 1 << 20;
/// The permission bits that allow the group and others to write.
const OTHERS_WRITE: u32 = 0o022;

/// Returns the text of the file at `path`, or `None` if there is no such file.
///
/// # Errors
/// [`ConfigError::Unsafe`] if another user than root and the current user could have written it.
/// [`ConfigError::Read`] if it is not a regular file of UTF-8 text of at most 1 MiB, or can't be read.
pub(super) fn read(path: &Path) -> Result<Option<String>, ConfigError> {
    let Some(file) = open_trusted(path)? else { return Ok(None) };
    read_text(file).map(Some).map_err(|reason| ConfigError::Read { path: path.to_owned(), reason })
}

/// Opens a file that decides what runs as root. Returns `None` if there is no such file.
///
/// # Errors
/// [`ConfigError::Unsafe`] if another user than root and the current user could have written it.
/// [`ConfigError::Read`] if it is not a regular file, or can't be opened.
pub(crate) fn open_trusted(path: &Path) -> Result<Option<File>, ConfigError> {
    let failed = |reason| ConfigError::Read { path: path.to_owned(), reason };
    let Some(file) = open(path).map_err(failed)? else { return Ok(None) };
    trusted(file, path).map(Some)
}

/// Opens the file `name` below `folder`, which decides what runs as root in an instance. Symbolic links can't lead
/// out of `folder`.
///
/// # Errors
/// The errors of [`open_trusted`], and a missing file. The message does not repeat the name of a missing file,
/// because it may be a secret in the wrong place.
pub(crate) fn open_below(folder: &Path, name: &Path) -> Result<File, ConfigError> {
    let failed = |path: &Path, reason| ConfigError::Read { path: path.to_owned(), reason };
    let beginning = File::open(folder).map_err(|reason| failed(folder, reason))?;
    let path = folder.join(name);
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(&beginning, name, how) {
        Ok(found) => {
            let file = FoundFile::from(File::from(found)).open_regular().map_err(|reason| failed(&path, reason))?;
            trusted(file, &path)
        }
        Err(nix::Error::ENOENT) => Err(failed(folder, io::Error::other("it has no file of the name that was given"))),
        Err(nix::Error::EXDEV) => Err(failed(&path, io::Error::other("it leads out of the folder"))),
        Err(error) => Err(failed(&path, error.into())),
    }
}

/// Returns `file` if nobody else could have written it, and an error otherwise.
fn trusted(file: File, path: &Path) -> Result<File, ConfigError> {
    let failed = |reason| ConfigError::Read { path: path.to_owned(), reason };
    // The owner and mode come from the open file and not from its path, so that the file can't be exchanged between
    // check and use.
    let metadata = file.metadata().map_err(failed)?;
    if let Some(problem) = unsafe_owner(metadata.uid(), metadata.mode(), Uid::effective().as_raw()) {
        return Err(ConfigError::Unsafe { path: path.to_owned(), problem });
    }
    Ok(file)
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match open_regular(path) {
        Ok(file) => Ok(Some(file)),
        // A link to nowhere is an error, because somebody wanted a config to be there.
        Err(err) if err.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_ok() => {
            Err(io::Error::other("a symbolic link to a file that does not exist"))
        }
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

fn read_text(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

/// Returns why the user `current` must not trust a file with the owner `uid` and the permissions `mode`, if there is
/// a reason.
fn unsafe_owner(uid: u32, mode: u32, current: u32) -> Option<String> {
    if uid != 0 && uid != current {
        return Some(format!("it is owned by user {uid} and decides what runs as root (check it, then chown root)"));
    }
    if mode & OTHERS_WRITE != 0 {
        let mode = mode & 0o7777;
        return Some(format!("its mode {mode:04o} lets others write what runs as root (check it, then chmod go-w)"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{open_below, read, unsafe_owner};
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn only_roots_and_ones_own_files_are_trusted() {
        assert_eq!(unsafe_owner(0, 0o100644, 0), None);
        assert_eq!(unsafe_owner(0, 0o100600, 1000), None);
        assert_eq!(unsafe_owner(1000, 0o100644, 1000), None);
        let foreign = "it is owned by user 1000 and decides what runs as root (check it, then chown root)";
        assert_eq!(unsafe_owner(1000, 0o100600, 0).as_deref(), Some(foreign));
        for mode in [0o664_u32, 0o646, 0o666] {
            let shown = format!("its mode {mode:04o} lets others write what runs as root (check it, then chmod go-w)");
            assert_eq!(unsafe_owner(0, 0o100_000 | mode, 0), Some(shown));
        }
    }

    #[test]
    fn a_missing_file_is_none_and_a_dangling_link_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        assert_eq!(read(&path).unwrap(), None);
        assert_eq!(read(&dir.path().join("no/config")).unwrap(), None);
        symlink("nowhere", &path).unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert_eq!(message, format!("reading {}: a symbolic link to a file that does not exist", path.display()));
    }

    #[test]
    fn only_small_regular_text_files_of_ones_own_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let message = |path| read(path).unwrap_err().to_string();
        assert_eq!(message(dir.path()), format!("reading {}: not a regular file", dir.path().display()));
        write(&path, "x".repeat((1 << 20) + 1)).unwrap();
        assert_eq!(message(&path), format!("reading {}: larger than 1 MiB", path.display()));
        write(&path, b"caf\xe9").unwrap();
        assert_eq!(message(&path), format!("reading {}: stream did not contain valid UTF-8", path.display()));
        write(&path, "fine\n").unwrap();
        set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("fine\n"));
        set_permissions(&path, Permissions::from_mode(0o620)).unwrap();
        let shown = "its mode 0620 lets others write what runs as root (check it, then chmod go-w)";
        assert_eq!(message(&path), format!("refusing {}: {shown}", path.display()));
    }

    #[test]
    fn nothing_outside_the_folder_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("user-data");
        let open = |name: &str| open_below(&folder, name.as_ref()).map(drop).map_err(|error| error.to_string());
        let shown = folder.display();
        assert_eq!(open("x"), Err(format!("reading {shown}: No such file or directory (os error 2)")));
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        write(folder.join("sub/inside"), "").unwrap();
        write(dir.path().join("outside"), "").unwrap();
        symlink("sub/inside", folder.join("link")).unwrap();
        symlink("../outside", folder.join("out")).unwrap();
        symlink(dir.path().join("outside"), folder.join("absolute")).unwrap();
        symlink("/", folder.join("root")).unwrap();
        assert_eq!([open("sub/inside"), open("link")], [Ok(()), Ok(())]);
        for name in ["out", "absolute", "root/etc/passwd", "../outside", "/etc/passwd"] {
            let message = open(name).unwrap_err();
            assert!(message.ends_with(": it leads out of the folder"), "{name}: {message}");
        }
        let missing = format!("reading {shown}: it has no file of the name that was given");
        assert_eq!([open("s3cret"), open("sub/s3cret")], [Err(missing.clone()), Err(missing)]);
        assert_eq!(open("sub"), Err(format!("reading {shown}/sub: not a regular file")));
        set_permissions(folder.join("sub/inside"), Permissions::from_mode(0o666)).unwrap();
        let refused = open("link").unwrap_err();
        assert!(refused.contains("its mode 0666 lets others write what runs as root"), "{refused}");
    }

    #[test]
    fn a_fifo_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(read(&path).unwrap_err().to_string(), format!("reading {}: not a regular file", path.display()));
    }
}
