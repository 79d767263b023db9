// SPDX-License-Identifier: BSD-2-Clause
//! network-config for every layout of NICs, byte by byte, and as cloud-init's parser, renderers and schema take it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{cloud_init, files, request, schema};
use crate::support::world::World;

/// NICs, each with its variables without `NIC_n_`; what is behind `OSP_` is for the run.
type Layout =
    (&'static str, &'static [(&'static str, &'static str)], &'static [&'static [(&'static str, &'static str)]]);

const V4: [(&str, &str); 2] = [("NETWORK_SUBNET", "192.0.2.0/24"), ("NETWORK_GATEWAY", "192.0.2.1")];
const V6: [(&str, &str); 2] = [("NETWORK_SUBNET6", "2001:db8:1::/64"), ("NETWORK_GATEWAY6", "2001:db8:1::1")];
const DNS: [(&str, &str); 2] =
    [("OSP_DNS_SERVERS", "192.0.2.53,2001:db8::53"), ("OSP_DNS_SEARCH", "example.org lan.example.org")];
const IP: (&str, &str) = ("IP", "192.0.2.10");
const BRIDGED: (&str, &str) = ("MODE", "bridged");
const ROUTED: (&str, &str) = ("MODE", "routed");
const OVS: (&str, &str) = ("MODE", "openvswitch");
const EXT: (&str, &str) = ("MODE", "ext");

const LAYOUTS: [Layout; 18] = [
    ("dhcp", &[], &[&[BRIDGED, ("LINK", "br0")]]),
    ("dhcp-dns", &DNS, &[&[BRIDGED]]),
    ("dhcp-address-without-network", &[], &[&[BRIDGED, IP]]),
    ("dhcp-several", &[], &[&[BRIDGED], &[OVS], &[EXT]]),
    ("static", &[], &[&[BRIDGED, IP, V4[0], V4[1]]]),
    ("static-dns", &DNS, &[&[OVS, IP, V4[0], V4[1]]]),
    ("static-without-gateway", &[], &[&[EXT, IP, V4[0]]]),
    ("static-far-gateway", &[], &[&[BRIDGED, IP, V4[0], ("NETWORK_GATEWAY", "198.51.100.1")]]),
    ("static-is-gateway", &[], &[&[BRIDGED, ("IP", "192.0.2.1"), V4[0], V4[1]]]),
    ("static-dual", &DNS, &[&[OVS, IP, V4[0], V4[1], V6[0], V6[1]]]),
    ("dhcp-dual", &[], &[&[BRIDGED, V6[0], ("NETWORK_GATEWAY6", "fe80::1")]]),
    ("v6", &[], &[&[BRIDGED, ("IP", "2001:db8:1::a"), V6[0], ("NETWORK_GATEWAY6", "2001:db8:ffff::1")]]),
    ("v6-by-advertisement", &[], &[&[BRIDGED, IP, V4[0], V4[1], ("NETWORK_SUBNET6", "2001:db8:2::/56")]]),
    ("routed", &[], &[&[ROUTED, IP]]),
    ("routed-network", &[], &[&[ROUTED, IP, V4[0], V4[1]]]),
    ("routed-v6", &[], &[&[ROUTED, ("IP", "2001:db8:1::a")]]),
    (
        "first-gateway-wins",
        &DNS,
        &[
            &[BRIDGED, ("IP", "10.0.0.5"), ("NETWORK_SUBNET", "10.0.0.0/8")],
            &[BRIDGED, IP, V4[0], V4[1]],
            &[
                BRIDGED,
                ("IP", "198.51.100.9"),
                ("NETWORK_SUBNET", "198.51.100.0/25"),
                ("NETWORK_GATEWAY", "198.51.100.1"),
                V6[0],
                V6[1],
            ],
        ],
    ),
    // The second MAC is a number in YAML 1.1, and the third NIC has the name that would be the first one's.
    (
        "names",
        &[],
        &[
            &[BRIDGED],
            &[BRIDGED, ("NAME", "lan"), ("MAC", "12:34:56:12:34:56")],
            &[BRIDGED, ("NAME", "eth0")],
            &[BRIDGED],
        ],
    ),
];

/// Their gateway is outside of the network, which takes netplan's `on-link`. cloud-init hands that to netplan, and asks no
/// schema where netplan is; its schema does not have it. What the schema has, a route to the gateway `via` 0.0.0.0, gives
/// no default route with systemd 247 (Debian 11).
const ON_LINK: [&str; 3] = ["static-far-gateway", "v6", "routed"];

