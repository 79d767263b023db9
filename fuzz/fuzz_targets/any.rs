// SPDX-License-Identifier: BSD-2-Clause
//! Every target, in one program, so that one more costs no link: `FUZZ_TARGET` says which.
#![no_main]

use std::env;
use std::sync::LazyLock;

use simpleimage::fuzzing::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let wanted = env::var("FUZZ_TARGET").expect("FUZZ_TARGET is the name of a target");
    let found = TARGETS.iter().find(|(name, _)| *name == wanted);
    found.expect("FUZZ_TARGET is the name of a target").1
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
