// SPDX-License-Identifier: BSD-2-Clause
//! Messages as JSON: every line of stderr is an object, with all that a program would have to search the words for.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::install::checks::Published;
use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, disk, encode};
use crate::support::world::{Outcome, World, wait_until};

/// A node whose site wants JSON.
fn world() -> World {
    let world = World::new();
    world.variant_file("../config.toml", "log_format = \"json\"\n[http]\nretries = 0\n");
    world
}

/// The objects of a log. What is different in every run, times, is checked and then null.
fn objects(log: &str) -> Vec<Value> {
    assert!(!log.contains("s3cret"), "{log}");
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let mut objects: Vec<Value> = log.lines().map(parse).collect();
    let times: Vec<_> = objects.iter_mut().map(|object| object["time"].take()).collect();
    assert!(times.is_sorted_by_key(|time| time.as_str().unwrap().to_owned()), "{times:?}");
    for object in &mut objects {
        for name in ["seconds", "write_seconds"] {
            if let Some(seconds) = object.get_mut(name).map(Value::take) {
                assert!((0.0..600.0).contains(&seconds.as_f64().unwrap()), "{name}: {seconds}");
            }
        }
    }
    objects
}

/// The only line of a run that failed.
fn error(outcome: &Outcome) -> Value {
    let log = outcome.log();
    assert!(outcome.0.status.code().is_some_and(|code| code != 0), "{log}");
    let mut objects = objects(&log);
    let last = objects.pop().unwrap();
    assert!(objects.iter().all(|object| object["level"] != "error"), "{log}");
    last
}

/// A message of create at level info, with all that belongs to an event.
fn told(event: &str, message: &str, fields: Value) -> Value {
    let mut object = json!({
        "time": null, "level": "info", "program": "simpleimage", "applet": "create", "instance": "web1.example.org",
        "variant": "default", "message": message, "event": event
    });
    object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    object
}

/// Without the time that is at a message's end.
fn timeless(mut object: Value) -> Value {
    let message = object["message"].as_str().unwrap();
    let words = match object["event"].as_str().unwrap() {
        "done" => message.split_once(": ").unwrap().1.rsplit_once(" in ").unwrap().0,
        "written" | "hooked" => message.trim_end_matches(|c: char| c.is_ascii_digit() || " .s".contains(c)),
        _ => message,
    };
    object["message"] = words.into();
    object
}

#[test]
fn a_create_tells_its_story_in_objects() {
    let world = world();
    let mut image = vec![0; 4 * MIB];
    image[..2 * MIB].copy_from_slice(&crate::support::bytes(1, 2 * MIB));
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    let server = Published::new(&[("/a.raw", &image)]);
    world.hook("hooks/say", "printf '{\"caf\\303\\251\": 1}\\n'");
    let hooks = world.path("etc/ganeti/instance-simpleimage/default/hooks").display().to_string();
    let url = server.url("/a.raw");
    let target = Disk::stale(&world, "disk0", Kind::File, 6 * MIB);
    let path = target.path().display().to_string();
    let version = env!("CARGO_PKG_VERSION");
    let secret = format!("{url}?token=s3cret").replace("http://", "http://joe:s3cret@");
    let log = world.create(target.path(), &secret, "raw").run().succeeds();
    let start = format!(
        "version {version}: installing instance web1.example.org (variant default) from image {url} onto disk {path}"
    );
    let plan = "new instance with a disk of 6 MiB; declared type raw, checksum none, signature none";
    let done = "a disk image of 4 MiB (a cache miss), 2 MiB of data and 4 MiB of zeros written";
    let mib = |count: usize| count * MIB;
    let expected = [
        told("start", &start, json!({ "version": version, "image": url, "disk": path })),
        told("plan", plan, json!({ "reinstall": false, "disk_bytes": mib(6) })),
        told(
            "download",
            &format!("downloading {url} (4 MiB)"),
            json!({ "image": url, "cache": "miss", "bytes": mib(4), "start": 0 }),
        ),
        told(
            "image",
            "image type raw, 4 MiB for a disk of 6 MiB",
            json!({ "image_type": "raw", "bytes": mib(4), "disk_bytes": mib(6) }),
        ),
        told("written", "written and synced in", json!({ "seconds": null })),
        told("installed", "the image is on the disk: 4 MiB", json!({ "bytes": mib(4) })),
        told("hooks", &format!("running the hooks in {hooks}"), json!({ "phase": "create" })),
        told(
            "hook",
            &format!("hook: run-parts: executing {hooks}/say"),
            json!({ "output": format!("run-parts: executing {hooks}/say") }),
        ),
        told("hook", "hook: {\"caf\\u{e9}\": 1}", json!({ "output": "{\"caf\u{e9}\": 1}" })),
        told("hooked", "the hooks took", json!({ "phase": "create", "seconds": null })),
        told(
            "done",
            done,
            json!({
                "image": url, "cache": "miss", "bytes": mib(4), "data_bytes": mib(2), "zero_bytes": mib(4),
                "write_seconds": null, "seconds": null
            }),
        ),
    ];
    assert_eq!(objects(&log).into_iter().map(timeless).collect::<Vec<_>>(), expected);
}

