// SPDX-License-Identifier: BSD-2-Clause
//! VMDK images that reach for other files, were cut, or have numbers that can't be.

use std::fs;

use super::containers::broken;
use super::{Case, Site, bytes, case, cut, patched};
use crate::support::images::compress;
use crate::support::world::tool;

const OTHER: &[&str] = &["the vmdk image keeps its data in other files, which is not allowed (join them with qemu-img"];
const PARENT: &[&str] = &["the vmdk image needs a parent image, which is not allowed (flatten it with qemu-img"];
const CUT: &[&str] = &["the vmdk image is truncated: it has", "but needs at least"];

pub(super) fn cases() -> Vec<Case> {
    [other_files(), headers(), cuts(), streams()].into_iter().flatten().collect()
}

/// The good image as VMDK, with another text in its descriptor.
fn descriptor(
    name: &'static str,
    words: &'static [&'static str],
    change: impl Fn(&Site, &str) -> String + 'static,
) -> Case {
    bytes(name, "vmdk", words, move |site| {
        let image = site.image("vmdk", &[]);
        let end = 512 + image[512..].iter().position(|byte| *byte == 0).unwrap();
        let mut text = change(site, std::str::from_utf8(&image[512..end]).unwrap()).into_bytes();
        text.resize(20 * 512, 0);
        patched(image, &[(512, &text)])
    })
}

fn other_files() -> Vec<Case> {
    let create = |site: &Site, options: &[&str]| {
        let file = site.world.path("created.vmdk").display().to_string();
        tool("qemu-img", &[&["create", "-q", "-f", "vmdk"], options, &[&file, "2M"]].concat());
        file
    };
    vec![
        case(
            "vmdk of two files",
            "vmdk",
            &["is a VMDK descriptor, which only names the files of an image"],
            move |site| create(site, &["-o", "subformat=monolithicFlat"]),
        ),
        case("vmdk with a parent", "vmdk", PARENT, |site| {
            let parent = site.file("parent.vmdk", &site.image("vmdk", &[]));
            let file = site.world.path("child.vmdk").display().to_string();
            tool("qemu-img", &["create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", &parent, &file]);
            file
        }),
        // Without a size in its header QEMU opens what the descriptor names.
        bytes("vmdk that is a descriptor in disguise", "vmdk", OTHER, |site| {
            let text = format!(
                "# Disk DescriptorFile\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 4096 FLAT \"{}\" 0\n",
                site.secret()
            );
            patched(site.image("vmdk", &[]), &[(12, &[0; 8]), (512, text.as_bytes())])
        }),
        descriptor("vmdk that names the secret", OTHER, |site, text| text.replace("good.vmdk", site.secret())),
        descriptor("vmdk with a flat extent", OTHER, |site, text| {
            format!("{text}RW 4096 FLAT \"{}\" 0\n", site.secret())
        }),
        descriptor("vmdk with two extents", OTHER, |_, text| format!("{text}RW 6144 SPARSE \"b.vmdk\"\n")),
        descriptor("vmdk on a device", OTHER, |_, text| text.replace("monolithicSparse", "fullDevice")),
        descriptor("vmdk with a parent's name", PARENT, |site, text| {
            format!("{text}parentFileNameHint=\"{}\"\n", site.secret())
        }),
        descriptor("vmdk with a parent's name in a comment", PARENT, |_, text| {
            format!("{text}# parentFileNameHint=\"/x\"\n")
        }),
        descriptor("vmdk with a parent's name behind its text", PARENT, |_, text| {
            format!("{text}\0parentFileNameHint=\"/x\"\n")
        }),
        descriptor("vmdk with a parent's number", PARENT, |_, text| text.replace("ffffffff", "12345678")),
        descriptor(
            "vmdk of another size than its extent",
            &["the vmdk header is invalid: its descriptor gives another size"],
            |_, text| text.replace("RW 6144", "RW 6145"),
        ),
        descriptor("vmdk without a type", &["its descriptor has no createType"], |_, text| {
            text.replace("createType", "type")
        }),
        descriptor("vmdk of binary noise", &["its descriptor has a line of an unknown kind"], |_, text| {
            format!("{text}\x01\x02\n")
        }),
    ]
}

