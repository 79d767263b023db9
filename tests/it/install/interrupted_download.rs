// SPDX-License-Identifier: BSD-2-Clause
//! A download that somebody ends: what is said of it, and how much of it comes again.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, disk};
use crate::support::server::{Reply, Server};
use crate::support::watched::Watched;
use crate::support::world::{Script, World, wait_until};

/// Bytes that come before the server falls silent.
const SENT: usize = 3 * MIB + 300_000;

/// An image that no two places of look alike.
fn image() -> Vec<u8> {
    let mut image = disk(6 * MIB);
    image[MIB..].copy_from_slice(&crate::support::bytes(3, 5 * MIB));
    image
}

/// A file server that falls silent once.
fn silent_once(image: &[u8], validator: &'static str) -> Server {
    let image = image.to_vec();
    Server::start(move |request, before| {
        let reply = Reply::file(request, &image, validator);
        if before == 0 { reply.stall_after(SENT) } else { reply }
    })
}

fn part(world: &World) -> Option<PathBuf> {
    let files = fs::read_dir(world.cache()).ok()?.map(|entry| entry.unwrap().path());
    files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "part"))
}

/// Runs `script` until all that the server sends at first is here, and then has `signal` end it, with all that it started.
/// Gives its log.
fn ended(world: &World, script: Script, signal: &str) -> String {
    let run = Watched::spawn(script);
    let length = || part(world).and_then(|path| fs::metadata(path).ok()).map_or(0, |data| data.len());
    wait_until("what the server sends is here", || length() == SENT as u64);
    run.signal(signal);
    let output = run.finish().0;
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn whoever_ends_a_download_loses_less_than_a_mib() {
    let image = image();
    type Run = fn(&World, &Disk, &str) -> Script;
    let runs: [(&str, Run); 3] = [
        ("fetch", |world, _, url| world.tool(&["fetch", url])),
        ("create", |world, target, url| world.create(target.path(), url, "raw")),
        ("install", |world, target, url| world.tool(&["install", url, target.path().to_str().unwrap()])),
    ];
    for (what, run) in runs {
        for signal in ["TERM", "INT", "HUP", "KILL"] {
            let (world, server) = (World::new(), silent_once(&image, "\"v1\""));
            let url = server.url("/x").to_string();
            let target = Disk::stale(&world, "disk0", Kind::File, 8 * MIB);
            let log = ended(&world, run(&world, &target, &url), signal);
            if signal != "KILL" {
                let mut last = log.lines().rev();
                let error = last.next().unwrap();
                assert!(error.ends_with(&format!("error: ended by SIG{signal}")), "{what}: {log}");
                let said = last.next().unwrap();
                assert!(
                    said.ends_with(&format!(" of {url} are kept: the next run goes on from there")),
                    "{what}: {log}"
                );
            }
            run(&world, &target, &url).run().succeeds();
            if what != "fetch" {
                target.assert_holds(&image, what);
            }
            let requests = server.requests();
            let range = requests[1].header("range").unwrap_or_else(|| panic!("{what}, {signal}: from the beginning"));
            let from: usize = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
            assert!((SENT - MIB..=SENT).contains(&from), "{what}, {signal}: {from} of {SENT}");
        }
    }
}

#[test]
fn what_cannot_be_gone_on_with_is_not_called_kept_and_a_whole_image_is() {
    let image = image();
    // A weak tag stands for images that only look the same.
    let (world, server) = (World::new(), silent_once(&image, "W/\"v1\""));
    let url = server.url("/x").to_string();
    let log = ended(&world, world.tool(&["fetch", &url]), "INT");
    let words = format!("nothing of the download of {url} is kept: it is too little, or its server gives no validator");
    assert!(log.contains(&words), "{log}");
    world.tool(&["fetch", &url]).run().succeeds();
    assert!(server.requests()[1].header("range").is_none());

    // All of it came; it is a hook that is ended.
    world.hook("hooks/10-slow", "echo hook runs; sleep 1000");
    let target = Disk::stale(&world, "disk0", Kind::File, 8 * MIB);
    let run = Watched::spawn(world.create(target.path(), &url, "raw"));
    run.wait_for("hook runs");
    run.signal("TERM");
    let log = run.finish().fails(&["ended by SIGTERM"]);
    assert!(log.contains(&format!("{url} is in the cache: the next run need not download it")), "{log}");
    let local = world.path("local.raw");
    fs::write(&local, &image).unwrap();
    let run = Watched::spawn(world.create(target.path(), local.to_str().unwrap(), "raw"));
    run.wait_for("hook runs");
    run.signal("TERM");
    let log = run.finish().fails(&["ended by SIGTERM"]);
    assert!(!log.contains("kept") && !log.contains("cache"), "{log}");
}

/// The first bytes, or the server's index of an archive, say that all the rest would come in vain.
#[test]
fn what_shows_early_ends_a_download_early() {
    let world = World::new();
    world.variant_file("config.toml", "[http]\nretries = 0\nstall_timeout = 5\n");
    let raw = world.path("large.raw");
    fs::write(&raw, image()).unwrap();
    let read = |path: PathBuf| fs::read(path).unwrap();
    let qcow2 = read(crate::support::images::to_qcow2(&raw, &[]));
    let xz = read(crate::support::images::compress(&raw, "xz"));
    let page = [b"<html><title>Welcome to the wireless network</title>".to_vec(), vec![b' '; 4 * MIB]].concat();
    let too_large = "the image needs 6 MiB but disk";
    for (name, body, image_type, reason, of_disk) in [
        ("raw", image(), "raw", too_large, true),
        ("qcow2", qcow2.clone(), "qcow2", too_large, true),
        ("xz", xz.clone(), "raw+xz", too_large, true),
        ("declared raw", qcow2, "raw", "is declared raw but is a qcow2 image", false),
        ("declared gz", xz, "raw+gz", "is declared raw+gz but is in xz compression", false),
        ("a page", page, "auto", "is an HTML page", false),
    ] {
        // Were the rest waited for, it would be an error of another kind.
        let server = Server::start(move |request, _| match request.header("range") {
            Some(_) => Reply::file(request, &body, "\"v1\""),
            None => Reply::file(request, &body, "\"v1\"").stall_after(2 * MIB),
        });
        let url = server.url("/x").to_string();
        let target = Disk::stale(&world, "disk0", Kind::File, 5 * MIB);
        let disk = target.path().to_str().unwrap();
        let create = || world.create(target.path(), &url, image_type);
        let mut runs = vec![
            ("reinstall", create().env("INSTANCE_REINSTALL", "1")),
            ("install", world.tool(&["install", &url, disk, "--type", image_type])),
        ];
        if !of_disk {
            runs.push(("fetch", world.tool(&["fetch", &url, "--type", image_type])));
        }
        for (what, run) in runs {
            run.run().fails(&["/x", reason]);
            target.assert_untouched(&format!("{what}: {name}"));
            // Whether a part stays depends on who was faster: the reader who refused it, or the server that fell silent.
        }
        create().run().fails(&["/x", reason]);
        target.assert_unbootable(name);
    }
}

/// An index that can't be had in advance is no reason to fail.
#[test]
fn an_index_is_asked_for_where_the_server_gives_parts_and_believed_of_the_same_version_only() {
    let world = World::new();
    let raw = world.path("image.raw");
    fs::write(&raw, image()).unwrap();
    let xz = fs::read(crate::support::images::compress(&raw, "xz")).unwrap();
    let larger = world.path("larger.raw");
    fs::write(&larger, [image(), image()].concat()).unwrap();
    let other = fs::read(crate::support::images::compress(&larger, "xz")).unwrap();
    type Answer = fn(&crate::support::server::Request, &[u8], &[u8]) -> Reply;
    let answers: [(&str, Answer); 5] = [
        ("none", |_, xz, _| Reply::ok(xz)),
        ("refused", |_, _, _| Reply::status(416)),
        ("failed", |_, _, _| Reply::status(503)),
        ("another version", |_, xz, _| Reply::part(xz, xz.len() - 1).header("ETag", "\"v2\"")),
        ("another image's end", |request, _, other| Reply::file(request, other, "\"v2\"")),
    ];
    for (what, answer) in answers {
        let (body, other) = (xz.clone(), other.clone());
        let server = Server::start(move |request, _| match request.header("range") {
            Some(_) => answer(request, &body, &other),
            None => Reply::file(request, &body, "\"v1\""),
        });
        let target = Disk::stale(&world, "disk0", Kind::File, 6 * MIB);
        let log = world.create(target.path(), &server.url("/x").to_string(), "raw+xz").run().succeeds();
        target.assert_holds(&image(), &format!("{what}: {log}"));
        assert_eq!(server.requests().iter().filter(|request| request.header("range").is_some()).count(), 1, "{what}");
    }
}

/// Runs the tool in a terminal of the kind `term` until all is here that the server sends, and ends it. Gives what the
/// terminal got.
fn ended_in_a_terminal(world: &World, args: &str, term: &str) -> String {
    let pid = world.path("pid");
    let program = env!("CARGO_BIN_EXE_simpleimage");
    let line = format!("echo $$ >{}; exec {program} --root {} {args}", pid.display(), world.path("").display());
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("TERM", term).stdin(Stdio::null()).stdout(Stdio::piped());
    let run = command.spawn().unwrap();
    let length = || part(world).and_then(|path| fs::metadata(path).ok()).map_or(0, |data| data.len());
    wait_until("what the server sends is here", || length() == SENT as u64);
    kill(Pid::from_raw(fs::read_to_string(pid).unwrap().trim().parse().unwrap()), Signal::SIGINT).unwrap();
    String::from_utf8(run.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn nothing_comes_behind_the_error_on_a_terminal() {
    let image = image();
    for command in ["fetch", "install"] {
        for term in ["xterm", "dumb"] {
            let (world, server) = (World::new(), silent_once(&image, "\"v1\""));
            let target = Disk::stale(&world, "disk0", Kind::File, 8 * MIB);
            // Slow enough for the bar to be drawn.
            world.variant_file("config.toml", "[http]\nlimit_rate = \"4M\"\n");
            let disk = if command == "install" { target.path().to_str().unwrap() } else { "" };
            let text = ended_in_a_terminal(&world, &format!("{command} {} {disk}", server.url("/x")), term);
            assert!(text.contains(" are kept: the next run goes on from there\r\n"), "{text:?}");
            assert!(text.ends_with("simpleimage: error: ended by SIGINT\r\n"), "{command}, {term}: {text:?}");
            assert_eq!(text.contains(" of 6.00 MiB ["), term == "xterm", "{text:?}");
            // Escape sequences are for terminals that know them.
            assert_eq!(text.contains('\u{1b}'), term == "xterm", "{text:?}");
        }
    }
}
