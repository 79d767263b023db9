// SPDX-License-Identifier: BSD-2-Clause
//! An instance as Ganeti has the provider install and rename it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use tempfile::TempDir;

use crate::guest;
use crate::image;
use crate::report::Report;
use crate::support::server::{Reply, Server};
use crate::support::world::{Outcome, Script, World};

pub(crate) const MIB: u64 = 1 << 20;

/// Larger than the image, so that there is room to grow into.
pub(crate) const DISK_LEN: u64 = 1200 * MIB;

/// The first NIC has an address of a network, the second asks for one.
const MACS: [&str; 2] = ["aa:00:00:35:ac:5d", "aa:00:00:35:ac:5e"];

const NICS: [(&str, &str); 10] = [
    ("NIC_COUNT", "2"),
    ("NIC_0_MAC", MACS[0]),
    ("NIC_0_IP", "192.0.2.10"),
    ("NIC_0_MODE", "bridged"),
    ("NIC_0_NETWORK_SUBNET", "192.0.2.0/24"),
    ("NIC_0_NETWORK_GATEWAY", "192.0.2.1"),
    ("NIC_0_NETWORK_SUBNET6", "2001:db8::/64"),
    ("NIC_0_NETWORK_GATEWAY6", "2001:db8::1"),
    ("NIC_1_MAC", MACS[1]),
    ("NIC_1_MODE", "bridged"),
];

pub(crate) struct Instance {
    label: &'static str,
    world: World,
    disks: Vec<PathBuf>,
    /// Where the disks lie: not in /tmp, which may be in memory.
    _folder: TempDir,
}

impl Instance {
    /// With a first disk, and a second one named cidata if `seed_disk` gives its length in bytes. Both hold old data.
    pub(crate) fn new(label: &'static str, seed_disk: Option<u64>) -> Self {
        let folder = TempDir::with_prefix_in("boot-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let disks = [Some(DISK_LEN), seed_disk].into_iter().flatten().enumerate().map(|(index, len)| {
            let path = folder.path().join(format!("disk{index}"));
            File::create(&path).unwrap().set_len(len).unwrap();
            path
        });
        Instance { label, world: World::new(), disks: disks.collect(), _folder: folder }
    }

    /// Installs the image from a server of its own.
    pub(crate) fn create(&self, name: &str, parameters: &[(&str, &str)]) -> String {
        let image = fs::read(image::path()).unwrap();
        let server = Server::start(move |_, _| Reply::ok(image.clone()));
        let url = server.url("/debian.qcow2").to_string();
        let script = self.script("create", name).env("OSP_IMAGE", &url).env("OSP_IMAGE_TYPE", "qcow2");
        self.run("create", parameters.iter().fold(script, |script, (name, value)| script.env(name, value)))
    }

    /// Tells the provider that the instance has another name.
    pub(crate) fn rename(&self, old: &str, new: &str) -> String {
        self.run("rename", self.script("rename", new).env("OLD_INSTANCE_NAME", old))
    }

    /// Boots it until it powers off.
    pub(crate) fn boot(&self, what: &str) -> Report {
        self.boot_with_ssh(what, None)
    }

    /// The same; its SSH server answers at `port` of this machine meanwhile.
    pub(crate) fn boot_with_ssh(&self, what: &str, port: Option<u16>) -> Report {
        let disks: Vec<&Path> = self.disks.iter().map(PathBuf::as_path).collect();
        guest::boot(&format!("{}: {what}", self.label), &disks, &MACS, port)
    }

    fn script(&self, script: &str, name: &str) -> Script {
        let script = self.world.script(script).env("INSTANCE_NAME", name).env("INSTANCE_UUID", UUID);
        let script = script.env("DISK_COUNT", &self.disks.len().to_string());
        let script =
            self.disks.iter().enumerate().fold(script, |script, (index, path)| {
                script.env(&format!("DISK_{index}_PATH"), path.to_str().unwrap())
            });
        let script = if self.disks.len() > 1 { script.env("DISK_1_NAME", "cidata") } else { script };
        NICS.iter().fold(script, |script, (name, value)| script.env(name, value))
    }

    fn run(&self, what: &str, script: Script) -> String {
        let start = Instant::now();
        let outcome: Outcome = script.run();
        eprintln!("{}: {what}: {:.1} s", self.label, start.elapsed().as_secs_f32());
        outcome.succeeds()
    }
}

/// The instance's own for ever, whatever its name.
pub(crate) const UUID: &str = "5ae2a4f5-8d24-4a2e-9f6b-0a7b1c2d3e4f";
