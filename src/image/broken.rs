// SPDX-License-Identifier: BSD-2-Clause
//! What is said about archives that can't be decoded.

use std::fmt::Display;
use std::io;

use super::format::Compression;

/// An error in the words of its kind: the archive ends too early where that is `UnexpectedEof`, else it is not what its
/// format asks for, or a checksum does not match.
pub(super) fn error(compression: Compression, kind: io::ErrorKind, why: impl Display) -> io::Error {
    let what = match kind {
        io::ErrorKind::UnexpectedEof => "is truncated",
        _ => "is corrupt",
    };
    io::Error::new(kind, format!("the {compression} archive {what} ({why})"))
}

/// Something else than zero padding follows the archive.
pub(super) fn followed_by_data(compression: Compression) -> io::Error {
    let message = format!("there is data behind the end of the {compression} archive that belongs to no member");
    io::Error::new(io::ErrorKind::InvalidData, message)
}
