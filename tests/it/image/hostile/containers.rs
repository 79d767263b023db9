// SPDX-License-Identifier: BSD-2-Clause
//! VDI and VHDX images that are differences to others, were cut, or have numbers that can't be; these and VMDK images
//! on a node that takes their formats.

use super::{Case, Site, bytes, cut, patched, vmdk};

#[test]
fn hostile_and_broken_images_of_other_formats_are_refused() {
    Site::new("image_formats = ['raw', 'qcow2', 'vmdk', 'vdi', 'vhdx']\n").refuses(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    [vmdk::cases(), vdi(), vhdx_headers(), vhdx_metadata(), vhdx_sizes()].into_iter().flatten().collect()
}

/// The good image in this format with other bytes.
pub(super) fn broken(
    name: &'static str,
    format: &'static str,
    words: &'static [&'static str],
    patches: &'static [(usize, &'static [u8])],
) -> Case {
    bytes(name, format, words, move |site| patched(site.image(format, &[]), patches))
}

fn vdi() -> Vec<Case> {
    const PARENT: &[&str] = &["the vdi image needs a parent image, which is not allowed"];
    const SIZES: &[&str] = &["the vdi header is invalid: its sizes contradict each other"];
    const PLACES: &[&str] = &["the vdi header is invalid: its tables are at invalid offsets"];
    const CUT: &[&str] = &["the vdi image is truncated: it has", "but needs at least"];
    vec![
        broken("vdi that is a difference", "vdi", PARENT, &[(76, &[4])]),
        broken("vdi that is an undo log", "vdi", PARENT, &[(76, &[3])]),
        broken("vdi with a parent", "vdi", PARENT, &[(440, &[1])]),
        broken("vdi with a link", "vdi", PARENT, &[(424, &[1])]),
        broken("vdi version", "vdi", &["the vdi header is invalid: its version is not 1.1"], &[(70, &[2])]),
        broken("vdi of small blocks", "vdi", &["its sector or block size is not supported"], &[(376, &[0, 0, 1, 0])]),
        broken("vdi of size 0", "vdi", SIZES, &[(368, &[0; 8])]),
        broken("vdi of 16 EiB", "vdi", SIZES, &[(368, &[0xff; 8])]),
        broken(
            "vdi of half a sector",
            "vdi",
            &["the vdi header is invalid: the virtual size is no multiple of 512"],
            &[(368, &[0xf9, 0xff, 0x0f])],
        ),
        broken("vdi with more blocks than there can be", "vdi", SIZES, &[(388, &[0xff])]),
        broken("vdi map over the header", "vdi", PLACES, &[(340, &[0; 4])]),
        broken("vdi map over the data", "vdi", PLACES, &[(384, &[0xff; 4])]),
        broken(
            "vdi block behind all",
            "vdi",
            &["the vdi image is corrupt: its block map has an entry that is too large"],
            &[(512, &[9])],
        ),
        broken("vdi data behind the file", "vdi", CUT, &[(347, &[0x7f])]),
        bytes("vdi cut in the header", "vdi", &["the vdi header is invalid: the image ends inside it"], |site| {
            cut(site.image("vdi", &[]), 500)
        }),
        bytes("vdi cut in the middle", "vdi", CUT, |site| cut(site.image("vdi", &[]), 1 << 20)),
        bytes("vdi without its last byte", "vdi", CUT, |site| {
            let image = site.image("vdi", &[]);
            let len = image.len() - 1;
            cut(image, len)
        }),
        broken(
            "vdi too large",
            "vdi",
            &["the image needs 16 MiB but disk", "has 4 MiB (use a larger disk)"],
            &[(371, &[1]), (368, &[0; 3]), (384, &[16])],
        ),
    ]
}

/// What the places of headers and tables are multiples of.
const BASE: usize = 64 << 10;
const VHDX_CUT: &[&str] = &["the vhdx image is truncated: it has", "but needs at least"];

/// The good image with other bytes in a block that has a checksum, which is made right again.
fn summed(site: &Site, start: usize, len: usize, at: usize, bytes: &[u8]) -> Vec<u8> {
    let image = patched(site.image("vhdx", &[]), &[(start + at, bytes), (start + 4, &[0; 4])]);
    let crc = crc32c(&image[start..start + len]);
    patched(image, &[(start + 4, &crc.to_le_bytes())])
}

/// Where the metadata are, by their GUID's first bytes in the table of regions.
fn metadata(image: &[u8]) -> usize {
    let table = &image[3 * BASE..4 * BASE];
    let entry = table[16..].chunks(32).find(|entry| entry.starts_with(&[0x06, 0xa2, 0x7c, 0x8b])).unwrap();
    usize::try_from(u64::from_le_bytes(entry[16..24].try_into().unwrap())).unwrap()
}

/// The place of one item of the metadata.
fn item(image: &[u8], guid: &[u8]) -> usize {
    let start = metadata(image);
    let entry = image[start + 32..].chunks(32).find(|entry| entry.starts_with(guid)).unwrap();
    start + usize::try_from(u32::from_le_bytes(entry[16..20].try_into().unwrap())).unwrap()
}

