// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage cleanup`, after runs that were really killed.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use nix::libc::SIGKILL;
use serde_json::Value;

use crate::support::disk::{Disk, Kind, loops_over};
use crate::support::images::{MIB, disk, encode};
use crate::support::processes::{living_with, unique_seconds};
use crate::support::server::{Reply, Server};
use crate::support::world::{World, tool, wait_until};

const TAG: &str = "\"v1\"";

/// What a cleanup writes about this node's folders and disks: other tests kill runs on this machine too.
fn cleanup(world: &World, args: &[&str]) -> Vec<String> {
    let outcome = world.tool(&[&["cleanup"], args].concat()).run();
    let text = outcome.output();
    let devices = text.lines().filter(|line| line.starts_with("still there: ")).count();
    if devices == 0 {
        assert_eq!(outcome.succeeds(), "");
    } else {
        outcome.fails(&["still in use (unmount "]);
    }
    let root = world.path("").display().to_string();
    text.lines().filter(|line| line.contains(&root)).map(str::to_owned).collect()
}

fn url(server: &Server) -> String {
    server.url("/a.raw").as_url().to_string()
}

/// The file of a cache folder with this suffix, if it is there.
fn file(dir: &Path, suffix: &str) -> Option<PathBuf> {
    let mut paths = fs::read_dir(dir).ok()?.map(|entry| entry.unwrap().path());
    paths.find(|path| path.extension().is_some_and(|found| found == suffix))
}

fn suffixes(dir: &Path) -> Vec<String> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let own = paths.filter(|path| path.file_stem().is_some_and(|stem| stem.len() == 64 + ".v2".len()));
    let mut suffixes: Vec<_> = own.map(|path| path.extension().unwrap().to_str().unwrap().to_owned()).collect();
    suffixes.sort();
    suffixes
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(SIGKILL));
}

#[test]
fn a_killed_downloads_remains_go_and_one_that_lives_is_left_alone() {
    let world = World::new();
    let own = world.path("own");
    let folder = world.path("etc/ganeti/instance-simpleimage/web");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.toml"), format!("[cache]\ndir = \"{}\"\n", own.display())).unwrap();
    let server = Server::start(|_, _| Reply::ok(disk(3 * MIB)).stall_after(MIB));
    let child = world.tool(&["fetch", "--variant", "web", &url(&server)]).spawn();
    let received = || file(&own, "part").is_some_and(|part| fs::metadata(part).unwrap().len() == MIB as u64);
    wait_until("a part of the image is there", received);
    assert!(cleanup(&world, &["--all"]).is_empty());
    kill(child);

    let part = file(&own, "part").unwrap();
    assert!(cleanup(&world, &["--variant", "default"]).is_empty());
    let told = cleanup(&world, &["--dry-run"]);
    let (begin, end) =
        (format!("would remove {} (", part.display()), "): an interrupted download that can't be resumed");
    assert!(told.len() == 1 && told[0].starts_with(&begin) && told[0].ends_with(end), "{told:?}");
    assert_eq!(suffixes(&own), ["lock", "part"]);
    let outcome = world.tool(&["cleanup", "--json"]).run();
    let json: Value = serde_json::from_str(&outcome.output()).unwrap();
    let removed = &json["removed"];
    assert_eq!((removed.as_array().unwrap().len(), json["dry_run"].as_bool()), (1, Some(false)));
    assert_eq!(removed[0]["path"].as_str(), part.to_str());
    assert_eq!(removed[0]["reason"].as_str(), Some("an interrupted download that can't be resumed"));
    assert!(removed[0]["bytes"].as_u64().unwrap() >= MIB as u64 && removed[0]["bytes"] == json["bytes"]);
    assert!(suffixes(&own).is_empty());
    assert!(cleanup(&world, &[]).is_empty());
    assert!(!world.cache().exists(), "a folder was made only to be cleaned");
}

#[test]
fn what_a_create_can_go_on_with_goes_only_with_all() {
    let world = World::new();
    let server = Server::start(|request, before| {
        let reply = Reply::file(request, &disk(3 * MIB), TAG);
        if before == 0 { reply.pieces(1000, Duration::from_millis(5)) } else { reply }
    });
    let child = world.tool(&["fetch", &url(&server)]).spawn();
    wait_until("there is a mark", || file(&world.cache(), "mark").is_some());
    kill(child);
    assert!(cleanup(&world, &[]).is_empty());
    assert_eq!(suffixes(&world.cache()), ["lock", "mark", "part"]);
    for (dry_run, done) in [(true, "would remove "), (false, "removed ")] {
        let told = cleanup(&world, if dry_run { &["--all", "--dry-run"] } else { &["--all"] });
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with(done) && told[0].contains(".part ("), "{told:?}");
        assert!(told[0].ends_with(": an interrupted download that could be resumed"), "{told:?}");
        assert!(told[1].contains(".mark (") && told[1].ends_with(": the checkpoint of that download"), "{told:?}");
    }
    assert!(suffixes(&world.cache()).is_empty());
    world.tool(&["fetch", &url(&server)]).run().succeeds();
    assert_eq!(server.requests()[1].header("range"), None);
    // A whole image is nobody's leftover.
    assert!(cleanup(&world, &["--all"]).is_empty());
    assert_eq!(suffixes(&world.cache()), ["img", "lock", "toml"]);
}

