// SPDX-License-Identifier: BSD-2-Clause
//! One Ganeti cluster of one node, with the provider installed.

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Instant;

use crate::command::{output, run, text};
use crate::image::Images;
use crate::namespace::{self, detach, loop_devices, utf8};
use crate::server::Server;

pub(crate) const NODE: &str = "node1.example.com";
const PROVIDER: &str = "/usr/bin/simpleimage";
const DEFAULT_VARIANT: &str = "/etc/ganeti/instance-simpleimage/default";
/// The external-storage provider for block disks, on Debian's search path.
const BLOCK_STORAGE: &str = "/usr/share/ganeti/extstorage/looped";
/// What every byte of a new block disk is; extstorage.sh has it, too.
pub(crate) const OLD_DATA: u8 = 0o245;
const BLOCK_STORAGE_SCRIPTS: [&str; 8] =
    ["attach", "create", "detach", "grow", "remove", "setinfo", "snapshot", "verify"];

/// Instances as small as the trials' are.
const BOUNDS: &str = "min:cpu-count=1,disk-count=0,disk-size=4,memory-size=16,nic-count=0,spindle-use=0\
    /max:cpu-count=8,disk-count=16,disk-size=1048576,memory-size=32768,nic-count=8,spindle-use=12";

/// Where an instance's disks lie.
#[derive(Clone, Copy)]
pub(crate) enum Storage {
    /// Regular files.
    File,
    /// Loop devices of an external storage, which are full of old data when they are new.
    Block,
}

pub(crate) struct Cluster {
    /// Belongs to this run alone.
    pub(crate) root: PathBuf,
    pub(crate) images: Images,
    server: Server,
}

impl Cluster {
    /// Starts a cluster in this process's namespaces, which become its own.
    pub(crate) fn start() -> Self {
        let start = Instant::now();
        let root = namespace::set_up();
        install_provider();
        install_block_storage(&root.join("disks/block"));
        let images = Images::make(root.join("disks/images"));
        let server = Server::start(root.join("disks/images"));
        initialise(&root.join("disks/file"));
        eprintln!("the cluster stands after {:.1} s", start.elapsed().as_secs_f32());
        Self { root, images, server }
    }

    pub(crate) fn url(&self, image: &str) -> String {
        self.server.url(image)
    }

    /// Runs a command of Ganeti that has to succeed and returns what it said.
    pub(crate) fn gnt(&self, command: &[&str]) -> String {
        let output = output(command[0], &command[1..]);
        assert!(output.status.success(), "{}: {}\n{}", command.join(" "), output.status, text(&output));
        text(&output)
    }

    /// Runs a command of Ganeti that has to fail and returns what it said: the job's error.
    pub(crate) fn gnt_fails(&self, command: &[&str]) -> String {
        let output = output(command[0], &command[1..]);
        assert!(!output.status.success(), "{} succeeded:\n{}", command.join(" "), text(&output));
        text(&output)
    }

    /// Adds an instance with disks of the given sizes in MiB, which Ganeti rounds up to multiples of 4, and does not
    /// start it.
    pub(crate) fn add(&self, name: &str, storage: Storage, sizes: &[u32], parameters: &str) -> Instance {
        let output = self.try_add(name, storage, sizes, parameters);
        assert!(output.status.success(), "adding {name}: {}\n{}", output.status, text(&output));
        self.instance(name)
    }

    /// An instance that is there, also one whose installation failed.
    pub(crate) fn instance(&self, name: &str) -> Instance {
        Instance { name: name.to_owned(), block_store: self.block_store() }
    }

    /// Adds an instance with a disk of 16 MiB, and with a private OS parameter.
    pub(crate) fn add_with_private(&self, name: &str, parameters: &str, private: &str) -> Instance {
        let more = ["--os-parameters-private", private];
        let output = self.try_add_with(&more, name, Storage::File, &[16], parameters);
        assert!(output.status.success(), "adding {name}: {}\n{}", output.status, text(&output));
        self.instance(name)
    }

    /// Adds an instance, which has to fail, and returns the job's error.
    pub(crate) fn add_fails(&self, name: &str, storage: Storage, parameters: &str) -> String {
        let output = self.try_add(name, storage, &[8], parameters);
        assert!(!output.status.success(), "adding {name} succeeded:\n{}", text(&output));
        text(&output)
    }

    fn try_add(&self, name: &str, storage: Storage, sizes: &[u32], parameters: &str) -> Output {
        self.try_add_with(&[], name, storage, sizes, parameters)
    }

