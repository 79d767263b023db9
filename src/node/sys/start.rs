// SPDX-License-Identifier: BSD-2-Clause
//! How processes start, and what they inherit of this one.

use std::fs::File;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{ForkResult, Pid};

/// The kernel's signals: _NSIG of linux/signal.h.
const SIGNALS: std::ops::RangeInclusive<libc::c_int> = 1..=64;

/// The exit code of a copy of this process whose work panicked, or that could not begin with it.
const DIED: i32 = 101;

/// Starts `command`, with no signal blocked and the default effect of all. All children that become another program
/// start here: both are inherited over an exec, the signals that are ignored and the mask, from us and from whoever
/// started us. With SIGTERM blocked a hook's `timeout` ends nothing.
pub(crate) fn start(command: &mut Command) -> io::Result<Child> {
    // SAFETY: the closure only makes async-signal-safe calls and does not allocate.
    unsafe {
        command.pre_exec(|| {
            default_library_signals();
            default_signals().map_err(io::Error::from)
        })
    };
    command.spawn()
}

/// Gives the C library's own two signals their default effect, which it lets nobody do: whoever started us may have them
/// ignored. Only right before an exec, for what it has set up itself goes too.
fn default_library_signals() {
    // struct sigaction of the kernel: SIG_DFL, no flags, no mask. It has 32 bytes at most.
    let action = [0_u64; 4];
    for signal in [32, 33] {
        // SAFETY: the kernel only reads `action`; async-signal-safe.
        unsafe {
            let none = std::ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), none, size_of::<u64>());
        }
    }
}

/// Gives every signal its default effect, and blocks none.
fn default_signals() -> nix::Result<()> {
    for signal in SIGNALS {
        // EINVAL for SIGKILL and SIGSTOP, and for two that the C library keeps to itself.
        // SAFETY: no handler is set; async-signal-safe.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// What this program itself needs of signals, whoever started it. A write beyond the limit of file sizes (RLIMIT_FSIZE)
/// fails with EFBIG, and one to a pipe that nobody reads with EPIPE (as `std` has it from the start on), instead of ending
/// it. And children wait to be reaped, which they don't where SIGCHLD is ignored.
pub(crate) fn set_own_signals() {
    let wanted = [(libc::SIGXFSZ, libc::SIG_IGN), (libc::SIGPIPE, libc::SIG_IGN), (libc::SIGCHLD, libc::SIG_DFL)];
    for (signal, effect) in wanted {
        // SAFETY: no handler is set.
        unsafe { libc::signal(signal, effect) };
    }
}

/// Runs `work` in a copy of this process, in a process group of its own, which dies with the calling thread. Its exit
/// code is what `work` gives, or 101 for a panic; no destructor of the copied frames runs. Signals have their default
/// effect in it, less those that [`set_own_signals`] names.
///
/// Of the other threads only what they did to memory is copied, so none of them may hold a lock that `work` takes:
/// the caller sees to that. The allocator's own locks are the C library's business, which holds them over a fork.
pub(crate) fn fork(work: impl FnOnce() -> i32) -> io::Result<Pid> {
    let parent = std::process::id();
    let begin = move || {
        default_signals()?;
        set_own_signals();
        die_with(parent)
    };
    // SAFETY: no lock that the child needs is held by another thread, as said above.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(lead_group(child)),
        ForkResult::Child => run_copy(begin, work),
    }
}

/// As [`fork`], but the copy is the first process of a new PID namespace, in a mount namespace of its own: when it has
/// ended, so have all that were started in there, and what they mounted is unmounted. Nobody gets out of it.
///
/// All signals but `waited_for` have their default effect, which for such a process is none, SIGKILL and SIGSTOP aside;
/// these are blocked, and when the calling thread is gone the copy is sent `orphaned`. To this end the pipe that is given
/// back has to be open as long: the copy sees no parent, and so looks at that.
pub(crate) fn fork_namespace(
    waited_for: SigSet,
    orphaned: Signal,
    work: impl FnOnce() -> i32,
) -> io::Result<(Pid, PipeWriter)> {
    let own = File::open("/proc/thread-self/ns/pid")?;
    let (watch, alive) = io::pipe()?;
    unshare(CloneFlags::CLONE_NEWPID)?;
    // SAFETY: no lock that the child needs is held by another thread, as said for `fork`.
    let forked = unsafe { nix::unistd::fork() };
    if let Ok(ForkResult::Child) = forked {
        drop(alive);
        let begin = move || {
            default_signals()?;
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&waited_for), None)?;
            set_own_signals();
            nix::sys::prctl::set_pdeathsig(orphaned)?;
            // The parent may have died before that call took effect.
            if is_closed(watch.as_fd())? { Err(Errno::ESRCH.into()) } else { Ok(()) }
        };
        run_copy(begin, work);
    }
    // What this thread starts from now on is no business of that namespace.
    let back = setns(own, CloneFlags::CLONE_NEWPID);
    let ForkResult::Parent { child } = forked? else { return Err(Errno::EINVAL.into()) };
    if let Err(err) = back {
        let _ = nix::sys::signal::kill(child, Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(child, None);
        return Err(err.into());
    }
    Ok((lead_group(child), alive))
}

/// The child does the same; whoever comes first. It may have ended already.
fn lead_group(child: Pid) -> Pid {
    let _ = nix::unistd::setpgid(child, child);
    child
}

fn run_copy(begin: impl FnOnce() -> io::Result<()>, work: impl FnOnce() -> i32) -> ! {
    let run = || {
        let ready = nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(io::Error::from);
        if ready.and_then(|()| begin()).is_ok() { work() } else { DIED }
    };
    super::exit_now(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or(DIED))
}

/// Whether nobody has the other end of a pipe.
fn is_closed(pipe: BorrowedFd<'_>) -> nix::Result<bool> {
    let mut polled = [PollFd::new(pipe, PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO)?;
    Ok(polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)))
}

/// Has the calling process die with the thread that started it, in process `parent`. Async-signal-safe.
fn die_with(parent: u32) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died before the call took effect.
    if u32::try_from(nix::unistd::getppid().as_raw()).ok() != Some(parent) {
        super::exit_now(127);
    }
    Ok(())
}

/// Makes the child of `command` die with the calling thread (PR_SET_PDEATHSIG, SIGKILL), so that not even SIGKILL of
/// this process leaves it behind. The thread that starts the child must outlive it.
pub(crate) fn tie_child(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: the closure only makes async-signal-safe calls and does not allocate.
    unsafe { command.pre_exec(move || die_with(parent)) };
}

/// Lets the child of `command` inherit `keep` under the same numbers.
pub(crate) fn keep_open(command: &mut Command, keep: &[BorrowedFd<'_>]) {
    let keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    let setup = move || {
        for fd in &keep {
            // SAFETY: a plain system call on values, async-signal-safe, between fork and exec.
            if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure only makes async-signal-safe calls and does not allocate.
    unsafe { command.pre_exec(setup) };
}
