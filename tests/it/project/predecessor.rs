// SPDX-License-Identifier: BSD-2-Clause
//! The defects of the shell provider that this one replaces, each as a test that it can't come back.

use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::support::disk::{Disk, KINDS, Kind, loops_over};
use crate::support::images::{MIB, disk, encode, to_qcow2, truncate, write_sparse};
use crate::support::server::{Reply, Server};
use crate::support::world::{Outcome, World, tool};

#[test]
fn defect_01_a_truncated_archive_wrote_half_a_disk_and_exited_0() {
    let world = World::new();
    for image_type in ["raw+gz", "raw+bz2", "raw+xz", "raw+zst", "qcow2+xz"] {
        let file = encode(&world, &disk(9 * MIB), image_type);
        truncate(&file);
        for kind in KINDS {
            let target = Disk::stale(&world, "disk0", kind, 9 * MIB);
            world
                .create(target.path(), file.to_str().unwrap(), image_type)
                .run()
                .fails(&["image /", "archive is truncated"]);
            target.assert_unbootable(image_type);
        }
        let mut garbage = fs::read(encode(&world, &disk(2 * MIB), image_type)).unwrap();
        garbage.extend_from_slice(b"trailing garbage");
        fs::write(&file, garbage).unwrap();
        let target = Disk::stale(&world, "disk0", Kind::File, 9 * MIB);
        world.create(target.path(), file.to_str().unwrap(), image_type).run().fails(&["trailing data after the end"]);
        target.assert_unbootable(image_type);
    }
}

#[test]
fn defect_02_a_broken_download_stayed_and_the_retry_installed_it() {
    let world = World::new();
    let image = disk(3 * MIB);
    world.variant_file("config.toml", "[http]\nretries = 0\n");
    let server = Server::sequence([Reply::ok(image.clone()).cut_after(MIB), Reply::ok(image.clone())]);
    let url = server.url("/disk.raw");
    let target = Disk::stale(&world, "disk0", Kind::File, 3 * MIB);
    let create = || world.create(target.path(), url.as_url().as_str(), "raw").run();
    create().fails(&["/disk.raw"]);
    target.assert_unbootable("a cut download");
    create().succeeds();
    target.assert_holds(&image, "the second try");
}

#[test]
fn defect_04_a_backing_file_copied_any_host_file_into_the_guest() {
    let world = World::new();
    let secret = world.path("secret.raw");
    write_sparse(&secret, &disk(MIB));
    let overlay = world.path("overlay.qcow2").to_str().unwrap().to_owned();
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret.to_str().unwrap(), &overlay]);
    let outside = world.path("outside.qcow2").to_str().unwrap().to_owned();
    let options = format!("data_file={},data_file_raw=on", secret.display());
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, &outside, "1M"]);
    for (file, reason) in [(overlay, "needs a backing file"), (outside, "keeps its data in another file")] {
        let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
        world.create(target.path(), &file, "qcow2").run().fails(&[&file, reason, "is not allowed"]);
        target.assert_unbootable(reason);
    }
}

