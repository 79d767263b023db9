// SPDX-License-Identifier: BSD-2-Clause
//! What the kernel offers and no crate wraps: the only module with `unsafe`.
#![allow(unsafe_code)]

mod confine;
mod streams;

pub(crate) use confine::{Capabilities, Confinement, confine, lower_limit};
pub(crate) use streams::standard_output_was_open;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, Pid};

/// A compiled seccomp filter.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
pub(crate) type Filter = seccompiler::BpfProgram;

/// seccompiler knows no other architecture.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
pub(crate) type Filter = ();

mod ioctl {
    use super::LoopConfig;

    // linux/fs.h
    nix::ioctl_read!(blk_get_size64, 0x12, 114, u64);
    nix::ioctl_read_bad!(blk_get_sector_size, 0x1268, libc::c_int);
    nix::ioctl_write_ptr_bad!(blk_zero_out, 0x127f, [u64; 2]);
    // linux/loop.h
    nix::ioctl_write_ptr_bad!(loop_configure, 0x4c0a, LoopConfig);
    nix::ioctl_read_bad!(loop_get_status64, 0x4c05, [u64; 29]);
}

/// `struct loop_config` of linux/loop.h, with `struct loop_info64` as the words that stay zero around its flags.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info_head: [u64; 5],
    info_numbers: [u32; 3],
    info_flags: u32,
    info_name: [u8; LO_NAME_SIZE],
    info_tail: [u64; 14],
    reserved: [u64; 8],
}

/// LO_NAME_SIZE of linux/loop.h, in bytes; the last one stays zero.
const LO_NAME_SIZE: usize = 64;

/// LO_FLAGS_AUTOCLEAR of linux/loop.h: the kernel detaches the device when its last user closes it.
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// Size of a block device in bytes (BLKGETSIZE64).
pub(crate) fn block_device_size(device: &File) -> io::Result<u64> {
    let mut size = 0;
    // SAFETY: the descriptor is open for the call and the kernel writes one u64 to the pointer.
    unsafe { ioctl::blk_get_size64(device.as_raw_fd(), &raw mut size) }?;
    Ok(size)
}

/// Logical sector size of a block device in bytes (BLKSSZGET).
pub(crate) fn sector_size(device: &File) -> io::Result<u64> {
    let mut size: libc::c_int = 0;
    // SAFETY: the descriptor is open for the call and the kernel writes one int to the pointer.
    unsafe { ioctl::blk_get_sector_size(device.as_raw_fd(), &raw mut size) }?;
    u64::try_from(size).map_err(io::Error::other)
}

/// Makes a range of a block device read zero (BLKZEROOUT): by the device where it can, else the kernel writes zeros.
/// Both numbers in bytes, multiples of the sector size. The device's page cache for the range is dropped.
pub(crate) fn zero_out(device: &File, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call and the kernel reads two u64 from the pointer.
    unsafe { ioctl::blk_zero_out(device.as_raw_fd(), &[offset, len]) }?;
    Ok(())
}

/// Binds a free loop device to `backing` with autoclear, in one step (LOOP_CONFIGURE, Linux 5.8): a process killed at
/// any moment leaves either nothing or a device that detaches itself. The LOOP_SET_FD + LOOP_SET_STATUS64 pair of the
/// loopdev crate leaks the device when the process dies between the two. EBUSY: somebody else took the device.
/// The device is called `name`, as far as that fits into 63 bytes.
pub(crate) fn loop_configure(device: &impl AsRawFd, backing: &File, name: &[u8]) -> io::Result<()> {
    let mut info_name = [0; LO_NAME_SIZE];
    let name = &name[..name.len().min(LO_NAME_SIZE - 1)];
    info_name[..name.len()].copy_from_slice(name);
    let config = LoopConfig {
        fd: u32::try_from(backing.as_raw_fd()).map_err(io::Error::other)?,
        block_size: 0,
        info_head: [0; 5],
        info_numbers: [0; 3],
        info_flags: LO_FLAGS_AUTOCLEAR,
        info_name,
        info_tail: [0; 14],
        reserved: [0; 8],
    };
    // SAFETY: both descriptors are open for the call and the kernel reads one `struct loop_config` from the pointer.
    unsafe { ioctl::loop_configure(device.as_raw_fd(), &raw const config) }?;
    Ok(())
}

