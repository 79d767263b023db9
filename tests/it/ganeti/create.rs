// SPDX-License-Identifier: BSD-2-Clause
//! create: every type on every kind of disk, byte for byte.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::support::disk::{Disk, KINDS, Kind, loops_over};
use crate::support::images::{MIB, compress, convert, disk, encode, to_qcow2, write_sparse};
use crate::support::server::{Reply, Server};
use crate::support::world::{World, tool};

const TYPES: [&str; 12] = [
    "raw",
    "raw+gz",
    "raw+bz2",
    "raw+bzip2",
    "raw+xz",
    "raw+zst",
    "qcow2",
    "qcow2+gz",
    "qcow2+bz2",
    "qcow2+bzip2",
    "qcow2+xz",
    "qcow2+zst",
];

#[test]
fn every_type_lands_on_every_kind_of_disk() {
    let world = World::new();
    let image = disk(9 * MIB);
    for image_type in TYPES {
        let file = encode(&world, &image, image_type);
        for kind in KINDS {
            let target = Disk::stale(&world, "disk0", kind, 12 * MIB);
            let log = world.create(target.path(), file.to_str().unwrap(), image_type).run().succeeds();
            target.assert_holds(&image, &format!("{image_type} on {kind:?}: {log}"));
        }
    }
}

#[test]
fn the_type_is_found_by_the_content() {
    let world = World::new();
    let image = disk(5 * MIB);
    for image_type in TYPES {
        let file = encode(&world, &image, image_type);
        // A name that says nothing.
        let plain = world.path("image");
        fs::copy(&file, &plain).unwrap();
        for declared in ["", "auto"] {
            let target = Disk::stale(&world, "disk0", Kind::File, 6 * MIB);
            let log = world.create(target.path(), plain.to_str().unwrap(), declared).run().succeeds();
            assert!(log.contains(&format!("image type {}", image_type.replace("bzip2", "bz2"))), "{log}");
            target.assert_holds(&image, image_type);
        }
    }
}

#[test]
fn every_type_comes_over_http_too_and_is_kept() {
    let image = disk(5 * MIB);
    for image_type in TYPES {
        let world = World::new();
        let file = encode(&world, &image, image_type);
        let server = Server::sequence([Reply::ok(fs::read(file).unwrap())]);
        for _ in 0..2 {
            let target = Disk::stale(&world, "disk0", Kind::Block, 6 * MIB);
            world
                .create(target.path(), server.url("/image?token=s3cret").as_url().as_str(), image_type)
                .run()
                .succeeds();
            target.assert_holds(&image, image_type);
        }
        assert_eq!(server.requests().len(), 1, "the second create uses what the first one fetched");
    }
}

#[test]
fn odd_lengths_reach_their_last_byte() {
    let world = World::new();
    for len in [512, 4096, 70_001, MIB - 1, MIB, MIB + 1, 5 * MIB + 4097] {
        let image = disk(len);
        for image_type in ["raw", "raw+zst"] {
            let file = encode(&world, &image, image_type);
            for kind in KINDS {
                for size in [len.next_multiple_of(512), len.next_multiple_of(512) + 1536] {
                    let target = Disk::stale(&world, "disk0", kind, size);
                    world.create(target.path(), file.to_str().unwrap(), image_type).run().succeeds();
                    target.assert_holds(&image, &format!("{image_type} of {len} bytes on {kind:?} of {size}"));
                }
            }
        }
    }
}

#[test]
fn members_one_after_the_other_are_one_image() {
    let world = World::new();
    let image = disk(5 * MIB);
    let (first, second) = (world.path("first"), world.path("second"));
    fs::write(&first, &image[..2 * MIB + 77]).unwrap();
    fs::write(&second, &image[2 * MIB + 77..]).unwrap();
    for compression in ["gz", "bz2", "xz", "zst"] {
        let both =
            [fs::read(compress(&first, compression)).unwrap(), fs::read(compress(&second, compression)).unwrap()];
        let file = world.path("both");
        fs::write(&file, both.concat()).unwrap();
        let target = Disk::stale(&world, "disk0", Kind::File, 6 * MIB);
        world.create(target.path(), file.to_str().unwrap(), &format!("raw+{compression}")).run().succeeds();
        target.assert_holds(&image, compression);
    }
}