fn vhdx_headers() -> Vec<Case> {
    vec![
        broken(
            "vhdx with damaged headers",
            "vhdx",
            &["the vhdx header is invalid: both of them are damaged"],
            &[(BASE + 100, &[1]), (2 * BASE + 100, &[1])],
        ),
        broken("vhdx without headers", "vhdx", &["both of them are damaged"], &[(BASE, b"xxxx"), (2 * BASE, b"xxxx")]),
        bytes(
            "vhdx with a log",
            "vhdx",
            &["the vhdx image was not closed: its log has to be replayed (qemu-img check -r all"],
            |site| {
                let image = site.image("vhdx", &[]);
                let number = |at: usize| u64::from_le_bytes(image[at + 8..at + 16].try_into().unwrap());
                let newest = if number(BASE) > number(2 * BASE) { BASE } else { 2 * BASE };
                summed(site, newest, 4096, 48, &[1; 16])
            },
        ),
        bytes(
            "vhdx of a later version",
            "vhdx",
            &["the vhdx header is invalid: its version is not supported"],
            |site| {
                let image = summed(site, BASE, 4096, 66, &[2]);
                patched(image, &[(2 * BASE, b"none")])
            },
        ),
        broken("vhdx with damaged regions", "vhdx", &["its region table is damaged"], &[(3 * BASE + 40, &[0xff])]),
        bytes("vhdx with an unknown region", "vhdx", &["it needs a region of an unknown kind"], |site| {
            let mut table = site.image("vhdx", &[])[3 * BASE..][8..112].to_vec();
            // A third entry, which is required.
            (table[0], table[100]) = (3, 1);
            table[72..88].fill(9);
            summed(site, 3 * BASE, BASE, 8, &table)
        }),
        bytes("vhdx with regions in the header", "vhdx", &["its regions are at invalid offsets"], |site| {
            summed(site, 3 * BASE, BASE, 32, &[0; 8])
        }),
    ]
}

fn vhdx_metadata() -> Vec<Case> {
    vec![
        bytes(
            "vhdx with a parent",
            "vhdx",
            &["the vhdx image needs a parent image, which is not allowed (flatten"],
            |site| {
                let image = site.image("vhdx", &[]);
                let at = item(&image, &[0x37, 0x67, 0xa1, 0xca]);
                patched(image, &[(at + 4, &[2])])
            },
        ),
        bytes("vhdx with a parent's name", "vhdx", &["the vhdx image needs a parent image"], |site| {
            let image = site.image("vhdx", &[]);
            let entry = metadata(&image) + 32;
            patched(image, &[(entry, b"\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c")])
        }),
        bytes("vhdx with unknown metadata", "vhdx", &["it needs metadata of an unknown kind"], |site| {
            let image = site.image("vhdx", &[]);
            let entry = metadata(&image) + 32;
            patched(image, &[(entry, &[9; 16])])
        }),
        bytes("vhdx of 4096-byte sectors", "vhdx", &["is one of 4096-byte sectors, which is not supported"], |site| {
            let image = site.image("vhdx", &[]);
            let at = item(&image, &[0x1d, 0xbf, 0x41, 0x81]);
            patched(image, &[(at, &4096_u32.to_le_bytes())])
        }),
        bytes("vhdx of 16 EiB", "vhdx", &["the vhdx header is invalid: its sizes are out of range"], |site| {
            let image = site.image("vhdx", &[]);
            let at = item(&image, &[0x24, 0x42, 0xa5, 0x2f]);
            patched(image, &[(at, &[0xff; 8])])
        }),
        bytes("vhdx larger than its table", "vhdx", &["its block table is too small for the virtual size"], |site| {
            let image = site.image("vhdx", &[]);
            let at = item(&image, &[0x24, 0x42, 0xa5, 0x2f]);
            patched(image, &[(at, &(60_u64 << 40).to_le_bytes())])
        }),
    ]
}

fn vhdx_sizes() -> Vec<Case> {
    vec![
        bytes("vhdx too large", "vhdx", &["the image needs 5 MiB but disk", "has 4 MiB (use a larger disk)"], |site| {
            let image = site.image("vhdx", &[]);
            let at = item(&image, &[0x24, 0x42, 0xa5, 0x2f]);
            patched(image, &[(at, &(5_u64 << 20).to_le_bytes())])
        }),
        bytes("vhdx cut in the header", "vhdx", VHDX_CUT, |site| cut(site.image("vhdx", &[]), 2 * BASE)),
        bytes("vhdx cut in the middle", "vhdx", VHDX_CUT, |site| cut(site.image("vhdx", &[]), 3 << 20)),
        bytes("vhdx cut in its data", "vhdx", VHDX_CUT, |site| {
            let image = site.image("vhdx", &[]);
            let len = image.len() - (14 << 20);
            cut(image, len)
        }),
    ]
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}
