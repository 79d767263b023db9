// SPDX-License-Identifier: BSD-2-Clause
//! What can't be given to an instance: one line that says why, from verify already where it can be known there.

use std::fs;
use std::os::unix::fs::symlink;

use super::{KEY, UUID, files};
use crate::install::checks::Published;
use crate::support::disk::{Disk, Kind};
use crate::support::images::{MIB, disk};
use crate::support::server::{Reply, Server};
use crate::support::world::{Script, World};

/// `create` of an instance that could be installed, with these variables.
fn create(world: &World, variables: &[(&str, &str)]) -> Script {
    let (image, target) = (world.path("disk.raw"), Disk::stale(world, "disk0", Kind::File, 3 * MIB));
    fs::write(&image, disk(2 * MIB)).unwrap();
    let seed = Disk::stale(world, "disk1", Kind::File, 4 * MIB);
    let script = world.create(target.path(), image.to_str().unwrap(), "").env("INSTANCE_UUID", UUID);
    let script = script.seed_disk(seed.path());
    variables.iter().fold(script, |script, (name, value)| script.env(name, value))
}

fn verify(world: &World, variables: &[(&str, &str)]) -> Script {
    let script = world.script("verify").arg("parameters");
    variables.iter().fold(script, |script, (name, value)| script.env(name, value))
}

#[test]
fn verify_and_create_refuse_wrong_parameters() {
    let world = World::new();
    let no_key = format!("{KEY}\nssh-rsa {}", &KEY[12..]);
    for (name, value, message) in [
        ("OSP_CLOUD_INIT", "yes", "parameter cloud_init: must be off, auto, disk or partition"),
        ("OSP_SEED_PERSIST", "true", "parameter seed_persist: must be yes or no"),
        (
            "OSP_SSH_KEYS",
            &*no_key,
            "parameter ssh_keys, entry 2: it is not a key: line 1 has a key of another type than it says",
        ),
        ("OSP_SSH_KEYS", "base64:eA==", "parameter ssh_keys, entry 1: it is not a key: line 1 is not a public SSH key"),
        ("OSP_USER_DATA", "a;../b", "parameter user_data, entry 2: it is neither an http or https URL"),
        ("OSP_USER_DATA", "base64:IA==", "part 1 of user_data is empty"),
        ("OSP_NETWORK_CONFIG", "/etc/x", "parameter network_config: it is neither an http or https URL"),
        ("OSP_DNS_SERVERS", "dns.example.org", "parameter dns_servers: not a list of IP addresses"),
        ("OSP_DNS_SEARCH", "a..b", "parameter dns_search: not a list of domain names"),
    ] {
        verify(&world, &[(name, value)]).run().fails(&[message]);
        create(&world, &[(name, value)]).run().fails(&[message]);
    }
    world.variant_file("config.toml", "allowed_images = ['https://images.example/', '/']");
    let url = ("OSP_USER_DATA", "https://joe:s3cret@other.example/x");
    verify(&world, &[url]).run().fails(&["https://other.example/x", "allowed_images"]);
}

#[test]
fn create_refuses_nics_that_no_instance_can_have() {
    let world = World::new();
    let nic = |name: &'static str, value: &'static str| {
        let nics = [("OSP_CLOUD_INIT", "auto"), ("NIC_COUNT", "1"), ("NIC_0_MAC", "aa:00:00:00:00:01"), (name, value)];
        create(&world, &nics)
    };
    for (name, value, message) in [
        ("NIC_0_NAME", "public-frontend-1", "NIC_0_NAME 'public-frontend-1' can't be the name of a network interface"),
        ("NIC_0_NAME", "my\nlan", "NIC_0_NAME 'my\\nlan' can't be"),
        ("NIC_0_MAC", "aa:00", "NIC_0_MAC is not a MAC address of an interface"),
        ("NIC_0_IP", "10.0.0.256", "NIC_0_IP is not an IP address"),
        ("NIC_0_NETWORK_SUBNET", "10.0.0.0", "NIC_0_NETWORK_SUBNET is not an IPv4 network (address/prefix)"),
        ("NIC_0_NETWORK_GATEWAY6", "10.0.0.1", "NIC_0_NETWORK_GATEWAY6 is not an IPv6 address"),
        ("NIC_COUNT", "2", "the environment variable NIC_1_MAC is missing"),
    ] {
        nic(name, value).run().fails(&[message]);
    }
    nic("NIC_0_IP", "10.0.0.5").env("NIC_0_NETWORK_SUBNET", "192.0.2.0/24").run().fails(&[
        "NIC_0_IP 10.0.0.5 is not in the NIC's network 192.0.2.0/24 (give the NIC an address of its network)",
    ]);
    let twice = nic("NIC_1_MAC", "AA:00:00:00:00:01").env("NIC_COUNT", "2");
    twice.run().fails(&["NIC_1_MAC is another NIC's too"]);
    // What is not asked for is not in the way.
    nic("NIC_0_NAME", "public-frontend-1").env("OSP_NETWORK_CONFIG", "off").run().succeeds();
    nic("NIC_0_NAME", "public-frontend-1").env("OSP_CLOUD_INIT", "off").run().succeeds();
}

