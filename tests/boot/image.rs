// SPDX-License-Identifier: BSD-2-Clause
//! The image that is installed: made once, and kept until its recipe changes.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// The recipe: each file below `tests/boot/image/`.
const RECIPE: [&str; 6] = ["cloud.cfg", "extlinux.conf", "initramfs", "make", "report", "report.service"];

/// The image of the current recipe, as a file that stays. Made by whoever asks first.
pub(crate) fn path() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("boot-image");
        let image = kept.join(format!("{}.qcow2", key()));
        if !image.exists() {
            clear(&kept);
            make(&image);
        }
        image
    })
}

fn recipe() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boot/image")
}

/// A name that another recipe does not have.
fn key() -> String {
    let mut hash = Sha256::new();
    for name in RECIPE {
        hash.update(fs::read(recipe().join(name)).unwrap());
        hash.update([0]);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Removes the images of other recipes.
fn clear(kept: &Path) {
    match fs::remove_dir_all(kept) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("removing {}: {error}", kept.display()),
        _ => fs::create_dir_all(kept).unwrap(),
    }
}

fn make(image: &Path) {
    let start = Instant::now();
    eprintln!("making the image, which is kept in {}", image.display());
    // Not in /tmp, which may be in memory.
    let scratch = TempDir::with_prefix_in("boot-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = Command::new("timeout")
        .args(["--kill-after=10", "1200"])
        .arg(recipe().join("make"))
        .args([scratch.path(), image])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "making the image: {}\n{text}", output.status);
    eprintln!("made the image in {:.1} s", start.elapsed().as_secs_f32());
}