/// `fetch`, killed as it begins the rename of this number: 1 puts the image in place, 2 the description beside it.
fn fetch_killed_at_rename(world: &World, url: &str, number: u32) {
    let inject = format!("inject=/^rename:signal=KILL:when={number}");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=/^rename", "-e", &inject]);
    strace.arg(env!("CARGO_BIN_EXE_simpleimage")).arg("--root").arg(world.path("")).args(["fetch", url]);
    let status = strace.status().unwrap();
    assert!(!status.success(), "{status}");
}

#[test]
fn what_was_not_published_to_its_end_goes() {
    let server = Server::start(|_, _| Reply::ok(disk(MIB)));
    for (rename, left, reasons) in [
        (
            1,
            &["lock", "part", "tmp"][..],
            &["an incomplete sidecar", "an interrupted download that can't be resumed"][..],
        ),
        (2, &["img", "lock", "tmp"], &["an incomplete sidecar", "an image without its sidecar"]),
    ] {
        let world = World::new();
        fetch_killed_at_rename(&world, &url(&server), rename);
        assert_eq!(suffixes(&world.cache()), left);
        let told = cleanup(&world, &["--dry-run"]);
        assert_eq!(suffixes(&world.cache()), left);
        assert_eq!(told.len(), reasons.len(), "{told:?}");
        for (line, reason) in cleanup(&world, &[]).iter().zip(reasons) {
            assert!(line.starts_with("removed /") && line.ends_with(reason), "{line}");
        }
        assert!(suffixes(&world.cache()).is_empty());
        world.tool(&["fetch", &url(&server)]).run().succeeds();
        assert_eq!(suffixes(&world.cache()), ["img", "lock", "toml"]);
    }
}

#[test]
fn an_unpublished_image_that_somebody_uses_stays() {
    let server = Server::start(|_, _| Reply::ok(disk(MIB)));
    let world = World::new();
    fetch_killed_at_rename(&world, &url(&server), 2);
    let user = fs::File::open(file(&world.cache(), "img").unwrap()).unwrap();
    user.lock_shared().unwrap();
    assert_eq!(cleanup(&world, &["--all"]).len(), 1);
    assert_eq!(suffixes(&world.cache()), ["img", "lock"]);
    drop(user);
    assert_eq!(cleanup(&world, &[]).len(), 1);
    assert!(suffixes(&world.cache()).is_empty());
}

#[test]
fn foreign_files_stay_and_a_wrong_config_is_named() {
    let server = Server::start(|_, _| Reply::ok(disk(MIB)));
    let world = World::new();
    world.tool(&["fetch", &url(&server)]).run().succeeds();
    let names = ["golden.part", "disk.tmp", &format!("{}.part", "0".repeat(64)), &format!("{}.raw", "1".repeat(64))];
    for name in names {
        fs::write(world.cache().join(name), "golden").unwrap();
    }
    assert!(cleanup(&world, &["--all"]).is_empty());
    for name in names {
        assert_eq!(fs::read(world.cache().join(name)).unwrap(), b"golden", "{name}");
    }
    world.variant_file("config.toml", "nonsense = 1\n");
    world.tool(&["cleanup"]).run().fails(&["default/config.toml:1:1: unknown key `nonsense`"]);
    fs::set_permissions(world.cache(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    world.variant_file("config.toml", "");
    world.tool(&["cleanup"]).run().fails(&["others may write to it (mode 0777)"]);
}

#[test]
fn a_loop_device_of_a_killed_run_that_is_mounted_is_named() {
    let world = World::new();
    let image = encode(&world, &disk(MIB), "raw");
    tool("mkfs.ext4", &["-qF", image.to_str().unwrap()]);
    let (target, given) =
        (Disk::stale(&world, "disk0", Kind::File, 2 * MIB), Disk::stale(&world, "disk1", Kind::Block, MIB));
    let (mount, started) = (world.path("a mount"), world.path("started"));
    fs::create_dir(&mount).unwrap();
    let seconds = unique_seconds();
    world.hook("hooks/slow", &format!("touch {}; exec sleep {seconds}", started.display()));
    let child = world.create(target.path(), image.to_str().unwrap(), "raw").spawn();
    wait_until("the hook runs", || started.exists());
    // What a hook mounts goes with it; this is somebody who looks at the disk meanwhile.
    tool("mount", &[&loops_over(target.path())[0], mount.to_str().unwrap()]);
    assert!(cleanup(&world, &[]).is_empty(), "the run still lives");
    kill(child);
    // The hook's end closes what keeps the disk locked.
    wait_until("the hook is gone", || living_with(&seconds).is_empty());
    wait_until("the disk is free", || !cleanup(&world, &[]).is_empty());

    let loops = loops_over(target.path());
    let line = format!("still there: {} over {}, mounted on {}", loops[0], target.path().display(), mount.display());
    assert_eq!(cleanup(&world, &[]), [line]);
    let json: Value = serde_json::from_str(&world.tool(&["cleanup", "--json"]).run().output()).unwrap();
    let ours = json["devices"].as_array().unwrap().iter().find(|left| left["disk"].as_str() == target.path().to_str());
    assert_eq!(ours.unwrap()["mounted_on"][0].as_str(), mount.to_str());
    assert!(!given.path().exists() || !json.to_string().contains(&format!("\"{}\"", given.path().display())));
    // Who would install onto a mounted disk is stopped.
    let again = || world.create(target.path(), image.to_str().unwrap(), "raw");
    again().run().fails(&["disk0 is in use"]);
    tool("umount", &[mount.to_str().unwrap()]);
    wait_until("the loop device is detached", || loops_over(target.path()).is_empty());
    assert!(cleanup(&world, &[]).is_empty());
    fs::remove_dir_all(world.path("etc")).unwrap();
    again().run().succeeds();
}
