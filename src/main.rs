// SPDX-License-Identifier: BSD-2-Clause
//! The multi-call binary.

fn main() {}
