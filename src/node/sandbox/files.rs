// SPDX-License-Identifier: BSD-2-Clause
//! Decides which files a process may open, by Landlock rulesets (landlock(7)), as far as the kernel supports them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    RulesetError, Scope, path_beneath_rules,
};

use crate::node::file::descriptor_path;

/// The newest version that this was tested with (Linux 6.15).
const TESTED: ABI = ABI::V7;

/// The parts of the system that a program needs on any distribution: itself, its libraries, the interpreter of a
/// script, and what qemu-img reads about processors and disks. They hold no secrets. Missing ones are left out.
const SYSTEM: [&str; 12] = [
    "/bin",
    "/dev/urandom",
    "/etc/ld.so.cache",
    "/lib",
    "/lib64",
    "/sys/dev/block",
    "/sys/devices",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/bin",
    "/usr/local/lib",
];

/// The files that may be opened. Files in memory may always be opened.
#[derive(Debug, Default)]
pub(super) struct Allowed<'a> {
    /// Folders in which everything may be read and executed.
    pub(super) read: Vec<PathBuf>,
    /// Folders in which everything is allowed.
    pub(super) own: Vec<PathBuf>,
    /// A file that may be read.
    pub(super) image: Option<&'a Path>,
    /// Files that may be read.
    pub(super) sources: &'a [&'a File],
    /// Files that may be read and written.
    pub(super) disks: &'a [&'a File],
}

/// Returns the folders of [`SYSTEM`], and those of a program that lies elsewhere: all of `/opt/qemu` for
/// `/opt/qemu/bin/qemu-img`.
pub(super) fn for_program(program: Option<&Path>) -> Vec<PathBuf> {
    let mut folders: Vec<_> = SYSTEM.iter().map(PathBuf::from).collect();
    if let Some(program) = program.and_then(|program| program.canonicalize().ok()) {
        let prefix = program.parent().filter(|folder| folder.ends_with("bin")).and_then(Path::parent);
        folders.extend(prefix.filter(|prefix| prefix.components().count() > 2).map(Path::to_owned));
        folders.push(program);
    }
    folders
}

/// Returns a ruleset that allows the given files and nothing else, or `None` on a kernel without Landlock.
pub(super) fn ruleset(allowed: &Allowed<'_>, network: bool) -> Result<Option<OwnedFd>, RulesetError> {
    let ruleset = Ruleset::default().handle_access(AccessFs::from_all(TESTED))?.scope(Scope::from_all(TESTED))?;
    // No process may be a server.
    let refused = if network { AccessNet::BindTcp.into() } else { AccessNet::from_all(TESTED) };
    let ruleset = ruleset.handle_access(refused)?;
    let Ok(ruleset) = ruleset.create() else { return Ok(None) };
    let read = AccessFs::from_read(TESTED);
    let ruleset = ruleset.add_rules(path_beneath_rules(&allowed.read, read))?;
    let ruleset = ruleset.add_rules(path_beneath_rules(&allowed.own, AccessFs::from_all(TESTED)))?;
    // The size of a device is read with an ioctl.
    let source = AccessFs::ReadFile | AccessFs::IoctlDev;
    let ruleset = ruleset.add_rules(path_beneath_rules(allowed.image, source))?;
    let ruleset = open_files(ruleset, allowed.sources, source)?;
    let ruleset = ruleset.add_rules(path_beneath_rules(["/dev/null"], AccessFs::ReadFile | AccessFs::WriteFile))?;
    open_files(ruleset, allowed.disks, source | AccessFs::WriteFile).map(Into::into)
}

fn open_files(
    ruleset: RulesetCreated,
    files: &[&File],
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let files = files.iter().filter(|file| !is_memfd(file));
    ruleset.add_rules(files.map(|file| Ok::<_, RulesetError>(PathBeneath::new(*file, access))))
}

/// Returns whether this is a file in memory (memfd_create(2)). The kernel accepts no rule for such a file, and always
/// allows it.
fn is_memfd(file: &File) -> bool {
    let name = std::fs::read_link(descriptor_path(file));
    name.is_ok_and(|name| name.as_os_str().as_bytes().starts_with(b"/memfd:"))
}

#[cfg(test)]
mod tests {
    use super::for_program;
    use std::fs;
    use std::path::Path;

    #[test]
    fn a_program_of_its_own_prefix_gets_that_prefix_and_never_all() {
        let base = tempfile::tempdir().unwrap();
        let bin = base.path().join("qemu/bin");
        fs::create_dir_all(&bin).unwrap();
        let program = bin.join("qemu-img");
        fs::write(&program, "").unwrap();
        let folders = for_program(Some(&program));
        assert!(folders.contains(&base.path().join("qemu")) && folders.contains(&program));
        for path in ["/usr/bin/env", "/bin/sh"] {
            let folders = for_program(Some(Path::new(path)));
            assert!(!folders.iter().any(|folder| folder == Path::new("/") || folder == Path::new("/usr")), "{path}");
        }
    }
}
