// SPDX-License-Identifier: BSD-2-Clause
//! The device mapper's tables.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// A target of the device mapper and what it was made with, as `dmsetup table` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MapperTarget {
    pub(crate) kind: String,
    pub(crate) parameters: String,
}

/// Room for the answer in bytes: a target with some parameters.
const ROOM: usize = 16 << 10;

/// `struct dm_ioctl` of linux/dm-ioctl.h, and room for what the kernel answers behind it.
#[repr(C)]
struct Request {
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
    answer: [u8; ROOM],
}

/// Size of `struct dm_ioctl` in bytes.
const HEAD: usize = 312;

/// Size of `struct dm_target_spec`, which the parameters follow, in bytes, and where its type stands.
const SPEC: usize = 40;
const SPEC_KIND: usize = 24;

/// DM_STATUS_TABLE_FLAG: the table, not the state, which a pool would have to be synced for.
const TABLE: u32 = 1 << 4;

// DM_TABLE_STATUS: _IOWR(DM_IOCTL, DM_TABLE_STATUS_CMD, struct dm_ioctl)
nix::ioctl_readwrite_bad!(table_status, nix::request_code_readwrite!(0xfd, 12, HEAD), Request);

/// The only target of the mapped device with this number; none of one that has several.
pub(crate) fn mapper_target(device: u64) -> io::Result<Option<MapperTarget>> {
    let control = File::open("/dev/mapper/control")?;
    let size = u32::try_from(size_of::<Request>()).map_err(io::Error::other)?;
    let start = u32::try_from(HEAD).map_err(io::Error::other)?;
    let mut request = Box::new(Request {
        version: [4, 0, 0],
        data_size: size,
        data_start: start,
        target_count: 0,
        open_count: 0,
        flags: TABLE,
        event: 0,
        padding: 0,
        device,
        name: [0; 128],
        uuid: [0; 129],
        spare: [0; 7],
        answer: [0; ROOM],
    });
    // SAFETY: the descriptor is open for the call, and the kernel reads and writes the structure, whose size stands in it.
    unsafe { table_status(control.as_raw_fd(), &raw mut *request) }?;
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
    use super::{HEAD, MapperTarget, Request, target_in};

    #[test]
    fn a_request_has_the_kernels_layout() {
        assert_eq!(std::mem::offset_of!(Request, device), 40);
        assert_eq!(std::mem::offset_of!(Request, uuid), 176);
        assert_eq!(std::mem::offset_of!(Request, answer), HEAD);
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
