// SPDX-License-Identifier: BSD-2-Clause
//! Sandboxes. A process that handles bytes from an attacker can do what it needs for that, and nothing else.
//!
//! Two kinds of processes are confined: tools that read an image (qemu-img, gpgv), and our own worker, which fetches,
//! decodes and writes. They have no capabilities, except for opening files that do not belong to root; they gain none
//! by an exec; they dump no core. Landlock restricts the files that they open, and a seccomp filter allows the system
//! calls that their work needs. On a kernel without Landlock or seccomp, the rest still holds.
//!
//! The tools do not run as another user. They open `/proc/self/fd/N` again, and root's disk can only be opened by root
//! and by its group `disk`, which can open every other disk too. Everything is prepared before the fork. It adds 0.3 ms
//! to the start of a tool. docs/security.md says what each process may do, and what that protects from.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
mod calls;
mod files;

/// seccompiler does not know the other architectures, so there is no filter.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
mod calls {
    pub(super) fn filter(_kind: super::Kind) -> std::io::Result<crate::node::sys::Filter> {
        Ok(())
    }
}

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::resource::Resource;
use nix::sys::stat::{Mode, umask};

use crate::node::size::MIB;
use crate::node::sys::{self, Capabilities, Confinement};

use files::Allowed;

/// Ganeti's node daemon also runs scripts with this umask. run-parts sets 022 for hooks.
const UMASK: Mode = Mode::from_bits_truncate(0o077);

/// The limit of the private memory of a tool, in bytes. qemu-img 10.0 was measured with clusters of 512 bytes to 2 MiB,
/// compressed or not: it needs at most 280 MiB, of which 8 MiB are the stack of each of 20 threads. It has at most 70
/// threads. RLIMIT_DATA counts that memory. RLIMIT_AS would also count what the C library reserves for each thread,
/// which depends on the number of processors.
const TOOL_MEMORY: u64 = 2048 * MIB;

/// The largest number of open files of a tool. It needs about 20.
const TOOL_FILES: u64 = 256;

/// The limit of the processor time of every tool in seconds, and the number of bytes that add one second. Clusters of
/// 512 bytes, the slowest ones, were measured to need 0.007 s for 1 MiB. The limit is there to end endless loops.
const TOOL_SECONDS: u64 = 600;
const TOOL_BYTES_PER_SECOND: u64 = MIB;

/// Makes this process independent of how it was called. It gets a fixed umask, errors instead of signals from writes,
/// and no core dumps, which would contain secrets. `main` has to call this at its start.
pub fn harden_process() -> io::Result<()> {
    umask(UMASK);
    sys::set_own_signals();
    sys::lower_limit(Resource::RLIMIT_CORE, 0)?;
    // The limit does not hold for a program that takes dumps through a pipe (core_pattern).
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// A program that reads an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// qemu-img writes to open files.
    QemuImg,
    /// gpgv only reads.
    Gpgv,
}

/// The kinds of confined processes, which differ in their system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Our own worker.
    Worker {
        /// Whether the worker is a client of servers.
        network: bool,
        /// Whether the worker makes, renames and removes files.
        folder: bool,
    },
    Tool(Tool),
}

/// The files and limits of a tool. The tool opens the files again, under `/proc/self/fd`.
#[derive(Debug, Clone, Copy)]
pub struct ToolAccess<'a> {
    /// The tool.
    pub tool: Tool,
    /// The files that the tool reads.
    pub sources: &'a [&'a File],
    /// The disks that the process writes.
    pub disks: &'a [&'a File],
    /// The size in bytes to which the tool may extend a file. Block devices have no such limit.
    pub file_size: u64,
    /// About how many bytes the tool has to process.
    pub bytes: u64,
}

/// The files and servers that our worker may use.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorkerAccess<'a> {
    /// The image, if it is a file or device of the node.
    pub image: Option<&'a Path>,
    /// The disks that the process writes.
    pub disks: &'a [&'a File],
    /// A folder in which the worker may do anything.
    pub folder: Option<&'a Path>,
    /// Whether the worker may open IP sockets.
    pub network: bool,
    /// The private memory that it may have, in bytes (RLIMIT_DATA). `None` for as much as a tool may have, because a worker
    /// can't give its qemu-img more than it has itself. All decoders together need less.
    pub memory: Option<u64>,
}

/// Everything that a process will be confined to.
#[derive(Debug)]
#[must_use = "nothing is confined yet"]
pub struct Sandbox(Confinement);

