// SPDX-License-Identifier: BSD-2-Clause
//! Lists by name the system calls of each kind of confined process: those that its work needs, and no others.
//!
//! Landlock does not check changes of modes, owners, times and attributes of files, or of limits and priorities of
//! other processes. Before its version 9 it does not check sockets in the file system either, and root's services do
//! what a process of root asks for. So every call that is not listed here is answered by ENOSYS, as an older kernel
//! would do. It never ends the process: a C library or a qemu-img that is newer than this list tries a new call, and
//! does without it. The lists were measured (strace) with Debian 12 and 13.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BackendError, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::{Kind, Tool};
use crate::node::sys::Filter;

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// A condition on an argument: its number, and the value that its lower 32 bits must have.
type Condition = (u8, SeccompCmpOp, u32);

/// The calls of the program itself: memory, time, its own signals, and files that it has open or opens, which Landlock
/// restricts.
const PROGRAM: [c_long; 89] = [
    libc::SYS_brk,
    libc::SYS_chdir,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_execve,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fchdir,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrusage,
    libc::SYS_getsid,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pselect6,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_times,
    libc::SYS_umask,
    libc::SYS_uname,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Older C libraries use these calls for the same purposes. Other architectures never had them.
#[cfg(target_arch = "x86_64")]
const PROGRAM_HERE: [c_long; 16] = [
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_getpgrp,
    libc::SYS_getrlimit,
    libc::SYS_lstat,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_time,
];

#[cfg(target_arch = "aarch64")]
const PROGRAM_HERE: [c_long; 0] = [];

/// riscv_hwprobe and riscv_flush_icache of asm/unistd.h, which the libc crate does not have.
#[cfg(target_arch = "riscv64")]
const PROGRAM_HERE: [c_long; 2] = [258, 259];

/// The calls that write to open files, for all processes except gpgv.
const WRITING: [c_long; 12] = [
    libc::SYS_copy_file_range,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_signalfd4,
    libc::SYS_sync_file_range,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
];

/// These calls make processes. Threads use clone.
#[cfg(target_arch = "x86_64")]
const PROCESSES: [c_long; 2] = [libc::SYS_fork, libc::SYS_vfork];

#[cfg(not(target_arch = "x86_64"))]
const PROCESSES: [c_long; 0] = [];

/// The number of cachestat(2), the same on all architectures, which the libc crate does not have for all of them.
const SYS_CACHESTAT: c_long = 451;

/// The additional calls of our worker: it makes files in memory, copies from pipes, locks, and confines the tools that
/// it starts.
const WORKER: [c_long; 15] = [
    SYS_CACHESTAT,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_flock,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_restrict_self,
    libc::SYS_memfd_create,
    libc::SYS_preadv2,
    libc::SYS_readahead,
    libc::SYS_recvfrom,
    libc::SYS_seccomp,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_tee,
];

/// The calls that make, rename and remove files in a folder of its own.
const FOLDER: [c_long; 4] = [libc::SYS_linkat, libc::SYS_mkdirat, libc::SYS_renameat2, libc::SYS_unlinkat];

#[cfg(target_arch = "x86_64")]
const FOLDER_HERE: [c_long; 6] =
    [libc::SYS_link, libc::SYS_mkdir, libc::SYS_rename, libc::SYS_renameat, libc::SYS_rmdir, libc::SYS_unlink];

#[cfg(target_arch = "aarch64")]
const FOLDER_HERE: [c_long; 1] = [libc::SYS_renameat];

#[cfg(target_arch = "riscv64")]
const FOLDER_HERE: [c_long; 0] = [];

/// `std` starts a process with such a pair of sockets. It stays connected, so that no message goes elsewhere, whatever
/// address the message has. A message through a pair of datagram sockets could go to any service.
const PAIR: [libc::c_int; 3] = [libc::AF_UNIX, libc::SOCK_SEQPACKET, 0];

/// The calls of a client of servers. Servers need others. The addresses are in memory, where no filter can look at
/// them, so [`SOCKETS`] says where they may lead.
const NETWORK: [c_long; 12] = [
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
];

/// SOCK_TYPE_MASK of linux/net.h. The other bits are flags.
const SOCKET_TYPE: u32 = 0xf;

/// The family, type and protocol of each allowed socket: TCP and UDP, and netlink for the node's own addresses and
/// routes, which getaddrinfo(3) reads. Sockets in the file system are not among them.
const SOCKETS: [[libc::c_int; 3]; 5] = [
    [libc::AF_INET, libc::SOCK_STREAM, 0],
    [libc::AF_INET, libc::SOCK_DGRAM, 0],
    [libc::AF_INET6, libc::SOCK_STREAM, 0],
    [libc::AF_INET6, libc::SOCK_DGRAM, 0],
    [libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE],
];

/// The allowed requests of ioctl(2). They ask for the size of a terminal or a block device, or write zeros to one.
/// Those that push input into a terminal (TIOCSTI, TIOCLINUX) or set attributes of files are not among them.
const REQUESTS: [u32; 22] = [
    // asm-generic/ioctls.h: TCGETS, TIOCGPGRP, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, TCGETS2
    0x5401,
    0x540f,
    0x5413,
    0x541b,
    0x5421,
    0x5450,
    0x5451,
    0x802c_542a,
    // linux/fs.h: BLKROGET, BLKGETSIZE, BLKSSZGET, BLKBSZGET, BLKGETSIZE64, BLKDISCARD, BLKIOMIN, BLKIOOPT, BLKALIGNOFF
    0x125e,
    0x1260,
    0x1268,
    0x8008_1270,
    0x8008_1272,
    0x1277,
    0x1278,
    0x1279,
    0x127a,
    // BLKPBSZGET, BLKZEROOUT, FS_IOC_FIEMAP; linux/hdreg.h: HDIO_GETGEO; of xfs: XFS_IOC_DIOINFO
    0x127b,
    0x127f,
    0xc020_660b,
    0x0301,
    0x800c_581e,
];

/// The allowed commands of fcntl(2). Those that let signals be sent to other processes (F_SETOWN, F_NOTIFY) are not
/// among them, and neither are those that set a lock. All processes that inherited a descriptor share the locks of the
/// open file, and each of them could give up the lock that the script holds on the disk.
const COMMANDS: [libc::c_int; 12] = [
    libc::F_DUPFD,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_GETLK,
    libc::F_OFD_GETLK,
    libc::F_DUPFD_CLOEXEC,
    libc::F_SETPIPE_SZ,
    libc::F_GETPIPE_SZ,
    libc::F_ADD_SEALS,
    libc::F_GET_SEALS,
];

/// The allowed options of prctl(2): the name and the timer slack of a thread, the question which capabilities there
/// are, and PR_SET_VMA of linux/prctl.h, with which a C library names its memory.
const OPTIONS: [libc::c_int; 4] = [libc::PR_SET_NAME, libc::PR_SET_TIMERSLACK, libc::PR_CAPBSET_READ, 0x5356_4d41];

/// The options with which our worker confines what it starts.
const WORKER_OPTIONS: [libc::c_int; 2] = [libc::PR_CAPBSET_DROP, libc::PR_SET_NO_NEW_PRIVS];

/// The flags of clone(2) that no process gets: namespaces, because a new user namespace would give every capability
/// inside it, and children of our parent.
const CLONE_FLAGS: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_PARENT;

/// Returns the filter for a process of this kind.
pub(super) fn filter(kind: Kind) -> io::Result<Filter> {
    compile(kind).map_err(io::Error::other)
}

fn compile(kind: Kind) -> Result<Filter, BackendError> {
    let mut rules = program()?;
    if kind != Kind::Tool(Tool::Gpgv) {
        allow(&mut rules, &WRITING);
    }
    if let Kind::Worker { network, folder } = kind {
        worker(&mut rules)?;
        if network {
            allow(&mut rules, &NETWORK);
            rules.insert(libc::SYS_socket, SOCKETS.map(socket).into_iter().collect::<Result<_, _>>()?);
        }
        if folder {
            allow(&mut rules, &FOLDER);
            allow(&mut rules, &FOLDER_HERE);
        }
    }
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    SeccompFilter::new(rules, absent, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// Returns the rules that every kind has.
fn program() -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    allow(&mut rules, &PROGRAM);
    allow(&mut rules, &PROGRAM_HERE);
    allow(&mut rules, &PROCESSES);
    // clone3 has its flags in memory, where no filter can look at them. C libraries use clone instead.
    rules.insert(libc::SYS_clone, vec![rule(&[(0, MaskedEq(CLONE_FLAGS.cast_unsigned().into()), 0)])?]);
    rules.insert(libc::SYS_ioctl, one_of(1, &REQUESTS)?);
    rules.insert(libc::SYS_fcntl, one_of(1, &COMMANDS.map(libc::c_int::cast_unsigned))?);
    let mut options = one_of(0, &OPTIONS.map(libc::c_int::cast_unsigned))?;
    // A process may make a child die with its parent, but never make it survive.
    let dies = libc::PR_SET_PDEATHSIG.cast_unsigned();
    options.push(rule(&[(0, Eq, dies), (1, Eq, libc::SIGKILL.cast_unsigned())])?);
    rules.insert(libc::SYS_prctl, options);
    // A process may set only its own limits, because it could end any other process with RLIMIT_CPU.
    rules.insert(libc::SYS_prlimit64, vec![rule(&[(0, Eq, 0)])?]);
    Ok(rules)
}

fn worker(rules: &mut Rules) -> Result<(), BackendError> {
    allow(rules, &WORKER);
    let options = one_of(0, &WORKER_OPTIONS.map(libc::c_int::cast_unsigned))?;
    rules.entry(libc::SYS_prctl).or_default().extend(options);
    rules.insert(libc::SYS_socketpair, vec![socket(PAIR)?]);
    // A lease tells whether anybody can write to an image (`nobody_can_write`).
    let leases = one_of(1, &[libc::F_SETLEASE, F_SETSIG].map(libc::c_int::cast_unsigned))?;
    rules.entry(libc::SYS_fcntl).or_default().extend(leases);
    Ok(())
}

/// F_SETSIG of linux/fcntl.h, which the libc crate does not have for all C libraries.
const F_SETSIG: libc::c_int = 10;

fn allow(rules: &mut Rules, calls: &[c_long]) {
    rules.extend(calls.iter().map(|call| (*call, Vec::new())));
}

fn socket([family, kind, protocol]: [libc::c_int; 3]) -> Result<SeccompRule, BackendError> {
    let kind = (1, MaskedEq(SOCKET_TYPE.into()), kind.cast_unsigned());
    rule(&[(0, Eq, family.cast_unsigned()), kind, (2, Eq, protocol.cast_unsigned())])
}

/// Returns the rules that allow each of these values of an argument.
fn one_of(argument: u8, values: &[u32]) -> Result<Vec<SeccompRule>, BackendError> {
    values.iter().map(|value| rule(&[(argument, Eq, *value)])).collect()
}

/// Returns the rule that a call has to meet all conditions.
fn rule(conditions: &[Condition]) -> Result<SeccompRule, BackendError> {
    let condition = |(argument, operator, value): &Condition| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operator.clone(), u64::from(*value))
    };
    SeccompRule::new(conditions.iter().map(condition).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::compile;
    use crate::node::sandbox::{Kind, Tool};

    /// The kernel takes 4096 instructions at most (BPF_MAXINSNS), and each call may walk through all of them.
    #[test]
    fn filters_are_short() {
        for kind in [Kind::Worker { network: true, folder: true }, Kind::Tool(Tool::QemuImg), Kind::Tool(Tool::Gpgv)] {
            let length = compile(kind).unwrap().len();
            assert!(length < 2048, "{kind:?}: {length}");
        }
    }
}
