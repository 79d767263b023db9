// SPDX-License-Identifier: BSD-2-Clause
//! A node for one test: its configuration, cache and hooks below a temporary root, and the scripts run as Ganeti does.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// PATH as the node daemon sets it.
const GANETI_PATH: &str = "/sbin:/bin:/usr/sbin:/usr/bin";

pub(crate) struct World {
    root: TempDir,
}

impl World {
    /// Needs root, for loop devices and mounts: without it the test fails and says so.
    pub(crate) fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root (loop devices, mounts): run it as root");
        World { root: TempDir::new().unwrap() }
    }

    /// A path for a file of the test's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.path("var/cache/ganeti-instance-simpleimage")
    }

    /// Writes a file of the default variant; its folders are made.
    pub(crate) fn variant_file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path("etc/ganeti/instance-simpleimage/default").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// The default variant leaves qcow2 to qemu-img.
    pub(crate) fn qemu_img_decodes(&self) {
        self.variant_file("config.toml", "qcow2 = 'qemu-img'\n");
    }

    /// A hook of the default variant, executable.
    pub(crate) fn hook(&self, name: &str, script: &str) {
        let path = self.variant_file(name, &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// `create` of an instance of the default variant with one disk.
    pub(crate) fn create(&self, disk: &Path, image: &str, image_type: &str) -> Script {
        let script = self.script("create").env("DISK_0_PATH", disk.to_str().unwrap()).env("OSP_IMAGE", image);
        if image_type.is_empty() { script } else { script.env("OSP_IMAGE_TYPE", image_type) }
    }

    /// The tool as people call it.
    pub(crate) fn tool(&self, args: &[&str]) -> Script {
        let mut command = Command::new(env!("CARGO_BIN_EXE_simpleimage"));
        command.arg("--root").arg(self.root.path()).args(args).env_clear().env("PATH", GANETI_PATH);
        Script { command, input: Stdio::null() }
    }

    /// A script with the environment that all of them get.
    pub(crate) fn script(&self, name: &str) -> Script {
        let mut command = Command::new(env!("CARGO_BIN_EXE_simpleimage"));
        command.arg("--root").arg(self.root.path()).args(["script", name]).env_clear().env("PATH", GANETI_PATH);
        let script = Script { command, input: Stdio::null() };
        [
            ("OS_API_VERSION", "20"),
            ("OS_NAME", "simpleimage"),
            ("OS_VARIANT", "default"),
            ("DEBUG_LEVEL", "0"),
            ("INSTANCE_NAME", "web1.example.org"),
            ("DISK_COUNT", "1"),
        ]
        .into_iter()
        .fold(script, |script, (name, value)| script.env(name, value))
    }
}

/// A script about to run.
pub(crate) struct Script {
    pub(crate) command: Command,
    input: Stdio,
}

impl Script {
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// The instance has a second disk, which is its seed's.
    pub(crate) fn seed_disk(self, disk: &Path) -> Self {
        let script = self.env("DISK_COUNT", "2").env("DISK_1_NAME", "cidata");
        script.env("DISK_1_PATH", disk.to_str().unwrap())
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    pub(crate) fn arg(mut self, arg: &str) -> Self {
        self.command.arg(arg);
        self
    }

    /// It starts in `folder`.
    pub(crate) fn current_dir(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Has `program` run it, which gets the script's command line behind `args`.
    pub(crate) fn under(mut self, program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).arg(self.command.get_program()).args(self.command.get_args()).env_clear();
        command.envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.command = command;
        self
    }

    pub(crate) fn stdin(mut self, input: impl Into<Stdio>) -> Self {
        self.input = input.into();
        self
    }

    pub(crate) fn spawn(mut self) -> Child {
        self.command.stdin(self.input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub(crate) fn run(self) -> Outcome {
        Outcome(self.spawn().wait_with_output().unwrap())
    }

    /// Runs it with `input` through a pipe; all of it has to be taken, errors included.
    pub(crate) fn run_with(self, input: &[u8]) -> Outcome {
        let mut child = self.stdin(Stdio::piped()).spawn();
        let mut pipe = child.stdin.take().unwrap();
        let taken = pipe.write_all(input);
        drop(pipe);
        let outcome = Outcome(child.wait_with_output().unwrap());
        taken.unwrap_or_else(|err| panic!("standard input was not drained: {err}; {}", outcome.log()));
        outcome
    }
}

/// How a script ended.
#[derive(Debug)]
pub(crate) struct Outcome(pub(crate) Output);

impl Outcome {
    /// What it wrote to stderr, which has to be ASCII.
    pub(crate) fn log(&self) -> String {
        let text = String::from_utf8(self.0.stderr.clone()).unwrap();
        assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "not plain ASCII: {text}");
        text
    }

    /// What it wrote to stdout.
    pub(crate) fn output(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub(crate) fn succeeds(&self) -> String {
        let log = self.log();
        assert_eq!(self.0.status.code(), Some(0), "{log}");
        assert!(!log.contains("error:"), "{log}");
        log
    }

    /// It failed, and its last line, the only error line, holds every one of `parts`.
    pub(crate) fn fails(&self, parts: &[&str]) -> String {
        let log = self.log();
        assert!(self.0.status.code().is_some_and(|code| code != 0), "{:?}: {log}", self.0.status);
        let last = log.lines().last().unwrap_or_default();
        assert!(last.starts_with("simpleimage") && last.contains(": error: "), "no error line at the end: {log}");
        assert_eq!(log.matches(": error: ").count(), 1, "{log}");
        for part in parts {
            assert!(last.contains(part), "'{part}' is not in: {last}");
        }
        log
    }
}

/// Waits until `condition` holds; a test that waits this long has failed.
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < super::log::LONG, "waited in vain until {what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Runs a tool of the system, which has to succeed; gives its output.
pub(crate) fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|err| panic!("{program}: {err}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
