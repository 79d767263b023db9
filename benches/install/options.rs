// SPDX-License-Identifier: BSD-2-Clause
//! The command line.

use std::env;
use std::path::{Path, PathBuf};

use clap::Parser;
use simpleimage::node::size::{ByteSize, MIB};

/// Measures the provider against what people would otherwise type, and against what the machine could do at best.
#[derive(Debug, Parser)]
#[command(name = "make bench")]
pub(crate) struct Options {
    /// The cases to run; all of them when none is named.
    #[arg(value_name = "CASE")]
    pub(crate) cases: Vec<String>,
    /// Runs of each contender, in turn.
    #[arg(long, default_value_t = 5)]
    pub(crate) runs: usize,
    /// Size of the disk in the image, a multiple of 16 MiB.
    #[arg(long, default_value = "4G", value_parser = size)]
    pub(crate) size: ByteSize,
    /// Real files in the image.
    #[arg(long, default_value = "1G", value_parser = size)]
    pub(crate) data: ByteSize,
    /// List the cases and do nothing.
    #[arg(long)]
    pub(crate) list: bool,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Every contender's block size divides this, so that direct I/O never meets a rest.
const GRAIN: u64 = 16 * MIB;

fn size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    if size.0 == 0 || !size.0.is_multiple_of(GRAIN) {
        return Err(format!("'{text}' is not a multiple of {}", ByteSize(GRAIN)));
    }
    Ok(size)
}

impl Options {
    /// Where images are kept between runs: `SIMPLEIMAGE_BENCH_DIR`, else beside what cargo builds.
    pub(crate) fn dir(&self) -> PathBuf {
        let beside_cargos = || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench-data");
        env::var_os("SIMPLEIMAGE_BENCH_DIR").map_or_else(beside_cargos, PathBuf::from)
    }

    /// Where the results go.
    pub(crate) fn results(&self) -> PathBuf {
        self.dir().join("results")
    }
}
