// SPDX-License-Identifier: BSD-2-Clause
//! Standard input and output as the dumps need them.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, fcntl};

/// What an unprivileged pipe may hold at most, in bytes (/proc/sys/fs/pipe-max-size). With the usual 64 KiB both sides
/// wake each other 16 times as often.
const PIPE_LEN: i32 = 1 << 20;

/// The stream without the buffer that `std` puts in front of it; a pipe is made to hold more.
pub(super) fn unbuffered(stream: impl AsFd) -> io::Result<File> {
    let file = File::from(stream.as_fd().try_clone_to_owned()?);
    // Not a pipe, or a user at the limit: it works as it is.
    let _ = fcntl(&file, FcntlArg::F_SETPIPE_SZ(PIPE_LEN));
    Ok(file)
}