#[test]
fn a_reinstall_tells_of_the_cache() {
    let world = world();
    let server = Published::new(&[("/a.raw", &disk(MIB))]);
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    let reinstall = || world.create(target.path(), &server.url("/a.raw"), "raw").env("INSTANCE_REINSTALL", "1").run();
    for (event, cache) in [("download", "miss"), ("cached", "hit")] {
        let log = objects(&reinstall().succeeds());
        let events: Vec<_> = log.iter().map(|object| object["event"].as_str().unwrap()).collect();
        assert_eq!(events, ["start", "plan", event, "fetched", "image", "written", "installed", "done"]);
        assert_eq!(
            [&log[1]["reinstall"], &log[2]["cache"], &log[7]["cache"]],
            [&json!(true), &json!(cache), &json!(cache)]
        );
    }
}

#[test]
fn what_is_not_known_is_null() {
    let world = world();
    world.qemu_img_decodes();
    let file = encode(&world, &disk(5 * MIB), "qcow2");
    let target = Disk::stale(&world, "disk0", Kind::File, 6 * MIB);
    let create = world.create(target.path(), file.to_str().unwrap(), "").env("DEBUG_LEVEL", "1");
    let objects = objects(&create.run().succeeds());
    let last = objects.last().unwrap();
    assert_eq!(last["image"], file.to_str().unwrap());
    assert_eq!([&last["cache"], &last["data_bytes"], &last["zero_bytes"]], [&Value::Null; 3]);
    assert!(last.as_object().unwrap().contains_key("zero_bytes"), "{last}");
    assert_eq!(last["bytes"], 5 * MIB);
    let debug: Vec<_> = objects.iter().filter(|object| object["level"] == "debug").collect();
    assert!(debug.iter().any(|object| object["message"].as_str().unwrap().starts_with("no hooks in ")), "{debug:?}");
}

#[test]
fn the_last_line_of_a_failure_is_an_object() {
    let world = world();
    let server = Published::new(&[]);
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    let url = server.url("/none?s3cret").replace("http://", "http://joe:s3cret@");
    let create = || world.create(target.path(), &url, "raw");
    let none = format!("{}: the server answered 404 Not Found", server.url("/none"));
    let expected = |message: &str| {
        json!({
            "time": null, "level": "error", "program": "simpleimage", "applet": "create",
            "instance": "web1.example.org", "variant": "default", "message": message
        })
    };
    assert_eq!(error(&create().run()), expected(&none));
    // Before the settings are read.
    let no_disk = create().without("DISK_0_PATH").run();
    assert!(error(&no_disk)["message"].as_str().unwrap().contains("DISK_0_PATH is missing or empty"));
    assert!(error(&create().arg("x").run())["message"].as_str().unwrap().starts_with("these arguments are not for"));
    let wrong = error(&create().env("OS_VARIANT", "../x").run());
    assert_eq!((wrong["level"].as_str(), wrong.get("variant")), (Some("error"), None));
    // A variant that can't be read: the site still says how.
    world.variant_file("config.toml", "log_format = 's3cret'\n");
    let config = world.path("etc/ganeti/instance-simpleimage/default/config.toml");
    let message = format!("{}:1:14: log_format: must be \"text\" or \"json\"", config.display());
    assert_eq!(error(&create().run()), expected(&message));
    world.variant_file("../config.toml", "log_format = 5\n");
    create().run().fails(&["config.toml:1:14: log_format: expected a string, found an integer"]);
}

