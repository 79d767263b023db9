// SPDX-License-Identifier: BSD-2-Clause
//! The machine and the tools that the numbers were taken with.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// What has to be known to make sense of the numbers.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    kernel: String,
    processor: String,
    processors: usize,
    memory_gib: u64,
    /// Debian packages and their versions.
    tools: Vec<String>,
}

/// The packages of the contenders.
const TOOLS: [&str; 10] =
    ["bmap-tools", "bzip2", "coreutils", "curl", "gzip", "isal", "lbzip2", "qemu-utils", "xz-utils", "zstd"];

impl Machine {
    /// This one.
    pub(crate) fn this() -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).ok()?;
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let kib = field("/proc/meminfo", "MemTotal").and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok());
        Machine {
            kernel,
            processor: field("/proc/cpuinfo", "model name").unwrap_or_default(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: kib.unwrap_or_default().div_ceil(1 << 20),
            tools: tools(),
        }
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        format!("{} x {}, {} GiB, Linux {}", self.processors, self.processor, self.memory_gib, self.kernel)
    }
}

fn tools() -> Vec<String> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${Package} ${Version}\n"]).args(TOOLS);
    let text = query.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}