impl Sandbox {
    /// Prepares the sandbox for `tool`. If the tool gets another PATH than ours, that has to be set already.
    pub fn for_tool(tool: &Command, access: ToolAccess<'_>) -> io::Result<Self> {
        let program = find(tool);
        let read = files::for_program(program.as_deref());
        let allowed = Allowed { read, sources: access.sources, disks: access.disks, ..Allowed::default() };
        let seconds = TOOL_SECONDS + access.bytes / TOOL_BYTES_PER_SECOND;
        let limits = vec![
            (Resource::RLIMIT_CORE, 0),
            (Resource::RLIMIT_CPU, seconds),
            (Resource::RLIMIT_DATA, TOOL_MEMORY),
            (Resource::RLIMIT_FSIZE, access.file_size),
            (Resource::RLIMIT_NOFILE, TOOL_FILES),
        ];
        let keep = for_files(access.sources, false).and(for_files(access.disks, true));
        Self::new(limits, keep, &allowed, Kind::Tool(access.tool))
    }

    /// Prepares the sandbox for this process itself. It may read everything that root may read: certificates, name
    /// services, programs.
    pub fn for_worker(access: WorkerAccess<'_>) -> io::Result<Self> {
        let read = vec![PathBuf::from("/")];
        let own = access.folder.map(Path::to_owned).into_iter().collect();
        let allowed = Allowed { read, own, image: access.image, disks: access.disks, ..Allowed::default() };
        // An image on the node may belong to any user.
        let keep = Capabilities::DAC_READ_SEARCH.and(for_files(access.disks, true));
        let kind = Kind::Worker { network: access.network, folder: access.folder.is_some() };
        let limits = vec![(Resource::RLIMIT_DATA, access.memory.unwrap_or(TOOL_MEMORY))];
        Self::new(limits, keep, &allowed, kind)
    }

    fn new(limits: Vec<(Resource, u64)>, keep: Capabilities, allowed: &Allowed<'_>, kind: Kind) -> io::Result<Self> {
        let network = matches!(kind, Kind::Worker { network: true, .. });
        let files = files::ruleset(allowed, network).map_err(io::Error::other)?;
        Ok(Sandbox(Confinement { limits, keep, files, calls: calls::filter(kind)? }))
    }

    /// Returns whether the kernel has Landlock.
    pub(crate) fn has_landlock(&self) -> bool {
        self.0.files.is_some()
    }

    /// Makes `tool` run in the sandbox.
    pub fn confine(self, tool: &mut Command) {
        sys::confine_child(tool, self.0);
    }

    /// Confines the calling thread, and all threads and processes that it starts, for ever.
    pub fn enter(self) -> io::Result<()> {
        sys::confine(&self.0)
    }
}

/// Returns the capability to open the files again. Root needs none for its own files.
fn for_files(files: &[&File], write: bool) -> Capabilities {
    let mode = if write { 0o600 } else { 0o400 };
    let is_roots = |file: &&File| file.metadata().is_ok_and(|data| data.uid() == 0 && data.mode() & mode == mode);
    match (files.iter().all(is_roots), write) {
        (true, _) => Capabilities::NONE,
        (false, true) => Capabilities::DAC_OVERRIDE,
        (false, false) => Capabilities::DAC_READ_SEARCH,
    }
}

/// Returns the path of the command's program, found as `exec` finds it.
fn find(command: &Command) -> Option<PathBuf> {
    let program = Path::new(command.get_program());
    if program.components().count() > 1 {
        return Some(program.to_owned());
    }
    let own = command.get_envs().find(|(name, _)| *name == OsStr::new("PATH"));
    let path = match own {
        Some((_, value)) => value.map(OsStr::to_owned),
        None => std::env::var_os("PATH"),
    }?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::{Sandbox, Tool, ToolAccess, WorkerAccess, find};
    use std::path::Path;
    use std::process::Command;

    #[test]
    fn a_program_is_found_where_exec_finds_it() {
        let mut command = Command::new("sh");
        command.env("PATH", "/nonexistent:/bin");
        assert_eq!(find(&command).as_deref(), Some(Path::new("/bin/sh")));
        command.env("PATH", "/nonexistent");
        assert_eq!(find(&command), None);
        assert_eq!(find(&Command::new("/x/y")).as_deref(), Some(Path::new("/x/y")));
    }

    #[test]
    fn a_tool_reads_its_source_and_nothing_else() {
        let (source, other) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let script = r#"cat "$1" || echo refused; echo x >"$1" && echo written
            cat "$0" && echo read; echo x >"$0" && echo written; ulimit -f; ulimit -n; ulimit -c"#;
        let mut command = Command::new("sh");
        command.args(["-c", script]).args([other.path(), source.path()]);
        let work =
            ToolAccess { tool: Tool::QemuImg, sources: &[source.as_file()], disks: &[], file_size: 1024, bytes: 0 };
        let sandbox = Sandbox::for_tool(&command, work).unwrap();
        assert!(sandbox.has_landlock(), "this test needs a kernel with Landlock");
        sandbox.confine(&mut command);
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "2\n256\n0\n", "{output:?}");
    }

    #[test]
    fn a_worker_is_prepared_without_any_need() {
        assert!(Sandbox::for_worker(WorkerAccess::default()).is_ok());
    }
}
