// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage inspect`: what an image is, what lies on its disk, and whether create would take it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::images::{MIB, compress, convert, disk, encode, exact, file_system, to_qcow2, truncate};
use crate::support::world::{Outcome, World, tool};

const LINUX: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
const PART: &str = ", as far as its beginning tells (create checks the rest)";

/// A disk of 8 MiB with two partitions in a GPT, one of them named.
fn gpt(world: &World) -> PathBuf {
    let path = world.path("gpt.raw");
    let name = path.to_str().unwrap();
    tool("truncate", &["-s", "8M", name]);
    let partitions =
        ["-n", "1:2048:6143", "-t", "1:ef00", "-n", "15:8192:10239", "-t", "15:8300", "-c", "15:root\u{1b}[31m"];
    tool("sgdisk", &[&["-a", "1"], &partitions[..], &[name]].concat());
    path
}

/// One with an MBR: a primary partition, and one in an extended one.
fn mbr(world: &World) -> PathBuf {
    let path = world.path("mbr.raw");
    let name = path.to_str().unwrap();
    tool("truncate", &["-s", "8M", name]);
    let table = "label: dos\n2048 2048 83 *\n4096 8192 5\n6144 2048 82\n".replace(' ', ",");
    let table = table.replace("label:,", "label: ");
    let script = format!("printf '{table}' | sfdisk --quiet {name}");
    tool("sh", &["-c", &script]);
    path
}

fn inspect(world: &World, image: &Path, more: &[&str]) -> Outcome {
    world.tool(&[&["inspect", image.to_str().unwrap()], more].concat()).run()
}

/// What it writes, and that it has nothing to say besides.
fn text(world: &World, image: &Path, more: &[&str]) -> String {
    let outcome = inspect(world, image, more);
    assert_eq!(outcome.succeeds(), "", "a result needs no message");
    outcome.output()
}

/// The lines about the file, and the first of the disk.
fn file_lines(image: &Path, image_type: &str, disk: &str) -> String {
    let size = exact(fs::metadata(image).unwrap().len());
    format!("image: {}\ntype:  {image_type}\nsize:  {size}\ndisk:  {disk}\n", image.display())
}

const GPT_TABLE: &str = "table: gpt\n  1: 2 MiB at 1 MiB, type ESP\n  \
                         15: 1 MiB at 4 MiB, type LINUX, name root\\u{1b}[31m\n";
const MBR_TABLE: &str = "table: mbr\n  1: 1 MiB at 1 MiB, type 0x83\n  2: 4 MiB at 2 MiB, type 0x5\n  \
                         5: 1 MiB at 3 MiB, type 0x82\n";

fn gpt_table() -> String {
    GPT_TABLE.replace("ESP", ESP).replace("LINUX", LINUX)
}

#[test]
fn the_partitions_of_a_gpt_are_told_however_it_is_packed() {
    let world = World::new();
    let raw = gpt(&world);
    let table = gpt_table();
    let hint = "known only after decoding (probably 8 MiB, if it is less than 4 GiB)";
    for (image, image_type, disk, verdict) in [
        (raw.clone(), "raw", "8 MiB", ""),
        (to_qcow2(&raw, &[]), "qcow2", "8 MiB", ""),
        (compress(&raw, "gz"), "raw+gz", hint, PART),
        (compress(&raw, "xz"), "raw+xz", "8 MiB", PART),
        (compress(&raw, "zst"), "raw+zst", "at least 8 MiB", PART),
        // Only its end shows how large it is, so that all of it is looked at.
        (compress(&raw, "bz2"), "raw+bz2", "8 MiB", ""),
        (convert(&raw, "vmdk", &[]), "vmdk", "8 MiB", ", where image_formats lists vmdk"),
        (convert(&raw, "vdi", &[]), "vdi", "8 MiB", ", where image_formats lists vdi"),
        (convert(&raw, "vhdx", &[]), "vhdx", "8 MiB", ", where image_formats lists vhdx"),
    ] {
        let expected = format!("{}{table}safe to install: yes{verdict}\n", file_lines(&image, image_type, disk));
        assert_eq!(text(&world, &image, &[]), expected, "{image_type}");
    }
}

#[test]
fn logical_partitions_are_told_where_the_disk_can_be_read() {
    let world = World::new();
    let raw = mbr(&world);
    let expected = format!("{}{MBR_TABLE}safe to install: yes\n", file_lines(&raw, "raw", "8 MiB"));
    assert_eq!(text(&world, &raw, &[]), expected);
    // Of a stream there is the first MiB.
    let packed = compress(&raw, "xz");
    let primary: String = MBR_TABLE.lines().take(3).map(|line| format!("{line}\n")).collect();
    let expected = format!("{}{primary}safe to install: yes{PART}\n", file_lines(&packed, "raw+xz", "8 MiB"));
    assert_eq!(text(&world, &packed, &[]), expected);
}

