// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage check` on an installed node: green as it comes, and a line with the way out for every planted fault.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::world::{World, tool};

const OS: &str = "usr/share/ganeti/os/simpleimage";
const CONFIG: &str = "etc/ganeti/instance-simpleimage";
const GANETI: &str = "var/lib/ganeti/config.data";
const MEND_HTTP: &str = "correct the file, or the setting in [http] of its config.toml";
const CACHE: &str = "var/cache/ganeti-instance-simpleimage";

/// A root with the provider in it, as `make install` puts it there.
struct Node(World);

impl Node {
    fn new() -> Self {
        let world = World::new();
        let (destination, binary) =
            (format!("DESTDIR={}", world.path("").display()), concat!("BINARY=", env!("CARGO_BIN_EXE_simpleimage")));
        let install = ["--unset=MAKEFLAGS", "make", "-C", env!("CARGO_MANIFEST_DIR"), "install", "PREFIX=/usr"];
        tool("env", &[&install[..], &[&destination, binary]].concat());
        Node(world)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path(path)
    }

    fn write(&self, path: &str, text: &str, mode: u32) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn chmod(&self, path: &str, mode: u32) {
        fs::set_permissions(self.at(path), Permissions::from_mode(mode)).unwrap();
    }

    /// Puts a file in the place of a script or list.
    fn replace(&self, path: &str, text: &str) {
        fs::remove_file(self.at(path)).unwrap();
        self.write(path, text, 0o755);
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.at("usr/bin/simpleimage"));
        command.arg("--root").arg(self.at("")).arg("check");
        command
    }

    fn check(&self) -> Output {
        self.command().output().unwrap()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The only finding, as `severity: subject: problem` and the hint.
fn finding(output: &Output, what: &str) -> (String, String) {
    let text = text(output);
    let mut lines = text.lines().skip_while(|line| line.starts_with("ok: "));
    let line = lines.next().unwrap_or_else(|| panic!("{what}: nothing was found:\n{text}"));
    let hint = lines.next().and_then(|line| line.strip_prefix("  hint: "));
    assert_eq!(lines.next(), None, "{what}: more was found:\n{text}");
    (line.to_owned(), hint.unwrap_or_else(|| panic!("{what}: no hint:\n{text}")).to_owned())
}

#[test]
fn an_installed_node_is_fine() {
    let node = Node::new();
    let output = node.check();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.lines().all(|line| line.starts_with("ok: ")), "{text}");
    for part in ["ok: kernel ", "ok: program /", "ok: loop devices", "ok: variant default\n"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains(&format!("ok: operating system {}\n", node.at(OS).display())), "{text}");
}

/// A name, how it is planted, and what the finding's line and hint have to hold.
type Fault = (&'static str, fn(&Node), [&'static str; 2], &'static str);

const REINSTALL: &str = "install the package again, or run make install";
const RENAME: &str = "give it a name of letters, digits, - and _ only, and chmod +x; or move it elsewhere";

