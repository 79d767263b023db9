// SPDX-License-Identifier: BSD-2-Clause
//! inject-files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::{Layout, guest, install_hook, read};
use crate::support::disk::{Disk, Kind};
use crate::support::images::MIB;
use crate::support::world::{World, tool};

#[test]
fn files_appear_in_the_guest_with_their_modes() {
    let world = World::new();
    install_hook(&world, "inject-files");
    let secret = world.variant_file("inject/etc/app/new folder/secret", "s3cret\n");
    fs::set_permissions(secret, fs::Permissions::from_mode(0o600)).unwrap();
    world.variant_file("inject/etc/hosts", "192.0.2.1 replaced\n");
    world.variant_file("inject/top", "at the top\n");
    let image = guest(&world, Layout::Gpt, |_| {});
    let target = Disk::stale(&world, "disk0", Kind::File, 24 * MIB);
    world.create(target.path(), &image, "raw").run().succeeds();
    let disk = world.path("disk0");
    assert_eq!(read(&disk, Layout::Gpt, "\"etc/app/new folder/secret\""), "s3cret\n");
    assert_eq!(read(&disk, Layout::Gpt, "etc/hosts"), "192.0.2.1 replaced\n");
    assert_eq!(read(&disk, Layout::Gpt, "top"), "at the top\n");
    assert_eq!(read(&disk, Layout::Gpt, "precious/data"), "all of it");
    let place = format!("{}?offset={MIB}", disk.display());
    let stat = tool("debugfs", &["-R", "stat \"etc/app/new folder/secret\"", &place]);
    assert!(stat.contains("Mode:  0600") && stat.contains("User:     0   Group:     0"), "{stat}");
}

#[test]
fn no_link_of_the_guest_is_followed() {
    for (name, link) in [("etc/app/file", "etc/app"), ("etc/hostname", "etc/hostname")] {
        let world = World::new();
        install_hook(&world, "inject-files");
        world.variant_file(&format!("inject/{name}"), "ours");
        let victim = world.path("victim");
        fs::create_dir(&victim).unwrap();
        let image = guest(&world, Layout::Mbr, |tree| {
            let _ = fs::remove_file(tree.join(link));
            symlink(&victim, tree.join(link)).unwrap();
        });
        let target = Disk::stale(&world, "disk0", Kind::File, 24 * MIB);
        let log = world.create(target.path(), &image, "raw").run().fails(&["50-inject-files exited"]);
        assert!(log.contains(&format!("/{link} in the guest is a symbolic link")), "{log}");
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
    }
}

#[test]
fn only_files_are_injected() {
    let world = World::new();
    install_hook(&world, "inject-files");
    let file = world.variant_file("inject/etc/motd", "hello");
    symlink("/etc/shadow", file.with_file_name("shadow")).unwrap();
    let image = guest(&world, Layout::Mbr, |_| {});
    let target = Disk::stale(&world, "disk0", Kind::File, 24 * MIB);
    let log = world.create(target.path(), &image, "raw").run().fails(&["50-inject-files exited"]);
    assert!(log.contains("inject/etc/shadow is neither a file nor a folder"), "{log}");
}
