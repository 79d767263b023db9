// SPDX-License-Identifier: BSD-2-Clause
//! Detects what a file is by its first bytes, or by a footer.
//!
//! An ISO image is not accepted as a disk. A hybrid one can be written to a disk and boots from there, but it boots an
//! installer, which is rarely what the user wants. `allow_unknown_content` accepts it all the same.

use std::io::{self, Read};

use super::compression::Compression;
use super::format::Format;

/// How many bytes from the start of a file are looked at: btrfs has its magic at 64 KiB + 64.
pub(crate) const HEAD_LEN: usize = 128 << 10;

/// The length of a footer at the end of a file, in bytes.
pub(crate) const FOOTER_LEN: usize = 512;

/// What the decoded bytes of an image are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// A disk in a supported format. In a raw one a partition table, a boot sector or a known file system was found.
    Disk(Format),
    /// An ISO image with a boot sector.
    HybridIso,
    /// Nothing was recognised. It may be a raw disk.
    Unknown,
    /// Not a disk that can be written as it is. The text says what it is.
    Foreign(&'static str),
}

/// Returns what the decoded bytes are that begin with `head`. `head` has [`HEAD_LEN`] bytes, or is the whole file.
pub(crate) fn content(head: &[u8]) -> Content {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let known = |magics: &[(usize, &[u8])]| magics.iter().any(|(offset, magic)| at(*offset, magic));
    // The magic of a VDI is at 64, where an archive may have any bytes.
    let container = CONTAINERS.iter().find(|(offset, magic, _)| at(*offset, magic));
    if let Some((_, _, format)) = container.filter(|_| Compression::detect(head).is_none()) {
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

/// Detects the formats that begin like a raw disk and have a footer: says what the file that ends with `tail` is, or
/// `None` if it has no such footer.
pub(crate) fn footer(tail: &[u8]) -> Option<&'static str> {
    let start = tail.len().checked_sub(FOOTER_LEN)?;
    match &tail[start..] {
        // Microsoft's VHD specification: an image of fixed size is the disk with a footer after it.
        footer if footer.starts_with(b"conectix") => {
            Some("a VHD image of fixed size (qemu-img convert -f vpc -O qcow2 makes it one that is served)")
        }
        footer if footer.starts_with(b"koly\0\0\0\x04") => Some("an Apple disk image (dmg)"),
        _ => None,
    }
}

/// Reads a raw image that comes as a stream. At its end it gives an error if the footer of another format was there.
pub(crate) struct FooterCheck<R> {
    inner: R,
    /// The last bytes that were read, at most [`FOOTER_LEN`].
    tail: Vec<u8>,
}

impl<R> FooterCheck<R> {
    pub(crate) fn new(inner: R) -> Self {
        FooterCheck { inner, tail: Vec::with_capacity(2 * FOOTER_LEN) }
    }
}

impl<R: Read> Read for FooterCheck<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buf)?;
        if len == 0
            && !buf.is_empty()
            && let Some(words) = footer(&self.tail)
        {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is {words}")));
        }
        self.tail.extend_from_slice(&buf[len.saturating_sub(FOOTER_LEN)..len]);
        self.tail.drain(..self.tail.len().saturating_sub(FOOTER_LEN));
        Ok(len)
    }
}

/// The formats other than raw: offset in bytes, and magic.
const CONTAINERS: [(usize, &[u8], Format); 4] = [
    (0, b"QFI\xfb", Format::Qcow2),
    (0, b"KDMV", Format::Vmdk),
    (64, &[0x7f, 0x10, 0xda, 0xbe], Format::Vdi),
    (0, b"vhdxfile", Format::Vhdx),
];

/// Partition tables, boot sectors and file systems that can fill a whole disk: offset in bytes, and magic.
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

/// Files that are not disks: offset in bytes, magic, and what the file is.
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
    if let Some(compression) = Compression::detect(head) {
        return Some(compression.archive());
    }
    if let Some((_, _, words)) = FOREIGN_MAGICS.iter().find(|(offset, magic, _)| at(*offset, magic)) {
        return Some(words);
    }
    // This comes before the boot signature, as a kernel with an EFI stub has one, too.
    let program = Fields(head).le_u32(60).and_then(|place| usize::try_from(place).ok());
    if at(0, b"MZ") && program.is_some_and(|place| place < HEAD_LEN && at(place, b"PE\0\0")) {
        return Some("a Windows or EFI program");
    }
    is_text(head).then(|| text(head))
}

/// Says what kind of text it is.
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

/// Returns whether the first bytes are all printable. No disk begins with half a kilobyte of text.
fn is_text(head: &[u8]) -> bool {
    let start = &head[..head.len().min(510)];
    !start.is_empty()
        && start.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c | b' '..=b'~' | 0x80..))
        // A character that is cut off at the end does not count as wrong.
        && std::str::from_utf8(start).err().is_none_or(|err| err.error_len().is_none())
}

/// The bytes of a header. A getter gives none if the header ends before the last byte of the number.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'b>(pub(crate) &'b [u8]);

impl Fields<'_> {
    pub(crate) fn bytes<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    pub(crate) fn be_u32(self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_be_bytes)
    }

    pub(crate) fn be_u64(self, at: usize) -> Option<u64> {
        self.bytes(at).map(u64::from_be_bytes)
    }

    pub(crate) fn le_u16(self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    pub(crate) fn le_u32(self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    pub(crate) fn le_u64(self, at: usize) -> Option<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{Content, FooterCheck, HEAD_LEN, content, footer};
    use crate::image::format::Format;
    use std::io::Read;

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
        assert_eq!(footer(&with(HEAD_LEN - 512, b"conectix")).map(|words| &words[..11]), Some("a VHD image"));
        assert_eq!(footer(b"conectix"), None);
    }

    #[test]
    fn zeros_and_noise_are_unknown() {
        assert_eq!(content(&[0; 4096]), Content::Unknown);
        assert_eq!(content(&[1, 2, 3]), Content::Unknown);
        assert_eq!(content(&[]), Content::Unknown);
    }

    #[test]
    fn the_end_decides_however_it_comes() {
        let mut image = vec![7; 3000];
        image[2488..2496].copy_from_slice(b"conectix");
        for (bytes, words) in
            [(&image[..2999], None), (&image[..], Some("it is a VHD image of fixed size")), (&image[..5], None)]
        {
            for step in [1, 511, 700, 5000] {
                let mut reader = FooterCheck::new(bytes);
                let (mut all, mut piece) = (Vec::new(), vec![0; step]);
                let end = loop {
                    match reader.read(&mut piece) {
                        Ok(0) => break None,
                        Ok(len) => all.extend_from_slice(&piece[..len]),
                        Err(err) => break Some(err.to_string()),
                    }
                };
                assert_eq!(all, bytes);
                assert_eq!(end.as_deref().map(|end| &end[..31]), words, "{step}");
            }
        }
    }
}
