// SPDX-License-Identifier: BSD-2-Clause
//! What is made once, with the network, and kept until its recipe changes.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A folder with a script `make SCRATCH RESULT`.
pub(crate) struct Recipe {
    /// What is made, in words.
    pub(crate) what: &'static str,
    /// The folder, below `tests/`.
    pub(crate) folder: &'static str,
    /// What the result depends on: files of the folder, or by their whole path.
    pub(crate) files: &'static [&'static str],
    /// The folder in which the result is kept.
    pub(crate) kept: &'static str,
    /// How the result's name ends.
    pub(crate) ending: &'static str,
}

impl Recipe {
    /// The result of the recipe as it is now, which stays. The error is what went wrong, in words.
    pub(crate) fn result(&self) -> Result<PathBuf, String> {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(self.kept);
        let result = kept.join(format!("{}{}", self.key(), self.ending));
        if !result.exists() {
            clear(&kept);
            self.make(&result)?;
        }
        Ok(result)
    }

    fn folder(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(self.folder)
    }

    /// A name that another recipe does not have.
    fn key(&self) -> String {
        let mut hash = Sha256::new();
        for name in self.files {
            hash.update(fs::read(self.folder().join(name)).unwrap());
            hash.update([0]);
        }
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    fn make(&self, result: &Path) -> Result<(), String> {
        let (start, what) = (Instant::now(), self.what);
        eprintln!("making the {what}, which is kept in {}", result.display());
        // Not in /tmp, which may be in memory.
        let scratch = TempDir::with_prefix_in(format!("{}-", self.kept), env!("CARGO_TARGET_TMPDIR")).unwrap();
        let output = Command::new("timeout")
            .args(["--kill-after=10", "1200"])
            .arg(self.folder().join("make"))
            .args([scratch.path(), result])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(format!("making the {what}, which needs the network: {}\n{text}", output.status));
        }
        eprintln!("made the {what} in {:.1} s", start.elapsed().as_secs_f32());
        Ok(())
    }
}

/// Removes what other recipes made.
fn clear(kept: &Path) {
    match fs::remove_dir_all(kept) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("removing {}: {error}", kept.display()),
        _ => fs::create_dir_all(kept).unwrap(),
    }
}