#[test]
fn defect_05_a_variant_with_dots_executed_a_foreign_config_as_root() {
    let world = World::new();
    let marker = world.path("executed");
    let evil = world.variant_file("../../evil/config", &format!("touch {}\n", marker.display()));
    assert!(evil.exists());
    let image = encode(&world, &disk(MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    let script = world.create(target.path(), image.to_str().unwrap(), "raw").env("OS_VARIANT", "../../evil");
    script.run().fails(&["../../evil"]);
    assert!(!marker.exists());
    target.assert_unbootable("../../evil");
}

#[test]
fn defect_09_expiry_deleted_the_administrators_own_images() {
    let world = World::new();
    let storage = world.path("images");
    fs::create_dir(&storage).unwrap();
    let golden = storage.join("golden.raw");
    fs::write(&golden, disk(MIB)).unwrap();
    let year = Duration::from_secs(365 * 86400);
    File::options().write(true).open(&golden).unwrap().set_modified(SystemTime::now() - year).unwrap();
    world.variant_file("config", &format!("IMAGE_STORAGE='{}'\nDOWNLOAD_CACHE_MAX_DAYS=0\n", storage.display()));
    let image = disk(2 * MIB);
    let server = Server::sequence([Reply::ok(image.clone()), Reply::ok(image.clone())]);
    let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
    for _ in 0..2 {
        world.create(target.path(), server.url("/disk.raw").as_url().as_str(), "raw").run().succeeds();
        target.assert_holds(&image, "an image of 0 days");
    }
    assert_eq!(fs::read(&golden).unwrap(), disk(MIB));
    assert!(!world.cache().exists(), "IMAGE_STORAGE was not used");
}

#[test]
fn defect_10_an_unknown_type_wrote_nothing_ran_the_hooks_and_exited_0() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let marker = world.path("ran");
    world.hook("hooks/mark", &format!("touch {}", marker.display()));
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    for image_type in ["rwa", "raw+lzma", "RAW"] {
        world
            .create(target.path(), image.to_str().unwrap(), image_type)
            .run()
            .fails(&["unknown image type", image_type]);
        world.script("verify").arg("parameters").env("OSP_IMAGE_TYPE", image_type).run().fails(&["unknown image type"]);
    }
    assert!(!marker.exists(), "the hooks ran");
    target.assert_unbootable("an unknown type");
}

#[test]
fn defect_11_a_qcow2_an_xz_or_an_error_page_declared_raw_was_written_as_it_is() {
    let world = World::new();
    let image = disk(2 * MIB);
    let raw = encode(&world, &image, "raw");
    let html = world.path("page.raw");
    fs::write(&html, "<html><head><title>404 Not Found</title></head></html>").unwrap();
    for (file, reason) in [
        (to_qcow2(&raw, &[]), "is declared raw but is a qcow2 image (use image_type=qcow2 if that is meant)"),
        (encode(&world, &image, "raw+xz"), "is declared raw but is in xz compression (use image_type=raw+xz if"),
        (html, "is an HTML page, not a disk image"),
    ] {
        let target = Disk::stale(&world, "disk0", Kind::File, 4 * MIB);
        world.create(target.path(), file.to_str().unwrap(), "raw").run().fails(&[reason]);
        target.assert_unbootable(reason);
    }
}

#[test]
fn defect_13_write_errors_were_lost_for_want_of_a_sync() {
    let world = World::new();
    let image = encode(&world, &disk(9 * MIB), "raw+gz");
    let target = Disk::stale(&world, "disk0", Kind::Block, 10 * MIB);
    let calls = traced(&world, "fsync,fdatasync,pwrite64", || world.create(target.path(), image.to_str().unwrap(), ""));
    let last_write = calls.iter().rposition(|call| call.contains("pwrite64(")).expect("writes");
    assert!(calls[last_write..].iter().any(|call| call.contains("sync(") && call.ends_with("= 0")), "{calls:#?}");
    // A device whose backing has no room accepts writes into its page cache and fails at the sync.
    let small = world.path("small");
    fs::create_dir(&small).unwrap();
    tool("mount", &["-t", "tmpfs", "-o", "size=2m", "tmpfs", small.to_str().unwrap()]);
    tool("truncate", &["-s", "12M", small.join("disk").to_str().unwrap()]);
    let failing = Disk::over(small.join("disk"), Kind::Block);
    let outcome = world.create(failing.path(), image.to_str().unwrap(), "raw+gz").run();
    drop(failing);
    tool("umount", &[small.to_str().unwrap()]);
    outcome.fails(&["writing to disk /dev/loop"]);
}

#[test]
fn defect_14_old_data_and_the_gpt_backup_stayed_behind_the_image() {
    let world = World::new();
    // Holes of the image and all behind it, on disks full of old data.
    let image = disk(9 * MIB);
    for image_type in ["raw", "raw+gz", "qcow2"] {
        let file = encode(&world, &image, image_type);
        for kind in KINDS {
            let target = Disk::stale(&world, "disk0", kind, 30 * MIB);
            world.create(target.path(), file.to_str().unwrap(), image_type).run().succeeds();
            target.assert_holds(&image, image_type);
        }
    }
    // The GPT itself: create::the_gpt_moves_to_the_end_of_a_larger_disk.
}

#[test]
fn defect_15_a_failed_create_left_a_disk_that_may_boot() {
    let world = World::new();
    let image = encode(&world, &disk(2 * MIB), "raw");
    world.hook("hooks/fail", "exit 1");
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, 2 * MIB);
        world.create(target.path(), image.to_str().unwrap(), "raw").run().fails(&["fail exited with return code 1"]);
        target.assert_unbootable("a failed hook");
    }
}

