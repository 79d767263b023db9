// SPDX-License-Identifier: BSD-2-Clause
//! Attacks on the node out of every kind of confined process: `probe.c` tries each way that somebody who took over a worker,
//! qemu-img or gpgv could try. Needs root, a C compiler, and `script`, which gives the process a terminal to attack.

#![allow(clippy::print_stderr, clippy::unwrap_used, reason = "a test without libtest, which the exemptions go by")]

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};

use libtest_mimic::{Arguments, Completion, Trial};
use nix::sys::socket::{AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen, sendmsg, socket};
use nix::unistd::Uid;
use simpleimage::node::process::{Children, run_in_worker};
use simpleimage::node::sandbox::{Sandbox, Tool, ToolAccess, WorkerAccess};

/// By this word this program runs the probe as `KIND` instead of the tests: `--confined KIND PROBE FOLDER PID`.
const CONFINED: &str = "--confined";

/// What a kind of process is allowed to do beyond reading, by the names of the probe's ways.
type Allowed = &'static [&'static str];

/// The kinds of confined processes, each a test, and what each may do on purpose.
const KINDS: [(&str, Allowed); 6] = [
    ("worker_with_network", &["tcp", "tcp_6", "udp", "netlink_route"]),
    ("worker_without_network", &[]),
    ("verify", &[]),
    ("qemu_img", &[]),
    ("gpgv", &[]),
    ("gpgv_without_worker", &[]),
];

/// The errors by which a way is closed: the process lacks the right, or the system call.
const REFUSALS: [&str; 3] = ["ENOSYS", "EPERM", "EACCES"];

fn main() -> ExitCode {
    let words: Vec<_> = env::args().skip(1).collect();
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [CONFINED, kind, probe, folder, pid] => confined(kind, Path::new(probe), Path::new(folder), pid),
        _ => return test(),
    }
    ExitCode::SUCCESS
}

fn test() -> ExitCode {
    let kinds = KINDS.map(|(kind, allowed)| trial(kind.to_owned(), move || gains_nothing(kind, allowed)));
    let free = trial("root_without_a_sandbox".to_owned(), ways_are_open);
    libtest_mimic::run(&Arguments::from_args(), kinds.into_iter().chain([free]).collect()).exit_code()
}

fn trial(name: String, case: impl FnOnce() -> Result<(), String> + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || match obstacle() {
        None => case().map(|()| Completion::Completed).map_err(Into::into),
        // Seen as ignored by people, and as failed by the continuous integration.
        Some(obstacle) if env::var_os("CI").is_some_and(|value| value == "true") => Err(obstacle.into()),
        Some(obstacle) => Ok(Completion::ignored_with(obstacle)),
    })
}

/// Why no attack can be tried here.
fn obstacle() -> Option<&'static str> {
    let missing = ["cc", "script", "sleep"].iter().any(|tool| !Path::new("/usr/bin").join(tool).exists());
    match Uid::effective().is_root() {
        false => Some("needs root"),
        true => missing.then_some("needs a C compiler and script: make test runs where they are"),
    }
}

/// What is attacked.
struct Victims {
    folder: tempfile::TempDir,
    process: Child,
    _streams: UnixListener,
    _sequences: OwnedFd,
    datagrams: UnixDatagram,
}

impl Victims {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("attacks").tempdir().unwrap();
        for name in ["folder", "own"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        for name in ["file", "disk"] {
            fs::write(folder.path().join(name), "precious").unwrap();
        }
        let process = Command::new("sleep").arg("1000").spawn().unwrap();
        let _streams = UnixListener::bind(folder.path().join("socket")).unwrap();
        let _sequences = sequences(&folder.path().join("sequences"));
        let datagrams = UnixDatagram::bind(folder.path().join("datagrams")).unwrap();
        datagrams.set_nonblocking(true).unwrap();
        Victims { folder, process, _streams, _sequences, datagrams }
    }

    fn probe(&self) -> PathBuf {
        let (source, program) =
            (concat!(env!("CARGO_MANIFEST_DIR"), "/tests/attacks/probe.c"), self.folder.path().join("probe"));
        let status =
            Command::new("cc").args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(source).status();
        assert!(status.unwrap().success(), "cc failed");
        program
    }

