// SPDX-License-Identifier: BSD-2-Clause
//! `make install` gives the layout that Ganeti and the package expect.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const SCRIPTS: [&str; 5] = ["create", "export", "import", "rename", "verify"];
const CONFFILE: &str = "etc/ganeti/instance-simpleimage/variants.list";

fn install(root: &TempDir, prefix: &str) {
    let output = Command::new("make")
        .args(["--no-print-directory", "-C", env!("CARGO_MANIFEST_DIR"), "install"])
        .arg(format!("DESTDIR={}", root.path().display()))
        .arg(format!("PREFIX={prefix}"))
        .arg(concat!("BINARY=", env!("CARGO_BIN_EXE_simpleimage")))
        // Settings of a make that runs these tests are not for this one.
        .env_remove("MAKEFLAGS")
        .env_remove("OSDIR")
        .output()
        .expect("running make");
    assert!(output.status.success(), "make install: {}", String::from_utf8_lossy(&output.stderr));
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o7777
}

fn assert_scripts_reach_the_binary(root: &Path, os: &str, bin: &str) {
    let binary = root.join(bin).canonicalize().expect("the binary is installed");
    assert_eq!(mode(&binary), 0o755);
    for script in SCRIPTS {
        let link = root.join(os).join(script);
        assert_eq!(fs::read_link(&link).expect("a symlink"), PathBuf::from("../../../../bin/simpleimage"), "{script}");
        assert_eq!(link.canonicalize().expect("a link that leads somewhere"), binary, "{script}");
    }
}

#[test]
fn usr_has_the_packaged_layout() {
    let root = TempDir::new().unwrap();
    install(&root, "/usr");
    let at = |path: &str| root.path().join(path);
    let os = "usr/share/ganeti/os/simpleimage";
    assert_scripts_reach_the_binary(root.path(), os, "usr/bin/simpleimage");
    assert_eq!(fs::read_to_string(at(os).join("ganeti_api_version")).unwrap(), "20\n");
    assert_eq!(mode(&at(os).join("parameters.list")), 0o644);
    assert_eq!(fs::read_link(at(os).join("variants.list")).unwrap(), Path::new("/").join(CONFFILE));
    assert_eq!(fs::read_to_string(at(CONFFILE)).unwrap(), "default\n");
    assert_eq!(mode(&at("etc/ganeti/instance-simpleimage/default")), 0o755);
    assert_eq!(mode(&at("var/cache/ganeti-instance-simpleimage")), 0o700);
    let examples = "usr/share/doc/ganeti-instance-simpleimage/examples";
    assert_eq!(mode(&at(examples).join("grow-root")), 0o755);
    // Sourced by the others, and not one that run-parts would take.
    assert_eq!(mode(&at(examples).join("guest-root.sh")), 0o644);
    let variant = Path::new(env!("CARGO_MANIFEST_DIR")).join("example-variants/debian.toml");
    let installed = at(examples).join("variants/debian.toml");
    assert_eq!((fs::read(&installed).unwrap(), mode(&installed)), (fs::read(variant).unwrap(), 0o644));
    assert_eq!(mode(&at(examples).join("variants/README.md")), 0o644);
    let mut files: Vec<_> = fs::read_dir(at(os)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    let expected =
        ["create", "export", "ganeti_api_version", "import", "parameters.list", "rename", "variants.list", "verify"];
    assert_eq!(files, expected, "Ganeti reads meaning into every name there, as create_untrusted");
}

#[test]
fn usr_local_lies_where_ganeti_looks() {
    let root = TempDir::new().unwrap();
    install(&root, "/usr/local");
    assert_scripts_reach_the_binary(root.path(), "usr/local/lib/ganeti/os/simpleimage", "usr/local/bin/simpleimage");
    assert!(!root.path().join("usr/share").exists());
}

#[test]
fn a_second_install_keeps_the_administrators_variants() {
    let root = TempDir::new().unwrap();
    install(&root, "/usr");
    fs::write(root.path().join(CONFFILE), "default\nweb\n").unwrap();
    let script = root.path().join("usr/share/ganeti/os/simpleimage/create");
    fs::remove_file(&script).unwrap();
    symlink("/nowhere", &script).unwrap();
    install(&root, "/usr");
    assert_eq!(fs::read_to_string(root.path().join(CONFFILE)).unwrap(), "default\nweb\n");
    assert_scripts_reach_the_binary(root.path(), "usr/share/ganeti/os/simpleimage", "usr/bin/simpleimage");
}

#[test]
fn every_parameter_is_a_name_a_blank_and_a_description() {
    let list = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/os-scripts/parameters.list")).unwrap();
    for line in list.lines() {
        let (name, description) = line.split_once(' ').unwrap_or_else(|| panic!("no description: {line:?}"));
        let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        assert!(plain && !name.is_empty(), "Ganeti has no comments there: {line:?}");
        assert!(!description.trim().is_empty(), "{line:?}");
    }
}
