// SPDX-License-Identifier: BSD-2-Clause
//! The schema of network-configs that cloud-init has since 23.4: from Debian 13's package, for Debian 12's is older.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use ureq::Agent;

use super::cloud_init_with;

const VERSION: &str = "25.1.4";
/// Debian's mirrors drop a package when there is a newer one; the archive of all of them goes by SHA-1.
const PLACES: [&str; 2] = [
    "http://deb.debian.org/debian/pool/main/c/cloud-init/cloud-init_25.1.4-1+deb13u1_all.deb",
    "http://snapshot.debian.org/file/1a14a2494cc23e91e1fad6f2c2e4c698b27b6b1c",
];
const SHA256: &str = "1b120a44110e7234c9cf9ccde78fb5d5ea1292c94ef0ca70d09a580f72980df3";
/// For one place; the package has 0.6 MB.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// What `cloud-init schema` says of each of `files`, which are of one `kind`, a `--schema-type`. None, and a line on
/// stderr, where there is no package and no network to fetch it by; under the continuous integration that is a failure.
pub(super) fn said_of(kind: &str, files: &[&Path]) -> Option<String> {
    let package = match package() {
        Ok(package) => package,
        Err(obstacle) => {
            assert!(env::var_os("CI").is_none_or(|value| value != "true"), "{obstacle}");
            // Past the test harness, which shows no output of a test that passes.
            io::stderr().write_all(format!("skipped, a part of a test: {obstacle}\n").as_bytes()).unwrap();
            return None;
        }
    };
    let modules = package.join("usr/lib/python3/dist-packages");
    let args = [VERSION, kind].into_iter().map(OsStr::new).chain(files.iter().map(|path| path.as_os_str()));
    Some(cloud_init_with("schema.py", args, Some(&modules)))
}

/// The unpacked package, which stays for later runs. Fetched by whoever asks first.
fn package() -> Result<&'static Path, &'static str> {
    static PACKAGE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let package = PACKAGE.get_or_init(|| {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cloud-init-{}", &SHA256[..16]));
        if kept.exists() { Ok(kept) } else { unpack(&fetch()?, kept) }
    });
    package.as_ref().map(PathBuf::as_path).map_err(String::as_str)
}

fn fetch() -> Result<Vec<u8>, String> {
    let agent: Agent = Agent::config_builder().timeout_global(Some(TIME_LIMIT)).build().into();
    let mut obstacle = format!("needs cloud-init {VERSION}, from Debian over the network:");
    for place in PLACES {
        let got = agent.get(place).call().and_then(|mut response| response.body_mut().read_to_vec());
        match got {
            Ok(package) if sha256(&package) == SHA256 => return Ok(package),
            Ok(package) => obstacle += &format!(" {place}: SHA-256 {} instead of {SHA256};", sha256(&package)),
            Err(error) => obstacle += &format!(" {place}: {error};"),
        }
    }
    Err(obstacle)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All of it or nothing has the name `kept`, whoever else does the same meanwhile.
fn unpack(package: &[u8], kept: PathBuf) -> Result<PathBuf, String> {
    let scratch = TempDir::with_prefix_in("cloud-init-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (file, content) = (scratch.path().join("package.deb"), scratch.path().join("content"));
    fs::write(&file, package).unwrap();
    let output = Command::new("dpkg-deb").arg("--extract").args([&file, &content]).output();
    let output = output.map_err(|error| format!("needs dpkg-deb: {error}"))?;
    assert!(output.status.success(), "dpkg-deb: {}", String::from_utf8_lossy(&output.stderr));
    match fs::rename(&content, &kept) {
        Err(error) if !kept.exists() => panic!("keeping {}: {error}", kept.display()),
        _ => Ok(kept),
    }
}

/// `make test` asks for this one first, while there is a network.
#[test]
fn fetched_first_cloud_init() {
    if let Err(obstacle) = package() {
        assert!(env::var_os("CI").is_none_or(|value| value != "true"), "{obstacle}");
    }
}
