// SPDX-License-Identifier: BSD-2-Clause
//! What an image is, whatever it claims to be.

mod bzip2;
mod hostile;
mod truncated;