fn variables((_, run, nics): &Layout) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let mut all: Vec<_> = [("OSP_CLOUD_INIT", "auto")].iter().chain(*run).map(owned).collect();
    all.push(("NIC_COUNT".to_owned(), nics.len().to_string()));
    for (index, nic) in nics.iter().enumerate() {
        all.push((format!("NIC_{index}_MAC"), format!("AA:00:00:00:00:{index:02X}")));
        all.extend(nic.iter().map(|(name, value)| (format!("NIC_{index}_{name}"), (*value).to_owned())));
    }
    all
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/seed/golden").join(format!("{name}.json"))
}

#[test]
fn goldens() {
    let world = World::new();
    for layout in &LAYOUTS {
        let variables = variables(layout);
        let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (files, _) = files(&world, &variables).unwrap();
        let made = String::from_utf8(files.network_config.unwrap()).unwrap();
        let expected = fs::read_to_string(golden(layout.0)).unwrap_or_default();
        assert_eq!(made, expected, "{}", layout.0);
    }
}

#[test]
fn cloud_init_takes_every_golden() {
    let goldens: Vec<_> = LAYOUTS.iter().map(|(name, ..)| golden(name)).collect();
    let said = cloud_init("network.py", &goldens.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    assert_eq!(said, format!("{} network-configs are fine\n", LAYOUTS.len()));
}

/// As they are. What the schema does not know is asserted too: once it does, this fails.
#[test]
fn cloud_inits_schema_takes_every_golden_but_those_with_on_link() {
    let goldens: Vec<_> = LAYOUTS.iter().map(|(name, ..)| golden(name)).collect();
    let Some(said) = schema::said_of("network-config", &goldens.iter().map(PathBuf::as_path).collect::<Vec<_>>())
    else {
        return;
    };
    let judged = LAYOUTS.iter().zip(&goldens).map(|((name, ..), path)| match path.display() {
        path if ON_LINK.contains(name) => format!(
            "Invalid network-config {path}\nError: Cloud config schema errors: ethernets.eth0.routes.0: Additional \
             properties are not allowed ('on-link' was unexpected)\n\nError: Invalid schema: network-config\n\n"
        ),
        path => format!("Valid schema {path}\n"),
    });
    assert_eq!(said, judged.collect::<String>());
}

#[test]
fn a_given_one_is_taken_as_it_is_and_off_leaves_none() {
    let world = World::new();
    let nic = [("NIC_COUNT", "1"), ("NIC_0_MAC", "aa:00:00:00:00:01")];
    let config = |value| files(&world, &[nic[0], nic[1], ("OSP_NETWORK_CONFIG", value)]).unwrap().0.network_config;
    world.variant_file("user-data/net.yaml", "version: 2\n");
    assert_eq!(config("net.yaml").as_deref(), Some(&b"version: 2\n"[..]));
    assert_eq!(config("base64:dmVyc2lvbjogMgo=").as_deref(), Some(&b"version: 2\n"[..]));
    assert_eq!(config("off"), None);
    world.variant_file("config.toml", "network_config = 'net.yaml'\ncloud_init = 'auto'\n");
    let generated = config("auto").unwrap();
    assert!(generated.starts_with(b"{\n  \"version\": 2,"));
    assert_eq!(files(&world, &[("OSP_NETWORK_CONFIG", "auto"), ("NIC_COUNT", "0")]).unwrap().0.network_config, None);
}

#[test]
fn there_is_a_seed_only_if_something_says_so() {
    let world = World::new();
    let has = |variables: &[(&str, &str)]| request(&world, variables).unwrap().seed.plan().is_some();
    let none = ("OSP_SSH_KEYS", "none");
    assert!(![has(&[]), has(&[none, ("OSP_SEED_PERSIST", "no")]), has(&[("OSP_DNS_SERVERS", "none")])].contains(&true));
    for given in [
        ("OSP_CLOUD_INIT", "auto"),
        ("OSP_SSH_KEYS", super::KEY),
        ("OSP_USER_DATA", "base64:eA=="),
        ("OSP_NETWORK_CONFIG", "off"),
        ("OSP_DNS_SERVERS", "192.0.2.1"),
        ("OSP_DNS_SEARCH", "example.org"),
        ("OSP_SEED_PERSIST", "yes"),
    ] {
        assert!(has(&[given]), "{given:?}");
        assert!(!has(&[given, ("OSP_CLOUD_INIT", "off")]), "{given:?}");
    }
    world.variant_file("config.toml", &format!("ssh_keys = '{}'", super::KEY));
    assert!(has(&[]) && !has(&[none]) && !has(&[("OSP_CLOUD_INIT", "off")]));
}
