// SPDX-License-Identifier: BSD-2-Clause
//! The gate before qemu-img: what it opens is one file, whole, that leads to no other.
//!
//! qcow2 has a module of its own. The others are taken only where a variant lists them in `image_formats`.

mod vdi;
mod vhdx;
mod vmdk;

#[cfg(any(test, fuzzing))]
pub(crate) use vhdx::seal as seal_vhdx;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::format::Format;
use super::qcow2::{self, Qcow2Error};
use crate::node::size::ByteSize;

/// Largest table that is read at once, in bytes. That of a VMDK image of 2 TiB takes 256 KiB.
const MAX_TABLE: u64 = 32 << 20;

/// Why an image is not handed to qemu-img.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainerError {
    /// qcow2 has its own reasons.
    #[error(transparent)]
    Qcow2(#[from] Qcow2Error),
    /// Shorter than its tables say. qemu-img would read zeros there.
    #[error("the {format} image is truncated: it has {len} but needs at least {needed} (copy or publish it again)")]
    Cut {
        /// What it is.
        format: Format,
        /// What it has.
        len: ByteSize,
        /// The end of what was found missing.
        needed: ByteSize,
    },
    /// Only the difference to another image.
    #[error("the {0} image needs a parent image, which is not allowed (flatten it with qemu-img convert -O qcow2)")]
    Parent(Format),
    /// It keeps its data in other files.
    #[error(
        "the {0} image keeps its data in other files, which is not allowed (join them with qemu-img convert -O qcow2)"
    )]
    OtherFiles(Format),
    /// Writes that are only in its log.
    #[error("the {0} image was not closed: its log has to be replayed (qemu-img check -r all does it)")]
    Log(Format),
    /// A kind that is not served.
    #[error("the {format} image is {what}, which is not supported (convert it with qemu-img convert -O qcow2)")]
    Unsupported {
        /// What it is.
        format: Format,
        /// Of which kind.
        what: &'static str,
    },
    /// Numbers that can't be.
    #[error("the {format} header is invalid: {what}")]
    Header {
        /// What it is.
        format: Format,
        /// What is wrong.
        what: &'static str,
    },
    /// Tables that can't be.
    #[error("the {format} image is corrupt: {what}")]
    Tables {
        /// What it is.
        format: Format,
        /// What is wrong.
        what: &'static str,
    },
    /// It can't be read.
    #[error("reading the tables of the {0} image")]
    Read(Format, #[source] io::Error),
}

/// Checks the image of `len` bytes in `file`, of which `head` was read, with all tables that lead to its data, and gives
/// the size in bytes of the disk in it. Raw images have nothing to check.
pub(crate) fn check_file(format: Format, head: &[u8], file: &File, len: u64) -> Result<u64, ContainerError> {
    let image = Image { format, head, file, len };
    match format {
        Format::Raw => Ok(len),
        Format::Qcow2 => Ok(qcow2::check_file(head, file, len)?),
        Format::Vmdk => vmdk::check_file(&image),
        Format::Vdi => vdi::check_file(&image),
        Format::Vhdx => vhdx::check_file(&image),
    }
}

/// The same as far as the first bytes tell, where the file is not at hand yet; none where they don't tell the size.
pub(crate) fn check_head(format: Format, head: &[u8]) -> Result<Option<u64>, ContainerError> {
    match format {
        Format::Raw | Format::Vhdx => Ok(None),
        Format::Qcow2 => Ok(Some(qcow2::virtual_size(head)?)),
        Format::Vmdk => vmdk::check_head(head).map(Some),
        Format::Vdi => vdi::check_head(head).map(Some),
    }
}

/// An image file that is examined.
struct Image<'f> {
    format: Format,
    /// Its first 128 KiB, or all of it.
    head: &'f [u8],
    file: &'f File,
    len: u64,
}

impl Image<'_> {
    fn tables(&self, what: &'static str) -> ContainerError {
        ContainerError::Tables { format: self.format, what }
    }

    /// `len` bytes at `start`, all of which have to be in the file.
    fn read(&self, start: u64, len: u64) -> Result<Vec<u8>, ContainerError> {
        if len > MAX_TABLE {
            return Err(self.tables("its tables are too large"));
        }
        self.needs(start, len)?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, start).map_err(|err| ContainerError::Read(self.format, err))?;
        Ok(bytes)
    }

    /// An error unless the `len` bytes at `start` are in the file.
    fn needs(&self, start: u64, len: u64) -> Result<(), ContainerError> {
        let needed = start.saturating_add(len);
        if needed > self.len {
            let (len, needed) = (ByteSize(self.len), ByteSize(needed));
            return Err(ContainerError::Cut { format: self.format, len, needed });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Format, check_file, check_head};
    use proptest::prelude::{any, prop, proptest};
    use std::io::Write;

    proptest! {
        /// Whatever is in it: no panic, no endless work.
        #[test]
        fn no_bytes_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            numbers in prop::collection::vec((0..600_usize, any::<u8>()), 0..20),
        ) {
            for format in Format::ALL {
                // Zeros with a few numbers get further than noise.
                let mut sparse = vec![0; 300_000];
                sparse[..4].copy_from_slice(b"KDMV");
                sparse[64..72].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe, 1, 0, 1, 0]);
                numbers.iter().for_each(|(at, byte)| sparse[4 + at] = *byte);
                for bytes in [&bytes, &sparse] {
                    let mut file = tempfile::tempfile().unwrap();
                    file.write_all(bytes).unwrap();
                    let head = &bytes[..bytes.len().min(128 << 10)];
                    let _ = check_head(format, head);
                    let _ = check_file(format, head, &file, bytes.len() as u64);
                }
            }
        }
    }
}
