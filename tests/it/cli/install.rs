// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage install`: what create does, without Ganeti.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::install::checks::Published;
use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::{MIB, compress, disk, encode};
use crate::support::world::{Outcome, World, tool};

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

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH joe; at home";

#[test]
fn keys_and_user_data_are_given_as_people_have_them() {
    let world = World::new();
    // With a partition table, as a seed's partition needs one.
    let file = world.path("disk.raw");
    let script = format!("truncate -s 8M {0}; echo 2048,2048,83 | sfdisk --quiet {0}", file.display());
    tool("sh", &["-c", &script]);
    let other = KEY.replace("HBwcH joe; at home", "HAwcH ann");
    let server = Published::new(&[("/keys", KEY.replace("HBwcH joe; at home", "HCwcH url").as_bytes())]);
    fs::write(world.path("id.pub"), format!("{other}\n")).unwrap();
    fs::write(world.path("web.yaml"), "#cloud-config\npassword: s3cret\n").unwrap();
    world.variant_file("user-data/base.yaml", "#cloud-config\npackages: [nginx]\n");
    world.hook("hooks/say", "echo \"${OSP_SSH_KEYS:+keys} ${OSP_USER_DATA:+data}\"");
    let target = Disk::stale(&world, "disk0", Kind::File, 12 * MIB);
    let args = ["install", file.to_str().unwrap(), target.path().to_str().unwrap(), "--ssh-key", KEY];
    let more = ["--ssh-key", "./id.pub", "--ssh-key", &server.url("/keys"), "--user-data", "./web.yaml"];
    let args = [&args[..], &more, &["--user-data", "base.yaml"]].concat();
    let log = world.tool(&args).current_dir(&world.path("")).run().succeeds();
    assert!(!log.contains("s3cret") && log.contains("hook: keys data"), "{log}");
    let shown = world.tool(&["seed", "show", target.path().to_str().unwrap(), "--secrets"]).run().output();
    let documents = ["I2Nsb3VkLWNvbmZpZwpwYXNzd29yZDogczNjcmV0Cg==", "I2Nsb3VkLWNvbmZpZwpwYWNrYWdlczogW25naW54XQo="];
    for part in ["joe; at home\"", " ann\"", " url\"", documents[0], documents[1]] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    let refuses = |more: &[&str], reason: &str| {
        let target = Disk::stale(&world, "disk1", Kind::File, 12 * MIB);
        let args = [&["install", file.to_str().unwrap(), target.path().to_str().unwrap()], more].concat();
        let log = world.tool(&args).current_dir(&world.path("")).run().fails(&[reason]);
        assert!(!log.contains("s3cret"), "{log}");
        target.assert_untouched(reason);
    };
    refuses(&["--ssh-key", "./none.pub"], "--ssh-key: reading ./none.pub: No such file or directory");
    refuses(&["--ssh-key", "./web.yaml"], "ssh_keys, entry 1");
    refuses(&["--user-data", "none.yaml"], "parameter user_data");
    // A word is a name in the variant's folder, but somebody may mean the file.
    for (flag, word) in [("--ssh-key", "id.pub"), ("--user-data", "web.yaml"), ("--signature", "id.pub")] {
        refuses(&[flag, word], &format!("{flag}: write ./{word} for the file in this folder"));
    }
    // No shell makes a home folder of it behind an equals sign.
    for flag in ["--ssh-key", "--user-data", "--signature"] {
        refuses(
            &[&format!("{flag}=~/id.pub")],
            &format!("{flag}: ~/id.pub: a shell makes a home folder of ~ only at the beginning of a word"),
        );
    }
    refuses(
        &["--ssh-key", KEY, "--name", "my disk"],
        "is not a host name, and its seed needs one (letters, digits, '-' and '.', at most 253; simpleimage install takes another one with --name)",
    );
    fs::write(world.path("empty"), "\n").unwrap();
    refuses(&["--user-data", "./empty"], "--user-data: ./empty is empty");
    fs::write(world.path("large"), vec![b'#'; 100 << 10]).unwrap();
    refuses(
        &["--user-data", "./large"],
        "--user-data: more than 120 KiB in base64 (put it into the variant's user-data folder",
    );
}

