// SPDX-License-Identifier: BSD-2-Clause
//! Files that are something else than they are said to be.

use std::fs;

use super::{Case, DISK, Site, by_name, bytes, case, cut, later, patched, with};
use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, compress};
use crate::support::server::Reply;
use crate::support::world::tool;

#[test]
fn what_is_no_disk_is_refused_by_its_name() {
    Site::new("").refuses(&cases());
}

#[test]
fn a_hybrid_iso_is_written_where_the_variant_says_so() {
    let site = Site::new("allow_unknown_content = true\n");
    let image = hybrid(&site);
    let target = Disk::stale(&site.world, "disk0", Kind::File, DISK);
    site.world.create(target.path(), &site.file("image", &image), "raw").run().succeeds();
    // Its backup GPT moves to the disk's end.
    assert!(target.bytes()[..image.len() - 33 * 512][1024..] == image[..image.len() - 33 * 512][1024..]);
    // An image without a boot sector is a CD and nothing else.
    site.refuses(&[is("iso", &["is an ISO 9660 image (a CD or DVD, not a disk)"], |_| with(MIB, 32769, b"CD001"))]);
}

/// Declared raw, refused as what it is.
fn is(name: &'static str, words: &'static [&'static str], content: impl Fn(&Site) -> Vec<u8> + 'static) -> Case {
    bytes(name, "raw", words, content)
}

pub(super) fn cases() -> Vec<Case> {
    [texts(), programs(), archives(), file_systems(), images(), inside_archives(), sizes()]
        .into_iter()
        .flatten()
        .collect()
}

fn texts() -> Vec<Case> {
    vec![
        is("html", &["is an HTML page, not a disk image in a supported format"], |_| {
            b"<html><title>404</title>".to_vec()
        }),
        is("html after blanks", &["is an HTML page, not"], |_| b"\r\n\t <!DOCTYPE HTML PUBLIC>".to_vec()),
        is("xml", &["is an XML document, not"], |_| b"<?xml version=\"1.0\"?><Error/>".to_vec()),
        is("json", &["is a JSON text, not"], |_| b"{\"error\": \"not found\"}".to_vec()),
        is("script", &["is a script, not"], |_| b"#!/bin/sh\nrm -rf /\n".to_vec()),
        is("long text", &["is a text file, not"], |_| b"line\n".repeat(MIB / 2)),
        is("utf-8 text", &["is a text file, not"], |_| "Grüße\n".repeat(100).into_bytes()),
        is("key", &["is a PEM or PGP text, not"], |_| b"-----BEGIN OPENSSH PRIVATE KEY-----\n".to_vec()),
        case("passwd", "raw", &["image /etc/passwd is a text file, not"], |_| "/etc/passwd".to_owned()),
        case("passwd as auto", "", &["image /etc/passwd is a text file, not"], |_| "/etc/passwd".to_owned()),
        case("passwd as qcow2", "qcow2", &["image /etc/passwd is a text file"], |_| "/etc/passwd".to_owned()),
        case("passwd as raw+gz", "raw+gz", &["image /etc/passwd is a text file"], |_| "/etc/passwd".to_owned()),
        case("html from a server", "raw", &["http://127.0.0.1", "/image is an HTML page"], |site| {
            site.serve(Reply::ok("<!doctype html><title>Please log in</title>"))
        }),
        is("pdf", &["is a PDF document, not"], |_| b"%PDF-1.7\n%\xe2\xe3\xcf\xd3".to_vec()),
        is("png", &["is a PNG picture, not"], |_| with(4096, 0, b"\x89PNG\r\n\x1a\n")),
        is("sqlite", &["is an SQLite database, not"], |_| with(4096, 0, b"SQLite format 3\0")),
    ]
}

fn programs() -> Vec<Case> {
    let kernel: &[(usize, &[u8])] = &[(0, b"MZ"), (60, &[0x80]), (128, b"PE\0\0"), (510, &[0x55, 0xaa])];
    vec![
        is("elf", &["is an ELF program, not"], |_| fs::read("/bin/true").unwrap()),
        is("efi program with a boot signature", &["is a Windows or EFI program, not"], |_| {
            patched(vec![0; 8192], kernel)
        }),
        is("kernel", &["is a Linux kernel, not"], |_| patched(vec![0; 8192], &[(510, &[0x55, 0xaa]), (514, b"HdrS")])),
        is("wasm", &["is a WebAssembly program, not"], |_| with(4096, 0, b"\0asm\x01")),
    ]
}

fn archives() -> Vec<Case> {
    vec![
        is("tar", &["is declared raw but is in a tar archive (use image_type=raw+tar if that is meant)"], tar),
        is("zip", &["is a ZIP archive, not"], |site| packed(site, "a.zip", "zip", &["-q", "-j"])),
        is("zip as raw+gz", &["is a ZIP archive, not"], |_| with(4096, 0, b"PK\x03\x04")),
        is("deb", &["is an ar archive or Debian package, not"], |site| packed(site, "a.deb", "ar", &["rc"])),
        is("7z", &["is a 7z archive, not"], |_| with(4096, 0, b"7z\xbc\xaf\x27\x1c\0\x04")),
        is("rar", &["is a RAR archive, not"], |_| with(4096, 0, b"Rar!\x1a\x07\x01\0")),
        is("lz4", &["is an LZ4 archive, not"], |_| with(4096, 0, &[0x04, 0x22, 0x4d, 0x18, 0x64])),
        is("lzip", &["is an lzip archive, not"], |_| with(4096, 0, b"LZIP\x01")),
        is("lzma", &["is an LZMA archive, not"], |_| with(4096, 0, &[0x5d, 0, 0, 0x80, 0, 255, 255, 255, 255, 255])),
        is("cpio", &["is a cpio archive, not"], |_| b"070701".repeat(100)),
        is("rpm", &["is an RPM package, not"], |_| with(4096, 0, &[0xed, 0xab, 0xee, 0xdb, 3])),
        is("cab", &["is a CAB archive, not"], |_| with(4096, 0, b"MSCF\0\0\0\0")),
        is("wim", &["is a WIM archive, not"], |_| with(4096, 0, b"MSWIM\0\0\0")),
    ]
}

fn file_systems() -> Vec<Case> {
    vec![
        is("squashfs", &["is a squashfs file system, not"], |_| with(4096, 0, b"hsqs")),
        is("erofs", &["is an EROFS file system, not"], |_| with(4096, 1024, &[0xe2, 0xe1, 0xf5, 0xe0])),
        is("cramfs", &["is a cramfs file system, not"], |_| with(4096, 0, &[0x45, 0x3d, 0xcd, 0x28])),
        is("iso", &["is an ISO 9660 image (a CD or DVD, not a disk), not"], |_| with(MIB, 32769, b"CD001")),
        is("udf", &["is a UDF image (a CD or DVD, not a disk), not"], |_| with(MIB, 32769, b"BEA01")),
        is(
            "hybrid iso",
            &["is an ISO 9660 image that also boots from a disk", "(set allow_unknown_content = true in"],
            hybrid,
        ),
        bytes("hybrid iso as auto", "", &["is an ISO 9660 image that also boots from a disk"], hybrid),
    ]
}

fn images() -> Vec<Case> {
    const VHD: &[&str] =
        &["is a VHD image of fixed size (qemu-img convert -f vpc -O qcow2 makes it one that is served)"];
    vec![
        is("qcow2 as raw", &["is declared raw but is a qcow2 image (use image_type=qcow2 if that is meant)"], |site| {
            site.image("qcow2", &[])
        }),
        is("vmdk as raw", &["is a vmdk image, and this variant takes only raw, qcow2 (add \"vmdk\""], |s| {
            s.image("vmdk", &[])
        }),
        is("vdi as raw", &["is a vdi image, and this variant takes only raw, qcow2 (add \"vdi\""], |s| {
            s.image("vdi", &[])
        }),
        is("vhdx as raw", &["is a vhdx image, and this variant takes only raw, qcow2"], |s| s.image("vhdx", &[])),
        by_name(
            "vmdk as vmdk, not listed",
            "vmdk",
            &["parameter image_type: this variant takes only raw, qcow2"],
            |site| site.file("image", &site.image("vmdk", &[])),
        ),
        is("vmdk descriptor", &["is a VMDK descriptor, which only names the files of an image, not"], |site| {
            let extent = format!("RW 4096 FLAT \"{}\" 0\n", site.secret());
            format!(
                "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n{extent}"
            )
            .into()
        }),
        is("dynamic vhd", &["is a VHD image, not"], |site| site.image("vpc", &[])),
        is("fixed vhd", VHD, |site| site.image("vpc", &["-o", "subformat=fixed,force_size"])),
        later("fixed vhd in gz", "raw+gz", VHD, |site| {
            let plain = site.file("image.vhd", &site.image("vpc", &["-o", "subformat=fixed,force_size"]));
            compress(plain.as_ref(), "gz").display().to_string()
        }),
        case("fixed vhd from a server", "raw", VHD, |site| {
            site.serve(Reply::ok(site.image("vpc", &["-o", "subformat=fixed,force_size"])))
        }),
        is("dmg", &["is an Apple disk image (dmg), not"], |site| {
            patched(site.good(), &[(3 * MIB - 512, b"koly\0\0\0\x04")])
        }),
        is("qed", &["is a QED image, not"], |site| site.image("qed", &[])),
        is("parallels", &["is a Parallels image, not"], |site| site.image("parallels", &[])),
        is("bochs", &["is a Bochs image, not"], |_| with(4096, 0, b"Bochs Virtual HD Image")),
        is("cloop", &["is a cloop image, not"], |_| with(4096, 0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0")),
        bytes("qcow version 1", "qcow2", &["qcow2 version 1 is not supported (2 and 3 are"], |site| {
            site.image("qcow", &[])
        }),
    ]
}

fn inside_archives() -> Vec<Case> {
    let in_archive = |site: &Site, content: &[u8], compression: &str| {
        compress(site.file("inner", content).as_ref(), compression).display().to_string()
    };
    vec![
        case(
            "tar in gz",
            "raw+gz",
            &["is declared raw+gz but is in a tar archive (use image_type=raw+tar+gz if that is meant)"],
            move |site| in_archive(site, &tar(site), "gz"),
        ),
        case("gz in gz", "raw+gz", &["is a gzip archive in gz compression, not a disk image"], move |site| {
            let inner = in_archive(site, &site.good(), "gz");
            in_archive(site, &fs::read(inner).unwrap(), "gz")
        }),
        case(
            "qcow2 in xz as raw+xz",
            "raw+xz",
            &["is declared raw+xz but is a qcow2 image (use image_type=qcow2+xz if"],
            move |site| in_archive(site, &site.image("qcow2", &[]), "xz"),
        ),
        case(
            "raw in gz as qcow2+gz",
            "qcow2+gz",
            &["but is not in qcow2 format (use image_type=raw+gz if"],
            move |site| in_archive(site, &site.good(), "gz"),
        ),
        case(
            "xz as raw+gz",
            "raw+gz",
            &["is declared raw+gz but is in xz compression (use image_type=raw+xz if"],
            move |site| in_archive(site, &site.good(), "xz"),
        ),
        case(
            "bz2 as raw",
            "raw",
            &["is declared raw but is in bz2 compression (use image_type=raw+bz2 if"],
            move |site| in_archive(site, &site.good(), "bz2"),
        ),
        bytes(
            "raw as raw+zst",
            "raw+zst",
            &["but is an uncompressed raw image (use image_type=raw if that is meant)"],
            Site::good,
        ),
        case("html in zst", "raw+zst", &["is an HTML page in zst compression"], move |site| {
            in_archive(site, b"<html>", "zst")
        }),
        case("vmdk in xz", "auto", &["is a vmdk image, and this variant takes only"], move |site| {
            in_archive(site, &site.image("vmdk", &[]), "xz")
        }),
        case("nothing in gz", "raw+gz", &["is empty"], move |site| in_archive(site, b"", "gz")),
        case("hybrid iso in bz2", "auto", &["also boots from a disk"], move |site| {
            in_archive(site, &hybrid(site), "bz2")
        }),
        case("noise in xz", "raw+xz", &["does not look like a disk: it has no partition table"], move |site| {
            in_archive(site, &[7; 70_000], "xz")
        }),
    ]
}

fn sizes() -> Vec<Case> {
    vec![
        is("empty", &["is empty"], |_| Vec::new()),
        is(
            "one byte",
            &["does not look like a disk: it has no partition table, boot sector or known file system"],
            |_| vec![0],
        ),
        is("half a boot sector", &["does not look like a disk"], |site| cut(site.good(), 510)),
        is("zeros", &["does not look like a disk", "(set allow_unknown_content = true in"], |_| vec![0; 2 * MIB]),
        is(
            "one byte too large",
            &["the image needs 4.00 MiB (4194305 bytes) but disk", "has 4 MiB (use a larger disk)"],
            |site| {
                let mut image = site.good();
                image.resize(4 * MIB + 1, 0);
                image
            },
        ),
        case("huge and sparse", "raw", &["the image needs 1 TiB but disk", "has 4 MiB (use a larger disk)"], |site| {
            let image = site.file("huge", &site.good());
            fs::File::options().write(true).open(&image).unwrap().set_len(1 << 40).unwrap();
            image
        }),
        case("too large from a server", "raw", &["the image needs 8 MiB but disk", "has 4 MiB"], |site| {
            let mut image = site.good();
            image.resize(8 * MIB, 0);
            site.serve(Reply::ok(image))
        }),
    ]
}

/// A real archive with the good image in it.
fn packed(site: &Site, name: &str, program: &str, options: &[&str]) -> Vec<u8> {
    let (inner, archive) = (site.file("inner", &site.good()), site.world.path(name));
    tool(program, &[options, &[archive.to_str().unwrap(), &inner]].concat());
    fs::read(archive).unwrap()
}

fn tar(site: &Site) -> Vec<u8> {
    packed(site, "a.tar", "tar", &["-C", "/", "-cPf"])
}

/// As isohybrid makes it: the descriptors of a CD, and a partition table before them.
fn hybrid(site: &Site) -> Vec<u8> {
    let iso = site.file("iso", &with(MIB, 32769, b"CD001"));
    tool("sgdisk", &["-o", "-n", "1:64:1900", &iso]);
    patched(fs::read(iso).unwrap(), &[(32769, b"CD001")])
}