    fn try_add_with(&self, more: &[&str], name: &str, storage: Storage, sizes: &[u32], parameters: &str) -> Output {
        let mut args = ["add", "-n", NODE, "-o", "simpleimage+default", "-B", "minmem=64M,maxmem=64M"].to_vec();
        args.extend(["--no-ip-check", "--no-name-check", "--no-start", "-O", parameters]);
        args.extend(more);
        let disks = disk_arguments(storage, sizes);
        args.extend(disks.iter().map(String::as_str));
        args.push(name);
        output("gnt-instance", &args)
    }

    /// Exports an instance and imports the dump as a new one with disks of the given sizes in MiB.
    pub(crate) fn back_up_and_restore(&self, old: &str, new: &str, storage: Storage, sizes: &[u32]) -> Instance {
        self.export(old);
        self.import(old, new, storage, sizes)
    }

    /// Exports an instance and returns what Ganeti said.
    pub(crate) fn export(&self, name: &str) -> String {
        let said = self.gnt(&["gnt-backup", "export", "-n", NODE, name]);
        assert!(!said.contains("WARNING"), "exporting {name}:\n{said}");
        said
    }

    /// Imports the dump of an instance as a new one with disks of the given sizes in MiB.
    pub(crate) fn import(&self, old: &str, new: &str, storage: Storage, sizes: &[u32]) -> Instance {
        let dump = format!("/var/lib/ganeti/export/{old}");
        let mut command = ["gnt-backup", "import", "-n", NODE, "--src-node", NODE, "--src-dir", &dump].to_vec();
        command.extend(["--no-ip-check", "--no-name-check", "--net=0:mac=generate", "-B", "minmem=64M,maxmem=64M"]);
        let disks = disk_arguments(storage, sizes);
        command.extend(disks.iter().map(String::as_str));
        command.push(new);
        // A failed import or rename is only a warning to Ganeti.
        let said = self.gnt(&command);
        assert!(!said.contains("WARNING"), "importing {new}:\n{said}");
        self.instance(new)
    }

    /// Installs a hook in the default variant until the returned guard goes.
    pub(crate) fn hook(&self, folder: &str, script: &str) -> Hook {
        let path = Path::new(DEFAULT_VARIANT).join(folder).join("50-trial");
        fs::create_dir_all(path.parent().expect("a folder")).expect("creating a hooks folder");
        fs::write(&path, format!("#!/bin/sh\nset -eu\n{script}\n")).expect("writing a hook");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("making a hook executable");
        Hook { path }
    }

    /// Writes the default variant's config.toml until the returned guard goes.
    pub(crate) fn config(&self, text: &str) -> Hook {
        let path = Path::new(DEFAULT_VARIANT).join("config.toml");
        fs::create_dir_all(DEFAULT_VARIANT).expect("creating the variant's folder");
        fs::write(&path, text).expect("writing a config");
        Hook { path }
    }

    /// What the OS scripts said last of an instance: of a job that went well Ganeti shows nothing.
    pub(crate) fn last_log(&self, instance: &str) -> String {
        let logs = fs::read_dir("/var/log/ganeti/os").expect("the folder of the OS logs").flatten();
        let of_instance = logs.filter(|log| log.file_name().to_string_lossy().contains(instance));
        let newest = of_instance.max_by_key(|log| log.metadata().and_then(|data| data.modified()).ok());
        fs::read_to_string(newest.expect("a log of the instance").path()).expect("reading a log")
    }

    /// The folder of the external storage, see extstorage.sh.
    pub(crate) fn block_store(&self) -> PathBuf {
        self.root.join("disks/block")
    }

    /// Finds what a trial left running, mounted or attached, and block disks that somebody but Ganeti detached. Clears
    /// it away, so that the next trial answers for itself alone.
    pub(crate) fn clear_leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for process in providers_processes() {
            left.push(format!("left running: process {process}"));
            // It may have ended by itself by now.
            output("kill", &["-KILL", &process]);
        }
        let mut devices = loop_devices(&self.root);
        let mounts = fs::read_to_string("/proc/mounts").expect("reading the mounts");
        for (device, folder) in mounts.lines().filter_map(device_and_folder) {
            if devices.iter().any(|ours| ours.name == device) {
                left.push(format!("left mounted: {device} on {folder}"));
                run("umount", &[folder]);
            }
        }
        devices.retain(|device| !device.file.starts_with(self.block_store()));
        left.extend(
            devices.iter().map(|device| format!("left attached: {} to {}", device.name, device.file.display())),
        );
        detach(&devices);
        // extstorage.sh writes them.
        let complaints = self.block_store().join("complaints");
        if let Ok(lines) = fs::read_to_string(&complaints) {
            left.extend(lines.lines().map(str::to_owned));
            fs::remove_file(&complaints).expect("clearing the complaints");
        }
        left
    }
}