#[test]
fn qcow2_with_compressed_clusters_old_version_and_small_clusters() {
    let world = World::new();
    let image = disk(9 * MIB);
    let raw = world.path("source.raw");
    write_sparse(&raw, &image);
    for options in
        [&["-c"] as &[_], &["-o", "compat=0.10"], &["-o", "cluster_size=512"], &["-c", "-o", "compression_type=zstd"]]
    {
        let file = to_qcow2(&raw, options);
        for (kind, decoder) in KINDS.into_iter().flat_map(|kind| [(kind, "simpleimage"), (kind, "qemu-img")]) {
            let setting = if decoder == "qemu-img" { decoder } else { "auto" };
            world.variant_file("config.toml", &format!("qcow2 = '{setting}'\n"));
            let target = Disk::stale(&world, "disk0", kind, 9 * MIB + 4096);
            let log = world.create(target.path(), file.to_str().unwrap(), "qcow2").run().succeeds();
            assert!(log.contains(&format!("{decoder} decodes the image")), "{log}");
            target.assert_holds(&image, &format!("{options:?} on {kind:?} by {decoder}"));
        }
    }
}

#[test]
fn other_formats_are_taken_where_the_variant_lists_them() {
    let world = World::new();
    let image = disk(9 * MIB);
    let raw = world.path("source.raw");
    write_sparse(&raw, &image);
    let create = |file: &std::path::Path, image_type: &str| {
        let target = Disk::stale(&world, "disk0", Kind::Block, 9 * MIB + 4096);
        let run = world.create(target.path(), file.to_str().unwrap(), image_type).run();
        (target, run)
    };
    let kinds: [(&str, &[&str]); 7] = [
        ("vmdk", &[]),
        ("vmdk", &["-o", "subformat=streamOptimized"]),
        ("vmdk", &["-o", "zeroed_grain=on"]),
        ("vdi", &[]),
        ("vdi", &["-o", "static=on"]),
        ("vhdx", &[]),
        ("vhdx", &["-o", "subformat=fixed"]),
    ];
    for (format, options) in kinds {
        world.variant_file("config.toml", &format!("image_formats = [\"{format}\"]\n"));
        let file = convert(&raw, format, options);
        for (file, image_type) in [(file.clone(), format.to_owned()), (compress(&file, "zst"), format!("{format}+zst"))]
        {
            for declared in ["auto", &image_type] {
                let (target, run) = create(&file, declared);
                let log = run.succeeds();
                assert!(log.contains(&format!("image type {image_type}")), "{log}");
                target.assert_holds(&image, &format!("{image_type} {options:?}"));
            }
        }
        create(&raw, "auto")
            .1
            .fails(&[&format!("is a raw image, and this variant takes only {format} (add \"raw\" to")]);
        world.variant_file("config.toml", "");
        let taken = "this variant takes only raw, qcow2 (add";
        create(&file, format).1.fails(&["parameter image_type: ", taken]);
        create(&file, "auto").1.fails(&[&format!("is a {format} image, and "), taken]);
        create(&file, "raw").1.fails(&[&format!("is a {format} image, and "), taken]);
        create(&compress(&file, "gz"), "auto").1.fails(&[&format!("is a {format} image, and "), taken]);
        let verify = world.script("verify").arg("parameters").env("OSP_IMAGE_TYPE", format);
        verify.env("OS_VARIANT", "").run().succeeds();
    }
}

#[test]
fn a_file_keeps_its_size_and_holes_and_other_disks_their_bytes() {
    let world = World::new();
    let image = disk(9 * MIB);
    for image_type in ["raw", "raw+gz", "qcow2"] {
        let file = encode(&world, &image, image_type);
        let target = Disk::stale(&world, "disk0", Kind::File, 40 * MIB);
        let other = Disk::stale(&world, "disk1", Kind::File, MIB);
        let script = world.create(target.path(), file.to_str().unwrap(), image_type).env("DISK_COUNT", "2");
        script.env("DISK_1_PATH", other.path().to_str().unwrap()).run().succeeds();
        target.assert_holds(&image, image_type);
        other.assert_untouched(image_type);
        let data = fs::metadata(target.path()).unwrap();
        assert_eq!(data.size(), 40 * MIB as u64);
        assert!(data.blocks() * 512 < 5 * MIB as u64, "{image_type}: {} blocks of a sparse disk", data.blocks());
    }
}

#[test]
fn a_reinstall_replaces_the_old_image() {
    let world = World::new();
    let (old, new) = (disk(9 * MIB), disk(4 * MIB));
    let target = Disk::stale(&world, "disk0", Kind::Block, 10 * MIB);
    for (image, reinstall) in [(&old, "0"), (&new, "1")] {
        let file = encode(&world, image, "raw+xz");
        world.create(target.path(), file.to_str().unwrap(), "").env("INSTANCE_REINSTALL", reinstall).run().succeeds();
        target.assert_holds(image, reinstall);
    }
}

