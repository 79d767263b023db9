// SPDX-License-Identifier: BSD-2-Clause
//! Archives that are cut, damaged, or unpack to far more than they seem.

use std::fs;

use super::{Case, DISK, Site, bytes, case, cut, later, patched};
use crate::support::images::{MIB, compress, disk};
use crate::support::server::Reply;

#[test]
fn broken_archives_and_bombs_are_refused() {
    Site::new("").refuses(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    CODECS.into_iter().flat_map(|codec| codec.cases()).chain(special()).collect()
}

/// A compression, and what is said about archives in it.
#[derive(Clone, Copy)]
struct Codec {
    name: &'static str,
    image_type: &'static str,
    truncated: &'static [&'static str],
    corrupt: &'static [&'static str],
    tail: &'static [&'static str],
    /// Bytes of its start that make up no member yet.
    header: usize,
    /// How far from the end its checksum is.
    checksum: usize,
    /// Whether the size of what it unpacks to is in it, in a place that can be trusted.
    tells: bool,
}

const CODECS: [Codec; 4] = [
    Codec {
        name: "gz",
        image_type: "raw+gz",
        truncated: &["the gz archive is truncated"],
        corrupt: &["the gz archive is corrupt"],
        tail: &["trailing data after the end of the gz archive"],
        header: 12,
        checksum: 8,
        tells: false,
    },
    Codec {
        name: "bz2",
        image_type: "raw+bz2",
        truncated: &["the bz2 archive is truncated"],
        corrupt: &["the bz2 archive is corrupt"],
        tail: &["trailing data after the end of the bz2 archive"],
        header: 12,
        checksum: 3,
        tells: false,
    },
    Codec {
        name: "xz",
        image_type: "raw+xz",
        truncated: &["the xz archive is truncated"],
        corrupt: &["the xz archive is corrupt"],
        tail: &["trailing data after the end of the xz archive"],
        header: 20,
        checksum: 12,
        tells: true,
    },
    Codec {
        name: "zst",
        image_type: "raw+zst",
        truncated: &["the zst archive is truncated"],
        corrupt: &["the zst archive is corrupt"],
        tail: &["trailing data after the end of the zst archive"],
        header: 6,
        checksum: 1,
        tells: true,
    },
];

impl Codec {
    /// `content` as the compression's own tool packs it.
    fn pack(self, site: &Site, content: &[u8]) -> Vec<u8> {
        fs::read(compress(site.file("inner", content).as_ref(), self.name)).unwrap()
    }

    fn cases(self) -> Vec<Case> {
        let name = |what: &str| format!("{} {what}", self.name);
        let good = move |site: &Site| self.pack(site, &site.good());
        let shorter = move |len: fn(usize) -> usize| {
            move |site: &Site| {
                let packed = good(site);
                let len = len(packed.len());
                site.file("image", &cut(packed, len))
            }
        };
        let flipped = move |from_end: fn(usize, Codec) -> usize| {
            move |site: &Site| {
                let mut packed = good(site);
                let at = packed.len() - from_end(packed.len(), self);
                packed[at] ^= 0x10;
                site.file("image", &packed)
            }
        };
        let larger: &[&str] = &["has 4 MiB (use a larger disk)"];
        let bomb = move |site: &Site| {
            let mut image = site.good();
            image.resize(16 * DISK, 0);
            self.pack(site, &image)
        };
        vec![
            bytes(name("cut in the header"), self.image_type, self.truncated, move |site| cut(good(site), self.header)),
            bytes(name("cut early"), self.image_type, self.truncated, move |site| cut(good(site), 2000)),
            later(name("cut in the middle"), self.image_type, self.truncated, shorter(|len| len / 2)),
            later(name("without its last kilobyte"), self.image_type, self.truncated, shorter(|len| len - 1024)),
            later(name("without its last byte"), self.image_type, self.truncated, shorter(|len| len - 1)),
            Case {
                // Where the size is known, the partition table is looked at in advance, and with it the first MiB.
                when: if self.image_type == "raw+xz" { super::Before } else { super::Later },
                ..case(name("with a bit flipped"), self.image_type, self.corrupt, flipped(|len, _| len / 2))
            },
            later(name("with a wrong checksum"), self.image_type, self.corrupt, flipped(|_, codec| codec.checksum)),
            later(name("with a tail"), self.image_type, self.tail, move |site| {
                site.file("image", &[good(site), b"tail".to_vec()].concat())
            }),
            later(name("with a broken member"), self.image_type, self.truncated, move |site| {
                let member = self.pack(site, &disk(MIB));
                site.file("image", &[&member[..], &member[..member.len() / 2]].concat())
            }),
            Case {
                when: if self.tells { super::Before } else { super::Later },
                ..bytes(name("bomb"), self.image_type, larger, bomb)
            },
            Case {
                // Of a reinstall the image is a file by then.
                when: if self.tells { super::Before } else { super::Later },
                ..case(name("bomb from a server"), self.image_type, larger, move |site| {
                    site.serve(Reply::ok(bomb(site)))
                })
            },
        ]
    }
}

