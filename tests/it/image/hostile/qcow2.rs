// SPDX-License-Identifier: BSD-2-Clause
//! qcow2 images that reach for other files, were cut, or have numbers that can't be.

use std::fs;

use super::{Case, DISK, Site, bytes, case, cut, patched};
use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, compress};
use crate::support::server::Reply;
use crate::support::world::tool;

#[test]
fn hostile_and_broken_qcow2_images_are_refused() {
    Site::new("").refuses(&cases());
}

/// Whatever QEMU did to an image, it is no reason to refuse it.
#[test]
fn images_that_qemu_changed_in_every_way_are_taken() {
    let site = Site::new("");
    let file = site.world.path("used.qcow2").display().to_string();
    let target = || Disk::stale(&site.world, "disk0", Kind::File, DISK);
    for options in ["cluster_size=512", "cluster_size=2M", "extended_l2=on", "compat=0.10", "preallocation=metadata"] {
        tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, &file, "3M"]);
        let change = |command: &str| drop(tool("qemu-io", &["-f", "qcow2", "-c", command, &file]));
        let boots = "write -P 0xaa 511 1";
        for command in ["write -P 1 0 700k", "write -P 0x55 510 1", boots, "write -z 64k 100k", "discard 256k 128k"] {
            change(command);
        }
        let snapshot = |how: &str| drop(tool("qemu-img", &["snapshot", how, "s1", &file]));
        snapshot("-c");
        change("write -P 2 100k 2M");
        // With a snapshot beside it, without, and both sizes of it.
        for step in ["none", "-d", "larger", "smaller"] {
            match step {
                "none" => {}
                "larger" => drop(tool("qemu-img", &["resize", "-q", &file, "3584K"])),
                "smaller" => drop(tool("qemu-img", &["resize", "-q", "--shrink", &file, "2M"])),
                how => snapshot(how),
            }
            let raw = site.world.path("expected").display().to_string();
            tool("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", &file, &raw]);
            let target = target();
            site.world.create(target.path(), &file, "qcow2").run().succeeds();
            target.assert_holds(&fs::read(&raw).unwrap(), &format!("{options} {step}"));
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    [other_files(), headers(), places(), tables(), cuts(), packed()].into_iter().flatten().collect()
}

/// Where qemu-img puts what in an image of 3 MiB with clusters of 64 KiB.
const L1: usize = 0x3_0000;
const L2: usize = 0x4_0000;