/// What a loop device serves.
pub(crate) struct LoopStatus {
    /// Device number and inode number of the file.
    pub(crate) backing_file: (u64, u64),
    /// What the device is called, zeros behind it.
    pub(crate) name: [u8; LO_NAME_SIZE],
}

/// What a loop device serves (LOOP_GET_STATUS64); none when it is free.
pub(crate) fn loop_status(device: &File) -> io::Result<Option<LoopStatus>> {
    let mut info = [0_u64; 29];
    // SAFETY: the descriptor is open for the call; `struct loop_info64` has 232 bytes, as the array.
    match unsafe { ioctl::loop_get_status64(device.as_raw_fd(), &raw mut info) } {
        // The structure begins with lo_device and lo_inode; lo_file_name is the eighth word and the seven behind it.
        Ok(_) => {
            let mut name = [0; LO_NAME_SIZE];
            let words = name.chunks_exact_mut(8).zip(&info[7..]);
            words.for_each(|(bytes, word)| bytes.copy_from_slice(&word.to_ne_bytes()));
            Ok(Some(LoopStatus { backing_file: (info[0], info[1]), name }))
        }
        Err(Errno::ENXIO) => Ok(None),
        Err(err) => Err(err.into()),
    }
}

/// The number of cachestat(2), the same on all architectures, which the libc crate does not have for all of them.
const SYS_CACHESTAT: libc::c_long = 451;

/// How many bytes of a range of a file the page cache holds (cachestat(2), Linux 6.5). ENOSYS on older kernels.
pub(crate) fn cached_bytes(file: &File, offset: u64, len: u64) -> io::Result<u64> {
    let range = [offset, len];
    // nr_cache, nr_dirty, nr_writeback, nr_evicted, nr_recently_evicted: in pages.
    let mut pages = [0_u64; 5];
    // SAFETY: the kernel reads two u64 from the first pointer and writes five to the second.
    let result = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), pages.as_mut_ptr(), 0_u32) };
    match result {
        0 => Ok(pages[0] * page_size()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn page_size() -> u64 {
    // SAFETY: takes and gives plain values.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// Has the kernel begin to write a range of a file's page cache to its disk, without waiting (sync_file_range): a later
/// `fsync` then finds little left to do. Only a hint, so it has no result.
pub(crate) fn start_writeback(file: &File, offset: u64, len: u64) {
    if let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) {
        // SAFETY: the descriptor is open for the call, which takes values only.
        unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    }
}

/// Puts the calling thread under `filter`. A kernel without seccomp is none: ENOSYS or EINVAL.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
fn filter_calls(filter: &Filter) -> io::Result<()> {
    match seccompiler::apply_filter(filter) {
        Ok(()) | Err(seccompiler::Error::EmptyFilter) => Ok(()),
        Err(seccompiler::Error::Seccomp(err)) if matches!(err.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {
            Ok(())
        }
        Err(seccompiler::Error::Seccomp(err) | seccompiler::Error::Prctl(err)) => Err(err),
        // The rest is of another kind of filter.
        Err(_) => Err(Errno::EINVAL.into()),
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
fn filter_calls((): &Filter) -> io::Result<()> {
    Ok(())
}

/// Has the child of `command` confine itself before it becomes the program.
pub(crate) fn confine_child(command: &mut Command, to: Confinement) {
    // SAFETY: confine only makes system calls; nothing of it allocates.
    unsafe { command.pre_exec(move || confine(&to)) };
}

/// Runs `work` in a copy of this process, in a process group of its own, which dies with the calling thread. Its exit
/// code is what `work` gives, or 101 for a panic; no destructor of the copied frames runs. Signals have their default
/// effect in it.
///
/// Of the other threads only what they did to memory is copied, so none of them may hold a lock that `work` takes:
/// the caller sees to that. The allocator's own locks are the C library's business, which holds them over a fork.
pub(crate) fn fork(work: impl FnOnce() -> i32) -> io::Result<Pid> {
    let parent = std::process::id();
    // SAFETY: no lock that the child needs is held by another thread, as said above.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => {
            // The child does the same; whoever comes first. It may have ended already.
            let _ = nix::unistd::setpgid(child, child);
            Ok(child)
        }
        ForkResult::Child => {
            let run = || {
                // A write beyond the limit of file sizes stays an error, if it is one.
                let mut signals = SigSet::all();
                signals.remove(Signal::SIGXFSZ);
                let ready = nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))
                    .and_then(|()| signals.thread_unblock())
                    .map_err(io::Error::from)
                    .and_then(|()| die_with(parent));
                if ready.is_ok() { work() } else { 101 }
            };
            exit_now(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or(101))
        }
    }
}

/// Has the calling process die with the thread that started it, in process `parent`. Async-signal-safe.
fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: plain system calls on values.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have died before the call took effect.
        if u32::try_from(libc::getppid()).ok() != Some(parent) {
            libc::_exit(127);
        }
    }
    Ok(())
}

