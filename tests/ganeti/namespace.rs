// SPDX-License-Identifier: BSD-2-Clause
//! Keeps the cluster apart from the machine, in three processes of the same program:
//!
//! - the outer one, which cargo started, makes a scratch folder and starts the second in namespaces of its own;
//! - the second is process 1 in there: whatever happens to the other two, it ends every process and detaches every loop
//!   device of the namespace, and the kernel drops the mounts with it;
//! - the third sets up the private mounts and runs the trials.

use std::env;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, Uid};
use tempfile::TempDir;

use crate::command::run;

/// Says which of the three processes this is.
const STAGE: &str = "SIMPLEIMAGE_GANETI_STAGE";
/// The scratch folder on the machine's disk, with a name that no other run has.
const SCRATCH: &str = "SIMPLEIMAGE_GANETI_SCRATCH";

/// Folders of the machine that the cluster and `make install` write to; inside, the changes go to memory.
const WRITTEN_FOLDERS: [&str; 7] =
    ["/etc", "/srv", "/usr/bin", "/usr/share", "/var/cache", "/var/lib/ganeti", "/var/log/ganeti"];

/// Exit status of a process that a signal ended: what libtest uses for a failed run.
const FAILED: u8 = 101;

pub(crate) enum Stage {
    Outer,
    Init,
    Trials,
}

pub(crate) fn stage() -> Stage {
    match env::var(STAGE).ok().as_deref() {
        None => Stage::Outer,
        Some("init") => Stage::Init,
        Some("trials") => Stage::Trials,
        Some(other) => panic!("{STAGE}={other}"),
    }
}

/// Why a cluster cannot run on this machine.
pub(crate) fn obstacle() -> Option<&'static str> {
    if !Uid::effective().is_root() {
        return Some("needs root");
    }
    if !Path::new("/usr/sbin/gnt-cluster").exists() {
        return Some("needs Ganeti: make test runs where it is");
    }
    None
}

/// Runs the next stage in new namespaces and returns its exit status.
pub(crate) fn enter() -> ExitCode {
    let scratch = TempDir::with_prefix_in("ganeti-", env!("CARGO_TARGET_TMPDIR")).expect("creating a scratch folder");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--uts", "--net", "--pid", "--fork", "--mount-proc", "--propagation", "private", "--"]);
    command.arg(this_program()).args(env::args_os().skip(1));
    command.env(STAGE, "init").env(SCRATCH, scratch.path()).stdin(Stdio::piped());
    let mut child = command.spawn().expect("running unshare");
    // Held until the end: that it closes tells process 1 that this process is gone, however it went.
    let _alive = child.stdin.take();
    let status = child.wait().expect("waiting for the namespace");
    exit_code(status.code())
}

fn this_program() -> PathBuf {
    env::current_exe().expect("this program's path")
}

fn exit_code(status: Option<i32>) -> ExitCode {
    ExitCode::from(status.and_then(|status| u8::try_from(status).ok()).unwrap_or(FAILED))
}

/// Process 1: runs the trials, then leaves nothing behind.
pub(crate) fn init() -> ExitCode {
    let mut command = Command::new(this_program());
    let trials = command.args(env::args_os().skip(1)).env(STAGE, "trials").stdin(Stdio::null()).spawn();
    let trials = Pid::from_raw(trials.expect("running the trials").id().try_into().expect("a process id"));
    thread::spawn(move || {
        // Ends when the outer process does. The trials' end then ends this one.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        let _ = kill(trials, Signal::SIGKILL);
    });
    let status = reap_until(Some(trials));
    clean_up();
    exit_code(status)
}

/// Waits for children, the orphans of the namespace included, until `last` has ended or none is left.
fn reap_until(last: Option<Pid>) -> Option<i32> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, status)) if Some(pid) == last => return Some(status),
            Ok(WaitStatus::Signaled(pid, ..)) if Some(pid) == last => return None,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

