// SPDX-License-Identifier: BSD-2-Clause
//! The machine's kernel and root: made once, and kept until their recipe changes.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// The recipe: each file below `tests/node/machine/`.
const RECIPE: [&str; 4] = ["init", "initramfs", "kernel", "make"];

/// The folder with the files `kernel`, `initrd` and `root` of the current recipe, which stays. Made by whoever asks first. The error is
/// what went wrong, in words.
pub(crate) fn path() -> Result<&'static Path, String> {
    static MACHINE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let machine = MACHINE.get_or_init(|| {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("node-machine");
        let machine = kept.join(key());
        if !machine.exists() {
            clear(&kept);
            make(&machine)?;
        }
        Ok(machine)
    });
    machine.as_deref().map_err(Clone::clone)
}

fn recipe() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node/machine")
}

/// A name that neither another recipe has nor another release of Debian.
fn key() -> String {
    let mut hash = Sha256::new();
    for file in RECIPE.map(|name| recipe().join(name)).into_iter().chain(["/etc/os-release".into()]) {
        hash.update(fs::read(file).unwrap());
        hash.update([0]);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Removes what other recipes made.
fn clear(kept: &Path) {
    match fs::remove_dir_all(kept) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("removing {}: {error}", kept.display()),
        _ => fs::create_dir_all(kept).unwrap(),
    }
}

fn make(machine: &Path) -> Result<(), String> {
    let start = Instant::now();
    eprintln!("making the machine, which is kept in {}", machine.display());
    // Not in /tmp, which may be in memory.
    let scratch = TempDir::with_prefix_in("node-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = Command::new("timeout")
        .args(["--kill-after=10", "1200"])
        .arg(recipe().join("make"))
        .args([scratch.path(), machine])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("making the machine, which needs the network: {}\n{text}", output.status));
    }
    eprintln!("made the machine in {:.1} s", start.elapsed().as_secs_f32());
    Ok(())
}