#[test]
fn defect_17_a_loop_device_that_ganeti_gave_was_detached() {
    let world = World::new();
    let image = disk(MIB);
    let file = encode(&world, &image, "raw");
    let target = Disk::stale(&world, "disk0", Kind::Block, MIB);
    world.hook("hooks/use", "head -c 512 \"$TARGET_DISK_DEVICE\" > /dev/null");
    world.create(target.path(), file.to_str().unwrap(), "raw").run().succeeds();
    target.assert_holds(&image, "attached all the time");
    world.hook("hooks/fail", "exit 1");
    world.create(target.path(), file.to_str().unwrap(), "raw").run().fails(&["fail exited"]);
    target.assert_unbootable("and after an error");
    assert_eq!(loops_over(&world.path("disk0")), [target.path().display().to_string()]);
}

#[test]
fn defect_18_export_of_a_file_backed_disk_gave_0_bytes() {
    let world = World::new();
    let content = disk(3 * MIB);
    write_sparse(&world.path("disk0"), &content);
    let outcome = world.script("export").env("EXPORT_DEVICE", world.path("disk0").to_str().unwrap()).run();
    outcome.succeeds();
    assert!(outcome.0.stdout == content);
}

#[test]
fn defect_19_import_wrote_64_kib_blocks_each_synced() {
    let world = World::new();
    let dump = crate::support::bytes(5, 40 * MIB);
    fs::write(world.path("dump"), &dump).unwrap();
    for kind in KINDS {
        let target = Disk::stale(&world, "disk0", kind, 41 * MIB);
        let calls = traced(&world, "fsync,fdatasync,sync_file_range,pwrite64,openat", || {
            let script = world.script("import").env("IMPORT_DEVICE", target.path().to_str().unwrap());
            script.stdin(File::open(world.path("dump")).unwrap())
        });
        target.assert_holds(&dump, "import");
        let count = |name: &str| calls.iter().filter(|call| call.contains(name)).count();
        assert!((2..=4).contains(&count("sync(")), "{calls:#?}");
        assert!(count("pwrite64(") <= 50, "{} writes for 40 MiB", count("pwrite64("));
        assert_eq!(count("O_SYNC") + count("O_DSYNC"), 0, "{calls:#?}");
    }
}

