// SPDX-License-Identifier: BSD-2-Clause
//! The standard streams as they were when this process began.

use std::sync::atomic::{AtomicBool, Ordering};

static STANDARD_OUTPUT: AtomicBool = AtomicBool::new(true);

/// Whether descriptor 1 was open when this process began. `std` opens /dev/null in place of a closed one before `main`,
/// so that no other file gets its number, and from then on nobody can tell.
pub(crate) fn standard_output_was_open() -> bool {
    STANDARD_OUTPUT.load(Ordering::Relaxed)
}

/// Called by the C library before `main`, and so before `std` looks.
// SAFETY: a list of functions of this type, as the System V ABI and both glibc and musl have it.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    // SAFETY: a plain system call on values; it fails when the descriptor is not open.
    let open = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) } != -1;
    STANDARD_OUTPUT.store(open, Ordering::Relaxed);
}