/// Makes the child of `command` die with the calling thread (PR_SET_PDEATHSIG, SIGKILL), so that not even SIGKILL of
/// this process leaves it behind, and lets it inherit `keep` under the same numbers. The thread that spawns the child
/// must outlive it.
pub(crate) fn tie_child(command: &mut Command, keep: &[BorrowedFd<'_>]) {
    let keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    let parent = std::process::id();
    let setup = move || {
        die_with(parent)?;
        for fd in &keep {
            // SAFETY: a plain system call on values, async-signal-safe, between fork and exec.
            if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure only makes async-signal-safe calls and does not allocate.
    unsafe { command.pre_exec(setup) };
}

/// Gives the child of `command` a mount namespace of its own, in which it sees what is mounted later on the node too:
/// what it mounts is gone with the last process in there, even after SIGKILL. Where that is not permitted it stays in
/// ours, and could not mount either.
pub(crate) fn own_mounts(command: &mut Command) {
    let setup = || {
        // SAFETY: plain system calls on values and constant strings, async-signal-safe, between fork and exec.
        unsafe {
            if libc::unshare(libc::CLONE_NEWNS) == 0 {
                let flags = libc::MS_REC | libc::MS_SLAVE;
                libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), flags, std::ptr::null());
            }
        }
        Ok(())
    };
    // SAFETY: the closure only makes async-signal-safe calls and does not allocate.
    unsafe { command.pre_exec(setup) };
}

/// Takes over a descriptor that the parent process handed to us by number, closing it when dropped. EBADF when it is
/// not open, EINVAL for the three standard descriptors, which are not for taking.
pub(crate) fn adopt_descriptor(fd: RawFd) -> io::Result<File> {
    if fd <= libc::STDERR_FILENO {
        return Err(Errno::EINVAL.into());
    }
    // SAFETY: F_SETFD on any number is harmless; it fails with EBADF when the descriptor is not open.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and called at the start of a script, before we opened descriptors of our own under it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Ends the process at once, without destructors: for the signal thread, while other threads are still at work.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn loop_config_has_the_kernels_layout() {
        assert_eq!(size_of::<super::LoopConfig>(), 304);
        assert_eq!(std::mem::offset_of!(super::LoopConfig, info_flags), 60);
        assert_eq!(std::mem::offset_of!(super::LoopConfig, info_name), 64);
    }
}