#[test]
fn a_reinstall_that_finds_no_image_leaves_the_old_system() {
    let world = World::new();
    let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
    let script = || world.create(target.path(), "/nonexistent/image.raw", "raw");
    script().env("INSTANCE_REINSTALL", "1").run().fails(&["opening image /nonexistent/image.raw", "No such file"]);
    target.assert_untouched("reinstall");
    // A new instance's disk may hold another tenant's system.
    script().run().fails(&["opening image /nonexistent/image.raw"]);
    target.assert_unbootable("create");
}

#[test]
fn a_disk_that_is_too_small_is_told_with_both_sizes() {
    let world = World::new();
    let image = disk(5 * MIB);
    for (image_type, parts) in [
        ("raw", ["installing image /", "the image needs 5 MiB but disk", "has 4 MiB (use a larger disk)"]),
        ("qcow2", ["installing image /", "the image needs 5 MiB but disk", "has 4 MiB (use a larger disk)"]),
        ("raw+gz", ["installing image /", "the image is larger than disk", "which has 4 MiB (use a larger disk)"]),
        ("raw+bz2", ["installing image /", "the image is larger than disk", "which has 4 MiB (use a larger disk)"]),
        ("raw+xz", ["installing image /", "the image needs 5 MiB but disk", "has 4 MiB (use a larger disk)"]),
        ("raw+zst", ["installing image /", "the image needs 5 MiB but disk", "has 4 MiB (use a larger disk)"]),
    ] {
        let file = encode(&world, &image, image_type);
        for kind in KINDS {
            let target = Disk::stale(&world, "disk0", kind, 4 * MIB);
            world.create(target.path(), file.to_str().unwrap(), image_type).run().fails(&parts);
            target.assert_unbootable(image_type);
        }
    }
}

#[test]
fn the_gpt_moves_to_the_end_of_a_larger_disk() {
    let world = World::new();
    let source = world.path("gpt.raw");
    fs::write(&source, []).unwrap();
    let name = source.to_str().unwrap();
    tool("truncate", &["-s", "16M", name]);
    tool("sgdisk", &["-n", "1:2048:30000", "-c", "1:root", "-n", "2:30001:0", "-t", "2:8300", name]);
    let image = fs::read(&source).unwrap();
    for (image_type, kind) in [("raw", Kind::File), ("raw+gz", Kind::Block), ("qcow2", Kind::Block)] {
        let file = if image_type == "raw" { source.clone() } else { encode(&world, &image, image_type) };
        let target = Disk::stale(&world, "disk0", kind, 40 * MIB);
        world.create(target.path(), file.to_str().unwrap(), image_type).run().succeeds();
        let path = world.path("disk0");
        let verdict = tool("sgdisk", &["-v", path.to_str().unwrap()]);
        assert!(verdict.contains("No problems found"), "{verdict}");
        assert!(!verdict.contains("arning") && !verdict.contains("roblem:"), "{verdict}");
        let table = tool("sgdisk", &["-p", path.to_str().unwrap()]);
        assert!(table.contains("30000") && table.contains("last usable sector is 81886"), "{table}");
        let bytes = target.bytes();
        // Behind the header and entries, and up to the old backup, nothing changed; from there to the new one all is zero.
        assert_eq!(bytes[34 * 512..16 * MIB - 33 * 512], image[34 * 512..16 * MIB - 33 * 512]);
        assert!(
            bytes[16 * MIB - 33 * 512..40 * MIB - 33 * 512].iter().all(|byte| *byte == 0),
            "the old backup is still there"
        );
    }
    let target = Disk::stale(&world, "disk0", Kind::File, 16 * MIB);
    world.create(target.path(), name, "raw").run().succeeds();
    target.assert_holds(&image, "a disk of the image's size");
}

