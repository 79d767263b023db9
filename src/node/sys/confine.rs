// SPDX-License-Identifier: BSD-2-Clause
//! Makes a process give up its privileges. Everything is prepared before, because nothing may allocate between fork and
//! exec.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A compiled seccomp filter.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
pub(crate) type Filter = seccompiler::BpfProgram;

/// seccompiler does not support other architectures.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
pub(crate) type Filter = ();

/// A set of capabilities. Each is a bit at its number in linux/capability.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Capabilities(pub(crate) u64);

impl Capabilities {
    pub(crate) const NONE: Self = Capabilities(0);
    /// CAP_DAC_OVERRIDE allows to read and write files of others.
    pub(crate) const DAC_OVERRIDE: Self = Capabilities(1 << 1);
    /// CAP_DAC_READ_SEARCH allows to read files of others.
    pub(crate) const DAC_READ_SEARCH: Self = Capabilities(1 << 2);

    pub(crate) const fn and(self, other: Self) -> Self {
        Capabilities(self.0 | other.0)
    }

    fn words(self) -> [u32; 2] {
        let [a, b, c, d, e, f, g, h] = self.0.to_le_bytes();
        [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
    }
}

/// The privileges that a process keeps.
#[derive(Debug)]
pub(crate) struct Confinement {
    /// Resource limits, in the unit of each. Each value is the soft and the hard limit.
    pub(crate) limits: Vec<(Resource, u64)>,
    /// The capabilities that the process keeps if it has them, also after an exec.
    pub(crate) keep: Capabilities,
    /// A Landlock ruleset, or `None` on a kernel without Landlock.
    pub(crate) files: Option<OwnedFd>,
    pub(crate) calls: Filter,
}

/// `struct __user_cap_header_struct` and two `struct __user_cap_data_struct` of linux/capability.h.
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// _LINUX_CAPABILITY_VERSION_3, which has 64 capabilities.
const CAP_VERSION: u32 = 0x2008_0522;

/// A number above that of every capability. The loop ends at the first unknown one.
const CAP_COUNT: libc::c_ulong = 64;

/// Confines the calling thread for ever, and everything that it starts. This is async-signal-safe: it only makes system
/// calls and allocates nothing.
pub(crate) fn confine(to: &Confinement) -> io::Result<()> {
    leave_terminal();
    // Shared memory and message queues of System V belong to root's other processes. If this process has no right to
    // leave them, only the filter protects them.
    let _ = unshare(CloneFlags::CLONE_NEWIPC);
    for (resource, value) in &to.limits {
        lower_limit(*resource, *value)?;
    }
    keep_capabilities(to.keep)?;
    // SAFETY: plain values.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
    if let Some(ruleset) = &to.files {
        // SAFETY: the descriptor is open for the call, which takes values only.
        check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })?;
    }
    filter_calls(&to.calls)
}

/// Makes the child of `command` confine itself before it runs the program.
pub(crate) fn confine_child(command: &mut Command, to: Confinement) {
    // SAFETY: confine only makes system calls, and allocates nothing.
    unsafe { command.pre_exec(move || confine(&to)) };
}

/// Puts the calling thread under `filter`. On a kernel without seccomp (ENOSYS or EINVAL) there is no filter.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
fn filter_calls(filter: &Filter) -> io::Result<()> {
    match seccompiler::apply_filter(filter) {
        Ok(()) | Err(seccompiler::Error::EmptyFilter) => Ok(()),
        Err(seccompiler::Error::Seccomp(err)) if matches!(err.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {
            Ok(())
        }
        Err(seccompiler::Error::Seccomp(err) | seccompiler::Error::Prctl(err)) => Err(err),
        // The other errors can't come from this kind of filter.
        Err(_) => Err(Errno::EINVAL.into()),
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
fn filter_calls((): &Filter) -> io::Result<()> {
    Ok(())
}

/// Gives up the controlling terminal, because a process that has it may push input into it (TIOCSTI) and take it over.
/// The leader of a session keeps it, because its other processes would be sent SIGHUP. The filter protects the terminal
/// there.
fn leave_terminal() {
    // SAFETY: system calls on plain values, on a string that ends with a zero, and on a descriptor that is open for
    // them.
    unsafe {
        if libc::getsid(0) == libc::getpid() {
            return;
        }
        let terminal = libc::open(c"/dev/tty".as_ptr(), libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        if terminal >= 0 {
            libc::ioctl(terminal, libc::TIOCNOTTY);
            libc::close(terminal);
        }
    }
}

/// Sets the soft and the hard limit, but never raises one.
pub(crate) fn lower_limit(resource: Resource, value: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    let value = value.min(hard);
    Ok(setrlimit(resource, value, value)?)
}

/// Gives up all capabilities except `keep`, in every set. An exec of root would give back what is in the bounding set,
/// so that is emptied. `keep` survives an exec as inheritable, which has to be set before the bounding set is empty.
fn keep_capabilities(keep: Capabilities) -> io::Result<()> {
    let mut had = [CapData::default(); 2];
    let mut header = CapHeader { version: CAP_VERSION, pid: 0 };
    // SAFETY: the kernel reads the header and writes two structures to the second pointer.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, had.as_mut_ptr()) })?;
    let mut last = [CapData::default(); 2];
    for (index, wanted) in keep.words().into_iter().enumerate() {
        let kept = wanted & had[index].permitted;
        had[index].inheritable = kept & (had[index].inheritable | had[index].permitted);
        last[index] = CapData { effective: kept, permitted: kept, inheritable: had[index].inheritable };
    }
    set_capabilities(&had)?;
    for capability in 0..CAP_COUNT {
        // SAFETY: plain values.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            match Errno::last() {
                // EINVAL means that there is no such capability, so all are done. EPERM means that we may not change
                // the bounding set. Then the permitted set, which follows, is what counts: after no_new_privs no exec
                // can add to it.
                Errno::EINVAL | Errno::EPERM => break,
                err => return Err(err.into()),
            }
        }
    }
    set_capabilities(&last)
}

fn set_capabilities(data: &[CapData; 2]) -> io::Result<()> {
    let mut header = CapHeader { version: CAP_VERSION, pid: 0 };
    // SAFETY: the kernel reads the header and two structures.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::Capabilities;

    #[test]
    fn capabilities_are_two_words() {
        let all = Capabilities::DAC_OVERRIDE.and(Capabilities::DAC_READ_SEARCH).and(Capabilities(1 << 40));
        assert_eq!(all.words(), [6, 1 << 8]);
    }
}
