// SPDX-License-Identifier: BSD-2-Clause
//! System calls that lead around the other walls, and that nobody in a sandbox needs: a kernel with this filter says
//! that it does not have them.
//!
//! It refuses what is listed and lets the rest pass: a list of all that qemu-img, gpgv and the C library may ever need
//! would break with their next version. Above all it refuses sockets: root's own services (systemd, D-Bus) do what a
//! process of root asks for, and Landlock does not look at sockets in the file system before version 9.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::node::sys::Filter;

/// What nobody gets: io_uring, which makes the refused calls under another name; other processes' memory and files;
/// namespaces, a new user namespace would give every capability inside it; and large parts of the kernel that are known
/// for their holes.
const NEVER: [libc::c_long; 14] = [
    libc::SYS_add_key,
    libc::SYS_bpf,
    // Its flags are in memory, where no filter can look at them; C libraries fall back to clone.
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

/// Signals: any process of root may send them to any other. Only who has no children is without them.
const SIGNALS: [libc::c_long; 6] = [
    libc::SYS_kill,
    libc::SYS_pidfd_send_signal,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_tgkill,
    libc::SYS_tkill,
];

/// Where a socket may lead.
const NETWORK: [libc::c_int; 3] = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// What a process may do beyond its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    /// IP sockets. Others, those in the file system among them, nobody gets.
    pub(super) network: bool,
    /// Signals to other processes.
    pub(super) signals: bool,
}

/// The filter for a process of this reach.
pub(super) fn filter(reach: Reach) -> io::Result<Filter> {
    compile(reach).map_err(io::Error::other)
}

fn compile(reach: Reach) -> Result<Filter, BackendError> {
    let mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>> = NEVER.map(|call| (call, Vec::new())).into();
    if !reach.signals {
        rules.extend(SIGNALS.map(|call| (call, Vec::new())));
    }
    let new_user = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
    rules.insert(libc::SYS_clone, vec![first_argument([(SeccompCmpOp::MaskedEq(new_user), new_user)])?]);
    let elsewhere = NETWORK.map(|family| (SeccompCmpOp::Ne, u64::from(family.cast_unsigned())));
    let sockets = if reach.network { vec![first_argument(elsewhere)?] } else { Vec::new() };
    rules.insert(libc::SYS_socket, sockets);
    #[cfg(target_arch = "x86_64")]
    rules.append(&mut rules.iter().map(|(call, rules)| (call | X32, rules.clone())).collect());
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, absent, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// The x32 ABI has the same calls under numbers of its own.
#[cfg(target_arch = "x86_64")]
const X32: libc::c_long = 0x4000_0000;

/// A call of which the first argument, an int, meets all conditions.
fn first_argument(conditions: impl IntoIterator<Item = (SeccompCmpOp, u64)>) -> Result<SeccompRule, BackendError> {
    let condition = |(operator, value)| SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value);
    SeccompRule::new(conditions.into_iter().map(condition).collect::<Result<_, _>>()?)
}