/// The good image with other bytes.
fn broken(name: &'static str, words: &'static [&'static str], patches: &'static [(usize, &'static [u8])]) -> Case {
    bytes(name, "qcow2", words, move |site| patched(site.image("qcow2", &[]), patches))
}

fn create(site: &Site, options: &[&str]) -> String {
    let file = site.world.path("created.qcow2").display().to_string();
    tool("qemu-img", &[&["create", "-q", "-f", "qcow2"], options, &[&file, "2M"]].concat());
    file
}

fn other_files() -> Vec<Case> {
    const BACKING: &[&str] =
        &["the qcow2 image needs a backing file, which is not allowed (flatten it with qemu-img convert"];
    const DATA: &[&str] = &["the qcow2 image keeps its data in another file, which is not allowed (flatten it"];
    vec![
        case("backing file", "qcow2", BACKING, |site| create(site, &["-F", "raw", "-b", site.secret()])),
        case("backing file as auto", "", BACKING, |site| create(site, &["-F", "raw", "-b", site.secret()])),
        case("backing file by json", "qcow2", BACKING, |site| {
            let json = format!(
                "json:{{\"driver\":\"raw\",\"file\":{{\"driver\":\"file\",\"filename\":\"{}\"}}}}",
                site.secret()
            );
            create(site, &["-F", "raw", "-u", "-b", &json])
        }),
        case("backing file over nbd", "qcow2", BACKING, |site| {
            create(site, &["-F", "raw", "-u", "-b", "nbd://127.0.0.1:1/x"])
        }),
        case("backing file of version 2", "qcow2", BACKING, |site| {
            create(site, &["-o", "compat=0.10", "-F", "raw", "-b", site.secret()])
        }),
        case("backing file from a server", "qcow2", BACKING, |site| {
            let file = create(site, &["-F", "raw", "-b", site.secret()]);
            site.serve(Reply::ok(fs::read(file).unwrap()))
        }),
        case("backing file in xz", "qcow2+xz", BACKING, |site| {
            let file = create(site, &["-F", "raw", "-b", site.secret()]);
            compress(file.as_ref(), "xz").display().to_string()
        }),
        case("data file", "qcow2", DATA, |site| {
            // qemu-img create would write to it.
            let file =
                create(site, &["-o", &format!("data_file={},data_file_raw=on", site.world.path("data").display())]);
            let image = fs::read(&file).unwrap();
            let (from, to) = (site.world.path("data").display().to_string(), site.secret().to_owned());
            let at = image.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
            let name: Vec<u8> = to.bytes().chain(std::iter::repeat(0)).take(from.len().max(to.len())).collect();
            site.file(
                "data.qcow2",
                &patched(image, &[(at - 4, &u32::try_from(to.len()).unwrap().to_be_bytes()), (at, &name)]),
            )
        }),
        // The file's name without the feature bit.
        broken("name of a data file", DATA, &[(112, b"DATA\0\0\0\x10/etc/shadow\0\0\0\0\0\0\0\0\0\0\0\0\0")]),
        broken("data file bit", DATA, &[(79, &[4])]),
    ]
}

fn headers() -> Vec<Case> {
    vec![
        broken("luks", &["the qcow2 image is encrypted, which is not supported (decrypt it"], &[(35, &[2])]),
        broken("luks header", &["the qcow2 image is encrypted"], &[(112, &[0x05, 0x37, 0xbe, 0x77, 0, 0, 0, 16])]),
        broken("aes", &["the qcow2 image is encrypted"], &[(35, &[1])]),
        broken(
            "corrupt bit",
            &["the qcow2 image is marked as corrupt (repair it with qemu-img check -r all)"],
            &[(79, &[2])],
        ),
        broken(
            "unknown feature",
            &["the qcow2 image has unknown incompatible features (0x8000000000000000)"],
            &[(72, &[0x80])],
        ),
        broken("version 4", &["qcow2 version 4 is not supported"], &[(7, &[4])]),
        broken("tiny clusters", &["the qcow2 header is invalid: the cluster size is out of range"], &[(23, &[8])]),
        broken(
            "huge clusters",
            &["the qcow2 header is invalid: the cluster size is out of range"],
            &[(20, &[0xff; 4])],
        ),
        // qemu-img reads no half sectors, and says so only when the old system is gone.
        broken(
            "half a sector",
            &["the qcow2 header is invalid: the virtual size is no multiple of 512"],
            &[(31, &[7])],
        ),
        broken("no size", &["the qcow2 header is invalid: the virtual size is 0"], &[(24, &[0; 8])]),
        broken("size of 16 EiB", &["the qcow2 header is invalid: a virtual size of 16777215"], &[(24, &[0xff; 8])]),
        broken(
            "size over the disk",
            &["the image needs 512 MiB but disk", "has 4 MiB (use a larger disk)"],
            &[(24, &[0, 0, 0, 0, 0x20, 0, 0, 0])],
        ),
        broken(
            "size over its table",
            &["the qcow2 header is invalid: its L1 table is too small for the virtual size"],
            &[(26, &[1])],
        ),
        broken("short header", &["the qcow2 header is invalid: its length is out of range"], &[(100, &[0, 0, 0, 72])]),
        broken("long header", &["the qcow2 header is invalid: its length is out of range"], &[(100, &[0, 1, 0, 8])]),
        broken("refcount width", &["the qcow2 header is invalid: its refcount width is out of range"], &[(99, &[7])]),
        broken("compression bit alone", &["its compression type does not fit its features"], &[(79, &[8])]),
        broken("compression type alone", &["its compression type does not fit its features"], &[(104, &[1])]),
        broken("compression type 2", &["its compression type does not fit its features"], &[(79, &[8]), (104, &[2])]),
        broken(
            "extensions without end",
            &["the qcow2 header is invalid: its extensions are too long"],
            &[(112, &[0xff; 8])],
        ),
        broken(
            "extension behind the cluster",
            &["its extensions are too long"],
            &[(112, &[1, 2, 3, 4, 0, 0, 0xff, 0xff])],
        ),
    ]
}

/// Tables in places where they can't be, or of impossible sizes.
fn places() -> Vec<Case> {
    const LARGE: &[&str] = &["the qcow2 header is invalid: its tables are too large"];
    const PLACE: &[&str] = &["the qcow2 header is invalid: its tables are at invalid offsets"];
    const OVERLAP: &[&str] = &["the qcow2 header is invalid: its tables overlap"];
    const CUT: &[&str] = &["the qcow2 image is truncated: it has", "but needs at least"];
    vec![
        broken("huge l1", LARGE, &[(36, &[0x7f, 0xff, 0xff, 0xff])]),
        broken("no l1", &["its L1 table is too small"], &[(36, &[0; 4])]),
        broken("l1 over the header", OVERLAP, &[(40, &[0; 8])]),
        broken("l1 over the refcounts", OVERLAP, &[(40, &[0, 0, 0, 0, 0, 1, 0, 0])]),
        broken("l1 at no cluster", PLACE, &[(47, &[8])]),
        broken("l1 at the end of all offsets", PLACE, &[(40, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0])]),
        broken("l1 behind the file", CUT, &[(40, &[0, 0, 0x10, 0, 0, 0, 0, 0])]),
        broken("huge refcounts", LARGE, &[(56, &[0x7f, 0, 0, 0])]),
        broken("no refcounts", &["the qcow2 header is invalid: it has no refcount table"], &[(56, &[0; 4])]),
        broken("refcounts behind the file", CUT, &[(48, &[0, 0, 0x10, 0, 0, 0, 0, 0])]),
        broken("too many snapshots", LARGE, &[(60, &[0xff; 4])]),
        broken("snapshots over l1", OVERLAP, &[(60, &[0, 0, 0, 1]), (64, &[0, 0, 0, 0, 0, 3, 0, 0])]),
        broken("snapshots behind the file", CUT, &[(60, &[0, 0, 0, 1]), (64, &[0, 0, 0x10, 0, 0, 0, 0, 0])]),
    ]
}

/// Entries that lead to impossible places.
fn tables() -> Vec<Case> {
    const INTO: &[&str] =
        &["the qcow2 image is corrupt: an entry points into the tables of the image (see qemu-img check)"];
    const UNALIGNED: &[&str] = &["the qcow2 image is corrupt: an entry does not point to the start of a cluster"];
    const CUT: &[&str] = &["the qcow2 image is truncated: it has", "but needs at least"];
    vec![
        broken("l2 at no cluster", UNALIGNED, &[(L1, &[0x80, 0, 0, 0, 0, 4, 2, 0])]),
        broken("l2 over l1", INTO, &[(L1, &[0x80, 0, 0, 0, 0, 3, 0, 0])]),
        broken("l2 over the refcounts", INTO, &[(L1, &[0x80, 0, 0, 0, 0, 1, 0, 0])]),
        broken("l2 behind the file", CUT, &[(L1, &[0x80, 0, 0x10, 0, 0, 4, 0, 0])]),
        broken("data at no cluster", UNALIGNED, &[(L2, &[0x80, 0, 0, 0, 0, 5, 2, 0])]),
        broken("data over the header's tables", INTO, &[(L2, &[0x80, 0, 0, 0, 0, 3, 0, 0])]),
        broken("data is its own l2", INTO, &[(L2, &[0x80, 0, 0, 0, 0, 4, 0, 0])]),
        broken("data behind the file", CUT, &[(L2, &[0x80, 0, 0x10, 0, 0, 5, 0, 0])]),
        broken("compressed data behind the file", CUT, &[(L2, &[0x40, 0, 0x10, 0, 0, 5, 0, 0])]),
        broken("compressed data over the header", INTO, &[(L2, &[0x40, 0, 0, 0, 0, 0, 0, 8])]),
        bytes(
            "one l2 for all",
            "qcow2",
            &["the qcow2 image is corrupt: two entries point to the same L2 table"],
            |site| {
                let image = site.image("qcow2", &["-o", "cluster_size=512"]);
                let l1 = usize::try_from(u64::from_be_bytes(image[40..48].try_into().unwrap())).unwrap();
                let first: Vec<u8> = image[l1..l1 + 8].to_vec();
                patched(image, &[(l1 + 8, &first)])
            },
        ),
        case(
            "compressed data that is none",
            "qcow2",
            &["installing image", "a compressed cluster can't be decoded"],
            |site| {
                let image = site.image("qcow2", &["-c"]);
                let data = 0x5_0000;
                let noise = vec![0xff; image.len() - data];
                site.file("image", &patched(image, &[(data, &noise)]))
            },
        ),
    ]
}

/// Defect 1 of the predecessor, for the format that people use most.
fn cuts() -> Vec<Case> {
    const CUT: &[&str] = &["the qcow2 image is truncated: it has", "but needs at least", "(copy or publish it again)"];
    let shorter = |name, words, options: &'static [&str], len: fn(usize) -> usize| {
        bytes(name, "qcow2", words, move |site| {
            let image = site.image("qcow2", options);
            let len = len(image.len());
            cut(image, len)
        })
    };
    vec![
        shorter("cut in the header", &["the qcow2 image is truncated: it ends inside its header"], &[], |_| 60),
        shorter("cut behind the header", CUT, &[], |_| 0x1_0000),
        shorter("cut in the middle", CUT, &[], |len| len / 2),
        shorter("cut before the last cluster", CUT, &[], |len| len - 0x1_0000),
        shorter("without its last byte", CUT, &[], |len| len - 1),
        shorter("compressed, cut in the middle", CUT, &["-c"], |len| len / 2),
        shorter("compressed, cut near the end", CUT, &["-c"], |len| len - 1024),
        shorter("small clusters, cut", CUT, &["-o", "cluster_size=512"], |len| len - 512),
        shorter("extended l2, cut", CUT, &["-o", "extended_l2=on"], |len| len - 0x1_0000),
        shorter("version 2, cut", CUT, &["-o", "compat=0.10"], |len| len / 2),
        case("too large, from a server", "qcow2", &["/image: the image needs 512 MiB but disk", "has 4 MiB"], |site| {
            let image = patched(site.image("qcow2", &[]), &[(28, &[0x20, 0])]);
            site.serve(Reply::ok(image))
        }),
        case("cut, from a server", "qcow2", CUT, |site| {
            let image = site.image("qcow2", &[]);
            site.serve(Reply::ok(cut(image, 0x5_0000)))
        }),
    ]
}

fn packed() -> Vec<Case> {
    let pack = |site: &Site, image: &[u8], compression: &str| {
        compress(site.file("inner.qcow2", image).as_ref(), compression).display().to_string()
    };
    vec![
        case("cut in zst", "qcow2+zst", &["the qcow2 image is truncated: it has"], move |site| {
            pack(site, &cut(site.image("qcow2", &[]), 0x5_0000), "zst")
        }),
        case("corrupt in gz", "auto", &["the qcow2 image is corrupt: an entry points into"], move |site| {
            pack(site, &patched(site.image("qcow2", &[]), &[(L2 + 5, &[3])]), "gz")
        }),
        case("too large in bz2", "qcow2+bz2", &["the image needs 512 MiB but disk"], move |site| {
            pack(site, &patched(site.image("qcow2", &[]), &[(28, &[0x20, 0])]), "bz2")
        }),
        case(
            "bomb in gz",
            "qcow2+gz",
            &["the unpacked image is larger than 72 MiB, more than a disk of this size can need"],
            move |site| {
                let mut image = site.image("qcow2", &[]);
                image.resize(80 * MIB, 0);
                pack(site, &image, "gz")
            },
        ),
        case("archive is cut", "qcow2+xz", &["unpacking the image: the xz archive is truncated"], move |site| {
            let packed = fs::read(pack(site, &site.image("qcow2", &[]), "xz")).unwrap();
            let len = packed.len() - 20;
            site.file("image", &cut(packed, len))
        }),
    ]
}
