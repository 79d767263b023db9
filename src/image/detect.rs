// SPDX-License-Identifier: BSD-2-Clause
//! What a file's first bytes say it is.

use super::format::{Compression, Format};

/// How many bytes from the start are enough for every test here: btrfs has its magic at 64 KiB + 64.
pub const HEAD_LEN: usize = 128 << 10;

/// What decoded bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A disk in a format that is served. For raw: a partition table, boot sector or known file system was found.
    Disk(Format),
    /// Nothing that is known: possibly a raw disk, possibly anything.
    Unknown,
    /// Certainly not a disk that can be written as it is, with the words for what it is.
    Foreign(&'static str),
}

/// The compression that a file with this head is in; none when it is none of ours.
pub fn compression(head: &[u8]) -> Option<Compression> {
    match head {
        [0x1f, 0x8b, 8, ..] => Some(Compression::Gzip),
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..] => Some(Compression::Bzip2),
        // A stream without a block.
        [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, ..] => Some(Compression::Bzip2),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Compression::Xz),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
        // A skippable frame may come first (pzstd).
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Compression::Zstd),
        _ => None,
    }
}

/// What the decoded bytes that begin with `head` are.
pub fn content(head: &[u8]) -> Content {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    if at(0, b"QFI\xfb") {
        return Content::Disk(Format::Qcow2);
    }
    if let Some(words) = foreign(head, &at) {
        return Content::Foreign(words);
    }
    if DISK_MAGICS.iter().any(|(offset, magic)| at(*offset, magic)) {
        return Content::Disk(Format::Raw);
    }
    Content::Unknown
}

/// Partition tables, boot sectors and file systems that may fill a whole disk: offset in bytes, and magic.
const DISK_MAGICS: [(usize, &[u8]); 10] = [
    (510, &[0x55, 0xaa]),                  // MBR, FAT, NTFS, x86 boot sectors
    (512, b"EFI PART"),                    // GPT
    (4096, b"EFI PART"),                   // GPT on 4096-byte sectors
    (1080, &[0x53, 0xef]),                 // ext2, ext3, ext4
    (0, b"XFSB"),                          // xfs
    (0x1_0040, b"_BHRfS_M"),               // btrfs
    (512, b"LABELONE"),                    // LVM physical volume
    (0, b"LUKS\xba\xbe"),                  // LUKS
    (0x1_055c, &[0x19, 0x54, 0x01, 0x19]), // UFS2, 32-bit little-endian superblock at 64 KiB
    (1024, &[0x10, 0x20, 0xf5, 0xf2]),     // F2FS
];

fn foreign(head: &[u8], at: &impl Fn(usize, &[u8]) -> bool) -> Option<&'static str> {
    const MAGICS: [(usize, &[u8], &str); 16] = [
        (32769, b"CD001", "an ISO 9660 image (a CD or DVD, not a disk)"),
        (0, b"KDMV", "a VMDK image"),
        (0, b"COWD", "a VMDK image"),
        (0, b"# Disk DescriptorFile", "a VMDK descriptor"),
        (64, &[0x7f, 0x10, 0xda, 0xbe], "a VDI image"),
        (0, b"vhdxfile", "a VHDX image"),
        (0, b"conectix", "a VHD image"),
        (0, b"QED\0", "a QED image"),
        (0, &[0xcf, 0xfa, 0xed, 0xfe], "a Mach-O program"),
        (0, b"\x7fELF", "an ELF program"),
        (0, b"PK\x03\x04", "a ZIP archive"),
        (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (0, &[0x04, 0x22, 0x4d, 0x18], "an LZ4 archive"),
        (257, b"ustar", "a tar archive"),
        (0, b"!<arch>", "an ar archive or Debian package"),
        (0, b"-----BEGIN ", "a PEM or PGP text"),
    ];
    match compression(head) {
        Some(Compression::Gzip) => return Some("a gzip archive"),
        Some(Compression::Bzip2) => return Some("a bzip2 archive"),
        Some(Compression::Xz) => return Some("an xz archive"),
        Some(Compression::Zstd) => return Some("a Zstandard archive"),
        None => {}
    }
    if let Some((_, _, words)) = MAGICS.iter().find(|(offset, magic, _)| at(*offset, magic)) {
        return Some(words);
    }
    let start = head.trim_ascii_start();
    let html = ["<!doctype html", "<html", "<head"]
        .iter()
        .any(|tag| start.get(..tag.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(tag.as_bytes())));
    if html {
        return Some("an HTML page");
    }
    if start.starts_with(b"<?xml") {
        return Some("an XML document");
    }
    is_text(head).then_some("a text file")
}

/// Whether the first bytes are all printable: no disk begins with half a kilobyte of text.
fn is_text(head: &[u8]) -> bool {
    let start = &head[..head.len().min(510)];
    !start.is_empty()
        && start.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~' | 0x80..))
        && std::str::from_utf8(start).map_or_else(|err| err.error_len().is_none(), |_| true)
}

#[cfg(test)]
mod tests {
    use super::{Compression, Content, HEAD_LEN, compression, content};
    use crate::image::format::Format;

    fn with(offset: usize, magic: &[u8]) -> Vec<u8> {
        let mut head = vec![0; HEAD_LEN];
        head[offset..offset + magic.len()].copy_from_slice(magic);
        head
    }

    #[test]
    fn disks_are_known_by_their_magic() {
        for (offset, magic) in super::DISK_MAGICS {
            assert_eq!(content(&with(offset, magic)), Content::Disk(Format::Raw), "{magic:?}");
        }
        assert_eq!(content(b"QFI\xfb\0\0\0\x03"), Content::Disk(Format::Qcow2));
    }

    #[test]
    fn what_is_no_disk_is_called_by_its_name() {
        let named = [
            (with(32769, b"CD001"), "an ISO 9660 image (a CD or DVD, not a disk)"),
            (b"\n <!DOCTYPE HTML><title>404</title>".to_vec(), "an HTML page"),
            (b"root:x:0:0:root:/root:/bin/bash\n".to_vec(), "a text file"),
            (b"\x1f\x8b\x08\0".to_vec(), "a gzip archive"),
            (b"\xfd7zXZ\0".to_vec(), "an xz archive"),
            (b"conectix\0\0".to_vec(), "a VHD image"),
        ];
        for (head, words) in named {
            assert_eq!(content(&head), Content::Foreign(words));
        }
        // A hybrid ISO has a boot signature too.
        let mut hybrid = with(32769, b"CD001");
        hybrid[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert!(matches!(content(&hybrid), Content::Foreign(words) if words.starts_with("an ISO")));
    }

    #[test]
    fn zeros_and_noise_are_unknown() {
        assert_eq!(content(&[0; 4096]), Content::Unknown);
        assert_eq!(content(&[1, 2, 3]), Content::Unknown);
        assert_eq!(content(&[]), Content::Unknown);
    }

    #[test]
    fn a_cut_magic_is_no_magic() {
        assert_eq!(compression(b"BZh9"), None);
        assert_eq!(compression(b"BZh91AY&SY"), Some(Compression::Bzip2));
        assert_eq!(compression(b"\x28\xb5\x2f"), None);
        assert_eq!(compression(b"\x52\x2a\x4d\x18"), Some(Compression::Zstd));
    }
}
