// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage variants`: which there are, what holds for one, and who says so.

use serde_json::{Value, json};

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
    assert_eq!(run(&world, &["list"]), "", "no config at all");
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
    let unknown = "there is no variant debain (simpleimage variants list shows those that there are)";
    world.tool(&["variants", "show", "debain"]).run().fails(&[unknown]);
    assert_eq!(world.tool(&["variants", "show", "../x"]).run().0.status.code(), Some(2));
    world.variant_file("config", "PROXIES=x\n");
    world.tool(&["variants", "show", "default"]).run().fails(&["default/config:1:1: unknown key PROXIES"]);
}
