// SPDX-License-Identifier: BSD-2-Clause
//! What the kernel offers and no crate wraps: the only module with `unsafe`.
#![allow(unsafe_code)]

mod confine;
mod identify;
mod mapper;
mod start;
mod streams;

pub(crate) use confine::{Capabilities, Confinement, confine, lower_limit};
pub(crate) use identify::{FileIdentity, identify};
pub(crate) use mapper::mapper_target;
pub(crate) use start::{fork, fork_namespace, keep_open, set_own_signals, start, tie_child};
pub(crate) use streams::standard_output_was_open;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;

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
    nix::ioctl_write_ptr_bad!(blk_discard, 0x1277, [u64; 2]);
    // linux/loop.h
    nix::ioctl_write_ptr_bad!(loop_configure, 0x4c0a, LoopConfig);
    nix::ioctl_read_bad!(loop_get_status64, 0x4c05, [u64; 29]);
    nix::ioctl_none_bad!(loop_clr_fd, 0x4c01);
    // linux/blkpg.h
    nix::ioctl_write_ptr_bad!(blkpg, 0x1269, super::BlkpgArgument);
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

/// Makes a range of a block device read zero (BLKZEROOUT): by the device where it can, without giving the room back, else the kernel writes zeros.
/// Both numbers in bytes, multiples of the sector size. The device's page cache for the range is dropped.
pub(crate) fn zero_out(device: &File, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call and the kernel reads two u64 from the pointer.
    unsafe { ioctl::blk_zero_out(device.as_raw_fd(), &[offset, len]) }?;
    Ok(())
}

/// Tells a block device that a range is not needed any more (BLKDISCARD); what it reads as is up to the device. Numbers as
/// for [`zero_out`].
pub(crate) fn discard(device: &File, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call and the kernel reads two u64 from the pointer.
    unsafe { ioctl::blk_discard(device.as_raw_fd(), &[offset, len]) }?;
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
    /// Device number, if that file is a block device.
    pub(crate) backing_device: u64,
    /// What the device is called, zeros behind it.
    pub(crate) name: [u8; LO_NAME_SIZE],
}

/// What a loop device serves (LOOP_GET_STATUS64); none when it is free.
pub(crate) fn loop_status(device: &File) -> io::Result<Option<LoopStatus>> {
    let mut info = [0_u64; 29];
    // SAFETY: the descriptor is open for the call; `struct loop_info64` has 232 bytes, as the array.
    match unsafe { ioctl::loop_get_status64(device.as_raw_fd(), &raw mut info) } {
        // The structure begins with lo_device, lo_inode and lo_rdevice; lo_file_name is the eighth word and the seven behind it.
        Ok(_) => {
            let mut name = [0; LO_NAME_SIZE];
            let words = name.chunks_exact_mut(8).zip(&info[7..]);
            words.for_each(|(bytes, word)| bytes.copy_from_slice(&word.to_ne_bytes()));
            Ok(Some(LoopStatus { backing_file: (info[0], info[1]), backing_device: info[2], name }))
        }
        Err(Errno::ENXIO) => Ok(None),
        Err(err) => Err(err.into()),
    }
}

/// Detaches a loop device (LOOP_CLR_FD); one that others have open detaches itself when the last of them closes it.
pub(crate) fn loop_detach(device: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call, which takes no more.
    unsafe { ioctl::loop_clr_fd(device.as_raw_fd()) }?;
    Ok(())
}

/// `struct blkpg_ioctl_arg` of linux/blkpg.h.
#[repr(C)]
struct BlkpgArgument {
    op: libc::c_int,
    flags: libc::c_int,
    datalen: libc::c_int,
    data: *const BlkpgPartition,
}

/// `struct blkpg_partition`.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: libc::c_int,
    names: [u8; 128],
}

/// BLKPG_DEL_PARTITION of linux/blkpg.h.
const BLKPG_DEL_PARTITION: libc::c_int = 2;

/// Has the kernel forget a partition of a block device; the disk stays as it is. EBUSY: somebody uses it.
pub(crate) fn delete_partition(device: &File, number: i32) -> io::Result<()> {
    let data = BlkpgPartition { start: 0, length: 0, number, names: [0; 128] };
    let datalen = libc::c_int::try_from(size_of::<BlkpgPartition>()).map_err(io::Error::other)?;
    let argument = BlkpgArgument { op: BLKPG_DEL_PARTITION, flags: 0, datalen, data: &raw const data };
    // SAFETY: the descriptor is open for the call, and the kernel reads the two structures.
    unsafe { ioctl::blkpg(device.as_raw_fd(), &raw const argument) }?;
    Ok(())
}

/// Ends swapping to a device or file (swapoff(2)).
pub(crate) fn swap_off(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the kernel reads a string that ends with a zero.
    if unsafe { libc::swapoff(path.as_ptr()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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

/// Whether nobody has a regular file open for writing, on this node: only then does the kernel give a read lease on it
/// (F_SETLEASE of fcntl(2)), which is given back at once. Who opens the file for writing in between waits so long. None
/// where the file system or our rights do not allow to ask.
pub(crate) fn nobody_can_write(file: &File) -> Option<bool> {
    let fd = file.as_raw_fd();
    // SAFETY: plain system calls on values, with a descriptor that is open for them.
    let leased = unsafe {
        // Whoever opens it meanwhile has us told by a signal: by one that does nothing, not by SIGIO, which would end us.
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

/// F_SETSIG of linux/fcntl.h, which the libc crate does not have for all C libraries.
const F_SETSIG: libc::c_int = 10;

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
