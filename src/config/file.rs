// SPDX-License-Identifier: BSD-2-Clause
//! Opens and reads config files, which nobody but root may be able to write.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::ConfigError;
use crate::node::file::{FoundFile, open_regular};
use crate::node::trust::untrusted;

/// The largest size of a config file in bytes. It is far more than any config needs, and keeps a wrong file from
/// filling the memory.
const MAX_BYTES: u64 = 1 << 20;

/// What these files decide, in the words of messages.
const DECIDED: &str = "what runs as root";

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
    // A missing file may have been removed by somebody who could have written it.
    refuse_untrusted(path)?;
    open(path).map_err(|reason| ConfigError::Read { path: path.to_owned(), reason })
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
            refuse_untrusted(&path)?;
            FoundFile::from(File::from(found)).open_regular().map_err(|reason| failed(&path, reason))
        }
        Err(nix::Error::ENOENT) => Err(failed(folder, io::Error::other("it has no file of the name that was given"))),
        Err(nix::Error::EXDEV) => Err(failed(&path, io::Error::other("it leads out of the folder"))),
        Err(error) => Err(failed(&path, error.into())),
    }
}

/// Fails if another user than root and the current user could have written what is at `path`, or could put something
/// else there. Otherwise nobody else can exchange it afterwards either, so that the path can be opened.
fn refuse_untrusted(path: &Path) -> Result<(), ConfigError> {
    match untrusted(path).map_err(|reason| ConfigError::Read { path: path.to_owned(), reason })? {
        Some(found) => Err(ConfigError::Unsafe { path: path.to_owned(), problem: found.words(path, DECIDED) }),
        None => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use super::{open_below, read};
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt, symlink};

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
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        set_permissions(dir.path(), Permissions::from_mode(0o770)).unwrap();
        let folder = dir.path().display();
        let shown =
            format!("the mode 0770 of {folder} lets others write what runs as root (check it, then chmod go-w)");
        for path in [&path, &dir.path().join("missing")] {
            assert_eq!(message(path), format!("refusing {}: {shown}", path.display()));
        }
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
        let words = format!("the mode 0666 of {shown}/sub/inside lets others write what runs as root");
        assert!(refused.starts_with(&format!("refusing {shown}/link: {words}")), "{refused}");
    }

    #[test]
    fn a_fifo_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(read(&path).unwrap_err().to_string(), format!("reading {}: not a regular file", path.display()));
    }
}
