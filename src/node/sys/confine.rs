// SPDX-License-Identifier: BSD-2-Clause
//! A process gives up what it does not need. All of it was prepared before: between fork and exec nothing may allocate.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Capabilities, as bits by their numbers in linux/capability.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Capabilities(pub(crate) u64);

impl Capabilities {
    /// None at all.
    pub(crate) const NONE: Self = Capabilities(0);
    /// CAP_DAC_OVERRIDE: read and write what belongs to others.
    pub(crate) const DAC_OVERRIDE: Self = Capabilities(1 << 1);
    /// CAP_DAC_READ_SEARCH: read what belongs to others.
    pub(crate) const DAC_READ_SEARCH: Self = Capabilities(1 << 2);

    /// Both.
    pub(crate) const fn and(self, other: Self) -> Self {
        Capabilities(self.0 | other.0)
    }

    fn words(self) -> [u32; 2] {
        let [a, b, c, d, e, f, g, h] = self.0.to_le_bytes();
        [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
    }
}

/// What is left to a process.
#[derive(Debug)]
pub(crate) struct Confinement {
    /// Resource limits, in each one's unit: soft and hard.
    pub(crate) limits: Vec<(Resource, u64)>,
    /// The capabilities that it keeps, as far as it has them, over an exec too.
    pub(crate) keep: Capabilities,
    /// A Landlock ruleset; none on a kernel without it.
    pub(crate) files: Option<OwnedFd>,
    /// A seccomp filter; empty where there is none.
    pub(crate) calls: super::Filter,
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

/// _LINUX_CAPABILITY_VERSION_3: 64 capabilities.
const CAP_VERSION: u32 = 0x2008_0522;

/// More than any kernel has; the first unknown one ends the walk.
const CAP_COUNT: libc::c_ulong = 64;

/// Confines the calling thread, and all that it starts, for ever. Async-signal-safe: system calls on what is there.
pub(crate) fn confine(to: &Confinement) -> io::Result<()> {
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
    super::filter_calls(&to.calls)
}

/// Sets both limits, but never raises one.
pub(crate) fn lower_limit(resource: Resource, value: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    let value = value.min(hard);
    Ok(setrlimit(resource, value, value)?)
}

/// Gives up all capabilities but `keep`, in every set. What an exec of root would give back is taken from the bounding
/// set; `keep` comes over it as inheritable, which has to be set before the bounding set is empty.
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
                // No such capability: that was the last one. Or not allowed to: what is permitted, below, is what
                // counts then, as no exec can add to it after no_new_privs.
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