#[test]
fn what_can_not_be_had_is_named_without_its_content() {
    let world = World::new();
    let server =
        Published::new(&[("/large", &vec![b'#'; 1_048_577]), ("/page", b"<html>s3cret"), ("/keys", b"s3cret")]);
    server.reply("/moved", Reply::redirect("ftp://joe:s3cret@h/"));
    let folder = world.path("etc/ganeti/instance-simpleimage/default/user-data");
    let fails = |name: &str, value: &str| {
        let error = files(&world, &[(name, value)]).unwrap_err();
        let message = format!("{error:#}");
        assert!(!message.contains("s3cret") && !message.contains('\n'), "{message}");
        message.replace(&folder.display().to_string(), "FOLDER")
    };
    let missing = "parameter user_data: reading FOLDER: No such file or directory (os error 2)";
    assert_eq!(fails("OSP_USER_DATA", "x"), missing);
    fs::create_dir_all(&folder).unwrap();
    symlink("../../config.toml", folder.join("out")).unwrap();
    fs::write(folder.join("large"), "#".repeat(1_048_577)).unwrap();
    fs::write(folder.join("keys"), format!("{KEY}\ns3cret\n")).unwrap();
    fs::write(folder.join("empty"), "\n").unwrap();
    let no_key = "is not a public SSH key (use ssh-ed25519, ssh-rsa, ecdsa-sha2-nistp* or sk-* and the key)";
    for (name, value, message) in [
        ("OSP_USER_DATA", "s3cret", "parameter user_data: reading FOLDER: it has no file of the name that was given"),
        ("OSP_SSH_KEYS", "out", "parameter ssh_keys: reading FOLDER/out: it leads out of the folder"),
        ("OSP_USER_DATA", "large", "user_data, entry 1 (FOLDER/large): larger than 1 MiB"),
        ("OSP_SSH_KEYS", "keys", &format!("ssh_keys, entry 1 (FOLDER/keys): line 2 {no_key}")),
        ("OSP_NETWORK_CONFIG", "empty", "network_config (FOLDER/empty) is empty (use network_config=off for none)"),
    ] {
        assert_eq!(fails(name, value), message);
    }
    for (name, path, message) in [
        ("OSP_SSH_KEYS", "/keys", format!("ssh_keys, entry 1: line 1 {no_key}")),
        ("OSP_USER_DATA", "/page", "part 1 of user_data is an HTML page".to_owned()),
        ("OSP_NETWORK_CONFIG", "/page", "network_config is an HTML page or not text".to_owned()),
    ] {
        assert_eq!(fails(name, &server.url(path)), message);
    }
    let message = fails("OSP_USER_DATA", &(server.url("/large") + "?token=s3cret"));
    assert!(message.contains("/large: larger than 1 MiB, the limit for SUMS files"), "{message}");
    let message = fails("OSP_USER_DATA", &server.url("/none"));
    assert!(message.starts_with("user_data, entry 1: ") && message.contains("404"), "{message}");
    let message = fails("OSP_USER_DATA", &server.url("/moved"));
    assert!(message.contains("redirects to something that is not an http or https URL"), "{message}");
    let keys = format!("{KEY} {}\n", "c".repeat(600));
    let many: String = (0..800_u32).map(|n| keys.replacen("AAAAIAc", &format!("AAAAI{}", unique(n)), 1)).collect();
    fs::write(folder.join("many"), many).unwrap();
    let message = fails("OSP_SSH_KEYS", "many");
    let expected = ["the meta-data (with the keys) has 5", " KiB (", " bytes) and may have 512 KiB at most"];
    assert!(expected.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn create_refuses_more_user_data_than_a_seed_can_hold() {
    let world = World::new();
    world.variant_file("user-data/part", &format!("#cloud-config\n#{}\n", "x".repeat(786_417)));
    let message = "the user-data has 3.03 MiB (3187656 bytes) and may have 2 MiB at most (keep less in it and fetch the rest with #include)";
    create(&world, &[("OSP_USER_DATA", "part;part;part")]).run().fails(&[message]);
    create(&world, &[("OSP_USER_DATA", "part")]).run().succeeds();
}

/// A tenant may name what he likes: no list is fetched to its end for nothing.
#[test]
fn a_list_is_fetched_no_further_than_a_seed_can_hold() {
    let world = World::new();
    let server = Server::start(|_, _| Reply::ok(vec![b'#'; MIB]));
    for (parameter, name) in [("user_data", "OSP_USER_DATA"), ("ssh_keys", "OSP_SSH_KEYS")] {
        let list = |count| vec![server.url("/x").as_url().to_string(); count].join("\n");
        let before = server.requests().len();
        let message =
            format!("parameter {parameter}, entry 65: it is one more than the 64 files and URLs that a list may name");
        verify(&world, &[(name, &list(3000))]).run().fails(&[&message]);
        create(&world, &[(name, &list(3000))]).run().fails(&[&message]);
        assert_eq!(server.requests().len(), before, "{parameter}: something was fetched");
        let message = format!("{parameter}, entry 5: with it the list has 5 MiB and may have 4 MiB at most");
        create(&world, &[(name, &list(64))]).run().fails(&[&message]);
        assert_eq!(server.requests().len(), before + 5, "{parameter}: more was fetched than can be used");
    }
}

/// Two letters of base64, another pair for every number.
fn unique(number: u32) -> String {
    let letters = ('A'..='Z').chain('a'..='z').collect::<Vec<_>>();
    let [high, low] = [number / 52, number % 52].map(|index| letters[index as usize]);
    format!("{high}{low}")
}

/// A reinstall whose seed can't be had leaves the old system as it is.
#[test]
fn a_reinstall_touches_nothing_before_the_seed_is_at_hand() {
    let world = World::new();
    let image = world.path("disk.raw");
    fs::write(&image, disk(2 * MIB)).unwrap();
    let target = Disk::stale(&world, "disk0", Kind::File, 3 * MIB);
    let before = fs::read(target.path()).unwrap();
    let script = world.create(target.path(), image.to_str().unwrap(), "").env("INSTANCE_UUID", UUID);
    let script = script.env("INSTANCE_REINSTALL", "1").env("OSP_USER_DATA", "http://127.0.0.1:1/x");
    world.variant_file("config.toml", "[http]\nretries = 0\n");
    script.run().fails(&["user_data, entry 1: ", "127.0.0.1"]);
    assert!(fs::read(target.path()).unwrap() == before, "the old system was touched");
}

#[test]
fn check_finds_files_that_a_variant_names_and_has_not() {
    let world = World::new();
    let finding = |settings: &str| {
        world.variant_file("config.toml", settings);
        let found = world.tool(&["check", "default"]).run().output();
        found.lines().find(|line| line.starts_with("error: variant default: ")).map(str::to_owned)
    };
    for parameter in ["ssh_keys", "user_data", "network_config"] {
        let named = format!("{parameter} = \"mine.txt\"\n");
        let line = finding(&named).unwrap();
        assert!(line.contains(&format!("parameter {parameter}: ")) && line.contains("/user-data"), "{line}");
        assert_eq!(finding(&format!("cloud_init = \"off\"\n{named}")), None, "nobody reads it");
        let file = world.variant_file("user-data/mine.txt", "x");
        assert_eq!(finding(&named), None);
        fs::remove_file(file).unwrap();
    }
}
