// SPDX-License-Identifier: BSD-2-Clause
//! meta-data, user-data and vendor-data, as cloud-init and Python's MIME parser take them.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{KEY, UUID, cloud_init, files, save, schema};
use crate::install::checks::Published;
use crate::support::world::{World, tool};

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// A part of every kind that cloud-init knows by its first line, and what it takes each for.
fn kinds() -> [(&'static str, Vec<u8>); 9] {
    [
        ("text/cloud-config", b"#cloud-config\n{\"hostname\": \"caf\xc3\xa9\"}\n".to_vec()),
        ("text/x-shellscript", b"#!/bin/sh\nprintf '\\377'\n--===============simpleimage==--\n".to_vec()),
        ("text/jinja2", b"## template: jinja\n#cloud-config\n{}\n".to_vec()),
        ("text/cloud-boothook", b"\n#cloud-boothook\n#!/bin/sh\n".to_vec()),
        ("text/part-handler", b"#part-handler\ndef list_types(): return []\n".to_vec()),
        ("text/cloud-config-jsonp", b"#cloud-config-jsonp\n[]\n".to_vec()),
        ("text/x-include-url", b"#include\nhttps://h.example/x\n".to_vec()),
        ("text/cloud-config-archive", b"#cloud-config-archive\n[{type: text/cloud-config, content: '{}'}]\n".to_vec()),
        ("application/gzip", gzip(b"#!/bin/sh\n: packed\n")),
    ]
}

#[test]
fn parts_from_everywhere_become_one_document() {
    let world = World::new();
    let kinds = kinds();
    let server = Published::new(&[("/part", &kinds[2].1)]);
    world.variant_file("user-data/base.yaml", std::str::from_utf8(&kinds[0].1).unwrap());
    world.variant_file("user-data/sub/script", std::str::from_utf8(&kinds[1].1).unwrap());
    let mut names = vec!["base.yaml".to_owned(), "sub/script".to_owned(), server.url("/part") + "?token=x"];
    names.extend(kinds[3..].iter().map(|(_, content)| format!("base64:{}", STANDARD.encode(content))));
    let (seed, _) = files(&world, &[("OSP_USER_DATA", &names.join(";"))]).unwrap();
    let folder = save(&world, &seed);
    let expected: String =
        kinds.iter().map(|(kind, content)| format!("{kind} {}\n", STANDARD.encode(content))).collect();
    assert_eq!(cloud_init("mime.py", &[&folder.join("user-data")]), expected);
}

#[test]
fn cloud_init_reads_the_seed_as_it_was_meant() {
    let world = World::new();
    world.variant_file("user-data/team.keys", &format!("# team\n{KEY} again\n{KEY}\n"));
    let variables = [
        ("OSP_SSH_KEYS", &*format!("{KEY} caf\u{e9} \u{1f511}: joe's;team.keys")),
        ("OSP_USER_DATA", "base64:I2Nsb3VkLWNvbmZpZwpob3N0bmFtZTogd2ViMQo="),
        ("OSP_SEED_PERSIST", "yes"),
        ("NIC_COUNT", "1"),
        ("NIC_0_MAC", "12:34:56:12:34:56"),
    ];
    let (seed, log) = files(&world, &variables).unwrap();
    assert!(log.contains("first-boot seed: meta-data "), "{log}");
    let folder = save(&world, &seed);
    let said = cloud_init("seed.py", &[&folder]);
    let expected = format!(
        "instance-id {UUID}\nlocal-hostname web1.example.org\nkey {KEY} caf\u{e9} \u{1f511}: joe's\n\
         user-data text/cloud-config\nvendor-data text/x-shellscript\nmac 12:34:56:12:34:56\n"
    );
    assert_eq!(said, expected);
    let [user_data, vendor_data, network] =
        ["user-data", "vendor-data", "network-config"].map(|name| folder.join(name));
    tool("cloud-init", &["schema", "--config-file", user_data.to_str().unwrap()]);
    let valid = |path: &Path| format!("Valid schema {}\n", path.display());
    if let Some(said) = schema::said_of("cloud-config", &[&user_data, &vendor_data]) {
        let script = "User-data type 'text/x-shellscript' not currently evaluated by cloud-init schema\n";
        assert_eq!(said, valid(&user_data) + script);
    }
    if let Some(said) = schema::said_of("network-config", &[&network]) {
        assert_eq!(said, valid(&network));
    }
}

/// Nobody is locked out by a comma: what was asked for is in the seed, or an error.
#[test]
fn lists_are_taken_as_people_join_them() {
    let world = World::new();
    let other = KEY.replace("HBwcH", "ICAgI").replace("AAAAIAc", "AAAAIAg");
    assert_ne!(other, KEY);
    let (first, second) = (format!("{KEY} joe, of sales"), format!("{other} ann"));
    world.variant_file("user-data/team.keys", &format!("{first},{second}\\n"));
    let encoded = STANDARD.encode(format!("{first}\n{second}\n"));
    let wrapped: Vec<_> = encoded.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let wrapped = format!("base64:{}", wrapped.join("\n"));
    let joined = [",", "\n", "\\n", ";", ", "].map(|separator| format!("{first}{separator}{second}"));
    for keys in joined.into_iter().chain(["team.keys".to_owned(), wrapped]) {
        let (seed, _) = files(&world, &[("OSP_SSH_KEYS", &keys)]).unwrap();
        let said: serde_json::Value = serde_json::from_slice(&seed.meta_data).unwrap();
        assert_eq!(said["public-keys"], serde_json::json!([first, second]), "{keys:?}");
    }
    let error = files(&world, &[("OSP_SSH_KEYS", &format!("{first} {second}"))]).unwrap_err();
    let reason =
        "parameter ssh_keys, entry 1: it is not a key: line 1 has another key in its comment (put a line break, ";
    assert!(format!("{error:#}").starts_with(reason), "{error:#}");
}

#[test]
fn a_name_that_linux_does_not_take_is_told() {
    let world = World::new();
    for (len, told) in [(64, false), (65, true)] {
        let name = format!("{}.example.org", "a".repeat(len - 12));
        let (_, log) = files(&world, &[("OSP_CLOUD_INIT", "auto"), ("INSTANCE_NAME", &name)]).unwrap();
        let words = "warning: the instance's name has 65 characters, and a host name in Linux 64 at most";
        assert_eq!(log.contains(words), told, "{log}");
    }
}

#[test]
fn without_anything_to_say_the_files_are_there_all_the_same() {
    let world = World::new();
    let (seed, _) = files(&world, &[("OSP_CLOUD_INIT", "partition")]).unwrap();
    let names: Vec<_> = seed.iter().map(|(name, content)| (name, content.len())).collect();
    assert_eq!(names[1..], [("user-data", 0)]);
    assert_eq!(names[0].0, "meta-data");
    let shown = format!("{seed:?}");
    assert!(!shown.contains("web1") && shown.contains("\"user-data\": 0"), "{shown}");
}

#[test]
fn what_cloud_init_will_not_use_is_said() {
    let world = World::new();
    let (seed, log) = files(&world, &[("OSP_USER_DATA", "base64:I3BzMV9zeXNuYXRpdmUK")]).unwrap();
    assert_eq!(seed.user_data, b"#ps1_sysnative\n");
    assert!(log.contains("warning: part 1 of user_data begins with nothing that cloud-init knows"), "{log}");
}

/// The script on a machine without the volume, as at every later run.
#[test]
fn the_script_of_seed_persist_does_nothing_without_its_volume() {
    let world = World::new();
    let (seed, _) = files(&world, &[("OSP_SEED_PERSIST", "yes")]).unwrap();
    let script = world.path("script");
    fs::write(&script, seed.vendor_data.unwrap()).unwrap();
    let script = script.to_str().unwrap();
    for shell in [&["dash", script][..], &["bash", "--posix", script], &["busybox", "sh", script]] {
        let output = Command::new(shell[0]).args(&shell[1..]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text, "simpleimage: there is no seed volume, nothing to do\n", "{shell:?}");
        assert!(output.status.success() && output.stderr.is_empty(), "{shell:?}");
    }
}