#[test]
fn what_is_no_image_is_called_by_its_name() {
    let world = World::new();
    let image = disk(2 * MIB);
    let raw = encode(&world, &image, "raw");
    let path = |name: &str, content: &[u8]| {
        let path = world.path(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let html = path("page", b"<!DOCTYPE html><html><title>Not found</title></html>");
    let cases = [
        (path("empty", b""), "raw", "is empty"),
        (path("noise", &[7; 4096]), "raw", "does not look like a disk"),
        (html.clone(), "raw", "is an HTML page, not a disk image"),
        (html, "auto", "is an HTML page, not a disk image"),
        ("/etc/passwd".to_owned(), "raw", "image /etc/passwd is a text file"),
        ("/etc".to_owned(), "raw", "image /etc is not a regular file"),
        ("/dev/null".to_owned(), "raw", "image /dev/null is not a regular file"),
        (raw.display().to_string(), "qcow2", "is declared qcow2 but is not in qcow2 format (use image_type=raw"),
        (
            raw.display().to_string(),
            "raw+gz",
            "is declared raw+gz but is an uncompressed raw image (use image_type=raw if",
        ),
        (compress(&raw, "xz").display().to_string(), "raw+gz", "but is in xz compression (use image_type=raw+xz if"),
        (
            "images/disk.raw".to_owned(),
            "raw",
            "parameter image: image 'images/disk.raw' is neither an absolute path nor",
        ),
        (String::new(), "raw", "no image is given"),
    ];
    for (image, image_type, reason) in cases {
        let target = Disk::stale(&world, "disk0", Kind::File, 4 * MIB);
        world.create(target.path(), &image, image_type).env("INSTANCE_REINSTALL", "1").run().fails(&[reason]);
        target.assert_untouched(reason);
    }
}

#[test]
fn unknown_content_is_taken_where_the_variant_allows_it() {
    let world = World::new();
    world.variant_file("config.toml", "allow_unknown_content = true\n");
    let file = world.path("noise");
    fs::write(&file, [7; 8192]).unwrap();
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    world.create(target.path(), file.to_str().unwrap(), "").run().succeeds();
    target.assert_holds(&[7; 8192], "noise");
}

#[test]
fn a_disk_in_use_is_refused_and_stays_as_it_is() {
    let world = World::new();
    let file = encode(&world, &disk(MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::Block, 8 * MIB);
    tool("mkfs.ext4", &["-qF", target.path().to_str().unwrap()]);
    let mount = world.path("mnt");
    fs::create_dir(&mount).unwrap();
    tool("mount", &[target.path().to_str().unwrap(), mount.to_str().unwrap()]);
    fs::write(mount.join("precious"), "data").unwrap();
    let outcome = world.create(target.path(), file.to_str().unwrap(), "raw").run();
    let kept = fs::read_to_string(mount.join("precious"));
    target.unmount();
    outcome.fails(&["is in use: it is mounted on"]);
    assert_eq!(kept.unwrap(), "data");
    tool("e2fsck", &["-fn", target.path().to_str().unwrap()]);
}

#[test]
fn the_disk_itself_is_no_image() {
    let world = World::new();
    let file = encode(&world, &disk(2 * MIB), "raw");
    let target = Disk::over(file.clone(), Kind::File);
    let before = target.bytes();
    for reinstall in ["1", "0"] {
        let script = world.create(target.path(), file.to_str().unwrap(), "raw").env("INSTANCE_REINSTALL", reinstall);
        script.run().fails(&["is the instance's disk itself"]);
        match reinstall {
            "1" => assert!(target.bytes() == before),
            // A tenant may guess the disk's name, and what is on a new disk is another one's.
            _ => target.assert_unbootable("a new instance's"),
        }
    }
    assert!(loops_over(&file).is_empty());
}

#[test]
fn a_disk_that_fails_while_it_is_written_fails_the_create() {
    let world = World::new();
    let image = crate::support::bytes(1, 9 * MIB).into_iter().enumerate().map(|(at, byte)| match at {
        510 => 0x55,
        511 => 0xaa,
        _ => byte,
    });
    let file = world.path("full.raw");
    fs::write(&file, image.collect::<Vec<_>>()).unwrap();
    let small = world.path("small");
    fs::create_dir(&small).unwrap();
    tool("mount", &["-t", "tmpfs", "-o", "size=6m", "tmpfs", small.to_str().unwrap()]);
    let backing = small.join("disk");
    tool("truncate", &["-s", "16M", backing.to_str().unwrap()]);
    let outcomes = KINDS.map(|kind| {
        let target = Disk::over(backing.clone(), kind);
        world.create(target.path(), file.to_str().unwrap(), "raw").run()
    });
    let first_mib = fs::read(&backing).unwrap()[..MIB].to_vec();
    tool("umount", &[small.to_str().unwrap()]);
    outcomes[0].fails(&["installing image /", "writing to disk", "No space left on device"]);
    outcomes[1].fails(&["installing image /", "writing to disk"]);
    assert!(first_mib.iter().all(|byte| *byte == 0), "a disk that failed may boot");
}
