// SPDX-License-Identifier: BSD-2-Clause
//! What every command has in common: help, version, how much is said, and a reader who goes away.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::install::checks::Published;
use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, disk, encode};
use crate::support::world::{World, tool};

/// A node with an image in its cache, which has a name.
fn site() -> (World, Published) {
    let (world, server) = (World::new(), Published::new(&[("/a.raw", &disk(2 * MIB))]));
    let url = server.url("/a.raw");
    world.variant_file("../config.toml", &format!("[images.debian-12]\nurl = \"{url}\"\nnote = \"the usual one\"\n"));
    world.tool(&["fetch", "debian-12"]).run().succeeds();
    (world, server)
}

#[test]
fn help_and_version_are_for_people() {
    let world = World::new();
    let output = |args: &[&str]| {
        let outcome = world.tool(args).run();
        assert_eq!(outcome.succeeds(), "");
        outcome.output()
    };
    for args in [&["--help"][..], &["install", "--help"], &["cache", "remove", "--help"], &["help", "fetch"]] {
        let help = output(args);
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
        assert!(!help.contains("--root") && !help.contains("__complete"), "{help}");
        assert!(help.contains("-q, --quiet") || args.contains(&"help"), "{help}");
    }
    let version = format!("simpleimage {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!([output(&["version"]), output(&["--version"])], [version.clone(), version]);
    for name in ["create", "export", "import", "rename", "verify"] {
        let usage = output(&["script", name, "--", "--help"]);
        assert!(usage.starts_with(&format!("usage: {name}")) && usage.lines().all(|line| line.len() <= 80), "{usage}");
    }
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    let (world, server) = site();
    let file = encode(&world, &disk(2 * MIB), "raw");
    let file = file.to_str().unwrap();
    let url = server.url("/a.raw");
    for args in [
        &["--help"][..],
        &["cache", "--help"],
        &["version"],
        &["--version"],
        &["inspect", file],
        &["inspect", file, "--json"],
        &["inspect", &url],
        &["images"],
        &["images", "--json"],
        &["fetch", &url],
        &["fetch", &url, "--json"],
        &["install", file, file, "--help"],
        &["cache", "list"],
        &["cache", "ls", "--json"],
        &["cache", "show", "debian-12"],
        &["cache", "verify"],
        &["cache", "prune"],
        &["cleanup"],
        &["variants", "list"],
        &["variants", "show", "default"],
        &["seed", "show", file],
        &["completions", "bash"],
        &["completions", "zsh"],
        &["__complete", "simpleimage", ""],
        &["script", "create", "--", "--help"],
        &["cache", "rm", "--all"],
    ] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut script = world.tool(args);
        script.command.stdout(writer).stderr(Stdio::piped()).stdin(Stdio::null());
        let output = script.command.spawn().unwrap().wait_with_output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        // Only what it did is told, as ever.
        let told = log.lines().filter(|line| !line.contains("127.0.0.1")).collect::<Vec<_>>();
        // Loop devices are everybody's on this machine: others' may be what is wrong.
        let others = args == ["cleanup"] && log.contains("of a killed run") && log.lines().count() == 1;
        assert!(others || (output.status.code(), told) == (Some(0), Vec::new()), "{args:?}: {log}");
    }
    // It did all the same what it was asked for.
    assert_eq!(world.tool(&["cache", "list", "--json"]).run().output(), "[]\n");
}

#[test]
fn a_full_disk_is_an_error() {
    let (world, _server) = site();
    let mut script = world.tool(&["cache", "list"]);
    script.command.stdout(fs::File::options().write(true).open("/dev/full").unwrap()).stderr(Stdio::piped());
    let output = script.command.spawn().unwrap().wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(log.contains("error: writing the result: No space left on device"), "{log}");
}