fn clean_up() {
    // From process 1 this reaches every process of the namespace but itself.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    reap_until(None);
    detach(&loop_devices(&root()));
    // The outer process does the same, unless it is gone.
    let _ = fs::remove_dir_all(scratch());
}

fn scratch() -> PathBuf {
    PathBuf::from(env::var_os(SCRATCH).expect("set by the outer process"))
}

/// The folder for everything that belongs to this run, as paths inside the namespace have it: outside the folders in
/// which Ganeti refuses disks, as /home and /root, and unlike the name in any other run, by which this run's loop
/// devices are told from those of others.
pub(crate) fn root() -> PathBuf {
    Path::new("/run").join(scratch().file_name().expect("a folder's name"))
}

pub(crate) struct LoopDevice {
    pub(crate) name: String,
    pub(crate) file: PathBuf,
}

/// Loop devices of this run's files below `folder`, and then those of such devices.
pub(crate) fn loop_devices(folder: &Path) -> Vec<LoopDevice> {
    let list = run("losetup", &["--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE"]);
    let devices = list.lines().filter_map(|line| line.split_once(' '));
    let devices = devices.map(|(name, file)| LoopDevice { name: name.to_owned(), file: file.into() });
    let (mut found, rest): (Vec<_>, Vec<_>) = devices.partition(|device| device.file.starts_with(folder));
    let is_stacked = |device: &LoopDevice| found.iter().any(|lower| device.file == Path::new(&lower.name));
    let stacked: Vec<_> = rest.into_iter().filter(is_stacked).collect();
    found.extend(stacked);
    found
}

/// Detaches devices, the stacked ones before those below them.
pub(crate) fn detach(devices: &[LoopDevice]) {
    for device in devices.iter().rev() {
        run("losetup", &["--detach", &device.name]);
    }
}

/// Gives this mount namespace its own writable folders, and the network its addresses. Returns the folder for
/// everything that the trials keep; `disks` in it lies on the machine's disk, as instances' disks do.
pub(crate) fn set_up() -> PathBuf {
    run("mount", &["-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run"]);
    let root = root();
    let disks = root.join("disks");
    for folder in [&disks, &root.join("tmp"), Path::new("/run/lock")] {
        fs::create_dir_all(folder).expect("creating a folder");
    }
    run("mount", &["--bind", utf8(&scratch()), utf8(&disks)]);
    for folder in WRITTEN_FOLDERS {
        keep_changes_in_memory(folder, &root.join("layers").join(folder.replace('/', "-")));
    }
    set_up_network();
    root
}

fn keep_changes_in_memory(folder: &str, layer: &Path) {
    let (upper, work) = (layer.join("upper"), layer.join("work"));
    for folder in [&upper, &work] {
        fs::create_dir_all(folder).expect("creating a folder");
    }
    let options = format!("lowerdir={folder},upperdir={},workdir={}", utf8(&upper), utf8(&work));
    run("mount", &["-t", "overlay", "-o", &options, "overlay", folder]);
}

fn set_up_network() {
    run("hostname", &["node1.example.com"]);
    run("ip", &["link", "set", "lo", "up"]);
    run("ip", &["link", "add", "br0", "type", "bridge"]);
    run("ip", &["address", "add", "198.18.0.1/24", "dev", "br0"]);
    run("ip", &["link", "set", "br0", "up"]);
    // Ganeti asks /sys whether br0 is a bridge, and a sysfs shows the network namespace in which it was mounted.
    run("mount", &["-t", "sysfs", "sysfs", "/sys"]);
    let hosts = "127.0.0.1 localhost\n198.18.0.1 node1.example.com node1\n198.18.0.10 cluster.example.com cluster\n";
    fs::write("/etc/hosts", hosts).expect("writing /etc/hosts");
}

pub(crate) fn utf8(path: &Path) -> &str {
    path.to_str().expect("a path of the tests' own")
}
