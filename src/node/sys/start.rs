// SPDX-License-Identifier: BSD-2-Clause
//! Starts processes, and decides what they inherit from this one.

use std::fs::File;
use std::io::{self, PipeWriter, Read as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{ForkResult, Pid};

/// The signals of the kernel (_NSIG of linux/signal.h).
const SIGNALS: std::ops::RangeInclusive<libc::c_int> = 1..=64;

/// The exit code of a forked copy whose work panicked or could not begin.
const DIED: i32 = 101;

/// Starts `command` with no signal blocked and with the default effect of all signals. All children that become another
/// program are started here, because an exec keeps the signal mask and the ignored signals of this process, and of the
/// process that started it. With SIGTERM blocked, the `timeout` of a hook would end nothing.
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

/// Gives the two signals of the C library their default effect, because the process that started us may have ignored
/// them. The library does not allow that, so this is a system call. It also removes the handlers of the library, so it
/// is right only just before an exec.
fn default_library_signals() {
    // This is the kernel's struct sigaction of at most 32 bytes, with SIG_DFL, no flags and no mask.
    let action = [0_u64; 4];
    for signal in [32, 33] {
        // SAFETY: the kernel only reads `action`; async-signal-safe.
        unsafe {
            let none = std::ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), none, size_of::<u64>());
        }
    }
}

/// Gives every signal its default effect and blocks none.
fn default_signals() -> nix::Result<()> {
    for signal in SIGNALS {
        // This fails with EINVAL for SIGKILL and SIGSTOP, and for the two signals of the C library.
        // SAFETY: no handler is set; async-signal-safe.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Sets the effects of signals that this program needs, whatever the process that started it has set. A write beyond
/// the limit of file sizes (RLIMIT_FSIZE) fails with EFBIG, and a write to a pipe that nobody reads fails with EPIPE
/// (which `std` sets too), instead of ending the process. Children wait to be reaped, which they do not if SIGCHLD is
/// ignored.
pub(crate) fn set_own_signals() {
    let wanted = [(libc::SIGXFSZ, libc::SIG_IGN), (libc::SIGPIPE, libc::SIG_IGN), (libc::SIGCHLD, libc::SIG_DFL)];
    for (signal, effect) in wanted {
        // SAFETY: no handler is set.
        unsafe { libc::signal(signal, effect) };
    }
}

/// Runs `work` in a forked copy of this process, which is killed when the calling thread ends. The copy leads a session
/// of its own, and so a process group. Such a session has no terminal, into which the copy could push input. The exit
/// code is the result of `work`, or 101 for a panic. No destructor of the copied frames runs. Signals have their
/// default effect, except those that [`set_own_signals`] sets.
///
/// The other threads are not copied, but only the memory as they left it. So the caller has to ensure that no other
/// thread holds a lock that `work` takes. The C library itself handles the locks of the allocator.
pub(crate) fn fork(work: impl FnOnce() -> i32) -> io::Result<Pid> {
    let parent = std::process::id();
    let (mut started, starts) = io::pipe()?;
    let begin = move || {
        nix::unistd::setsid()?;
        drop(starts);
        default_signals()?;
        set_own_signals();
        die_with(parent)
    };
    // SAFETY: no lock that the child needs is held by another thread, as said above.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => {
            drop(begin);
            // The copy closes the pipe when its group exists. Before that, nobody could end it by its group.
            let _ = started.read(&mut [0]);
            Ok(child)
        }
        ForkResult::Child => run_copy(begin, work),
    }
}

/// Does what [`fork`] does, but the copy is the first process of a new PID namespace. When it ends, all processes in
/// the namespace are killed, and no process can leave it.
///
/// The signals `waited_for` are blocked. All others have their default effect, which for such a process is none, except
/// for SIGKILL and SIGSTOP. When the calling thread ends, the copy gets the signal `orphaned`. The caller has to keep
/// the returned pipe open until then, because the copy can't see its parent and looks at the pipe instead.
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
            nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
            default_signals()?;
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&waited_for), None)?;
            set_own_signals();
            nix::sys::prctl::set_pdeathsig(orphaned)?;
            // The parent may have died before that call took effect.
            if is_closed(watch.as_fd())? { Err(Errno::ESRCH.into()) } else { Ok(()) }
        };
        run_copy(begin, work);
    }
    // The processes that this thread starts from now on belong to the old namespace again.
    let back = setns(own, CloneFlags::CLONE_NEWPID);
    let ForkResult::Parent { child } = forked? else { return Err(Errno::EINVAL.into()) };
    if let Err(err) = back {
        let _ = nix::sys::signal::kill(child, Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(child, None);
        return Err(err.into());
    }
    Ok((lead_group(child), alive))
}

/// Makes the child a group leader. The child does so too, because it is not known which of the two is first. The child
/// may have ended already.
fn lead_group(child: Pid) -> Pid {
    let _ = nix::unistd::setpgid(child, child);
    child
}

fn run_copy(begin: impl FnOnce() -> io::Result<()>, work: impl FnOnce() -> i32) -> ! {
    let run = || if begin().is_ok() { work() } else { DIED };
    super::exit_now(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or(DIED))
}

/// Returns whether the other end of a pipe is closed.
fn is_closed(pipe: BorrowedFd<'_>) -> nix::Result<bool> {
    let mut polled = [PollFd::new(pipe, PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO)?;
    Ok(polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)))
}

/// Makes the calling process die with the thread that started it, in process `parent`. This is async-signal-safe.
fn die_with(parent: u32) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died before the call took effect.
    if u32::try_from(nix::unistd::getppid().as_raw()).ok() != Some(parent) {
        super::exit_now(127);
    }
    Ok(())
}

/// Makes the child of `command` die with the calling thread (PR_SET_PDEATHSIG, SIGKILL), so that it ends even if this
/// process gets SIGKILL. The thread that starts the child must outlive it.
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