fn headers() -> Vec<Case> {
    vec![
        broken("vmdk version", "vmdk", &["the vmdk header is invalid: its version is not supported"], &[(4, &[4])]),
        broken("vmdk through ftp", "vmdk", &["it was damaged by a transfer in text mode"], &[(73, b"\r\n\r\n")]),
        broken(
            "vmdk with its descriptor elsewhere",
            "vmdk",
            &["its descriptor is at an invalid offset"],
            &[(28, &[2])],
        ),
        broken("vmdk with huge grains", "vmdk", &["its grains are not supported"], &[(22, &[0xff])]),
        broken("vmdk of no grains", "vmdk", &["its grains are not supported"], &[(20, &[0])]),
        broken("vmdk of huge tables", "vmdk", &["its grains are not supported"], &[(44, &[0xff; 4])]),
        broken("vmdk of 8 EiB", "vmdk", &["its virtual size is out of range"], &[(12, &[0xff; 8])]),
        broken("vmdk directory behind the file", "vmdk", CUT, &[(60, &[1])]),
        broken("vmdk table behind the file", "vmdk", CUT, &[(26 * 512, &[0xff, 0xff, 0xff, 0x7f])]),
    ]
}

fn cuts() -> Vec<Case> {
    vec![
        bytes("vmdk cut in the header", "vmdk", &["the vmdk header is invalid: the image ends inside it"], |site| {
            cut(site.image("vmdk", &[]), 500)
        }),
        bytes("vmdk cut in the middle", "vmdk", CUT, |site| half(site.image("vmdk", &[]))),
        bytes("vmdk without its last byte", "vmdk", CUT, |site| {
            let image = site.image("vmdk", &[]);
            let len = image.len() - 1;
            cut(image, len)
        }),
        bytes("vmdk too large", "vmdk", &["the image needs 5 MiB but disk", "has 4 MiB (use a larger disk)"], larger),
        case("vmdk too large in gz", "vmdk+gz", &["the image needs 5 MiB but disk", "has 4 MiB"], |site| {
            compress(site.file("large.vmdk", &larger(site)).as_ref(), "gz").display().to_string()
        }),
        case("vmdk cut in xz", "vmdk+xz", CUT, |site| {
            compress(site.file("cut.vmdk", &half(site.image("vmdk", &[]))).as_ref(), "xz").display().to_string()
        }),
    ]
}

fn half(image: Vec<u8>) -> Vec<u8> {
    let len = image.len() / 2;
    cut(image, len)
}

fn larger(site: &Site) -> Vec<u8> {
    let file = site.world.path("large.vmdk");
    tool("qemu-img", &["create", "-q", "-f", "vmdk", file.to_str().unwrap(), "5M"]);
    fs::read(file).unwrap()
}

/// VMDK images that were written as a stream, with the header that counts behind the data.
fn streams() -> Vec<Case> {
    const OPTIONS: &[&str] = &["-o", "subformat=streamOptimized"];
    const FOOTER: &[&str] = &["its footer is missing (the image is truncated, or has trailing data after its end)"];
    /// The image as VMware's tools write it: the directory's place is in the footer only.
    fn footed(site: &Site) -> Vec<u8> {
        let image = site.image("vmdk", OPTIONS);
        let mut marker = vec![0; 512];
        marker[12] = 3;
        let header = image[..512].to_vec();
        let mut image = patched(image, &[(56, &[0xff; 8])]);
        image.resize(image.len().next_multiple_of(512), 0);
        [image, marker, header, vec![0; 512]].concat()
    }
    vec![
        bytes("streamed vmdk without its footer", "vmdk", FOOTER, |site| {
            let image = footed(site);
            let len = image.len() - 1536;
            cut(image, len)
        }),
        bytes("streamed vmdk with something behind it", "vmdk", FOOTER, |site| [footed(site), vec![7; 512]].concat()),
        bytes("streamed vmdk of odd length", "vmdk", FOOTER, |site| [footed(site), vec![0]].concat()),
        bytes(
            "streamed vmdk with another size in its footer",
            "vmdk",
            &["the vmdk header is invalid: its footer contradicts its header"],
            |site| {
                let image = footed(site);
                let footer = image.len() - 1024;
                patched(image, &[(footer + 12, &[1])])
            },
        ),
        bytes("streamed vmdk with a footer for descriptors", "vmdk", &["keeps its data in other files"], |site| {
            let image = footed(site);
            let footer = image.len() - 1024;
            patched(image, &[(footer + 12, &[0; 8])])
        }),
        bytes("streamed vmdk cut in a table", "vmdk", &["the vmdk image is truncated: it has"], |site| {
            cut(site.image("vmdk", OPTIONS), 26 * 512 + 2)
        }),
        bytes("one table for all", "vmdk", &["two entries point to the same grain table"], |site| {
            // 64 MiB need two tables; there is one.
            let image = footed(site);
            let file = site.world.path("two.vmdk");
            tool("qemu-img", &["create", "-q", "-f", "vmdk", file.to_str().unwrap(), "64M"]);
            drop(image);
            let image = fs::read(file).unwrap();
            let directory = usize::try_from(u64::from_le_bytes(image[56..64].try_into().unwrap())).unwrap() * 512;
            let first = image[directory..directory + 4].to_vec();
            patched(image, &[(directory + 4, &first)])
        }),
    ]
}
