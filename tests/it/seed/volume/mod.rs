// SPDX-License-Identifier: BSD-2-Clause
//! The volume of a first-boot seed, against the tools that partition and check disks, and against cloud-init.

mod change;
mod create;
mod people;
mod refuse;
mod reinstall;
mod show;
mod whole_disk;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::bytes;
use crate::support::images::MIB;
use crate::support::world::{Script, World, tool};

pub(crate) const UUID: &str = "5ae2a4f5-8d24-4a2e-9f6b-0a7b1c2d3e4f";
const OTHER_UUID: &str = "11111111-8d24-4a2e-9f6b-0a7b1c2d3e4f";
const SECRET: &str = "s3cret-of-the-user";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH joe";
/// `#cloud-config\npassword: s3cret-of-the-user\n` in base64.
const USER_DATA: &str = "base64:I2Nsb3VkLWNvbmZpZwpwYXNzd29yZDogczNjcmV0LW9mLXRoZS11c2VyCg==";

/// What Ganeti says of an instance with one NIC.
fn instance(script: Script, name: &str, uuid: &str, mac: &str) -> Script {
    script
        .env("INSTANCE_NAME", name)
        .env("INSTANCE_UUID", uuid)
        .env("NIC_COUNT", "1")
        .env("NIC_0_MAC", mac)
        .env("NIC_0_MODE", "bridged")
        .env("NIC_0_IP", "192.0.2.10")
        .env("NIC_0_NETWORK_SUBNET", "192.0.2.0/24")
        .env("NIC_0_NETWORK_GATEWAY", "192.0.2.1")
}

/// `create` with a seed.
fn seeded(world: &World, disk: &Path, image: &Path, image_type: &str) -> Script {
    let script = world.create(disk, image.to_str().unwrap(), image_type);
    instance(script, "web1.example.org", UUID, "aa:00:00:00:00:01")
        .env("OSP_SSH_KEYS", KEY)
        .env("OSP_USER_DATA", USER_DATA)
        .env("OSP_DNS_SERVERS", "192.0.2.53")
}

