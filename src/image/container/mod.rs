// SPDX-License-Identifier: BSD-2-Clause
//! Checks images before qemu-img opens them. An image that names other files or is truncated is refused, as qemu-img
//! would follow the names, and would read zeros after the end of the file.

mod qcow2;
mod vdi;
mod vhdx;
mod vmdk;

#[cfg(any(test, fuzzing))]
pub(crate) use qcow2::virtual_size as qcow2_virtual_size;
pub(crate) use qcow2::{ImageFile, Qcow2Disk};
#[cfg(any(test, fuzzing))]
pub(crate) use vhdx::seal as seal_vhdx;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::format::Format;
use crate::node::size::ByteSize;

/// The largest table that is read at once, in bytes. The table of a VMDK image of 2 TiB has 256 KiB.
const MAX_TABLE: u64 = 32 << 20;

/// Why an image is not handed to qemu-img.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainerError {
    #[error("the {0} image is truncated: it ends inside its header")]
    TruncatedHeader(Format),
    /// The file is shorter than its tables say. qemu-img would read zeros there.
    #[error("the {format} image is truncated: it has {len} but needs at least {needed} (copy or publish it again)")]
    Truncated { format: Format, len: ByteSize, needed: ByteSize },
    #[error("the {0} image needs a parent image, which is not allowed (flatten it with qemu-img convert -O qcow2)")]
    Parent(Format),
    #[error("the {0} image needs a backing file, which is not allowed (flatten it with qemu-img convert -O qcow2)")]
    BackingFile(Format),
    #[error(
        "the {0} image keeps its data in other files, which is not allowed (join them with qemu-img convert -O qcow2)"
    )]
    OtherFiles(Format),
    #[error(
        "the {0} image keeps its data in another file, which is not allowed (flatten it with qemu-img convert -O qcow2)"
    )]
    DataFile(Format),
    #[error("the {0} image is encrypted, which is not supported (decrypt it with qemu-img convert)")]
    Encrypted(Format),
    #[error("the {0} image was not closed: its log has to be replayed (qemu-img check -r all does it)")]
    Log(Format),
    #[error("the {0} image is marked as corrupt (repair it with qemu-img check -r all)")]
    MarkedCorrupt(Format),
    #[error("the {0} image has unknown incompatible features ({1:#x})")]
    Features(Format, u64),
    #[error("qcow2 version {0} is not supported (2 and 3 are; convert it with qemu-img convert -O qcow2)")]
    Qcow2Version(u32),
    #[error("the {format} image is {what}, which is not supported (convert it with qemu-img convert -O qcow2)")]
    Unsupported { format: Format, what: &'static str },
    #[error("the {format} header is invalid: {what}")]
    Header { format: Format, what: &'static str },
    /// The size is larger than file offsets can be.
    #[error("the {0} header is invalid: a virtual size of {1}")]
    Size(Format, ByteSize),
    #[error("the {format} image is corrupt: {what} (see qemu-img check)")]
    Tables { format: Format, what: &'static str },
    #[error("reading the tables of the {0} image")]
    Read(Format, #[source] io::Error),
}

/// Checks the image of `len` bytes in `file`, which begins with `head`, and all tables that lead to its data. Returns
/// the size in bytes of the disk in it.
pub(crate) fn check_file(format: Format, head: &[u8], file: &File, len: u64) -> Result<u64, ContainerError> {
    let image = Image { format, head, file, len };
    match format {
        Format::Raw => Ok(len),
        Format::Qcow2 => qcow2::check_file(&image),
        Format::Vmdk => vmdk::check_file(&image),
        Format::Vdi => vdi::check_file(&image),
        Format::Vhdx => vhdx::check_file(&image),
    }
}

/// Checks an image of which only the beginning was read yet. Returns the size in bytes of the disk in it, if `head`
/// tells it.
pub(crate) fn check_head(format: Format, head: &[u8]) -> Result<Option<u64>, ContainerError> {
    match format {
        Format::Raw | Format::Vhdx => Ok(None),
        Format::Qcow2 => qcow2::virtual_size(head).map(Some),
        Format::Vmdk => vmdk::check_head(head).map(Some),
        Format::Vdi => vdi::check_head(head).map(Some),
    }
}

/// An image file that is checked.
struct Image<'f> {
    format: Format,
    /// The first 128 KiB of the image, or all of it.
    head: &'f [u8],
    file: &'f File,
    len: u64,
}

impl Image<'_> {
    fn tables(&self, what: &'static str) -> ContainerError {
        ContainerError::Tables { format: self.format, what }
    }

    /// Reads `len` bytes at `start`. The error is [`ContainerError::Truncated`] if the file ends before.
    fn read(&self, start: u64, len: u64) -> Result<Vec<u8>, ContainerError> {
        if len > MAX_TABLE {
            return Err(self.tables("its tables are too large"));
        }
        self.needs(start, len)?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, start).map_err(|err| ContainerError::Read(self.format, err))?;
        Ok(bytes)
    }

    /// Fails if the `len` bytes at `start` are not in the file.
    fn needs(&self, start: u64, len: u64) -> Result<(), ContainerError> {
        let needed = start.saturating_add(len);
        if needed > self.len {
            let (len, needed) = (ByteSize(self.len), ByteSize(needed));
            return Err(ContainerError::Truncated { format: self.format, len, needed });
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
        /// No content may lead to a panic or to endless work.
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
