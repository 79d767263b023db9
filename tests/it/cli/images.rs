// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage images`: which images have a name, and what is known of them without asking a server.

use std::fs;

use serde_json::{Value, json};

use crate::install::checks::Published;
use crate::support::images::{MIB, disk, encode};
use crate::support::world::World;

fn run(world: &World, args: &[&str]) -> String {
    let outcome = world.tool(&[&["images"], args].concat()).run();
    assert_eq!(outcome.succeeds(), "", "a result needs no message");
    outcome.output()
}

#[test]
fn names_come_with_type_size_note_and_whether_they_are_kept() {
    let (world, image) = (World::new(), disk(2 * MIB));
    let server = Published::new(&[("/a.raw", &image), ("/b.raw", &image)]);
    let golden = encode(&world, &image, "raw+xz");
    let size = fs::metadata(&golden).unwrap().len();
    let config = format!(
        "[images.debian-12]\nurl = \"{}\"\ntype = \"raw\"\nnote = \"the usual one\"\n[images.other]\nurl = \"{}\"\n\
         [images.golden]\npath = {golden:?}\nnote = \"made here\"\n[images.gone]\npath = \"/nowhere/x.raw\"\n",
        server.url("/a.raw?token=s3cret").replace("http://", "http://joe:s3cret@"),
        server.url("/b.raw"),
    );
    world.variant_file("config.toml", &config);
    let shown = crate::support::images::shown(size);
    let width = shown.len().max(4);
    let table = |kept: &str, kept_size: &str, other: &str, other_type: &str, other_size: &str| {
        format!(
            "NAME       TYPE    {:<width$}  KEPT     NOTE\ndebian-12  raw     {kept_size:<width$}  {kept:<7}  the usual one\n\
             golden     raw+xz  {shown:<width$}  file     made here\ngone       auto    {:<width$}  missing\n\
             other      {other_type:<6}  {other_size:<width$}  {other}\n",
            "SIZE", "-"
        )
    };
    assert_eq!(run(&world, &[]), table("no", "-", "no", "auto", "-"));
    assert!(!world.cache().exists(), "nothing is made for a look");
    assert_eq!(server.server.requests().len(), 0, "no server is asked");
    for name in ["debian-12", "other"] {
        world.tool(&["fetch", name]).run().succeeds();
    }
    assert_eq!(run(&world, &[]), table("yes", "2 MiB", "yes", "raw", "2 MiB"));
    let json: Value = serde_json::from_str(&run(&world, &["--json"])).unwrap();
    let url = server.url("/a.raw");
    let path = json[0]["path"].clone();
    assert!(fs::metadata(path.as_str().unwrap()).unwrap().len() == 2 << 20);
    let expected = json!({
        "name": "debian-12", "note": "the usual one", "type": "raw", "size": 2 << 20, "kept": true, "image": url,
        "path": path,
    });
    assert_eq!(json[0], expected);
    let missing = json!({
        "name": "gone", "note": null, "type": null, "size": null, "kept": null, "image": "/nowhere/x.raw", "path": null,
    });
    assert_eq!(json[2], missing);
    assert!(!json.to_string().contains("s3cret"));
}

#[test]
fn each_variant_has_its_own_and_a_site_without_names_has_none() {
    let world = World::new();
    assert_eq!(run(&world, &[]), "NAME  TYPE  SIZE  KEPT  NOTE\n");
    assert_eq!(run(&world, &["--json"]), "[]\n");
    world.variant_file("../config.toml", "[images.a]\npath = '/a'\n");
    world.variant_file("../web/config.toml", "[images.b]\npath = '/b'\n");
    let names = |args: &[&str]| -> Vec<String> {
        run(&world, args).lines().skip(1).map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&[]), ["a"]);
    assert_eq!(names(&["--variant", "web"]), ["a", "b"]);
    world.variant_file("config.toml", "[images.a]\npath = '/a'\nnote = \"a\\u001bb\"\n");
    world.tool(&["images"]).run().fails(&["images.a: note: must be one line of text"]);
}