/// A raw image of `len` bytes: `program` with `args` and `input` makes its table.
fn image(world: &World, name: &str, len: usize, program: &str, args: &[&str], input: &str) -> PathBuf {
    let path = world.path(name);
    File::create(&path).unwrap().set_len(len as u64).unwrap();
    let mut child =
        Command::new(program).args(args).arg(&path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{program} {args:?}");
    // Something in its first partition.
    File::options().write(true).open(&path).unwrap().write_all_at(&bytes(7, 2 * MIB), MIB as u64).unwrap();
    path
}

fn gpt_image(world: &World) -> PathBuf {
    image(world, "gpt.raw", 16 * MIB, "sgdisk", &["-n", "3:2048:20000", "-c", "3:root", "-n", "1:20480:0"], "")
}

fn mbr_image(world: &World) -> PathBuf {
    image(world, "mbr.raw", 16 * MIB, "sfdisk", &["--quiet"], "label: dos\n1M,8M,83,*\n10M,,83\n")
}

/// The partitions of a disk as sfdisk sees them.
fn partitions(disk: &Path) -> Vec<Value> {
    let table: Value = serde_json::from_str(&tool("sfdisk", &["--json", disk.to_str().unwrap()])).unwrap();
    table["partitiontable"]["partitions"].as_array().unwrap().clone()
}

/// Nothing is wrong with its partition table.
fn assert_verified(disk: &Path) {
    let path = disk.to_str().unwrap();
    let verdict = tool("sfdisk", &["--verify", path]);
    assert!(verdict.contains("No errors detected"), "{verdict}");
    if tool("sfdisk", &["--json", path]).contains("\"gpt\"") {
        let verdict = tool("sgdisk", &["-v", path]);
        assert!(verdict.contains("No problems found"), "{verdict}");
        assert!(!verdict.contains("arning") && !verdict.contains("roblem:"), "{verdict}");
    }
}

/// A seed's volume, taken out of a disk.
struct Volume {
    path: PathBuf,
    files: PathBuf,
}

impl Volume {
    /// The file system at `start`, checked by everybody who has to like it.
    fn of(world: &World, disk: &Path, start: u64, len: usize) -> Self {
        let mut bytes = vec![0; len];
        File::open(disk).unwrap().read_exact_at(&mut bytes, start).unwrap();
        let (path, files) = (world.path("volume.fat"), world.path("seed/nocloud"));
        fs::write(&path, bytes).unwrap();
        let volume = Volume { path, files };
        let verdict = tool("fsck.fat", &["-n", "-v", volume.name()]);
        assert!(!verdict.contains("differ") && !verdict.contains("irty"), "{verdict}");
        let facts = tool("blkid", &["-p", "-o", "export", volume.name()]);
        for fact in ["LABEL=CIDATA", "LABEL_FATBOOT=CIDATA", "TYPE=vfat"] {
            assert!(facts.lines().any(|line| line == fact), "{fact}: {facts}");
        }
        volume.extract();
        volume
    }

    fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn extract(&self) {
        let _ = fs::remove_dir_all(&self.files);
        fs::create_dir_all(&self.files).unwrap();
        tool("mcopy", &["-n", "-i", self.name(), "::*", self.files.to_str().unwrap()]);
    }

    fn serial(&self) -> String {
        tool("blkid", &["-p", "-s", "UUID", "-o", "value", self.name()]).trim().to_owned()
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.files.join(name)).unwrap()
    }

    /// ds-identify, which decides at boot whether cloud-init runs at all, finds NoCloud by this volume alone.
    fn assert_identified(&self, world: &World) {
        let root = world.path("guest");
        let bin = root.join("bin");
        fs::create_dir_all(root.join("etc/cloud")).unwrap();
        fs::create_dir_all(root.join("proc/1")).unwrap();
        fs::create_dir_all(&bin).unwrap();
        fs::write(root.join("etc/cloud/cloud.cfg"), "datasource_list: [ NoCloud, None ]\n").unwrap();
        for (name, content) in
            [("cmdline", "root=/dev/vda1\n"), ("uptime", "1.0 1.0\n"), ("1/cmdline", ""), ("1/environ", "")]
        {
            fs::write(root.join("proc").join(name), content).unwrap();
        }
        let blkid = format!("#!/bin/sh\nexec /usr/sbin/blkid -p -o export '{}'\n", self.name());
        for (name, script) in [("blkid", blkid.as_str()), ("systemd-detect-virt", "#!/bin/sh\necho kvm\n")] {
            fs::write(bin.join(name), script).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let output = Command::new("/usr/lib/cloud-init/ds-identify")
            .env_clear()
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()))
            .env("PATH_ROOT", &root)
            .env("DI_LOG", "stderr")
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && log.contains("found"), "{log}");
        let decided = fs::read_to_string(root.join("run/cloud-init/cloud.cfg")).unwrap();
        assert_eq!(decided, "datasource_list: [ NoCloud, None ]\n", "{log}");
        assert!(log.contains("FS_LABELS=CIDATA,CIDATA"), "{log}");
        fs::remove_dir_all(root).unwrap();
    }

    /// What cloud-init's NoCloud data source makes of the files.
    fn as_cloud_init_reads_it(&self) -> Value {
        const READER: &str = "
import json, sys
from cloudinit import helpers
from cloudinit.net import network_state
from cloudinit.sources import DataSourceNoCloud
paths = helpers.Paths({'cloud_dir': sys.argv[1], 'run_dir': sys.argv[1]})
paths.seed_dir = sys.argv[1]
source = DataSourceNoCloud.DataSourceNoCloud({'datasource': {'NoCloud': {'fs_label': None}}}, None, paths)
assert source.get_data()
state = network_state.parse_net_config_data(source.network_config)
print(json.dumps({'id': source.get_instance_id(), 'name': source.metadata['local-hostname'],
    'keys': source.get_public_ssh_keys(), 'user': source.userdata_raw if isinstance(source.userdata_raw, str)
    else source.userdata_raw.decode(),
    'macs': [i.get('mac_address') for i in state.iter_interfaces()]}))
";
        let output =
            Command::new("/usr/bin/python3").args(["-c", READER]).arg(self.files.parent().unwrap()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// cloud-init finds it, and reads what was meant for the instance.
    fn assert_says(&self, world: &World, name: &str, uuid: &str, mac: &str) {
        self.assert_identified(world);
        let read = self.as_cloud_init_reads_it();
        assert_eq!((&read["name"], &read["id"]), (&name.into(), &uuid.into()), "{read}");
        assert_eq!(read["keys"], serde_json::json!([KEY]));
        assert_eq!(read["user"], format!("#cloud-config\npassword: {SECRET}\n"));
        assert_eq!(read["macs"], serde_json::json!([mac]));
    }
}
