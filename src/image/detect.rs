// SPDX-License-Identifier: BSD-2-Clause
//! What a file's first bytes say it is.
//!
//! An ISO image counts as no disk, though a hybrid one could be written and would boot: it would boot into an
//! installer, and whoever named it mostly meant something else. `allow_unknown_content` takes it for the disk that it
//! also is.

use super::fields::Fields;
use super::format::{Compression, Format};

/// How many bytes from the start are enough for every test here: btrfs has its magic at 64 KiB + 64.
pub(crate) const HEAD_LEN: usize = 128 << 10;

/// How many bytes from the end [`ending`] looks at.
pub(crate) const TAIL_LEN: usize = 512;

/// What decoded bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// A disk in a format that is served. For raw: a partition table, boot sector or known file system was found.
    Disk(Format),
    /// An ISO image with a boot sector: it can be written to a disk and boots from there, but mostly to install a system.
    HybridIso,
    /// Nothing that is known: possibly a raw disk, possibly anything.
    Unknown,
    /// Certainly not a disk that can be written as it is, with the words for what it is.
    Foreign(&'static str),
}

/// The compression that a file with this head is in; none when it is none of ours.
pub(crate) fn compression(head: &[u8]) -> Option<Compression> {
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
pub(crate) fn content(head: &[u8]) -> Content {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let known = |magics: &[(usize, &[u8])]| magics.iter().any(|(offset, magic)| at(*offset, magic));
    // VDI's magic is at 64, where an archive may have any bytes.
    let container = CONTAINERS.iter().find(|(offset, magic, _)| at(*offset, magic));
    if let Some((_, _, format)) = container.filter(|_| compression(head).is_none()) {
        return Content::Disk(*format);
    }
    if known(&[(32769, b"CD001")]) && known(&DISK_MAGICS[..2]) {
        return Content::HybridIso;
    }
    if let Some(words) = foreign(head, &at) {
        return Content::Foreign(words);
    }
    if known(&DISK_MAGICS) { Content::Disk(Format::Raw) } else { Content::Unknown }
}

/// The words for a file that begins like a raw disk, but ends like something else.
pub(crate) fn ending(tail: &[u8]) -> Option<&'static str> {
    let last = tail.len().checked_sub(TAIL_LEN).map(|start| &tail[start..])?;
    if last.starts_with(b"conectix") {
        // Microsoft's VHD specification: a fixed one is the disk with a footer behind it.
        return Some("a VHD image of fixed size (qemu-img convert -f vpc -O qcow2 makes it one that is served)");
    }
    last.starts_with(b"koly\0\0\0\x04").then_some("an Apple disk image (dmg)")
}

/// Formats other than raw.
const CONTAINERS: [(usize, &[u8], Format); 4] = [
    (0, b"QFI\xfb", Format::Qcow2),
    (0, b"KDMV", Format::Vmdk),
    (64, &[0x7f, 0x10, 0xda, 0xbe], Format::Vdi),
    (0, b"vhdxfile", Format::Vhdx),
];

/// Partition tables, boot sectors and file systems that may fill a whole disk: offset in bytes, and magic.
const DISK_MAGICS: [(usize, &[u8]); 20] = [
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
    (0x8000, b"JFS1"),                     // JFS
    (0x1_0034, b"ReIsEr"),                 // ReiserFS 3
    (1030, &[0x34, 0x34]),                 // NILFS2
    (0x1_0000, &[0x01, 0x16, 0x19, 0x70]), // GFS2
    (4120, b"\xc6\x85\x73\xf6\x4e\x1a"),   // bcachefs, the start of its UUID
    (4096, &[0xfc, 0x4e, 0x2b, 0xa9]),     // Linux RAID, superblock 1.2
    (512, &[0x57, 0x45, 0x56, 0x82]),      // BSD disk label
    (508, &[0xda, 0xbe]),                  // Sun disk label
    (512, b"PM\0\0"),                      // Apple partition map
    (32, b"NXSB"),                         // APFS
];