#[test]
fn a_dry_run_tells_what_would_be_done_and_changes_nothing() {
    let (world, image) = (World::new(), disk(3 * MIB));
    let server = Published::new(&[("/a.raw", &image)]);
    let (url, file, raw) = (server.url("/a.raw"), encode(&world, &image, "qcow2"), encode(&world, &image, "raw"));
    world.variant_file("hooks.pre/veto", "");
    for hook in ["hooks.pre/veto", "hooks/20-last", "hooks/10-first"] {
        world.hook(hook, "exit 3");
    }
    let target = Disk::stale(&world, "disk0", Kind::File, 4 * MIB);
    let path = target.path().to_str().unwrap();
    let dry = |image: &str, more: &[&str]| world.tool(&[&["install", image, path, "--dry-run"], more].concat()).run();
    let outcome = dry(&url, &["--ssh-key", KEY]);
    outcome.fails(&["the image has no partition table, so there is no place for the seed on disk /"]);
    tool("sh", &["-c", &format!("echo 2048,2048,83 | sfdisk --quiet {}", raw.display())]);
    server.put("/a.raw", fs::read(&raw).unwrap());
    let target = Disk::stale(&world, "disk0", Kind::File, 12 * MIB);
    let outcome = dry(&url, &["--checksum", &format!("sha256:{}", "0".repeat(64)), "--ssh-key", KEY]);
    let log = outcome.succeeds();
    assert!(log.contains("onto disk") && log.contains("first-boot seed: meta-data"), "{log}");
    let told = outcome.output();
    let hooks = ["hooks.pre/veto", "hooks/10-first", "hooks/20-last"]
        .map(|hook| world.path("etc/ganeti/instance-simpleimage/default").join(hook).display().to_string());
    let expected = format!(
        "image:   {url}\ntype:    raw, as far as its beginning tells\nneeds:   3 MiB\ndisk:    {path}, 12 MiB\n\
         checks:  checksum sha256:{}, signature none\nseed:    yes\nhooks:   {}\ndry run: nothing was written\n",
        "0".repeat(64),
        hooks.join(", ")
    );
    assert_eq!(told, expected);
    // A seed comes from servers whether or not the image does.
    server.put("/keys", KEY);
    server.put("/data", "#cloud-config\n");
    let more = ["--ssh-key", &server.url("/keys"), "--user-data", &server.url("/data")];
    let outcome = dry(raw.to_str().unwrap(), &more);
    assert!(outcome.succeeds().contains("user-data 14 bytes"), "{outcome:?}");
    assert!(outcome.output().contains("seed:    yes\n"));
    let outcome = dry(file.to_str().unwrap(), &["--no-hooks"]);
    outcome.succeeds();
    let told = outcome.output();
    assert!(told.contains("type:    qcow2\n") && told.contains("seed:    none\nhooks:   none\n"), "{told}");
    for (image, more, reason) in [
        (url.as_str(), &["--type", "qcow2"][..], "is declared qcow2 but is not in qcow2 format"),
        (&server.url("/none"), &[], "404 Not Found"),
        (path, &[], "is the instance's disk itself"),
        ("nowhere", &[], "nor a name in config.toml"),
        (file.to_str().unwrap(), &["--ssh-key", "./none.pub"], "No such file"),
    ] {
        let outcome = dry(image, more);
        outcome.fails(&[reason]);
        assert_eq!(outcome.output(), "", "{reason}");
    }
    target.assert_untouched("dry run");
    let small = Disk::stale(&world, "small", Kind::File, 2 * MIB);
    let args = ["install", &url, small.path().to_str().unwrap(), "--dry-run"];
    world.tool(&args).run().fails(&["the image needs 3 MiB but disk /", "has 2 MiB (use a larger disk)"]);
    assert!(!world.cache().exists(), "nothing is kept");
}

#[test]
fn a_signature_may_be_given_from_here() {
    let (world, image, key) = (World::new(), disk(2 * MIB), crate::support::gpg::Key::new());
    let file = encode(&world, &image, "raw");
    fs::write(world.variant_file("keyring.gpg", ""), key.public()).unwrap();
    fs::write(world.path("good.sig"), key.sign(&image, &[])).unwrap();
    fs::write(world.path("bad.sig"), key.sign(b"another", &[])).unwrap();
    let target = Disk::stale(&world, "disk0", Kind::File, 3 * MIB);
    let install = |signature: &str| {
        let args = ["install", file.to_str().unwrap(), target.path().to_str().unwrap(), "--signature", signature];
        world.tool(&args).current_dir(&world.path("")).run()
    };
    install("./bad.sig").fails(&["signature"]);
    target.assert_untouched("a bad signature");
    assert!(install("./good.sig").succeeds().contains("has a good signature"));
    target.assert_holds(&image, "signed");
    let server = Published::new(&[("/a.raw", &image), ("/a.raw.sig", &key.sign(&image, &[]))]);
    let signature = server.url("/a.raw.sig");
    let fetched = world.tool(&["fetch", &server.url("/a.raw"), "--signature", &signature]).run().succeeds();
    assert!(fetched.contains("has a good signature"), "{fetched}");
}

/// Raw, unpacked first, and by qemu-img: each is written slowly enough for a bar.
#[test]
fn a_terminal_gets_a_bar_while_the_disk_is_written() {
    let world = World::new();
    let mut noise = crate::support::bytes(1, 512 * MIB);
    noise[510..512].copy_from_slice(&[0x55, 0xaa]);
    for image_type in ["raw", "qcow2", "qcow2+zst"] {
        let file = encode(&world, &noise, image_type);
        let target = Disk::stale(&world, "disk0", Kind::File, 513 * MIB);
        let (root, disk) = (world.path(""), target.path().display());
        let program = env!("CARGO_BIN_EXE_simpleimage");
        let run = |flag: &str| {
            let line = format!("{program} --root {} install {flag} {} {disk}", root.display(), file.display());
            let output =
                Command::new("script").args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{text:?}");
            text
        };
        let text = run("");
        assert!(text.contains("writing ") && text.contains(" of 513.00 MiB ["), "{image_type}: {text:?}");
        assert!(image_type != "qcow2+zst" || text.contains("unpacking "), "{text:?}");
        assert_eq!(run("-q"), "", "{image_type}");
        target.assert_holds(&noise, image_type);
    }
}