pub(crate) struct Instance {
    pub(crate) name: String,
    block_store: PathBuf,
}

impl Instance {
    /// The file that holds a disk, also for a block disk.
    pub(crate) fn disk(&self, index: usize) -> PathBuf {
        let info = run("gnt-instance", &["info", &self.name]);
        let ids: Vec<_> = info.lines().filter_map(|line| line.trim().strip_prefix("logical_id: ")).collect();
        let id = ids.get(index).unwrap_or_else(|| panic!("no disk {index}:\n{info}"));
        // ['loop', '/path'] or ['looped', 'VOLUME']; joining an absolute path gives that path.
        let place = id.split('\'').nth(3).unwrap_or_else(|| panic!("disk {index} is {id}"));
        self.block_store.join(place)
    }

    /// Overwrites a disk with `bytes`, as its guest would.
    pub(crate) fn fill(&self, index: usize, bytes: &[u8]) {
        let file = self.disk(index);
        // Ganeti may have the disk attached, and a loop device does not see what is written to its file.
        let device = loop_devices(&file).pop().map_or(file, |device| PathBuf::from(device.name));
        let disk = fs::OpenOptions::new().write(true).open(&device);
        let filled = disk.and_then(|mut disk| disk.write_all(bytes).and_then(|()| disk.sync_all()));
        filled.unwrap_or_else(|error| panic!("filling {}: {error}", device.display()));
    }
}

pub(crate) struct Hook {
    path: PathBuf,
}

impl Drop for Hook {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Ids of the processes in this namespace that run the installed provider.
fn providers_processes() -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("reading /proc").flatten();
    let runs_provider = |path: &Path| fs::read_link(path.join("exe")).is_ok_and(|exe| exe == Path::new(PROVIDER));
    let ids = processes.filter(|entry| runs_provider(&entry.path())).map(|entry| entry.file_name());
    ids.map(|id| id.to_string_lossy().into_owned()).collect()
}

/// The device and the folder in a line of /proc/mounts.
fn device_and_folder(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split(' ');
    Some((words.next()?, words.next()?))
}

fn disk_arguments(storage: Storage, sizes: &[u32]) -> Vec<String> {
    let (template, options) = match storage {
        Storage::File => ("file", ""),
        Storage::Block => ("ext", ",provider=looped"),
    };
    let disks = sizes.iter().enumerate().map(|(index, size)| format!("--disk={index}:size={size}M{options}"));
    ["-t".to_owned(), template.to_owned()].into_iter().chain(disks).collect()
}

/// The program under test.
pub(crate) fn provider() -> String {
    env::var("SIMPLEIMAGE_TEST_PROVIDER").unwrap_or_else(|_| env!("CARGO_BIN_EXE_simpleimage").to_owned())
}

/// As the package would, by `make install`.
fn install_provider() {
    let binary = format!("BINARY={}", provider());
    // Settings of a make that runs these tests are not for this one.
    let clean = ["--unset=MAKEFLAGS", "--unset=DESTDIR", "--unset=OSDIR"];
    let install = ["make", "-C", env!("CARGO_MANIFEST_DIR"), "install", "PREFIX=/usr", &binary];
    run("env", &[&clean[..], &install[..]].concat());
}

fn install_block_storage(store: &Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ganeti/extstorage.sh");
    fs::create_dir_all(store).expect("creating the store");
    fs::create_dir_all(BLOCK_STORAGE).expect("creating the provider's folder");
    fs::create_dir_all("/var/log/ganeti/extstorage").expect("creating the provider's log folder");
    for name in BLOCK_STORAGE_SCRIPTS {
        symlink(script, Path::new(BLOCK_STORAGE).join(name)).expect("installing a storage script");
    }
    fs::write(Path::new(BLOCK_STORAGE).join("store"), utf8(store)).expect("naming the store");
    fs::write(Path::new(BLOCK_STORAGE).join("parameters.list"), "").expect("writing the empty list of parameters");
}

fn initialise(file_storage: &Path) {
    fs::create_dir_all(file_storage).expect("creating the file storage");
    fs::write("/etc/ganeti/file-storage-paths", format!("{}\n", utf8(file_storage)))
        .expect("allowing the file storage");
    let storage = format!("--file-storage-dir={}", utf8(file_storage));
    let kinds = ["--enabled-hypervisors=fake", "--enabled-disk-templates=file,ext,diskless", &storage];
    let host = ["--no-ssh-init", "--no-etc-hosts", "--master-netdev=br0", "--nic-parameters=mode=bridged,link=br0"];
    let end = ["--ipolicy-bounds-specs", BOUNDS, "cluster.example.com"];
    run("gnt-cluster", &[&["init"], &kinds[..], &host[..], &end[..]].concat());
}