/// What is told by a few bytes: offset, those bytes, the words for it.
const FOREIGN_MAGICS: [(usize, &[u8], &str); 57] = [
    (32769, b"CD001", "an ISO 9660 image (a CD or DVD, not a disk)"),
    (32769, b"BEA01", "a UDF image (a CD or DVD, not a disk)"),
    (0, b"COWD", "an old VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor, which only names the files of an image"),
    (0, b"conectix", "a VHD image"),
    (0, b"QED\0", "a QED image"),
    (0, b"WithoutFreeSpace", "a Parallels image"),
    (0, b"WithouFreSpacExt", "a Parallels image"),
    (0, b"Bochs Virtual HD Image", "a Bochs image"),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "a cloop image"),
    (0, b"OOOM", "a User-mode Linux COW image"),
    (0, b"EVF\x09\x0d\x0a\xff\0", "an EWF (EnCase) image"),
    (0, &[0x3a, 0xff, 0x26, 0xed], "an Android sparse image"),
    (0, b"partclone-image", "a partclone image"),
    (0, b"MSWIM\0\0\0", "a WIM archive"),
    (0, b"hsqs", "a squashfs file system"),
    (0, b"sqsh", "a squashfs file system"),
    (1024, &[0xe2, 0xe1, 0xf5, 0xe0], "an EROFS file system"),
    (0, &[0x45, 0x3d, 0xcd, 0x28], "a cramfs file system"),
    (0, b"-rom1fs-", "a romfs file system"),
    (514, b"HdrS", "a Linux kernel"),
    (0, b"\x7fELF", "an ELF program"),
    (0, &[0xcf, 0xfa, 0xed, 0xfe], "a Mach-O program"),
    (0, &[0xce, 0xfa, 0xed, 0xfe], "a Mach-O program"),
    (0, &[0xca, 0xfe, 0xba, 0xbe], "a Mach-O program or Java class"),
    (0, b"\0asm", "a WebAssembly program"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"PK\x05\x06", "a ZIP archive"),
    (0, b"PK\x07\x08", "a ZIP archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, &[0x04, 0x22, 0x4d, 0x18], "an LZ4 archive"),
    (0, &[0x02, 0x21, 0x4c, 0x18], "an LZ4 archive"),
    (0, b"LZIP", "an lzip archive"),
    (0, b"\x89LZO\0\r\n\x1a\n", "an LZO archive"),
    (0, &[0x5d, 0, 0, 0x80, 0, 0xff, 0xff, 0xff, 0xff], "an LZMA archive"),
    (0, &[0x1f, 0x9d], "a compress (.Z) archive"),
    (0, &[0x1f, 0x8b], "a damaged gzip archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"070701", "a cpio archive"),
    (0, b"070702", "a cpio archive"),
    (0, b"070707", "a cpio archive"),
    (0, b"!<arch>", "an ar archive or Debian package"),
    (0, &[0xed, 0xab, 0xee, 0xdb], "an RPM package"),
    (0, b"MSCF\0\0\0\0", "a CAB archive"),
    (0, b"xar!", "a xar archive"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (0, &[0xff, 0xd8, 0xff], "a JPEG picture"),
    (0, b"GIF8", "a GIF picture"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"-----BEGIN ", "a PEM or PGP text"),
    (0, b"DIRC", "a git index"),
    (0, b"PACK\0\0\0", "a git pack"),
    (0, b"BZh", "a damaged bzip2 archive"),
    (0, &[0xff, 0xfe, 0x3c, 0], "a text file"),
    (0, &[0xef, 0xbb, 0xbf], "a text file"),
];

fn foreign(head: &[u8], at: &impl Fn(usize, &[u8]) -> bool) -> Option<&'static str> {
    match compression(head) {
        Some(Compression::Gzip) => return Some("a gzip archive"),
        Some(Compression::Bzip2) => return Some("a bzip2 archive"),
        Some(Compression::Xz) => return Some("an xz archive"),
        Some(Compression::Zstd) => return Some("a Zstandard archive"),
        None => {}
    }
    if let Some((_, _, words)) = FOREIGN_MAGICS.iter().find(|(offset, magic, _)| at(*offset, magic)) {
        return Some(words);
    }
    // A kernel with an EFI stub has a boot signature, too.
    let program = Fields(head).le_u32(60).and_then(|place| usize::try_from(place).ok());
    if at(0, b"MZ") && program.is_some_and(|place| place < HEAD_LEN && at(place, b"PE\0\0")) {
        return Some("a Windows or EFI program");
    }
    is_text(head).then(|| text(head))
}

/// The words for a text.
fn text(head: &[u8]) -> &'static str {
    let start = head.trim_ascii_start();
    let begins = |word: &str| start.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word.as_bytes()));
    if ["<!doctype html", "<html", "<head", "<body", "<title"].into_iter().any(begins) {
        return "an HTML page";
    }
    match start.first() {
        Some(b'<') if begins("<?xml") || begins("<!doctype") || begins("<svg") => "an XML document",
        Some(b'{' | b'[') => "a JSON text",
        Some(b'#') if start.starts_with(b"#!") => "a script",
        _ => "a text file",
    }
}

/// Whether the first bytes are all printable: no disk begins with half a kilobyte of text.
fn is_text(head: &[u8]) -> bool {
    let start = &head[..head.len().min(510)];
    !start.is_empty()
        && start.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c | b' '..=b'~' | 0x80..))
        && std::str::from_utf8(start).map_or_else(|err| err.error_len().is_none(), |_| true)
}

#[cfg(test)]
mod tests {
    use super::{Compression, Content, HEAD_LEN, compression, content, ending};
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
        for (offset, magic, format) in super::CONTAINERS {
            assert_eq!(content(&with(offset, magic)), Content::Disk(format));
        }
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
            (b"{\"status\": 404}".to_vec(), "a JSON text"),
            (b"#!/bin/sh\necho\n".to_vec(), "a script"),
        ];
        for (head, words) in named {
            assert_eq!(content(&head), Content::Foreign(words));
        }
        for (offset, magic, words) in super::FOREIGN_MAGICS {
            assert_eq!(content(&with(offset, magic)), Content::Foreign(words));
        }
        let mut hybrid = with(32769, b"CD001");
        hybrid[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(content(&hybrid), Content::HybridIso);
        let mut kernel = with(510, &[0x55, 0xaa]);
        (kernel[0], kernel[1], kernel[60]) = (b'M', b'Z', 64);
        kernel[64..66].copy_from_slice(b"PE");
        assert_eq!(content(&kernel), Content::Foreign("a Windows or EFI program"));
        assert_eq!(ending(&with(HEAD_LEN - 512, b"conectix")).map(|words| &words[..11]), Some("a VHD image"));
        assert_eq!(ending(b"conectix"), None);
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
