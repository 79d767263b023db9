// SPDX-License-Identifier: BSD-2-Clause
//! What the provider is for: a real Debian with cloud-init, installed from its image, boots with the name, the network,
//! the keys and the user-data that its instance was given, and keeps all of it through a rename.
//!
//! Needs root, mmdebstrap and qemu, and the network the first time. The machine is emulated, for KVM is not everywhere:
//! `SIMPLEIMAGE_BOOT_ACCEL=kvm` uses it.

#![allow(clippy::print_stderr, clippy::unwrap_used, reason = "a test without libtest, which the exemptions go by")]

mod guest;
mod image;
mod instance;
mod login;
mod recipe;
mod report;
#[allow(dead_code, reason = "the other tests need the rest of it")]
#[path = "../it/support/mod.rs"]
mod support;
mod trials;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use nix::unistd::Uid;

/// What the tests run, and the Debian package that has it.
const TOOLS: [(&str, &str); 6] = [
    ("/usr/bin/extlinux", "extlinux"),
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/ssh", "openssh-client"),
    ("/usr/sbin/mke2fs", "e2fsprogs"),
    ("/usr/sbin/sgdisk", "gdisk"),
];

/// A name, and what panics to fail.
type Case = (&'static str, fn());

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = trials::ALL.map(|(name, case)| {
        Trial::ignorable_test(name, move || match obstacle() {
            None => {
                case();
                Ok(Completion::Completed)
            }
            // Seen as ignored by people, and as failed by the continuous integration.
            Some(obstacle) if env::var_os("CI").is_some_and(|value| value == "true") => Err(obstacle.into()),
            Some(obstacle) => Ok(Completion::ignored_with(obstacle)),
        })
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

/// Why nothing boots on this machine.
fn obstacle() -> Option<String> {
    if !Uid::effective().is_root() {
        return Some("needs root".to_owned());
    }
    let missing = TOOLS.iter().find(|(program, _)| !Path::new(program).exists());
    missing.map(|(_, package)| format!("needs {package}: make test runs where it is"))
}
