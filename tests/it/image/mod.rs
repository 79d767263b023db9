// SPDX-License-Identifier: BSD-2-Clause
//! What an image is, whatever it claims to be.

mod archive;
mod bzip2;
mod hostile;
mod truncated;
