// SPDX-License-Identifier: BSD-2-Clause
//! What a file is, without asking a server.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::stat::makedev;

/// What tells files apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Device and inode number of the file, or of a device's node.
    pub(crate) file: (u64, u64),
    /// The device's own number, if it is a block device.
    pub(crate) block_device: Option<u64>,
}

/// `struct statx` of linux/stat.h as far as it is read here, and room for the rest.
#[repr(C)]
struct Statx {
    head: [u32; 7],
    mode: u16,
    spare: u16,
    inode: u64,
    middle: [u64; 11],
    rdev: [u32; 2],
    dev: [u32; 2],
    tail: [u64; 14],
}

/// STATX_TYPE and STATX_INO of linux/stat.h, which a file never forgets.
const WANTED: u32 = 0x101;

/// The file that `path` leads to (statx(2), with AT_STATX_DONT_SYNC): as the kernel knows it now. Only the way to it may
/// wait for a server, and a link of /proc to an open file has none.
pub(crate) fn look(path: &Path) -> io::Result<Identity> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut found =
        Statx { head: [0; 7], mode: 0, spare: 0, inode: 0, middle: [0; 11], rdev: [0; 2], dev: [0; 2], tail: [0; 14] };
    // SAFETY: the kernel reads a string that ends with a zero, and writes a `struct statx` of 256 bytes.
    let result = unsafe {
        libc::syscall(libc::SYS_statx, libc::AT_FDCWD, path.as_ptr(), libc::AT_STATX_DONT_SYNC, WANTED, &raw mut found)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let number = |[major, minor]: [u32; 2]| makedev(major.into(), minor.into());
    let is_block = u32::from(found.mode) & libc::S_IFMT == libc::S_IFBLK;
    Ok(Identity { file: (number(found.dev), found.inode), block_device: is_block.then(|| number(found.rdev)) })
}

#[cfg(test)]
mod tests {
    use super::{Identity, Statx, look};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn statx_has_the_kernels_layout() {
        assert_eq!(size_of::<Statx>(), 256);
        let offsets = [
            std::mem::offset_of!(Statx, mode),
            std::mem::offset_of!(Statx, inode),
            std::mem::offset_of!(Statx, rdev),
            std::mem::offset_of!(Statx, dev),
        ];
        assert_eq!(offsets, [28, 32, 128, 136]);
    }

    #[test]
    fn a_file_is_what_its_metadata_says() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let data = file.as_file().metadata().unwrap();
        let expected = Identity { file: (data.dev(), data.ino()), block_device: None };
        assert_eq!(look(file.path()).unwrap(), expected);
    }
}
