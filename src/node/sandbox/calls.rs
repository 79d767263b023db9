// SPDX-License-Identifier: BSD-2-Clause
//! A filter of system calls that would lead around the other parts of a sandbox, and that no confined process needs. They
//! fail as on a kernel that does not have them.
//!
//! The filter refuses what is listed and allows the rest: a list of all calls that qemu-img, gpgv and the C library may ever
//! need would break with their next version. Most important are sockets: root's own services (systemd, D-Bus) do what a
//! process of root asks for, and Landlock does not restrict sockets in the file system before version 9.

use std::io;

use crate::node::sys::Filter;

/// Privileges of a process besides opening files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    /// IP sockets. Other sockets, such as those in the file system, are always refused.
    pub(super) network: bool,
    /// Signals to other processes.
    pub(super) signals: bool,
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
pub(super) use compile::filter;

/// seccompiler does not know the other architectures, so there is no filter.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
pub(super) fn filter(_reach: Reach) -> io::Result<Filter> {
    Ok(())
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
mod compile {
    use std::collections::BTreeMap;

    use seccompiler::{
        BackendError, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    };

    use super::{Filter, Reach, io};

    /// Always refused: io_uring, which makes refused calls in another way; access to other processes' memory and files;
    /// namespaces, because a new user namespace would give every capability inside of it; and large parts of the kernel
    /// that are known for security holes.
    const NEVER: [libc::c_long; 14] = [
        libc::SYS_add_key,
        libc::SYS_bpf,
        // A filter can't see its flags, which are in memory. C libraries fall back to clone.
        libc::SYS_clone3,
        libc::SYS_io_uring_setup,
        libc::SYS_keyctl,
        libc::SYS_perf_event_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_ptrace,
        libc::SYS_request_key,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_userfaultfd,
    ];

    /// A process of root may send signals to any other. Only a process that has children needs them.
    const SIGNALS: [libc::c_long; 6] = [
        libc::SYS_kill,
        libc::SYS_pidfd_send_signal,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_tgkill,
        libc::SYS_tkill,
    ];

    /// The families of sockets that a process with a network may open.
    const NETWORK: [libc::c_int; 3] = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

    /// The x32 ABI has the same calls, with this bit in their numbers.
    #[cfg(target_arch = "x86_64")]
    const X32: libc::c_long = 0x4000_0000;

    pub(in super::super) fn filter(reach: Reach) -> io::Result<Filter> {
        compile(reach).map_err(io::Error::other)
    }

    fn compile(reach: Reach) -> Result<Filter, BackendError> {
        let mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>> = NEVER.map(|call| (call, Vec::new())).into();
        if !reach.signals {
            rules.extend(SIGNALS.map(|call| (call, Vec::new())));
        }
        let new_user = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
        rules.insert(libc::SYS_clone, vec![first_argument([(SeccompCmpOp::MaskedEq(new_user), new_user)])?]);
        let other_families = NETWORK.map(|family| (SeccompCmpOp::Ne, u64::from(family.cast_unsigned())));
        let sockets = if reach.network { vec![first_argument(other_families)?] } else { Vec::new() };
        rules.insert(libc::SYS_socket, sockets);
        #[cfg(target_arch = "x86_64")]
        rules.append(&mut rules.iter().map(|(call, rules)| (call | X32, rules.clone())).collect());
        let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
        SeccompFilter::new(rules, SeccompAction::Allow, absent, std::env::consts::ARCH.try_into()?)?.try_into()
    }

    /// Matches a call whose first argument, an int, meets all conditions.
    fn first_argument(conditions: impl IntoIterator<Item = (SeccompCmpOp, u64)>) -> Result<SeccompRule, BackendError> {
        let condition = |(operator, value)| SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value);
        SeccompRule::new(conditions.into_iter().map(condition).collect::<Result<_, _>>()?)
    }
}