#[test]
fn quiet_leaves_what_is_wrong_and_verbose_says_more() {
    let (world, image) = (World::new(), disk(2 * MIB));
    let server = Published::new(&[("/a.raw", &image)]);
    let redirect = crate::support::server::Reply::redirect(server.url("/a.raw"));
    server.reply("/b.raw", redirect);
    let url = server.url("/b.raw");
    let outcome = world.tool(&["fetch", &url, "-q"]).run();
    assert_eq!(outcome.succeeds(), "");
    assert!(outcome.output().contains("path:   /"), "results stay");
    let log = |flag: &str| world.tool(&[flag, "fetch", &format!("{url}?{flag}")]).run().succeeds();
    assert!(!log("--log-format=text").contains("debug:"));
    assert!(log("-v").contains("debug: ") && log("--verbose").contains("redirects to"));
    world.tool(&["-q", "fetch", &server.url("/none")]).run().fails(&["404 Not Found"]);
    let file = encode(&world, &image, "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, 3 * MIB);
    let create = |flag: &str| {
        let mut script = world.create(target.path(), file.to_str().unwrap(), "");
        let args: Vec<_> = script.command.get_args().map(ToOwned::to_owned).collect();
        let mut command = std::process::Command::new(script.command.get_program());
        command.arg(flag).args(args).env_clear();
        command.envs(script.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        script.command = command;
        script.run().succeeds()
    };
    assert_eq!(create("-q"), "");
    target.assert_holds(&image, "quiet");
    assert!(create("-v").contains("simpleimage[create]: "));
    assert_eq!(world.tool(&["-q", "-v", "version"]).run().0.status.code(), Some(2));
}

/// A URL may hold a password, and stays out of what is said of the other arguments.
#[test]
fn a_wrong_argument_is_named_beside_a_url() {
    let world = World::new();
    let url = "https://joe:hunter2@images.example.com/a.raw?token=s3cret";
    let glued = format!("--checksm={url}");
    for (args, named) in [
        (&["fetch", url, "--checksm", "sha256:0"][..], &["'--checksm'", "'--checksum'"][..]),
        (&["fetch", "a", &glued], &["'--checksm'", "'--checksum'"]),
        (&["fetch", url, "extra"], &["'extra'"]),
        (&["fetch", url, url], &["unexpected argument '<URL>'"]),
        (&["fetch", url, "--variant", "a/b"], &["'a/b'", "'--variant <VARIANT>'"]),
        (&["fetch", url, "--variant"], &["'--variant <VARIANT>'"]),
        (&["fetch", url, "--log-format", "xml"], &["'xml'", "text, json"]),
        (&["install", url], &["<DISK>"]),
        (&["cache", "rm", "--all", url], &["'--all'"]),
        (&["fetsh", url], &["'fetsh'", "'fetch'"]),
        (&["variants", url], &["'<URL>'"]),
    ] {
        let outcome = world.tool(args).run();
        let log = outcome.log();
        assert_eq!(outcome.0.status.code(), Some(2), "{args:?}: {log}");
        assert!(!["hunter2", "s3cret", "joe", "example.com"].iter().any(|part| log.contains(part)), "{log}");
        named.iter().for_each(|part| assert!(log.contains(part), "{part} is not in: {log}"));
    }
}

/// What a shell makes of "$(cat id.pub)" or "$SUM" when there is no such thing: to go on would be to install without.
#[test]
fn an_option_without_a_value_is_no_option_that_was_left_out() {
    let world = World::new();
    let file = encode(&world, &disk(2 * MIB), "raw");
    let target = Disk::stale(&world, "disk0", Kind::File, 3 * MIB);
    let (file, path) = (file.to_str().unwrap(), target.path().to_str().unwrap());
    let install = ["install", file, path];
    for (args, flag) in [
        (&["fetch", "http://127.0.0.1:9/a"][..], "--checksum"),
        (&["fetch", "a"], "--signature"),
        (&["fetch", "a"], "--type"),
        (&["fetch", "a"], "--variant"),
        (&install, "--ssh-key"),
        (&install, "--user-data"),
        (&install, "--checksum"),
        (&install, "--signature"),
        (&install, "--type"),
        (&install, "--name"),
        (&["cache", "list"], "--variant"),
    ] {
        for empty in ["", " \n"] {
            let outcome = world.tool(&[args, &[flag, empty]].concat()).run();
            let log = outcome.log();
            assert_eq!(outcome.0.status.code(), Some(2), "{args:?} {flag}: {log}");
            assert!(log.contains(&format!("'{flag} <")), "{flag}: {log}");
        }
    }
    target.assert_untouched("an empty option");
    for empty in [&["inspect", ""][..], &["fetch", ""], &["install", "", path], &["install", file, ""], &["check", ""]]
    {
        assert_eq!(world.tool(empty).run().0.status.code(), Some(2), "{empty:?}");
    }
}

#[test]
fn who_is_not_root_is_told_so() {
    let world = World::new();
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let program = world.path("simpleimage");
    // By another process: what this one has open for writing, a child that another test starts has open too, and nobody can run it.
    tool("cp", &[env!("CARGO_BIN_EXE_simpleimage"), program.to_str().unwrap()]);
    let target = Disk::stale(&world, "disk0", Kind::File, 3 * MIB);
    fs::set_permissions(target.path(), fs::Permissions::from_mode(0o600)).unwrap();
    let file = encode(&world, &disk(2 * MIB), "raw");
    let (path, file) = (target.path().to_str().unwrap(), file.to_str().unwrap());
    fs::create_dir_all(world.cache()).unwrap();
    fs::set_permissions(world.cache(), fs::Permissions::from_mode(0o700)).unwrap();
    let args = ["--reuid=65534", "--regid=65534", "--clear-groups", program.to_str().unwrap(), "--root"];
    let run = |args: &[&str]| {
        let mut script = world.tool(&[]);
        script.command = std::process::Command::new("setpriv");
        script.command.args(args);
        script.run()
    };
    let root = world.path("");
    let as_nobody = |more: &[&str]| run(&[&args[..], &[root.to_str().unwrap()], more].concat());
    as_nobody(&["install", file, path]).fails(&["opening disk /", "Permission denied (os error 13) (run it as root)"]);
    as_nobody(&["seed", "show", path]).fails(&["Permission denied (os error 13) (run it as root)"]);
    for command in [&["cache", "list"][..], &["images"], &["fetch", "http://127.0.0.1:9/a"]] {
        as_nobody(command).fails(&["cache folder /", "it belongs to user 0, not to user 65534 (run it as root)"]);
    }
    let found = as_nobody(&["check", "default"]).output();
    assert!(found.contains("not to user 65534\n  hint: run it as root\n"), "{found}");
    target.assert_untouched("not root");
}
