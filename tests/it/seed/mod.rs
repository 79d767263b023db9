// SPDX-License-Identifier: BSD-2-Clause
//! What an instance reads at its first boot: from Ganeti's variables to files, as cloud-init itself understands them.

mod documents;
mod network;
mod refusals;
mod schema;
mod volume;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use simpleimage::config::Paths;
use simpleimage::ganeti::env::Environment;
use simpleimage::ganeti::request::{Asked, job};
use simpleimage::install;
use simpleimage::install::job::Job;
use simpleimage::node::run::Run;
use simpleimage::seed::{SeedContent, SeedFiles};

use crate::support::log::Log;
use crate::support::world::World;

pub(crate) const UUID: &str = "5ae2a4f5-8d24-4a2e-9f6b-0a7b1c2d3e4f";
pub(crate) const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH";

/// What a `create` with these variables besides the usual ones has for the first boot, and what it says.
fn request(world: &World, variables: &[(&str, &str)]) -> anyhow::Result<Job> {
    let usual = [
        ("OS_API_VERSION", "20"),
        ("OS_VARIANT", "default"),
        ("INSTANCE_NAME", "web1.example.org"),
        ("INSTANCE_UUID", UUID),
        ("DISK_COUNT", "1"),
        ("DISK_0_PATH", "/dev/null"),
        ("OSP_IMAGE", "/no/image.raw"),
    ];
    let all = usual.iter().chain(variables).map(|(name, value)| ((*name).into(), (*value).into()));
    job(Asked::of(&Environment::new(all))?, &Paths::below(&world.path("")))
}

/// The files, and the messages.
fn files(world: &World, variables: &[(&str, &str)]) -> anyhow::Result<(SeedFiles, String)> {
    let request = request(world, variables)?;
    let log = Log::new();
    let context = Run::new(log.report());
    let files =
        install::seed_files(request.seed.plan().expect("no seed"), &SeedContent::default(), &request.http, &context)?;
    Ok((files, log.text()))
}

/// Runs one of the scripts beside this file with Debian's own Python, which knows Debian's cloud-init.
fn cloud_init(script: &str, args: &[&Path]) -> String {
    cloud_init_with(script, args, None)
}

/// The same with the cloud-init below `modules`, where given.
fn cloud_init_with(script: &str, args: impl IntoIterator<Item: AsRef<OsStr>>, modules: Option<&Path>) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/seed").join(script);
    let mut command = Command::new("/usr/bin/python3");
    // A kept package stays as it was packed.
    command.arg("-B").arg(script).args(args).envs(modules.map(|modules| ("PYTHONPATH", modules)));
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Writes the seed to a folder, as it would be on its volume.
fn save(world: &World, files: &SeedFiles) -> std::path::PathBuf {
    let folder = world.path("cidata");
    fs::create_dir_all(&folder).unwrap();
    for (name, content) in files.iter() {
        fs::write(folder.join(name), content).unwrap();
    }
    folder
}
