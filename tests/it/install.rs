// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage install`: what create does, without Ganeti.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::checks::Published;
use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, compress, disk, encode};
use crate::support::world::{Outcome, World};

fn install(world: &World, image: &str, target: &Path, more: &[&str]) -> Outcome {
    world.tool(&[&["install", image, target.to_str().unwrap()], more].concat()).run()
}

#[test]
fn every_kind_of_disk_gets_the_image_and_nothing_else() {
    let (world, image) = (World::new(), disk(5 * MIB));
    for image_type in ["raw", "raw+zst", "qcow2"] {
        let file = encode(&world, &image, image_type);
        for kind in KINDS {
            let target = Disk::stale(&world, "disk0", kind, 6 * MIB);
            let outcome = install(&world, file.to_str().unwrap(), target.path(), &["--type", image_type]);
            outcome.succeeds();
            assert_eq!(outcome.output(), "");
            target.assert_holds(&image, &format!("{image_type} on {kind:?}"));
        }
    }
}

#[test]
fn a_variant_has_its_settings_and_hooks() {
    let (world, image) = (World::new(), disk(2 * MIB));
    let server = Published::new(&[("/a.raw", &image)]);
    world.variant_file("../web/config.toml", &format!("[images.a]\nurl = \"{}\"\n", server.url("/a.raw")));
    let script = "echo \"$SIMPLEIMAGE_PHASE $INSTANCE_NAME $OS_VARIANT ${TARGET_DISK_DEVICE:+device} ${OSP_SSH_KEYS-none} ${HOME-none}\"";
    for phase in ["hooks.pre", "hooks"] {
        world.hook(&format!("../web/{phase}/say"), script);
    }
    let target = Disk::stale(&world, "disk0", Kind::File, 3 * MIB);
    let run = |more: &[&str]| {
        let args = [&["install", "a", target.path().to_str().unwrap(), "--variant", "web"], more].concat();
        // What is in the caller's environment is not meant for hooks.
        let log = world.tool(&args).env("OSP_SSH_KEYS", "wrong").env("HOME", "/root").run().succeeds();
        target.assert_holds(&image, &log);
        log
    };
    let log = run(&["--name", "web1.example.org"]);
    for line in ["hook: pre web1.example.org web  none none\n", "hook: create web1.example.org web device none none\n"]
    {
        assert!(log.contains(line), "{line}{log}");
    }
    assert!(run(&[]).contains("hook: create disk0 web device "), "the disk's file is the name");
    assert!(!run(&["--no-hooks"]).contains("hook"), "no hooks");
    assert_eq!(server.gets("/a.raw"), 1, "from the cache");
}

#[test]
fn a_path_with_a_slash_is_one_from_here() {
    let (world, image) = (World::new(), disk(2 * MIB));
    let file = encode(&world, &image, "raw");
    let name = format!("./{}", file.file_name().unwrap().to_str().unwrap());
    let target = Disk::stale(&world, "disk0", Kind::File, 3 * MIB);
    let script = world.tool(&["install", &name, target.path().to_str().unwrap()]).current_dir(file.parent().unwrap());
    let log = script.run().succeeds();
    target.assert_holds(&image, &log);
    // A word is a name, but somebody may mean the file.
    let word = name.trim_start_matches("./");
    let script = world.tool(&["install", word, target.path().to_str().unwrap()]).current_dir(file.parent().unwrap());
    script
        .run()
        .fails(&[&format!("there is no image {word} in config.toml (write ./{word} for the file in this folder)")]);
    install(&world, "./nowhere/disk.raw", target.path(), &[]).fails(&["/nowhere/disk.raw", "No such file"]);
}

#[test]
fn what_create_refuses_is_refused_and_the_disk_stays() {
    let (world, image) = (World::new(), disk(3 * MIB));
    let file = encode(&world, &image, "raw");
    let file = file.to_str().unwrap();
    let wrong = format!("sha256:{}", "0".repeat(64));
    let refuses = |image: &str, size: usize, more: &[&str], reason: &str| {
        let target = Disk::stale(&world, "disk0", Kind::File, size);
        install(&world, image, target.path(), more).fails(&[reason]);
        target.assert_untouched(reason);
    };
    refuses(file, 2 * MIB, &[], "the image needs 3 MiB but disk /");
    refuses(file, 4 * MIB, &["--type", "qcow2"], "is declared qcow2 but is not in qcow2 format");
    refuses(
        file,
        4 * MIB,
        &["--checksum", &wrong],
        "but should have sha256:0000000000000000000000000000000000000000000000000000000000000000",
    );
    refuses("disk.raw", 4 * MIB, &[], "parameter image: image 'disk.raw' is neither an absolute path");
    world.variant_file("config.toml", "allowed_images = [\"/srv/images\"]\n");
    refuses(file, 4 * MIB, &[], "is not in a place that allowed_images lists");
    world.variant_file("config.toml", "");
    world.hook("hooks.pre/veto", "exit 3");
    refuses(file, 4 * MIB, &[], "a hook in /");
    install(&world, file, &world.path("nowhere"), &[]).fails(&["nowhere: No such file or directory"]);
    let own = world.tool(&["install", file, file, "--no-hooks"]).run();
    own.fails(&["is the instance's disk itself"]);
    assert_eq!(world.tool(&["install", file]).run().0.status.code(), Some(2));
}

#[test]
fn a_terminal_gets_a_bar_while_the_image_comes() {
    let world = World::new();
    let file = world.path("noise.raw");
    let mut noise = crate::support::bytes(1, 8 * MIB);
    noise[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&file, &noise).unwrap();
    let server = Published::new(&[("/noise.raw.gz", &fs::read(compress(&file, "gz")).unwrap())]);
    // Slow enough for the bar to be drawn.
    world.variant_file("config.toml", "[http]\nlimit_rate = \"12M\"\n");
    let target = Disk::stale(&world, "disk0", Kind::File, 9 * MIB);
    let (root, disk) = (world.path(""), target.path().display());
    let program = env!("CARGO_BIN_EXE_simpleimage");
    let line = format!("{program} --root {} install {} {disk}", root.display(), server.url("/noise.raw.gz"));
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains(" of 8.00 MiB ["), "{text:?}");
    target.assert_holds(&noise, &text);
}
