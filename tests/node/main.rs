// SPDX-License-Identifier: BSD-2-Clause
//! The provider on a node whose kernel has all that disks are used with: device mapper, thin pools, md arrays, network block
//! devices, partitions with nodes of their own, and a udev that looks at everything.
//!
//! Not every machine that runs tests has such a kernel. So this program boots one in qemu, and another beside it, and brings itself and the provider in
//! there: each test is asked for by name on a serial port, and its answer comes back the same way. Needs root, mmdebstrap and qemu, and
//! the network the first time. `SIMPLEIMAGE_BOOT_ACCEL=kvm` uses KVM where it works.

#![allow(clippy::print_stderr, clippy::unwrap_used, reason = "a test without libtest, which the exemptions go by")]

mod agent;
mod drive;
mod guest;
mod image;
mod machine;
#[path = "../boot/recipe.rs"]
mod recipe;
#[allow(dead_code, reason = "the other tests need the rest of it")]
#[path = "../it/support/mod.rs"]
mod support;
mod traces;
mod trials;
mod ways;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use nix::unistd::Uid;

/// What runs on this side, and the Debian package that has it.
const TOOLS: [(&str, &str); 4] = [
    ("/usr/bin/busybox", "busybox"),
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/sbin/mke2fs", "e2fsprogs"),
];

/// `make test` asks for this one first, while there is a network.
const FETCH: &str = "fetched_first_node_machine";

/// As many trials run at once, each in a machine that the others are not in. `--test-threads` says otherwise.
const MACHINES: usize = 2;

/// A name, and what panics to fail.
type Case = (&'static str, fn());

fn main() -> ExitCode {
    let words: Vec<_> = env::args().skip(1).collect();
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [agent::SERVE, port] => agent::serve(Path::new(port)),
        [agent::ONE, name] => agent::run(name),
        _ => return test(),
    }
    ExitCode::SUCCESS
}

fn test() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(MACHINES);
    let machines = machine::Machines::new();
    let fetch = trial(FETCH, || image::path().map(drop));
    let trials = trials::all().map(|(name, _)| {
        let machines = machines.clone();
        trial(name, move || machines.run(name))
    });
    let conclusion = libtest_mimic::run(&arguments, trials.chain([fetch]).collect());
    machines.end();
    conclusion.exit_code()
}

fn trial(name: &str, case: impl FnOnce() -> Result<(), String> + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || match obstacle() {
        None => case().map(|()| Completion::Completed).map_err(Into::into),
        // Seen as ignored by people, and as failed by the continuous integration.
        Some(obstacle) if env::var_os("CI").is_some_and(|value| value == "true") => Err(obstacle.into()),
        Some(obstacle) => Ok(Completion::ignored_with(obstacle)),
    })
}

/// Why no machine can be had here.
fn obstacle() -> Option<String> {
    if !Uid::effective().is_root() {
        return Some("needs root".to_owned());
    }
    let missing = TOOLS.iter().find(|(program, _)| !Path::new(program).exists());
    missing.map(|(_, package)| format!("needs {package}: make test runs where it is"))
}
