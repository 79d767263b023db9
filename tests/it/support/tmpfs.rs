// SPDX-License-Identifier: BSD-2-Clause
//! Small file systems that fill up.

use std::path::Path;

use super::world::tool;

/// A file system of its own in memory, gone when dropped.
pub(crate) struct Tmpfs<'p>(pub(crate) &'p Path);

impl<'p> Tmpfs<'p> {
    /// Makes the folder `path`, only for us, with `size` (1M, ...) of room.
    pub(crate) fn mount(path: &'p Path, size: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root (mounts): run it as root");
        std::fs::create_dir_all(path).unwrap();
        tool("mount", &["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs", path.to_str().unwrap()]);
        Tmpfs(path)
    }

    pub(crate) fn make_read_only(&self) {
        tool("mount", &["-o", "remount,ro", self.0.to_str().unwrap()]);
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0).status();
    }
}
