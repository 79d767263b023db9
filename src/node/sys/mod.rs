// SPDX-License-Identifier: BSD-2-Clause
//! The system calls that no crate wraps. This is the only module with `unsafe`.
#![allow(unsafe_code)]

mod block;
mod confine;
mod start;

pub(crate) use block::{
    LoopStatus, block_device_size, delete_partition, discard, loop_configure, loop_detach, loop_status, mapper_target,
    sector_size, zero_out,
};
pub(crate) use confine::{Capabilities, Confinement, Filter, confine, confine_child, lower_limit};
pub(crate) use start::{fork, fork_namespace, keep_open, set_own_signals, start, tie_child};

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::stat::makedev;

/// The numbers that tell files apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    /// The device and the inode number of the file, or of the node of a device.
    pub(crate) file: (u64, u64),
    /// The number of the device itself, if it is a block device.
    pub(crate) block_device: Option<u64>,
}

/// Returns the identity of the file that `path` leads to (statx(2) with AT_STATX_DONT_SYNC). The kernel answers from
/// what it knows. Only resolving the path may wait for a server, and a link of /proc to an open file needs no
/// resolving.
pub(crate) fn identify(path: &Path) -> io::Result<FileIdentity> {
    // These never change in the life of a file.
    let wanted = libc::STATX_TYPE | libc::STATX_INO;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the kernel reads a string that ends with a zero, and writes the structure, for which zeros are valid too.
    let (result, found) = unsafe {
        let flags = libc::AT_STATX_DONT_SYNC;
        (libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, wanted, found.as_mut_ptr()), found.assume_init())
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

/// Stops swapping to a device or file (swapoff(2)).
pub(crate) fn swap_off(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the kernel reads a string that ends with a zero.
    if unsafe { libc::swapoff(path.as_ptr()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The number of cachestat(2), the same on all architectures. The libc crate does not have it for all of them.
const SYS_CACHESTAT: libc::c_long = 451;

/// Returns how many bytes of a range of a file the page cache holds (cachestat(2), Linux 6.5). Fails with ENOSYS on
/// older kernels.
pub(crate) fn cached_bytes(file: &File, offset: u64, len: u64) -> io::Result<u64> {
    let range = [offset, len];
    // The fields are nr_cache, nr_dirty, nr_writeback, nr_evicted and nr_recently_evicted, in pages.
    let mut pages = [0_u64; 5];
    // SAFETY: the kernel reads two u64 from the first pointer and writes five to the second.
    let result = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), pages.as_mut_ptr(), 0_u32) };
    match result {
        0 => Ok(pages[0] * page_size()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn page_size() -> u64 {
    // SAFETY: the call takes and returns plain values.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// Makes the kernel start writing a range of a file's page cache to its disk without waiting (sync_file_range), so that
/// a later `fsync` has little left to do. This is only a hint, so there is no result.
pub(crate) fn start_writeback(file: &File, offset: u64, len: u64) {
    if let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) {
        // SAFETY: the descriptor is open for the call, which takes values only.
        unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    }
}

/// F_SETSIG of linux/fcntl.h. The libc crate does not have it for all C libraries.
const F_SETSIG: libc::c_int = 10;

/// Returns whether nobody on this node has a regular file open for writing, because only then the kernel grants a read
/// lease on it (F_SETLEASE of fcntl(2)). The lease is given back at once. A process that opens the file for writing
/// meanwhile waits for that moment. Returns `None` if the file system or our rights do not allow the question.
pub(crate) fn nobody_can_write(file: &File) -> Option<bool> {
    let fd = file.as_raw_fd();
    // SAFETY: plain system calls on values, with a descriptor that is open for them.
    let leased = unsafe {
        // If a process opens the file meanwhile, we get a signal. SIGURG has no effect, but the default, SIGIO, would
        // end us.
        libc::fcntl(fd, F_SETSIG, libc::SIGURG);
        let leased = libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK);
        if leased == 0 {
            libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK);
        }
        leased
    };
    match leased {
        0 => Some(true),
        _ if Errno::last() == Errno::EAGAIN => Some(false),
        _ => None,
    }
}

/// Takes over a descriptor that the parent process passed to us by number. It is closed when the result is dropped.
/// Fails with EBADF if it is not open, and with EINVAL for the three standard descriptors.
pub(crate) fn adopt_descriptor(fd: RawFd) -> io::Result<File> {
    if fd <= libc::STDERR_FILENO {
        return Err(Errno::EINVAL.into());
    }
    // SAFETY: F_SETFD is harmless for any number, and fails with EBADF when the descriptor is not open.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and this is called at the start of a script, before we opened descriptors of our
    // own under that number.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Ends the process at once, without destructors. The signal thread calls it while other threads still work.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

static STANDARD_OUTPUT_WAS_OPEN: AtomicBool = AtomicBool::new(true);

/// Returns whether descriptor 1 was open when this process started. Before `main`, `std` opens /dev/null in place of a
/// closed descriptor, so that no other file gets its number. Afterwards it is not possible to find out.
pub(crate) fn standard_output_was_open() -> bool {
    STANDARD_OUTPUT_WAS_OPEN.load(Ordering::Relaxed)
}

/// The C library calls this before `main`, and so before `std` opens /dev/null.
// SAFETY: a list of functions of this type, as the System V ABI and both glibc and musl have it.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = note_standard_output;

extern "C" fn note_standard_output() {
    // SAFETY: a plain system call on values; it fails when the descriptor is not open.
    let open = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) } != -1;
    STANDARD_OUTPUT_WAS_OPEN.store(open, Ordering::Relaxed);
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
