// SPDX-License-Identifier: BSD-2-Clause
//! Calls on block devices: sizes, zeroing, loop devices, partitions, and the device mapper's tables.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

mod ioctl {
    // linux/fs.h
    nix::ioctl_read!(blk_get_size64, 0x12, 114, u64);
    nix::ioctl_read_bad!(blk_get_sector_size, 0x1268, libc::c_int);
    nix::ioctl_write_ptr_bad!(blk_zero_out, 0x127f, [u64; 2]);
    nix::ioctl_write_ptr_bad!(blk_discard, 0x1277, [u64; 2]);
    // linux/loop.h
    nix::ioctl_write_ptr_bad!(loop_configure, 0x4c0a, super::LoopConfig);
    nix::ioctl_read_bad!(loop_get_status64, 0x4c05, [u64; 29]);
    nix::ioctl_none_bad!(loop_clr_fd, 0x4c01);
    // linux/blkpg.h
    nix::ioctl_write_ptr_bad!(blkpg, 0x1269, super::BlkpgArgument);
    // DM_TABLE_STATUS of linux/dm-ioctl.h: _IOWR(DM_IOCTL, DM_TABLE_STATUS_CMD, struct dm_ioctl)
    nix::ioctl_readwrite_bad!(
        dm_table_status,
        nix::request_code_readwrite!(0xfd, 12, super::MAPPER_HEAD),
        super::MapperRequest
    );
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

/// LO_NAME_SIZE of linux/loop.h, in bytes. The last byte stays zero.
const LO_NAME_SIZE: usize = 64;

/// LO_FLAGS_AUTOCLEAR of linux/loop.h: the kernel detaches the device when its last user closes it.
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// Returns the size of a block device in bytes (BLKGETSIZE64).
pub(crate) fn block_device_size(device: &File) -> io::Result<u64> {
    let mut size = 0;
    // SAFETY: the descriptor is open for the call and the kernel writes one u64 to the pointer.
    unsafe { ioctl::blk_get_size64(device.as_raw_fd(), &raw mut size) }?;
    Ok(size)
}

/// Returns the logical sector size of a block device in bytes (BLKSSZGET).
pub(crate) fn sector_size(device: &File) -> io::Result<u64> {
    let mut size: libc::c_int = 0;
    // SAFETY: the descriptor is open for the call and the kernel writes one int to the pointer.
    unsafe { ioctl::blk_get_sector_size(device.as_raw_fd(), &raw mut size) }?;
    u64::try_from(size).map_err(io::Error::other)
}

/// Makes a range of a block device read zero (BLKZEROOUT). The device does that if it can, without giving the space
/// back; otherwise the kernel writes zeros. Both numbers are in bytes and multiples of the sector size. The page cache
/// of the range is dropped.
pub(crate) fn zero_out(device: &File, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call and the kernel reads two u64 from the pointer.
    unsafe { ioctl::blk_zero_out(device.as_raw_fd(), &[offset, len]) }?;
    Ok(())
}

/// Tells a block device that a range is no longer needed (BLKDISCARD). The device decides what the range reads as
/// afterwards. The numbers are as for [`zero_out`].
pub(crate) fn discard(device: &File, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call and the kernel reads two u64 from the pointer.
    unsafe { ioctl::blk_discard(device.as_raw_fd(), &[offset, len]) }?;
    Ok(())
}

/// Attaches a free loop device to `backing` with autoclear, in one step (LOOP_CONFIGURE, Linux 5.8). A process that is
/// killed at any moment leaves either nothing or a device that detaches itself. The loopdev crate takes two steps
/// (LOOP_SET_FD, LOOP_SET_STATUS64), and the device stays attached if the process dies between them. The device is
/// named `name`, which is cut off at 63 bytes. Fails with EBUSY if another process took the device.
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

/// The status of an attached loop device.
pub(crate) struct LoopStatus {
    /// The device and the inode number of the file.
    pub(crate) backing_file: (u64, u64),
    /// The device number, if that file is a block device.
    pub(crate) backing_device: u64,
    /// The name of the device, filled up with zeros.
    pub(crate) name: [u8; LO_NAME_SIZE],
}

/// Returns the status of a loop device (LOOP_GET_STATUS64), or `None` if it is free.
pub(crate) fn loop_status(device: &File) -> io::Result<Option<LoopStatus>> {
    let mut info = [0_u64; 29];
    // SAFETY: the descriptor is open for the call; `struct loop_info64` has 232 bytes, as the array.
    match unsafe { ioctl::loop_get_status64(device.as_raw_fd(), &raw mut info) } {
        // The structure begins with lo_device, lo_inode and lo_rdevice. lo_file_name are its words 7 to 14, from 0 on.
        Ok(_) => {
            let mut name = [0; LO_NAME_SIZE];
            for (bytes, word) in name.chunks_exact_mut(8).zip(&info[7..]) {
                bytes.copy_from_slice(&word.to_ne_bytes());
            }
            Ok(Some(LoopStatus { backing_file: (info[0], info[1]), backing_device: info[2], name }))
        }
        Err(Errno::ENXIO) => Ok(None),
        Err(err) => Err(err.into()),
    }
}

/// Detaches a loop device (LOOP_CLR_FD). If others have it open, it is detached when the last of them closes it.
pub(crate) fn loop_detach(device: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call, which takes no argument.
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

/// Makes the kernel forget a partition of a block device. The disk is not changed. Fails with EBUSY if the partition is
/// in use.
pub(crate) fn delete_partition(device: &File, number: i32) -> io::Result<()> {
    let data = BlkpgPartition { start: 0, length: 0, number, names: [0; 128] };
    let datalen = libc::c_int::try_from(size_of::<BlkpgPartition>()).map_err(io::Error::other)?;
    let argument = BlkpgArgument { op: BLKPG_DEL_PARTITION, flags: 0, datalen, data: &raw const data };
    // SAFETY: the descriptor is open for the call, and the kernel reads the two structures.
    unsafe { ioctl::blkpg(device.as_raw_fd(), &raw const argument) }?;
    Ok(())
}

/// A target of the device mapper and its parameters, as `dmsetup table` shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MapperTarget {
    pub(crate) kind: String,
    pub(crate) parameters: String,
}

/// The length of the space for the answer in bytes. One target with some parameters has to fit.
const MAPPER_ROOM: usize = 16 << 10;

/// `struct dm_ioctl` of linux/dm-ioctl.h, followed by space for the kernel's answer.
#[repr(C)]
struct MapperRequest {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event: u32,
    padding: u32,
    device: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    spare: [u8; 7],
    answer: [u8; MAPPER_ROOM],
}

/// The size of `struct dm_ioctl` in bytes.
const MAPPER_HEAD: usize = 312;

/// The size of `struct dm_target_spec`, which comes before the parameters, in bytes, and the place of the type in it.
const SPEC: usize = 40;
const SPEC_KIND: usize = 24;

/// DM_STATUS_TABLE_FLAG asks for the table. A question for the state of a pool would sync it.
const TABLE: u32 = 1 << 4;

/// Returns the target of the mapped device with this number, or `None` if it does not have exactly one.
pub(crate) fn mapper_target(device: u64) -> io::Result<Option<MapperTarget>> {
    let control = File::open("/dev/mapper/control")?;
    let mut request = Box::new(MapperRequest {
        version: [4, 0, 0],
        data_size: u32::try_from(size_of::<MapperRequest>()).map_err(io::Error::other)?,
        data_start: u32::try_from(MAPPER_HEAD).map_err(io::Error::other)?,
        target_count: 0,
        open_count: 0,
        flags: TABLE,
        event: 0,
        padding: 0,
        device,
        name: [0; 128],
        uuid: [0; 129],
        spare: [0; 7],
        answer: [0; MAPPER_ROOM],
    });
    // SAFETY: the descriptor is open for the call, and the kernel reads and writes the structure, whose size stands in
    // it.
    unsafe { ioctl::dm_table_status(control.as_raw_fd(), &raw mut *request) }?;
    Ok((request.target_count == 1).then(|| target_in(&request.answer)))
}

fn target_in(answer: &[u8]) -> MapperTarget {
    let text = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    MapperTarget { kind: text(&answer[SPEC_KIND..SPEC]), parameters: text(&answer[SPEC..]) }
}

#[cfg(test)]
mod tests {
    use super::{LoopConfig, MAPPER_HEAD, MapperRequest, MapperTarget, target_in};

    #[test]
    fn loop_config_has_the_kernels_layout() {
        assert_eq!(size_of::<LoopConfig>(), 304);
        assert_eq!(std::mem::offset_of!(LoopConfig, info_flags), 60);
        assert_eq!(std::mem::offset_of!(LoopConfig, info_name), 64);
    }

    #[test]
    fn a_request_has_the_kernels_layout() {
        assert_eq!(std::mem::offset_of!(MapperRequest, device), 40);
        assert_eq!(std::mem::offset_of!(MapperRequest, uuid), 176);
        assert_eq!(std::mem::offset_of!(MapperRequest, answer), MAPPER_HEAD);
    }

    #[test]
    fn an_answer_is_a_type_and_its_parameters() {
        let mut answer = vec![0; 100];
        answer[24..28].copy_from_slice(b"thin");
        answer[40..47].copy_from_slice(b"253:4 1");
        let expected = MapperTarget { kind: "thin".to_owned(), parameters: "253:4 1".to_owned() };
        assert_eq!(target_in(&answer), expected);
    }
}
