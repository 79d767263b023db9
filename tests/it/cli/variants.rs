// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage variants`: which there are, what holds for one, and who says so.

use serde_json::{Value, json};

use crate::support::disk::{Disk, Kind};
use crate::support::world::World;

/// Two variants: `default` with the predecessor's config, `bare` without a folder; `hidden` that is not offered.
fn site() -> World {
    let world = World::new();
    world.variant_file("../variants.list", "# ours\nbare\n\ndefault\n");
    world.variant_file("../config.toml", "image = \"https://joe:s3cret@h/a.raw?t=s3cret\"\n[http]\nretries = 9\n");
    world.variant_file("config", "DOWNLOAD_CACHE_MAX_DAYS=3\nCUSTOM_CURL_OPTS='-u joe:s3cret --retry 2'\n");
    world.variant_file("../hidden/config.toml", "");
    world
}

fn run(world: &World, args: &[&str]) -> String {
    let outcome = world.tool(&[&["variants"], args].concat()).run();
    assert_eq!(outcome.succeeds(), "", "a result needs no message");
    outcome.output()
}

fn json(world: &World, args: &[&str]) -> Value {
    serde_json::from_str(&run(world, &[args, &["--json"]].concat())).unwrap()
}

#[test]
fn the_list_has_what_is_offered_and_what_has_a_folder() {
    let world = World::new();
    let shipped = "default (no folder of its own: the site's settings hold)\n";
    assert_eq!(run(&world, &["list"]), shipped, "no config at all");
    assert!(run(&world, &["show", "default"]).contains("\nhttp.retries = 5  # built in\n"));
    let world = site();
    let expected = "bare (no folder of its own: the site's settings hold)\ndefault\n\
                    hidden (not in variants.list: Ganeti does not offer it)\n";
    assert_eq!(run(&world, &["list"]), expected);
    let variant =
        |name: &str, offered, configured| json!({ "name": name, "offered": offered, "configured": configured });
    let expected = [variant("bare", true, false), variant("default", true, true), variant("hidden", false, true)];
    assert_eq!(json(&world, &["list"]), Value::from(expected.to_vec()));
    world.variant_file("../variants.list", "default\n../x\n");
    world.tool(&["variants", "list"]).run().fails(&["reading /", "/variants.list: '../x' is not a variant name"]);
}

#[test]
fn a_mistyped_variant_is_an_error_everywhere_and_the_nearest_is_named() {
    let world = site();
    let image = world.path("disk.raw");
    std::fs::write(&image, crate::support::images::disk(2 << 20)).unwrap();
    let image = image.to_str().unwrap();
    let target = Disk::stale(&world, "disk0", Kind::File, 3 << 20);
    let disk = target.path().to_str().unwrap();
    let config = world.path("etc/ganeti/instance-simpleimage");
    let refusal = |mistyped: &str, nearest: &str| {
        let place = format!("neither a folder in {} nor a line in variants.list there", config.display());
        let way_out = format!("(the nearest is {nearest}; simpleimage variants list shows all)");
        format!("there is no variant {mistyped}, {place} {way_out}")
    };
    let words = refusal("defualt", "default");
    for args in [
        &["fetch", "https://h/a.raw", "--variant", "defualt"][..],
        &["install", image, disk, "--variant", "defualt"],
        &["variants", "show", "defualt"],
        &["cache", "list", "--variant", "defualt"],
        &["cache", "prune", "--variant", "defualt"],
        &["cleanup", "--variant", "defualt"],
    ] {
        let outcome = world.tool(args).run();
        assert_eq!(outcome.fails(&[&words]).lines().count(), 1, "{args:?}");
    }
    let checked = world.tool(&["check", "defualt"]).run();
    assert!(checked.output().contains(&format!("error: variant defualt: {words}\n")), "{}", checked.output());
    assert!(!checked.0.status.success());
    let create = || world.create(target.path(), image, "raw").env("OS_VARIANT", "defualt");
    create().env("INSTANCE_REINSTALL", "1").run().fails(&[&words]);
    target.assert_untouched("nothing of it is known to be right");
    create().run().fails(&[&words]);
    target.assert_unbootable("a new disk");
    world.script("verify").arg("parameters").env("OS_VARIANT", "defualt").run().fails(&[&words]);
    world.tool(&["variants", "show", "hiden"]).run().fails(&[&refusal("hiden", "hidden")]);
    // Those that there are: listed without a folder, and, as --force-variant has it, with a folder but not listed.
    for variant in ["default", "bare", "hidden"] {
        world.create(target.path(), image, "raw").env("OS_VARIANT", variant).run().succeeds();
        world.script("verify").arg("parameters").env("OS_VARIANT", variant).run().succeeds();
    }
    // The cluster's parameters have no variant, and a backup needs none.
    world.script("verify").arg("parameters").env("OS_VARIANT", "").run().succeeds();
    let dump = crate::support::images::disk(2 << 20);
    let import = world.script("import").env("IMPORT_DEVICE", disk).env("OS_VARIANT", "defualt");
    let log = import.run_with(&dump).succeeds();
    assert!(log.contains(&format!("no import hooks were looked for: {words}")), "{log}");
    let rename = world.script("rename").env("OLD_INSTANCE_NAME", "old").env("OS_VARIANT", "defualt");
    let log = rename.env("DISK_0_PATH", disk).run().succeeds();
    assert!(log.contains(&format!("no rename hooks were looked for: {words}")), "{log}");
}

#[test]
fn show_tells_what_holds_and_which_file_says_so() {
    let world = site();
    let config = world.path("etc/ganeti/instance-simpleimage");
    let (site, own) =
        (config.join("config.toml").display().to_string(), config.join("default/config").display().to_string());
    let text = run(&world, &["show", "default"]);
    for line in [
        format!("image = \"https://h/a.raw\"  # {site}"),
        format!("cache.max_age_days = 3  # {own}"),
        format!("http.retries = 2  # {own}"),
        format!("http.password = \"<hidden>\"  # {own}"),
        "cache.stale_if_error = true  # built in".to_owned(),
        "image_formats = [\"raw\", \"qcow2\"]  # built in".to_owned(),
        format!("keyring = \"{}\"  # built in", config.join("default/keyring.gpg").display()),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    let settings = json(&world, &["show", "default"]);
    let settings = settings.as_array().unwrap();
    assert_eq!(settings.len(), text.lines().count());
    let setting = |key: &str| settings.iter().find(|setting| setting["key"] == key).unwrap().clone();
    assert_eq!(setting("cache.max_age_days"), json!({ "key": "cache.max_age_days", "value": 3, "source": own }));
    assert_eq!(setting("wipe"), json!({ "key": "wipe", "value": "full", "source": null }));
    assert_eq!(setting("http.no_proxy")["value"], json!([]));
    assert!(!format!("{text}{settings:?}").contains("s3cret"));
    assert!(run(&world, &["show", "bare"]).contains(&format!("\nhttp.retries = 9  # {site}\n")));
}

#[test]
fn what_is_not_there_or_broken_is_an_error() {
    let world = site();
    assert_eq!(world.tool(&["variants", "show", "../x"]).run().0.status.code(), Some(2));
    world.variant_file("config", "PROXIES=x\n");
    world.tool(&["variants", "show", "default"]).run().fails(&["default/config:1:1: unknown key PROXIES"]);
}