const FAULTS: [Fault; 33] = [
    (
        "no operating system",
        |node| fs::rename(node.at(OS), node.at("elsewhere")).unwrap(),
        ["error: operating system simpleimage: ", "Ganeti finds none in /srv/ganeti/os, "],
        "make install PREFIX=/usr, or install the package",
    ),
    (
        "a second operating system",
        |node| {
            let copy = node.at("srv/ganeti/os");
            fs::create_dir_all(&copy).unwrap();
            symlink(node.at(OS), copy.join("simpleimage")).unwrap();
        },
        ["warning: ", "/usr/share/ganeti/os/simpleimage: Ganeti never looks there"],
        "remove the one that is not wanted: gnt-os diagnose of Ganeti 3.0 fails while there are two",
    ),
    (
        "a dangling script",
        |node| {
            fs::remove_file(node.at(OS).join("import")).unwrap();
            symlink("../../nowhere", node.at(OS).join("import")).unwrap();
        },
        ["/simpleimage/import: ", "it is a symbolic link to ../../nowhere, which is not there"],
        REINSTALL,
    ),
    (
        "a missing script",
        |node| fs::remove_file(node.at(OS).join("rename")).unwrap(),
        ["/simpleimage/rename: ", "the script is missing"],
        REINSTALL,
    ),
    (
        "the predecessor's script",
        |node| node.replace(&format!("{OS}/create"), "#!/bin/bash\n"),
        ["/simpleimage/create: ", "it is another program than this one"],
        REINSTALL,
    ),
    (
        "a script that is not executable",
        |node| {
            node.replace(&format!("{OS}/verify"), "");
            node.chmod(&format!("{OS}/verify"), 0o644);
        },
        ["/simpleimage/verify: ", "it is not an executable file"],
        REINSTALL,
    ),
    (
        "another OS interface",
        |node| node.replace(&format!("{OS}/ganeti_api_version"), "15\n"),
        ["/ganeti_api_version: ", "it does not offer version 20 of the OS interface"],
        REINSTALL,
    ),
    (
        "a parameter missing",
        |node| {
            let path = node.at(OS).join("parameters.list");
            let text = fs::read_to_string(&path).unwrap();
            let kept: Vec<_> = text.lines().filter(|line| !line.starts_with("image_checksum ")).collect();
            fs::write(&path, kept.join("\n") + "\n").unwrap();
        },
        ["/parameters.list: ", "it does not have image_checksum, so that Ganeti refuses"],
        REINSTALL,
    ),
    (
        "an unknown parameter",
        |node| append(&node.at(OS).join("parameters.list"), "flavour What it tastes of\n"),
        ["/parameters.list: ", "it has flavour, which this program does not know"],
        REINSTALL,
    ),
    (
        "an untrusted operating system",
        |node| node.write(&format!("{OS}/create_untrusted"), "", 0o755),
        ["/create_untrusted: ", "takes the operating system for an untrusted one"],
        "remove it",
    ),
    (
        "no list of variants",
        |node| fs::remove_file(node.at(CONFIG).join("variants.list")).unwrap(),
        ["/simpleimage/variants.list: ", "Ganeti can't read the list of variants: No such file"],
        "create it with one variant per line, such as: default",
    ),
    (
        "a variant with an impossible name",
        |node| append(&node.at(CONFIG).join("variants.list"), "../evil\n"),
        ["/variants.list: ", "'../evil' is not a variant name"],
        "rename the variant, or remove the line",
    ),
    (
        "a variant that is not offered",
        |node| fs::create_dir(node.at(CONFIG).join("debian")).unwrap(),
        ["warning: ", "/debian: it is the folder of a variant that Ganeti does not offer"],
        "add 'debian' to ",
    ),
    (
        "a typo in the config",
        |node| node.write(&format!("{CONFIG}/default/config.toml"), "[http]\nproxies = 'x'\n", 0o644),
        ["error: variant default: ", "config.toml:2:1: http: unknown key `proxies`"],
        "see simpleimage.toml(5)",
    ),
    (
        "two configs",
        |node| {
            node.write(&format!("{CONFIG}/default/config.toml"), "", 0o644);
            node.write(&format!("{CONFIG}/default/config"), "", 0o644);
        },
        ["error: variant default: ", "has both config.toml and config"],
        "see simpleimage.toml(5)",
    ),
    (
        "a config that others can write",
        |node| node.write(&format!("{CONFIG}/default/config"), "", 0o666),
        ["error: variant default: ", "its mode 0666 lets others write what runs as root"],
        "see simpleimage.toml(5)",
    ),
    (
        "an impossible default",
        |node| node.write(&format!("{CONFIG}/default/config.toml"), "image_type = 'iso'\n", 0o644),
        ["error: variant default: ", "parameter image_type"],
        "correct the defaults in its config.toml",
    ),
    (
        "a default image that is not there",
        |node| node.write(&format!("{CONFIG}/default/config.toml"), "image = '/srv/no/such.raw'\n", 0o644),
        ["warning: /srv/no/such.raw: ", "it is the image of variant default, but can't be read"],
        "put it there, or correct the setting image",
    ),
    (
        "a default image that is a character device",
        |node| node.write(&format!("{CONFIG}/default/config.toml"), "image = '/dev/null'\n", 0o644),
        ["warning: /dev/null: ", "can't be read: not a regular file"],
        "put it there, or correct the setting image",
    ),
    (
        "a missing keyring",
        |node| {
            let toml = "image_signature = 'https://images.example/a.sig'\nkeyring = '/srv/no/keyring.gpg'\n";
            node.write(&format!("{CONFIG}/default/config.toml"), toml, 0o644);
        },
        ["error: /srv/no/keyring.gpg: ", "variant default needs this keyring"],
        "gpg --export KEY writes one",
    ),
    (
        "scripts of the shell provider",
        |node| {
            fs::create_dir(node.at(OS).join(".git")).unwrap();
            node.write(&format!("{OS}/common.sh"), "", 0o644);
        },
        ["warning: ", "/usr/share/ganeti/os/simpleimage: it holds .git and common.sh of the shell provider"],
        "remove that, and its README.md, LICENSE and example-hooks; a git pull would bring its scripts back",
    ),
    (
        "disks that nobody wipes",
        |node| {
            node.write(&format!("{CONFIG}/variants.list"), "default\ndata\nwiping\n", 0o644);
            node.write(&format!("{CONFIG}/wiping/config.toml"), "wipe_other_disks = true\n", 0o644);
            node.write(
                GANETI,
                r#"{"cluster":{"enabled_disk_templates":["plain"],"prealloc_wipe_disks":false}}"#,
                0o640,
            );
        },
        [
            "warning: prealloc_wipe_disks of the cluster: it is off: ",
            "which the new one can read (variants: default, data)",
        ],
        "gnt-cluster modify --prealloc-wipe-disks yes, or wipe_other_disks = true in config.toml",
    ),
    (
        "a Ganeti that nobody understands",
        |node| node.write(GANETI, "[]", 0o640),
        ["warning: ", "/var/lib/ganeti/config.data: it does not tell whether Ganeti wipes new disks: "],
        "run as root; gnt-cluster info tells it on the master",
    ),
    (
        "a missing CA file",
        |node| node.write(&format!("{CONFIG}/default/config.toml"), "http.ca_file = '/srv/no/ca.pem'\n", 0o644),
        ["error: variant default: ", "CA file /srv/no/ca.pem: No such file or directory"],
        MEND_HTTP,
    ),
    (
        "a CA file without a certificate",
        |node| {
            node.write("ca.pem", "hello\n", 0o644);
            let toml = format!("http.ca_file = '{}'\n", node.at("ca.pem").display());
            node.write(&format!("{CONFIG}/default/config.toml"), &toml, 0o644);
        },
        ["error: variant default: ", "ca.pem: no certificate in it (a PEM file has BEGIN CERTIFICATE)"],
        MEND_HTTP,
    ),
    (
        "a netrc file that others can read",
        |node| {
            node.write("netrc", "machine h login joe password s3cret\n", 0o644);
            let toml = format!("http.netrc_file = '{}'\n", node.at("netrc").display());
            node.write(&format!("{CONFIG}/default/config.toml"), &toml, 0o644);
        },
        ["error: variant default: ", "its mode 0644 lets others read or change the secrets in it"],
        MEND_HTTP,
    ),
    (
        "a SUMS file from where nothing may come",
        |node| {
            let toml = "allowed_images = ['https://images.example/']\n[images.a]\nurl = 'https://images.example/a.raw'\n\
                        checksum = 'https://sums.example/SHA256SUMS'\n";
            node.write(&format!("{CONFIG}/default/config.toml"), toml, 0o644);
        },
        [
            "error: image a of variant default: ",
            "https://sums.example/SHA256SUMS is not in a place that allowed_images lists",
        ],
        "correct [images.a], or the setting that refuses it",
    ),
    (
        "an image that no SUMS file can name",
        |node| {
            let toml = "image = 'https://images.example/'\nimage_checksum = 'https://images.example/SHA256SUMS'\n";
            node.write(&format!("{CONFIG}/default/config.toml"), toml, 0o644);
        },
        ["error: variant default: ", "has no name to look for in https://images.example/SHA256SUMS"],
        "correct the defaults in its config.toml",
    ),
    (
        "an armoured keyring",
        |node| {
            node.write("keyring.asc", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n", 0o644);
            let keyring = node.at("keyring.asc");
            let toml = format!("image_signature = 'https://h/a.sig'\nkeyring = '{}'\n", keyring.display());
            node.write(&format!("{CONFIG}/default/config.toml"), &toml, 0o644);
        },
        ["keyring.asc: ", "is armoured text"],
        "gpg --export KEY writes one",
    ),
    (
        "a cache that others can write",
        |node| node.chmod(CACHE, 0o777),
        ["var/cache/ganeti-instance-simpleimage: ", "others may write to it (mode 0777)"],
        "chown root, chmod 0700, after looking at what is in it",
    ),
    (
        "a hook with a dot in its name",
        |node| node.write(&format!("{CONFIG}/default/hooks/10-name.sh"), "#!/bin/sh\n", 0o755),
        ["/hooks/10-name.sh: ", "run-parts skips it in silence"],
        RENAME,
    ),
    (
        "a hook that is not executable",
        |node| node.write(&format!("{CONFIG}/default/hooks.rename/10-name"), "#!/bin/sh\n", 0o644),
        ["/hooks.rename/10-name: ", "run-parts skips it in silence"],
        RENAME,
    ),
    (
        "a hook that others can write",
        |node| node.write(&format!("{CONFIG}/default/hooks/10-name"), "#!/bin/sh\n", 0o777),
        ["/hooks/10-name: ", "others than root can write what runs as root"],
        "check it, then chown root and chmod go-w",
    ),
];

fn append(path: &Path, text: &str) {
    let old = fs::read_to_string(path).unwrap();
    fs::write(path, old + text).unwrap();
}

#[test]
fn every_planted_fault_is_found_with_its_way_out() {
    for (what, plant, parts, hint) in FAULTS {
        let node = Node::new();
        plant(&node);
        let output = node.check();
        let (line, found_hint) = finding(&output, what);
        for part in parts {
            assert!(line.contains(part), "{what}: '{part}' is not in: {line}");
        }
        assert!(found_hint.starts_with(hint), "{what}: {found_hint}");
        let is_error = line.starts_with("error: ");
        assert_eq!(output.status.code(), Some(i32::from(is_error)), "{what}");
        let last = String::from_utf8(output.stderr).unwrap();
        assert_eq!(last, if is_error { "simpleimage: error: 1 error, see above\n" } else { "" }, "{what}");
    }
}

#[test]
fn disks_that_read_zero_are_fine() {
    for (what, data, config, told) in [
        ("wiped by Ganeti", r#""prealloc_wipe_disks":true,"enabled_disk_templates":["plain"]"#, "", true),
        ("new files", r#""prealloc_wipe_disks":false,"enabled_disk_templates":["file","rbd"]"#, "", false),
        ("wiped by create", r#""prealloc_wipe_disks":null"#, "wipe_other_disks = true\n", false),
    ] {
        let node = Node::new();
        node.write(GANETI, &format!("{{\"cluster\":{{{data}}},\"nodes\":{{}}}}"), 0o640);
        node.write(&format!("{CONFIG}/default/config.toml"), config, 0o644);
        let output = node.check();
        let text = text(&output);
        assert!(text.lines().all(|line| line.starts_with("ok: ")), "{what}: {text}");
        assert_eq!(text.contains("ok: Ganeti wipes new disks (prealloc_wipe_disks)\n"), told, "{what}: {text}");
    }
}

/// In a mount namespace of its own a program or device of the machine can be hidden.
fn check_without(node: &Node, hidden: &str) -> Output {
    let script = r#"mount --bind /dev/null "$0" && exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, hidden]);
    let check = node.command();
    command.arg(check.get_program()).args(check.get_args()).output().unwrap()
}

#[test]
fn missing_programs_are_found() {
    let node = Node::new();
    for (program, package) in [("qemu-img", "qemu-utils"), ("run-parts", "debianutils")] {
        let path = fs::canonicalize(tool("which", &[program]).trim()).unwrap();
        let (line, hint) = finding(&check_without(&node, path.to_str().unwrap()), program);
        let expected = format!("error: program {program}: there is none in /sbin:/bin:/usr/sbin:/usr/bin, ");
        assert!(line.starts_with(&expected), "{line}");
        assert_eq!(hint, format!("apt-get install {package}"));
    }
}

#[test]
fn one_variant_and_json() {
    let node = Node::new();
    node.write(&format!("{CONFIG}/default/config.toml"), "nonsense = 1\n", 0o644);
    fs::create_dir(node.at(CONFIG).join("other")).unwrap();
    let one = node.command().arg("other").output().unwrap();
    assert!(one.status.success(), "another variant's config does not matter: {}", text(&one));
    fs::remove_dir(node.at(CONFIG).join("other")).unwrap();
    let output = node.command().arg("--json").output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = json["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1);
    assert_eq!((&findings[0]["severity"], &findings[0]["subject"]), (&"error".into(), &"variant default".into()));
    assert!(json["fine"].as_array().unwrap().len() > 3);
}
