// SPDX-License-Identifier: BSD-2-Clause
//! What the documents, the sources and the examples promise, against the program.

mod architecture;
mod error_lines;
mod example_variants;
mod links;
mod predecessor;
mod promises;
mod secrets;
