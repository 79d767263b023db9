// SPDX-License-Identifier: BSD-2-Clause
//! What a guest has to find.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Case;
use crate::image;
use crate::instance::{DISK_LEN, Instance, MIB, UUID};
use crate::login;
use crate::report::Report;

pub(crate) const NAME: &str = "web1.example.org";
const NEW_NAME: &str = "db7.example.net";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH joe@example.org";
/// cloud-init does this once for an instance.
const USER_DATA: &str = "#cloud-config\nruncmd:\n- echo the first boot >>/var/lib/marks\n";

/// Every trial.
pub(crate) const ALL: [Case; 5] = [
    // `make test` asks for this one first, while there is a network.
    ("fetched_first_boot_image", || _ = image::path()),
    ("a_seed_in_a_partition_reaches_the_guest", || survives_a_rename("partition", None)),
    ("a_seed_on_a_disk_named_cidata_reaches_the_guest", || survives_a_rename("disk", Some(16 * MIB))),
    ("a_persistent_seed_makes_room_for_the_root", makes_room),
    ("an_administrator_logs_in_by_ssh", login::logs_in),
];

fn survives_a_rename(place: &'static str, seed_disk: Option<u64>) {
    let instance = Instance::new(place, seed_disk);
    install(&instance, &[]);
    check(&instance.boot("first boot"), NAME);
    let log = instance.rename(NAME, NEW_NAME);
    assert!(!log.contains("warning"), "{log}");
    check(&instance.boot("boot after the rename"), NEW_NAME);
}

/// At the first boot the seed moves into the root file system, which takes its place on the disk at the second.
fn makes_room() {
    let instance = Instance::new("persistent", None);
    install(&instance, &[("OSP_SEED_PERSIST", "yes")]);
    let first = instance.boot("first boot");
    check(&first, NAME);
    let second = instance.boot("second boot");
    check(&second, NAME);
    let grown = root_len(&second).checked_sub(root_len(&first));
    assert!(grown.is_some_and(|len| len >= 4 * MIB), "the root file system grew by {grown:?} bytes");
}

fn install(instance: &Instance, more: &[(&str, &str)]) {
    let user_data = format!("base64:{}", STANDARD.encode(USER_DATA));
    let parameters = [
        ("OSP_SSH_KEYS", KEY),
        ("OSP_USER_DATA", &user_data),
        ("OSP_DNS_SERVERS", "192.0.2.53 2001:db8::53"),
        ("OSP_DNS_SEARCH", "example.org"),
    ];
    instance.create(NAME, &[&parameters, more].concat());
}

/// Of the guest's root file system, in bytes.
fn root_len(report: &Report) -> u64 {
    report.one("root").parse().unwrap()
}

/// Each thing that was asked for, under `name`.
fn check(report: &Report, name: &str) {
    assert_eq!(report.one("hostname"), name);
    assert_eq!(report.one("instance"), UUID);
    check_network(report);
    assert_eq!(report.all("key"), [KEY]);
    // A second first boot would have left a second one.
    assert_eq!(report.all("mark"), ["the first boot"]);
    let root = root_len(report);
    // All of the disk but what file system, tables and seed take.
    assert!(root > DISK_LEN / 100 * 95, "the root file system has {root} of {DISK_LEN} bytes");
    assert_eq!(report.one("status"), "status: done");
}

fn check_network(report: &Report) {
    let addresses = report.all("address");
    // The last is what qemu's DHCP server gives to the first who asks.
    for expected in ["eth0 192.0.2.10/24", "eth0 2001:db8::a800:ff:fe35:ac5d/64", "eth1 10.0.2.15/24"] {
        assert!(addresses.contains(&expected), "no {expected} in {report:?}");
    }
    let starts = |name: &str, start: &str| report.all(name).iter().any(|value| value.starts_with(start));
    assert!(starts("route4", "default via 192.0.2.1 dev eth0 "), "{report:?}");
    assert!(starts("route6", "default via 2001:db8::1 dev eth0 "), "{report:?}");
    let words = |name: &str| report.all(name).into_iter().flat_map(str::split_whitespace).collect::<Vec<_>>();
    assert_eq!(words("dns"), ["192.0.2.53", "2001:db8::53"]);
    assert_eq!(words("search"), ["example.org"]);
}