#[test]
fn a_disk_may_have_no_table_or_a_damaged_one() {
    let world = World::new();
    let bare = PathBuf::from(file_system(&world));
    let expected = format!("{}table: none\nsafe to install: yes\n", file_lines(&bare, "raw", "8 MiB"));
    assert_eq!(text(&world, &bare, &[]), expected);
    let damaged = gpt(&world);
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[1024] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let expected = format!("{}table: a damaged gpt\nsafe to install: yes\n", file_lines(&damaged, "raw", "8 MiB"));
    assert_eq!(text(&world, &damaged, &[]), expected);
    let packed = encode(&world, &disk(3 * MIB), "qcow2+xz");
    let expected = format!(
        "{}table: known only after unpacking\nsafe to install: yes{PART}\n",
        file_lines(&packed, "qcow2+xz", "3 MiB")
    );
    assert_eq!(text(&world, &packed, &[]), expected);
}

#[test]
fn json_says_the_same() {
    let world = World::new();
    let read = |image: &Path| -> Value { serde_json::from_str(&text(&world, image, &["--json"])).unwrap() };
    let raw = gpt(&world);
    let partitions = json!([
        { "number": 1, "start": 1 << 20, "size": 2 << 20, "type": ESP, "name": null },
        { "number": 15, "start": 4 << 20, "size": 1 << 20, "type": LINUX, "name": "root\u{1b}[31m" },
    ]);
    let expected = json!({
        "image": raw.to_str().unwrap(), "safe": true, "checked": "all", "kept": null, "to_be_listed": null, "type": "raw",
        "size": 8 << 20, "disk": 8 << 20, "disk_known": "exact", "table": "gpt", "partitions": partitions,
    });
    assert_eq!(read(&raw), expected);
    let packed = compress(&PathBuf::from(file_system(&world)), "bz2");
    let expected = json!({
        "image": packed.to_str().unwrap(), "safe": true, "checked": "all", "kept": null, "to_be_listed": null, "type": "raw+bz2",
        "size": fs::metadata(&packed).unwrap().len(), "disk": 8 << 20, "disk_known": "exact", "table": "none",
        "partitions": [],
    });
    assert_eq!(read(&packed), expected);
    let vdi = convert(&raw, "vdi", &[]);
    assert_eq!(read(&vdi)["to_be_listed"], "vdi");
}

#[test]
fn what_create_refuses_is_one_error_line_and_in_json_the_reason() {
    let world = World::new();
    let text = world.path("page.raw");
    fs::write(&text, "<html>".repeat(200)).unwrap();
    let backed = world.path("backed.qcow2");
    tool("truncate", &["-s", "4M", world.path("base.raw").to_str().unwrap()]);
    let base = world.path("base.raw");
    let options = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", base.to_str().unwrap(), backed.to_str().unwrap()];
    tool("qemu-img", &options);
    let empty = world.path("empty.raw");
    fs::write(&empty, "").unwrap();
    let cut = encode(&world, &disk(3 * MIB), "qcow2");
    truncate(&cut);
    let torn = encode(&world, &disk(3 * MIB), "raw+gz");
    fs::write(&torn, &fs::read(&torn).unwrap()[..1000]).unwrap();
    for (image, reason) in [
        (&text, "is an HTML page, not a disk image in a supported format"),
        (&backed, "the qcow2 image needs a backing file, which is not allowed"),
        (&empty, "is empty"),
        (&cut, "the qcow2 image is truncated: it has "),
        (&torn, "the gz archive is truncated"),
    ] {
        let outcome = inspect(&world, image, &[]);
        let log = outcome.fails(&[image.to_str().unwrap(), reason]);
        assert_eq!((log.lines().count(), outcome.output().as_str(), outcome.0.status.code()), (1, "", Some(1)));
        let outcome = inspect(&world, image, &["--json"]);
        assert_eq!(outcome.fails(&[reason]), log);
        let told: Value = serde_json::from_str(&outcome.output()).unwrap();
        let words = log.trim_end().split_once(": error: ").unwrap().1;
        assert_eq!(told, json!({ "image": image.to_str().unwrap(), "safe": false, "reason": words }));
    }
    // Nothing was judged.
    let outcome = inspect(&world, &world.path("missing"), &["--json"]);
    outcome.fails(&["opening image", "missing: No such file or directory"]);
    assert_eq!(outcome.output(), "");
    inspect(&world, &world.path(""), &[]).fails(&["is not a regular file"]);
}
