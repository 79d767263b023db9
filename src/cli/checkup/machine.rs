// SPDX-License-Identifier: BSD-2-Clause
//! The machine: rights, programs, loop devices.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Checkup, Node};
use crate::node::process::{self, Lifetime};

/// PATH of the scripts that Ganeti runs (`constants.HOOKS_PATH` in Ganeti).
const GANETI_PATH: [&str; 4] = ["/sbin", "/bin", "/usr/sbin", "/usr/bin"];

/// LOOP_CONFIGURE (Linux 5.8) lends hooks a device that no killed run leaks.
const OLDEST_KERNEL: (u32, u32) = (5, 8);

/// `--target-is-zero` with `convert -n` (QEMU 5.0) and `-W` on any target.
const OLDEST_QEMU_IMG: (u32, u32) = (5, 0);

/// Looks at what does not depend on the configuration.
pub(super) fn check(node: &Node<'_>, checkup: &mut Checkup) {
    if !nix::unistd::geteuid().is_root() {
        checkup.warn("user", "this check runs without root's rights and may miss things", "run it as root");
    }
    kernel(checkup);
    if let Some(path) = program("qemu-img", "qemu-utils", checkup) {
        qemu_img(&path, node, checkup);
    }
    if let Some(path) = program("run-parts", "debianutils", checkup) {
        checkup.fine(format!("program {}", path.display()));
    }
    loop_control(checkup);
}

/// The program that a script finds under `name`; a finding when there is none.
pub(super) fn program(name: &str, package: &str, checkup: &mut Checkup) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    let found = GANETI_PATH.iter().map(|folder| Path::new(folder).join(name)).find(is_program);
    if found.is_none() {
        let searched = GANETI_PATH.join(":");
        checkup.error(
            format!("program {name}"),
            format!("there is none in {searched}, the PATH that Ganeti gives"),
            format!("apt-get install {package}"),
        );
    }
    found
}

fn kernel(checkup: &mut Checkup) {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let Ok(release) = release else { return };
    match version(&release) {
        Some(version) if version < OLDEST_KERNEL => checkup.warn(
            format!("kernel {release}"),
            "it can't attach a loop device in one step, and hooks of instances with file disks fail",
            "use Linux 5.8 or later",
        ),
        _ => checkup.fine(format!("kernel {release}")),
    }
}

fn qemu_img(path: &Path, node: &Node<'_>, checkup: &mut Checkup) {
    let mut command = Command::new(path);
    command.arg("--version").env_clear();
    let mut shown = String::new();
    let ran = process::run(command, &[], Lifetime::Child, node.children, |line| {
        if shown.is_empty() {
            line.clone_into(&mut shown);
        }
    });
    let words = shown.strip_prefix("qemu-img version ");
    match (ran, words.and_then(version)) {
        (Ok(status), Some(version)) if status.success() && version >= OLDEST_QEMU_IMG => {
            checkup.fine(format!("program {}: {shown}", path.display()));
        }
        (Ok(status), Some(_)) if status.success() => {
            checkup.error(path.display(), format!("it is too old: {shown}"), "install qemu-utils 5.0 or later");
        }
        (Ok(status), _) => {
            let problem = format!("qemu-img --version says '{shown}' ({status})");
            checkup.error(path.display(), problem, "apt-get install --reinstall qemu-utils");
        }
        (Err(err), _) => {
            checkup.error(path.display(), format!("it does not run: {err}"), "apt-get install --reinstall qemu-utils");
        }
    }
}

/// Major and minor number at the start of a text like `5.10.0-8-amd64`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn loop_control(checkup: &mut Checkup) {
    let control = Path::new("/dev/loop-control");
    match std::fs::OpenOptions::new().read(true).write(true).open(control) {
        Ok(_) => checkup.fine("loop devices, for hooks of instances with file disks"),
        Err(err) => checkup.error(
            control.display(),
            format!("no loop device for hooks of instances with file disks: {err}"),
            "modprobe loop, and as root",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_their_first_two_numbers() {
        let versions = ["6.1.0-18-amd64", "10.0.2 (Debian 1:10.0.2)", "5.8", "x", "5"].map(version);
        assert_eq!(versions, [Some((6, 1)), Some((10, 0)), Some((5, 8)), None, None]);
    }
}