    /// What became of each way, by a process of this kind on a terminal of its own.
    fn attacked_by(&self, kind: &str) -> BTreeMap<String, String> {
        let words = [
            env::current_exe().unwrap().display().to_string(),
            format!("{CONFINED} {kind}"),
            self.probe().display().to_string(),
            self.folder.path().display().to_string(),
            self.process.id().to_string(),
        ];
        let output =
            Command::new("script").args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]).output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{kind}: {}: {text}", output.status);
        let results = text.lines().filter_map(|line| line.trim().split_once('\t'));
        results.map(|(way, result)| (way.to_owned(), result.to_owned())).collect()
    }

    /// An error if one of them is not as it was.
    fn are_unharmed(mut self) -> Result<(), String> {
        let file = self.folder.path().join("file");
        let metadata = fs::metadata(&file).map_err(|err| format!("the file is gone: {err}"))?;
        let mut byte = [0];
        let received = self.datagrams.recv(&mut byte).is_ok();
        let ended = self.process.try_wait().unwrap();
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let is_as_before = (metadata.mode() & 0o7777, metadata.gid(), metadata.mtime() > 1) == (0o644, 0, true);
        match fs::read_to_string(file) {
            Ok(text) if text != "precious" => Err("the file was written".to_owned()),
            _ if !is_as_before => Err(format!("the file was changed: {metadata:?}")),
            _ if received => Err("a datagram came".to_owned()),
            _ => ended.map_or(Ok(()), |status| Err(format!("the process was ended: {status}"))),
        }
    }
}

/// Listens at `path` for connections that keep the ends of messages.
fn sequences(path: &Path) -> OwnedFd {
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    listener
}

fn gains_nothing(kind: &str, allowed: &[&str]) -> Result<(), String> {
    let victims = Victims::new();
    let results = victims.attacked_by(kind);
    let count = results.len();
    if count < 150 {
        return Err(format!("the probe ended after {count} ways: {results:?}"));
    }
    let gained = |(way, result): (String, String)| match allowed.contains(&way.as_str()) {
        true => (result != "got").then(|| format!("{way} should be allowed: {result}")),
        false => (!REFUSALS.contains(&result.as_str())).then(|| format!("{way}: {result}")),
    };
    let gained: Vec<_> = results.into_iter().filter_map(gained).collect();
    if !gained.is_empty() {
        return Err(format!("{} of {count} ways out of {kind}:\n{}", gained.len(), gained.join("\n")));
    }
    victims.are_unharmed()
}

/// The probe is worth something: what it tries does succeed where nothing is refused.
fn ways_are_open() -> Result<(), String> {
    let mut victims = Victims::new();
    let results = victims.attacked_by("free");
    victims.process.kill().unwrap();
    victims.process.wait().unwrap();
    let open = results.values().filter(|result| *result == "got").count();
    // Some are for kernels with what this one may lack; others are asked for in a form that needs the right only.
    if open >= 100 { Ok(()) } else { Err(format!("only {open} ways are open to root: {results:?}")) }
}

/// Runs the probe as the kind of process that is asked for.
fn confined(kind: &str, probe: &Path, folder: &Path, pid: &str) {
    let mut command = Command::new(probe);
    command.arg(folder).arg(pid);
    let disk = File::options().read(true).write(true).open(folder.join("disk")).unwrap();
    let own = folder.join("own");
    let create = WorkerAccess { disks: &[&disk], folder: Some(&own), network: true, ..WorkerAccess::default() };
    let import = WorkerAccess { disks: &[&disk], ..WorkerAccess::default() };
    let qemu_img = ToolAccess { tool: Tool::QemuImg, sources: &[], disks: &[&disk], file_size: 1 << 20, bytes: 0 };
    let gpgv = ToolAccess { tool: Tool::Gpgv, sources: &[&disk], disks: &[], file_size: 1 << 20, bytes: 0 };
    match kind {
        "free" => run(command, None),
        "worker_with_network" => in_worker(create, command, None, folder),
        "worker_without_network" => in_worker(import, command, None, folder),
        "verify" => {
            Sandbox::for_worker(WorkerAccess::default()).and_then(Sandbox::enter).unwrap();
            run(command, None);
        }
        "qemu_img" => in_worker(create, command, Some(qemu_img), folder),
        "gpgv" => in_worker(create, command, Some(gpgv), folder),
        "gpgv_without_worker" => run(command, Some(gpgv)),
        _ => panic!("no kind of process: {kind}"),
    }
}

fn in_worker(needs: WorkerAccess<'_>, command: Command, tool: Option<ToolAccess<'_>>, folder: &Path) {
    let worked = run_in_worker(&Children::default(), || {
        Sandbox::for_worker(needs).and_then(Sandbox::enter).map_err(|err| err.to_string())?;
        misuse_sockets(&folder.join("datagrams"));
        run(command, tool);
        Ok(((), None))
    });
    worked.unwrap().unwrap();
}

/// Sends a message with a service's address by every socket that this process has open. The victim says whether it came.
fn misuse_sockets(service: &Path) {
    let service = UnixAddr::new(service).unwrap();
    let byte = [IoSlice::new(b"x")];
    for fd in 3..64 {
        let _ = sendmsg(fd, &byte, &[], MsgFlags::MSG_DONTWAIT, Some(&service));
    }
}

fn run(mut command: Command, tool: Option<ToolAccess<'_>>) {
    if let Some(work) = tool {
        Sandbox::for_tool(&command, work).unwrap().confine(&mut command);
    }
    assert!(command.status().unwrap().success());
}