fn special() -> Vec<Case> {
    let [gz, _, xz, _] = CODECS;
    vec![
        later("gz that says it is small", "raw+gz", &["the gz archive is corrupt"], move |site| {
            let packed = gz.pack(site, &site.good());
            let at = packed.len() - 4;
            site.file("image", &patched(packed, &[(at, &[1, 0, 0, 0])]))
        }),
        later("gz that says it is large", "raw+gz", &["the gz archive is corrupt"], move |site| {
            let packed = gz.pack(site, &site.good());
            let at = packed.len() - 4;
            site.file("image", &patched(packed, &[(at, &[0xff; 4])]))
        }),
        bytes("gz of an unknown method", "raw+gz", &["is a damaged gzip archive"], move |site| {
            patched(gz.pack(site, &site.good()), &[(2, &[9])])
        }),
        bytes("bz2 without a block", "raw+bz2", &["is a damaged bzip2 archive"], |_| b"BZh9 and so on".to_vec()),
        bytes("xz of which the second stream is large", "raw+xz", &["the image needs 16 MiB but disk"], move |site| {
            [xz.pack(site, &disk(MIB)), vec![0; 8], xz.pack(site, &vec![0; 15 * MIB])].concat()
        }),
        bytes("xz with an index that says too much", "raw+xz", &["the image needs 7 MiB but disk"], move |site| {
            index(xz.pack(site, &site.good()), 0x03)
        }),
        later("xz with an index that says too little", "raw+xz", &["the xz archive is corrupt"], move |site| {
            site.file("image", &index(xz.pack(site, &site.good()), 0x00))
        }),
        bytes("xz that wants 4 GiB of memory", "raw+xz", &["the xz archive is corrupt (", "memory"], move |site| {
            let packed = patched(xz.pack(site, &site.good()), &[(16, &[40])]);
            let sum = crc32(&packed[12..20]);
            patched(packed, &[(20, &sum)])
        }),
        bytes(
            "zst that wants 2 GiB of memory",
            "raw+zst",
            &["the zst archive can't be decoded (", "it needs a window of 2 GiB, the limit is 128 MiB"],
            |_| b"\x28\xb5\x2f\xfd\0\xa8\x21\0\0abcd".to_vec(),
        ),
        later(
            "zst bomb that does not say its size",
            "raw+zst",
            &["the image is larger than disk", "(use a larger disk)"],
            |site| {
                let mut image = site.good();
                image.resize(16 * DISK, 0);
                site.file("image", &zstd::encode_all(&image[..], 1).unwrap())
            },
        ),
        bytes("zst frame that says too much", "raw+zst", &["the image needs 1 TiB but disk"], |site| {
            // A frame header with a size of eight bytes, and the rest of a good one.
            let frame = zstd::encode_all(&site.good()[..], 1).unwrap();
            let header = [&frame[..4], &[frame[4] | 0xc0], &frame[5..6], &(1_u64 << 40).to_le_bytes()].concat();
            [&header, &frame[6..]].concat()
        }),
    ]
}

/// An .xz of 3 MiB in one block with another size in its index, and that with the right checksum. `last` is the last
/// byte of the size: 1 would be true.
fn index(packed: Vec<u8>, last: u8) -> Vec<u8> {
    let len = packed.len();
    let backward = u32::from_le_bytes(packed[len - 8..len - 4].try_into().unwrap());
    let start = len - 12 - (usize::try_from(backward).unwrap() + 1) * 4;
    let size = start + packed[start..].windows(4).position(|bytes| bytes == [0x80, 0x80, 0xc0, 0x01]).unwrap();
    let packed = patched(packed, &[(size + 3, &[last])]);
    let sum = crc32(&packed[start..len - 16]);
    patched(packed, &[(len - 16, &sum)])
}

fn crc32(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}