#[test]
fn so_is_that_of_a_run_that_is_told_to_end() {
    let world = world();
    let (file, started) = (encode(&world, &disk(MIB), "raw"), world.path("started"));
    world.hook("hooks/wait", &format!("touch {}; sleep 1000", started.display()));
    let target = Disk::stale(&world, "disk0", Kind::File, MIB);
    let create = world.create(target.path(), file.to_str().unwrap(), "raw").spawn();
    wait_until("the hook runs", || started.exists());
    kill(Pid::from_raw(create.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let outcome = Outcome(create.wait_with_output().unwrap());
    assert_eq!(error(&outcome)["message"], "ended by SIGTERM");
}

#[test]
fn the_variant_decides_and_the_command_line_is_stronger() {
    let world = world();
    let create = |format: Option<&str>| {
        let mut create = world.create(Path::new("/nonexistent"), "/nonexistent", "raw");
        if let Some(format) = format {
            create = create.arg("--log-format").arg(format);
        }
        create.run()
    };
    assert_eq!(error(&create(None))["applet"], "create");
    create(Some("text")).fails(&["opening disk /nonexistent"]);
    world.variant_file("config.toml", "log_format = \"text\"\n");
    create(None).fails(&["opening disk /nonexistent"]);
    assert_eq!(error(&create(Some("json")))["variant"], "default");
}

#[test]
fn the_other_scripts_follow_and_none_fails_over_it() {
    let world = world();
    let source = Disk::stale(&world, "source", Kind::File, MIB);
    let path = source.path().to_str().unwrap();
    let export = || world.script("export").env("EXPORT_DEVICE", path).run();
    let outcome = export();
    let log = objects(&outcome.succeeds());
    assert_eq!(
        (&log[0]["event"], &log[0]["disk"], &log[0]["disk_bytes"]),
        (&"export".into(), &path.into(), &MIB.into())
    );
    assert_eq!(log.len(), 1);
    let target = Disk::stale(&world, "target", Kind::File, 2 * MIB);
    let import = world.script("import").env("IMPORT_DEVICE", target.path().to_str().unwrap());
    let log = objects(&import.run_with(&outcome.0.stdout).succeeds());
    let events: Vec<_> = log.iter().map(|object| (object["event"].as_str().unwrap(), &object["bytes"])).collect();
    assert_eq!(events, [("import", &Value::Null), ("imported", &MIB.into())]);
    let verify = world.script("verify").arg("parameters").without("INSTANCE_NAME");
    let refused = error(&verify.env("OSP_IMAGE_TYPE", "qed").env("OS_VARIANT", "").run());
    assert_eq!([refused.get("instance"), refused.get("variant")], [None; 2]);
    assert_eq!(refused["applet"], "verify");
    assert_eq!(
        error(&world.script("rename").env("DISK_0_PATH", "x").env("OS_VARIANT", "a/b").run())["applet"],
        "rename"
    );
    // A backup must always be possible.
    world.variant_file("../config.toml", "oops");
    assert!(export().succeeds().starts_with("simpleimage[export]: exporting disk "));
}

#[test]
fn the_tool_writes_json_only_when_it_is_asked_to() {
    let world = world();
    let server = Published::new(&[("/a.raw", &disk(2 * MIB))]);
    let url = server.url("/a.raw?s3cret").replace("http://", "http://joe:s3cret@");
    let fetch = |args: &[&str], url: &str| world.tool(&[args, &["fetch", url]].concat()).run();
    assert!(fetch(&[], &url).succeeds().starts_with("simpleimage: downloading "));
    let json = ["--log-format", "json"];
    let log = objects(&fetch(&json, &url).succeeds());
    let image = server.url("/a.raw");
    let message = format!("{image} is in the cache");
    let cached = json!({
        "time": null, "level": "info", "program": "simpleimage", "variant": "default", "message": message,
        "event": "cached", "image": image, "cache": "hit"
    });
    assert_eq!(log, [cached]);
    let none = error(&fetch(&json, &server.url("/none?s3cret")));
    assert_eq!(none["message"], format!("{}: the server answered 404 Not Found", server.url("/none")));
    let target = Disk::stale(&world, "disk0", Kind::File, 2 * MIB);
    let install = world.tool(&["install", &url, target.path().to_str().unwrap(), "--log-format=json"]).run();
    let log = objects(&install.succeeds());
    assert!(log.iter().all(|object| object["instance"] == "disk0" && object["variant"] == "default"), "{log:?}");
    assert_eq!((&log[0]["event"], &log.last().unwrap()["event"]), (&"start".into(), &"done".into()));
    let inspect = error(&world.tool(&["--log-format", "json", "inspect", "/etc/passwd"]).run());
    assert!(inspect["message"].as_str().unwrap().contains("/etc/passwd is a text file"), "{inspect}");
}

#[test]
fn a_terminal_gets_objects_and_no_bar() {
    let world = World::new();
    let mut noise = crate::support::bytes(1, 8 * MIB);
    noise[510..512].copy_from_slice(&[0x55, 0xaa]);
    let server = Published::new(&[("/noise.raw", &noise)]);
    // Slow enough for a bar to be drawn.
    world.variant_file("config.toml", "[http]\nlimit_rate = \"12M\"\n");
    let (root, url, result) = (world.path(""), server.url("/noise.raw"), world.path("result"));
    let line = format!(
        "{} --root {} --log-format json fetch {url} >{}",
        env!("CARGO_BIN_EXE_simpleimage"),
        root.display(),
        result.display()
    );
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").output().unwrap();
    let log = objects(std::str::from_utf8(&output.stdout).unwrap());
    assert_eq!(log.iter().map(|object| object["event"].as_str().unwrap()).collect::<Vec<_>>(), ["download"]);
    assert!(fs::read_to_string(result).unwrap().contains("sha256: "), "{output:?}");
}
