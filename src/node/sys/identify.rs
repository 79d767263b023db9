// SPDX-License-Identifier: BSD-2-Clause
//! What a file is, without asking a server.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::stat::makedev;

/// What tells files apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    /// Device and inode number of the file, or of a device's node.
    pub(crate) file: (u64, u64),
    /// The device's own number, if it is a block device.
    pub(crate) block_device: Option<u64>,
}

/// What a file never forgets.
const WANTED: libc::c_uint = libc::STATX_TYPE | libc::STATX_INO;

/// The file that `path` leads to (statx(2), with AT_STATX_DONT_SYNC): as the kernel knows it now. Only the way to it may
/// wait for a server, and a link of /proc to an open file has none.
pub(crate) fn identify(path: &Path) -> io::Result<FileIdentity> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the kernel reads a string that ends with a zero, and writes the structure; zeros are one, too.
    let (result, found) = unsafe {
        let flags = libc::AT_STATX_DONT_SYNC;
        (libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, WANTED, found.as_mut_ptr()), found.assume_init())
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let number = |major: u32, minor: u32| makedev(major.into(), minor.into());
    let is_block = u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFBLK;
    Ok(FileIdentity {
        file: (number(found.stx_dev_major, found.stx_dev_minor), found.stx_ino),
        block_device: is_block.then(|| number(found.stx_rdev_major, found.stx_rdev_minor)),
    })
}

#[cfg(test)]
mod tests {
    use super::{FileIdentity, identify};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_file_is_what_its_metadata_says() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let data = file.as_file().metadata().unwrap();
        let expected = FileIdentity { file: (data.dev(), data.ino()), block_device: None };
        assert_eq!(identify(file.path()).unwrap(), expected);
    }
}
