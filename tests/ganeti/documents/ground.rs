// SPDX-License-Identifier: BSD-2-Clause
//! What the reader of a document stands on: a node of a cluster, images on a server, keys, a checkout.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cluster::Cluster;
use crate::command::{LIMIT_SECONDS, run};
use crate::namespace::utf8;

const CONFIGURATION: &str = "/etc/ganeti/instance-simpleimage";
pub(super) const CACHE: &str = "/var/cache/ganeti-instance-simpleimage";

pub(super) struct Ground<'c> {
    pub(super) cluster: &'c Cluster,
    /// Where `site` has made everything.
    pub(super) folder: PathBuf,
}

impl<'c> Ground<'c> {
    /// The first one makes it all.
    pub(super) fn of(cluster: &'c Cluster) -> Self {
        let folder = cluster.root.join("disks/documents");
        if !folder.exists() {
            let site = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ganeti/documents/site");
            run(site, &[utf8(&folder), env!("CARGO_MANIFEST_DIR")]);
        }
        assert!(folder.join("ready").exists(), "an earlier trial could not make the ground: see there");
        let ground = Self { cluster, folder };
        ground.clear();
        run("cp", &["--archive", CONFIGURATION, utf8(&ground.kept_configuration())]);
        fs::write(ground.working_folder(), utf8(&ground.folder.join("checkout"))).expect("naming the working folder");
        ground
    }

    fn kept_configuration(&self) -> PathBuf {
        self.folder.join("configuration")
    }

    /// The file that says in which folder the next command is typed.
    fn working_folder(&self) -> PathBuf {
        self.folder.join("cwd")
    }

    /// Takes back what a document has done to the node: instances, configuration, cache.
    pub(super) fn clear(&self) {
        for name in run("gnt-instance", &["list", "--no-headers", "-o", "name"]).lines() {
            run("gnt-instance", &["remove", "--force", "--shutdown-timeout=0", name]);
        }
        let kept = self.kept_configuration();
        if kept.exists() {
            run("rm", &["-r", CONFIGURATION]);
            run("mv", &[utf8(&kept), CONFIGURATION]);
        }
        run("rm", &["-rf", CACHE, "/var/lib/ganeti/export"]);
        run("mkdir", &["--mode=750", "/var/lib/ganeti/export"]);
    }

    /// Types a command into bash, in the folder where the one before left it. Gives whether it succeeded, and what it said.
    pub(super) fn types(&self, command: &str, answer: &str) -> (bool, String) {
        let cwd = utf8(&self.working_folder()).to_owned();
        let script = format!("set -o pipefail\ncd \"$(cat {cwd})\"\n{command}\nstatus=$?\npwd >{cwd}\nexit $status\n");
        let typed = self.folder.join("typed");
        fs::write(&typed, script).expect("writing what is typed");
        // /dev is another one, in which documents' volumes can be made.
        let own_dev = format!("mount --rbind {} /dev && exec bash {}", utf8(&self.folder.join("dev")), utf8(&typed));
        let mut shell = Command::new("timeout");
        shell.args(["--kill-after=5", LIMIT_SECONDS, "unshare", "--mount", "--propagation", "private"]);
        match answer {
            "" => shell.args(["sh", "-c", &own_dev]),
            // Ganeti asks a terminal.
            _ => shell.args(["script", "--quiet", "--return", "--command", &own_dev, "/dev/null"]),
        };
        self.set_environment(&mut shell);
        let (read, mut keyboard) = std::io::pipe().expect("making a pipe");
        writeln!(keyboard, "{answer}").expect("typing an answer");
        drop(keyboard);
        let output = shell.stdin(Stdio::from(read)).output().expect("running bash");
        (output.status.success(), crate::command::text(&output).replace('\r', ""))
    }

    fn set_environment(&self, shell: &mut Command) {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", utf8(&self.folder.join("bin")));
        let provider = crate::cluster::provider();
        shell
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.folder.join("home"))
            .env("SHELL", "/bin/sh")
            .env("TERM", "dumb");
        // What `make build` would have built.
        shell.env("BINARY", provider);
    }

    /// Whether the settings are a config.toml.
    pub(super) fn takes(&self, document: &str, settings: &str) {
        let root = self.folder.join("trial");
        let file = root.join("etc/ganeti/instance-simpleimage/config.toml");
        fs::create_dir_all(file.parent().expect("a folder")).expect("making a folder for settings");
        fs::write(&file, settings).expect("writing settings");
        let (is_ok, said) = self.types(&format!("simpleimage --root {} variants show default", utf8(&root)), "");
        assert!(is_ok, "{document}: {settings}\n{said}");
    }

    /// The next command is typed in this folder.
    pub(super) fn goes_to(&self, folder: &str) {
        fs::write(self.working_folder(), folder).expect("naming the working folder");
    }

    /// A variant as an administrator makes one.
    pub(super) fn make_variant(&self, name: &str, settings: &str) {
        let folder = Path::new(CONFIGURATION).join(name);
        fs::create_dir_all(&folder).expect("making a variant's folder");
        fs::write(folder.join("config.toml"), settings).expect("writing settings");
        let list = fs::OpenOptions::new().append(true).open(Path::new(CONFIGURATION).join("variants.list"));
        list.and_then(|mut list| writeln!(list, "{name}")).expect("listing a variant");
    }

    /// The file that documents name as user-data.
    pub(super) fn add_user_data(&self) {
        let folder = Path::new(CONFIGURATION).join("default/user-data");
        fs::create_dir_all(&folder).expect("making a folder for user-data");
        fs::write(folder.join("web.yaml"), "#cloud-config\npackages: [nginx]\n").expect("writing user-data");
    }

    /// An instance of the default variant, small and stopped, with the administrator's key.
    pub(super) fn add(&self, name: &str) {
        self.adds(name, "image=https://images.example.com/debian-13.qcow2");
    }

    /// The same with other OS parameters.
    pub(super) fn adds(&self, name: &str, parameters: &str) {
        self.types_well(&format!(
            "gnt-instance add -n node1.example.com -t file --disk 0:size=64M -o simpleimage+default --no-start \\
                -O {parameters} --os-parameters-private ssh_keys=\"$(cat ~/.ssh/id_ed25519.pub)\" {name}"
        ));
    }

    /// Types a command that no document has, and that has to succeed.
    pub(super) fn types_well(&self, command: &str) {
        let (is_ok, said) = self.types(command, "");
        assert!(is_ok, "{command}\n{said}");
    }

    /// Gives an instance's first disk the name that documents have for it.
    pub(super) fn name_volume(&self, instance: &str) {
        let volume = self.folder.join("dev/vg0/web1.disk0");
        let _ = fs::remove_file(&volume);
        symlink(self.disk(instance), volume).expect("naming a disk");
    }

    /// The file of an instance's first disk.
    pub(super) fn disk(&self, instance: &str) -> PathBuf {
        self.cluster.instance(instance).disk(0)
    }

    /// A file of the file system on an instance's first disk.
    pub(super) fn file(&self, instance: &str, path: &str) -> String {
        let disk = format!("{}?offset={}", utf8(&self.disk(instance)), 1 << 20);
        run("debugfs", &["-R", &format!("cat {path}"), &disk])
    }

    /// The administrator's public key.
    pub(super) fn key(&self) -> String {
        fs::read_to_string(self.folder.join("home/.ssh/id_ed25519.pub")).expect("reading the key").trim().to_owned()
    }

    /// What a path is on the second node.
    pub(super) fn second_node(&self, path: &str) -> PathBuf {
        self.folder.join("node2").join(Path::new(path).strip_prefix("/").expect("an absolute path"))
    }
}
