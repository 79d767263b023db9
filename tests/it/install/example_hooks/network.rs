// SPDX-License-Identifier: BSD-2-Clause
//! static-network.

use std::fs;

use super::{Layout, guest, install_hook, read};
use crate::support::disk::{Disk, Kind};
use crate::support::images::MIB;
use crate::support::world::{Outcome, World};

const MARK: &str = "# Written by the hook static-network of simpleimage.\n";

const NICS: [(&str, &str); 6] = [
    ("NIC_COUNT", "2"),
    ("NIC_0_MAC", "aa:00:00:35:ac:5d"),
    ("NIC_0_IP", "192.0.2.10"),
    ("NIC_0_NETWORK_SUBNET", "192.0.2.0/24"),
    ("NIC_0_NETWORK_GATEWAY", "192.0.2.1"),
    ("NIC_1_MAC", "aa:00:00:35:ac:5e"),
];

const IPV6: [(&str, &str); 3] = [
    ("NIC_0_IP", "2001:db8::10"),
    ("NIC_0_NETWORK_SUBNET6", "2001:db8::/64"),
    ("NIC_0_NETWORK_GATEWAY6", "2001:db8::1"),
];

/// Installs a guest that has `files`, with the hook, and two NICs, changed by `more`.
fn install(world: &World, files: &[&str], more: &[(&str, &str)]) -> Outcome {
    install_hook(world, "static-network");
    let image = guest(world, Layout::Gpt, |tree| {
        for file in files {
            let path = tree.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "of the image\n").unwrap();
        }
    });
    let target = Disk::stale(world, "disk0", Kind::File, 24 * MIB);
    let script = world.create(target.path(), &image, "raw");
    NICS.iter().chain(more).fold(script, |script, (name, value)| script.env(name, value)).run()
}

/// The guest's file is this.
fn assert_file(world: &World, name: &str, expected: &str) {
    assert_eq!(read(&world.path("disk0"), Layout::Gpt, name), expected, "{name}");
}

#[test]
fn netplan() {
    let world = World::new();
    let log = install(&world, &["usr/sbin/netplan", "sbin/ifup", "etc/network/interfaces"], &[]).succeeds();
    assert!(log.contains("static-network: written for netplan"), "{log}");
    let yaml = "network:\n  version: 2\n  ethernets:\n    nic0:\n      match: {macaddress: \"aa:00:00:35:ac:5d\"}\n      \
        set-name: nic0\n      addresses: [\"192.0.2.10/24\"]\n      routes: [{to: \"0.0.0.0/0\", via: \"192.0.2.1\"}]\n    \
        nic1:\n      match: {macaddress: \"aa:00:00:35:ac:5e\"}\n      set-name: nic1\n      dhcp4: true\n";
    assert_file(&world, "etc/netplan/90-simpleimage.yaml", &format!("{MARK}{yaml}"));
    assert_file(&world, "etc/network/interfaces", "of the image\n");
}

#[test]
fn network_manager_of_redhat() {
    let world = World::new();
    install(&world, &["usr/sbin/NetworkManager", "etc/sysconfig/network-scripts/ifcfg-eth0"], &IPV6).succeeds();
    let head = |nic: u8, mac: &str| {
        format!("[connection]\nid=nic{nic}\ntype=ethernet\n\n[ethernet]\nmac-address=aa:00:00:35:ac:{mac}\n")
    };
    let folder = "etc/NetworkManager/system-connections";
    let ipv6 = "\n[ipv6]\nmethod=manual\naddress1=2001:db8::10/64,2001:db8::1\n\n[ipv4]\nmethod=disabled\n";
    assert_file(&world, &format!("{folder}/simpleimage-0.nmconnection"), &(head(0, "5d") + ipv6));
    assert_file(&world, &format!("{folder}/simpleimage-1.nmconnection"), &(head(1, "5e") + "\n[ipv4]\nmethod=auto\n"));
}

#[test]
fn ifupdown_of_debian() {
    let world = World::new();
    install(&world, &["sbin/ifup", "etc/network/interfaces", "lib/systemd/systemd-networkd"], &[]).succeeds();
    let interfaces = "auto lo\niface lo inet loopback\n\nauto nic0\niface nic0 inet static\n    address 192.0.2.10/24\n    \
        gateway 192.0.2.1\n\nauto nic1\niface nic1 inet dhcp\n";
    assert_file(&world, "etc/network/interfaces", &format!("{MARK}{interfaces}"));
    let link = "[Match]\nMACAddress=aa:00:00:35:ac:5e\n\n[Link]\nName=nic1\n";
    assert_file(&world, "etc/systemd/network/10-simpleimage-1.link", &format!("{MARK}{link}"));
}

#[test]
fn systemd_networkd() {
    let world = World::new();
    install(&world, &["lib/systemd/systemd-networkd"], &IPV6).succeeds();
    let first = "[Match]\nMACAddress=aa:00:00:35:ac:5d\n\n[Network]\nAddress=2001:db8::10/64\nGateway=2001:db8::1\n";
    assert_file(&world, "etc/systemd/network/10-simpleimage-0.network", &format!("{MARK}{first}"));
    let second = "[Match]\nMACAddress=aa:00:00:35:ac:5e\n\n[Network]\nDHCP=ipv4\n";
    assert_file(&world, "etc/systemd/network/10-simpleimage-1.network", &format!("{MARK}{second}"));
}

#[test]
fn ifcfg_files_of_redhat() {
    let world = World::new();
    install(&world, &["etc/sysconfig/network-scripts/ifcfg-lo"], &[]).succeeds();
    let first = "DEVICE=nic0\nTYPE=Ethernet\nHWADDR=aa:00:00:35:ac:5d\nONBOOT=yes\nBOOTPROTO=none\nIPADDR=192.0.2.10\n\
        PREFIX=24\nGATEWAY=192.0.2.1\n";
    assert_file(&world, "etc/sysconfig/network-scripts/ifcfg-nic0", &format!("{MARK}{first}"));
    let link = "[Match]\nMACAddress=aa:00:00:35:ac:5d\n\n[Link]\nName=nic0\n";
    assert_file(&world, "etc/systemd/network/10-simpleimage-0.link", &format!("{MARK}{link}"));
}

#[test]
fn a_guest_with_cloud_init_is_left_to_it() {
    let world = World::new();
    let log = install(&world, &["usr/bin/cloud-init", "usr/sbin/netplan"], &[]).succeeds();
    assert!(log.contains("the guest has cloud-init, which a seed tells its network; nothing is written"), "{log}");
}

#[test]
fn what_cannot_be_written_fails_before_it_boots() {
    for (files, more, reason) in [
        (&["usr/sbin/netplan"][..], ("NIC_0_NETWORK_SUBNET", ""), "NIC_0_IP has no network to take its prefix from"),
        (&["usr/sbin/netplan"], ("NIC_0_IP", "192.0.2.1$(reboot)"), "NIC_0_IP is no address"),
        (&["usr/sbin/netplan"], ("NIC_1_MAC", "x\"y"), "NIC_1_MAC is no MAC address"),
        (&[], ("X", ""), "the guest has neither netplan, NetworkManager, ifupdown, systemd-networkd nor ifcfg files"),
    ] {
        let world = World::new();
        let log = install(&world, files, &[more]).fails(&["50-static-network exited with return code 1"]);
        assert!(log.contains(reason), "'{reason}' is not in {log}");
    }
}