#[test]
fn defects_20_and_21_verify_needed_both_parameters_and_the_network() {
    let world = World::new();
    for (name, value) in [("OSP_IMAGE", "http://mirror.example.org/gone.raw"), ("OSP_IMAGE_TYPE", "raw"), ("X", "")] {
        let mut script = world.script("verify").arg("parameters").env(name, value).without("OS_VARIANT");
        // In a network namespace of its own there is no network at all, not even loopback.
        let mut command = Command::new("unshare");
        command.arg("-n").arg(script.command.get_program()).args(script.command.get_args()).env_clear();
        command.envs(script.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        script.command = command;
        assert_eq!(script.run().succeeds(), "", "{name}");
    }
}

#[test]
fn defect_25_a_missing_variant_config_stopped_exports_and_renames() {
    let world = World::new();
    let content = disk(MIB);
    write_sparse(&world.path("disk0"), &content);
    let device = world.path("disk0").to_str().unwrap().to_owned();
    world.variant_file("../variants.list", "gone\n");
    let script = |name: &str| world.script(name).env("OS_VARIANT", "gone").env("DISK_0_PATH", &device);
    assert!(script("export").env("EXPORT_DEVICE", &device).run().0.stdout == content);
    script("rename").run().succeeds();
    script("import").env("IMPORT_DEVICE", &device).run_with(&content).succeeds();
    script("create").env("OSP_IMAGE", encode(&world, &content, "raw+gz").to_str().unwrap()).run().succeeds();
    assert!(fs::read(&device).unwrap() == content);
}

#[test]
fn defect_26_credentials_reached_the_log() {
    let world = World::new();
    let server = Server::sequence([Reply::status(403), Reply::ok("<html>")]);
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    let address = server.address();
    let url = format!("http://joe:hunter2@{address}/disk.raw?token=s3cret");
    for reason in ["403", "is an HTML page"] {
        let log = world.create(target.path(), &url, "raw").env("DEBUG_LEVEL", "1").run().fails(&[reason, "/disk.raw"]);
        for secret in ["joe", "hunter2", "token", "s3cret"] {
            assert!(!log.contains(secret), "{secret} is in: {log}");
        }
    }
}

#[test]
fn defect_30_later_hooks_ran_after_one_failed_and_names_with_a_dot_were_skipped_in_silence() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    world.hook("hooks/20-second", "echo second");
    world.hook("hooks/10-first", "echo first");
    world.hook("hooks/15-dotted.sh", "echo dotted");
    world.variant_file("hooks/17-not-executable", "#!/bin/sh\necho never\n");
    let create = || world.create(target.path(), image.to_str().unwrap(), "raw").run();
    let log = create().succeeds();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("'{text}' is not in: {log}"));
    assert!(at("hook: first") < at("hook: second"));
    for name in ["15-dotted.sh", "17-not-executable"] {
        assert!(
            log.lines()
                .any(|line| line.contains("warning: ") && line.contains(name) && line.contains("skipped by run-parts")),
            "{log}"
        );
    }
    world.hook("hooks/10-first", "echo this is why; exit 3");
    let log = create().fails(&["a hook in /", "10-first exited with return code 3"]);
    assert!(log.contains("hook: this is why") && !log.contains("hook: second"), "{log}");
}

/// No defect: what its hooks had is still there, the proxy that they fetch things by too.
#[test]
fn hooks_are_told_of_the_proxies_as_they_were() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    for phase in ["hooks.pre", "hooks"] {
        let script = r#"echo "<${http_proxy-none}|${HTTPS_PROXY-none}|${HTTP_PROXY-none}|$OSP_IMAGE_TYPE>""#;
        world.hook(&format!("{phase}/say"), script);
    }
    let told = |file: &str, content: &str| {
        let path = world.variant_file(file, content);
        let log = world.create(target.path(), image.to_str().unwrap(), "raw").run().succeeds();
        fs::remove_file(path).unwrap();
        let lines: Vec<_> = log.lines().filter_map(|line| Some(line.split_once("hook: <")?.1.to_owned())).collect();
        assert_eq!((lines.len(), &lines[0]), (2, &lines[1]), "{log}");
        lines[0].clone()
    };
    let proxy = "http://joe:pw@proxy.example:3128";
    let both = format!("{proxy}|{proxy}|none|raw>");
    assert_eq!(told("config", &format!("PROXY={proxy}\n")), both);
    assert_eq!(told("config.toml", &format!("[http]\nproxy = '{proxy}'\n")), both);
    let other = "[http]\nproxy = 'p:1'\nhttps_proxy = 'http://q:2'\n";
    assert_eq!(told("config.toml", other), "http://p:1|http://q:2|none|raw>");
    assert_eq!(told("config.toml", "http.https_proxy = 'http://q:2'\n"), "none|http://q:2|none|raw>");
    assert_eq!(told("config", ""), "none|none|none|raw>");
}

/// Runs a script under strace, which has to succeed; gives its calls, those of its threads included.
fn traced(world: &World, calls: &str, script: impl FnOnce() -> crate::support::world::Script) -> Vec<String> {
    let trace = world.path("trace");
    let mut script = script();
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", &format!("trace={calls}"), "-o"]).arg(&trace);
    command.arg(script.command.get_program()).args(script.command.get_args()).env_clear();
    command.envs(script.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    script.command = command;
    Outcome(script.spawn().wait_with_output().unwrap()).succeeds();
    fs::read_to_string(trace).unwrap().lines().map(str::to_owned).collect()
}
