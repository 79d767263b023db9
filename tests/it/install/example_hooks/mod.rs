// SPDX-License-Identifier: BSD-2-Clause
//! The example hooks, as an administrator installs them.

mod grow;
mod inject;
mod network;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::disk::{Disk, KINDS, Kind};
use crate::support::images::MIB;
use crate::support::world::{World, tool};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("example-hooks")
}

/// Where the guest's file system begins on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    WholeDisk,
    Mbr,
    Gpt,
}

impl Layout {
    fn offset(self) -> usize {
        if self == Layout::WholeDisk { 0 } else { MIB }
    }
}

/// A disk image of a small guest, after `change` was made to its tree.
fn guest(world: &World, layout: Layout, change: impl FnOnce(&Path)) -> String {
    let tree = world.path("tree");
    let _ = fs::remove_dir_all(&tree);
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::create_dir_all(tree.join("precious")).unwrap();
    fs::write(tree.join("precious/data"), "all of it").unwrap();
    fs::write(tree.join("etc/os-release"), "ID=test\n").unwrap();
    fs::write(tree.join("etc/hostname"), "template\n").unwrap();
    fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost\n127.0.1.1 template\n").unwrap();
    change(&tree);
    let image = world.path("guest.raw").to_str().unwrap().to_owned();
    let _ = fs::remove_file(&image);
    tool("truncate", &["-s", "18M", &image]);
    match layout {
        Layout::WholeDisk => {}
        Layout::Mbr => {
            tool("sh", &["-c", &format!("echo 2048,32768,83 | sfdisk -q --label dos {image}")]);
        }
        Layout::Gpt => {
            tool("sgdisk", &["-n", "1:2048:34815", &image]);
        }
    }
    let offset = format!("offset={}", layout.offset());
    tool("mkfs.ext4", &["-qF", "-d", tree.to_str().unwrap(), "-E", &offset, &image, "16M"]);
    image
}

/// A file of the guest on an installed disk.
fn read(disk: &Path, layout: Layout, file: &str) -> String {
    tool("debugfs", &["-R", &format!("cat {file}"), &format!("{}?offset={}", disk.display(), layout.offset())])
}

/// Gives where it is then.
fn install_hook(world: &World, name: &str) -> PathBuf {
    world.hook(&format!("hooks/50-{name}"), "");
    let variant = world.path("etc/ganeti/instance-simpleimage/default");
    fs::copy(examples().join("guest-root.sh"), variant.join("guest-root.sh")).unwrap();
    let hook = variant.join(format!("hooks/50-{name}"));
    fs::copy(examples().join(name), &hook).unwrap();
    hook
}

#[test]
fn the_host_name_is_set_wherever_the_file_system_lies() {
    for layout in [Layout::WholeDisk, Layout::Mbr, Layout::Gpt] {
        for kind in KINDS {
            let world = World::new();
            install_hook(&world, "set-hostname");
            let image = guest(&world, layout, |_| {});
            let target = Disk::stale(&world, "disk0", kind, 24 * MIB);
            world.create(target.path(), &image, "raw").run().succeeds();
            let disk = world.path("disk0");
            assert_eq!(read(&disk, layout, "etc/hostname"), "web1.example.org\n", "{layout:?} on {kind:?}");
            let hosts = read(&disk, layout, "etc/hosts");
            assert_eq!(hosts, "127.0.0.1 localhost\n127.0.1.1 web1.example.org web1\n");
            assert_eq!(read(&disk, layout, "precious/data"), "all of it");
        }
    }
}

#[test]
fn a_guest_cannot_lead_the_hook_to_files_of_the_node() {
    let world = World::new();
    install_hook(&world, "set-hostname");
    let victim = world.path("victim");
    fs::write(&victim, "of the node").unwrap();
    for name in ["hostname", "hosts"] {
        let image = guest(&world, Layout::Mbr, |tree| {
            fs::remove_file(tree.join("etc").join(name)).unwrap();
            symlink(&victim, tree.join("etc").join(name)).unwrap();
        });
        let target = Disk::stale(&world, "disk0", Kind::File, 24 * MIB);
        let log =
            world.create(target.path(), &image, "raw").run().fails(&["50-set-hostname exited with return code 1"]);
        assert!(log.contains(&format!("/etc/{name} in the guest is a symbolic link")), "{log}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "of the node");
        target.assert_unbootable(name);
    }
}

/// The predecessor's example removed its mount point with `rm -rf`, mounted guest included, and was not executable.
#[test]
fn defect_24_the_example_hook_could_remove_the_guest_and_never_ran() {
    let hooks: Vec<_> = fs::read_dir(examples()).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The others are text, and what the hooks source.
    let hooks: Vec<_> = hooks.iter().filter(|path| path.extension().is_none()).collect();
    let taken = tool("run-parts", &["--test", examples().to_str().unwrap()]);
    for hook in &hooks {
        assert!(taken.lines().any(|line| Path::new(line) == *hook), "run-parts skips {}", hook.display());
        assert_eq!(fs::metadata(hook).unwrap().permissions().mode() & 0o111, 0o111, "{}", hook.display());
        let script = fs::read_to_string(hook).unwrap();
        assert!(!script.contains("rm -r"), "{} removes folders", hook.display());
    }
    assert_eq!(hooks.len(), 4);
    assert!(!fs::read_to_string(examples().join("guest-root.sh")).unwrap().contains("rm -r"));

    // Whatever stops it, nothing of the guest is lost and nothing stays mounted.
    let world = World::new();
    let hook = install_hook(&world, "set-hostname");
    let image = guest(&world, Layout::Gpt, |tree| fs::remove_dir_all(tree.join("etc")).unwrap());
    let device = tool("losetup", &["--find", "--show", &image]);
    // A /run of its own, for other tests have their mount points there meanwhile. mount itself keeps a folder in it.
    let script = "mount -t tmpfs tmpfs /run; \"$0\"; status=$?; ls -A /run | grep -v ^mount$; exit $status";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(hook)
        .env("TARGET_DISK_DEVICE", device.trim())
        .env("SIMPLEIMAGE_PARTITION_COUNT", "1")
        .env("SIMPLEIMAGE_PARTITION_1_OFFSET", MIB.to_string())
        .env("SIMPLEIMAGE_PARTITION_1_SIZE", (16 * MIB).to_string())
        .env("INSTANCE_NAME", "web1.example.org")
        .output()
        .unwrap();
    tool("losetup", &["-d", device.trim()]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("no root file system"), "{error}");
    assert_eq!(read(Path::new(&image), Layout::Gpt, "precious/data"), "all of it");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "left in /run");
}
