// SPDX-License-Identifier: BSD-2-Clause
//! What the reader says of archives that it cannot decode.

use std::fmt::Display;
use std::io;

/// An error of this kind, with the reason. It says that the archive is truncated where the kind is `UnexpectedEof`, and
/// that it is corrupt otherwise.
pub(crate) fn broken(kind: io::ErrorKind, reason: impl Display) -> io::Error {
    let state = if kind == io::ErrorKind::UnexpectedEof { "truncated" } else { "corrupt" };
    io::Error::new(kind, format!("the bz2 archive is {state} ({reason})"))
}

/// Something other than zero padding follows the last stream.
pub(crate) fn followed_by_data() -> io::Error {
    let message = "trailing data after the end of the bz2 archive";
    io::Error::new(io::ErrorKind::InvalidData, message)
}
