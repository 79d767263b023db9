// SPDX-License-Identifier: BSD-2-Clause
//! What is left after the runs: a table, a plot, and every single number.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};
use simpleimage::node::size::ByteSize;

use crate::cases::{Role, Way};
use crate::image::Images;
use crate::machine::Machine;
use crate::measure::{Entry, Measured};
use crate::options::Options;
use crate::plot;
use crate::table::{self, Row};

/// All results so far.
pub(crate) struct Report {
    machine: Machine,
    runs: usize,
    size: u64,
    /// Of the image, without its holes, in bytes.
    data: u64,
    rows: Vec<Row>,
    cases: Vec<Value>,
}

impl Report {
    /// Without a case yet.
    pub(crate) fn new(options: &Options, images: &Images) -> anyhow::Result<Self> {
        let (size, data) = (options.size.0, images.data()?);
        Ok(Report { machine: Machine::this(), runs: options.runs, size, data, rows: Vec::new(), cases: Vec::new() })
    }

    /// One more case.
    pub(crate) fn add(&mut self, measured: Measured) {
        let row = Row::of(&measured);
        let contenders: Vec<_> = measured.entries.iter().map(contender).collect();
        self.cases.push(json!({ "name": measured.case.name, "result": row, "contenders": contenders }));
        self.rows.extend(row);
    }

    /// Whether the provider wrote the right bytes every time.
    pub(crate) fn is_sound(&self) -> bool {
        self.rows.iter().all(|row| row.void.is_none())
    }

    /// The table, and what it was measured with.
    pub(crate) fn text(&self) -> String {
        format!("{}\n{}", self.setting(), table::markdown(&self.rows))
    }

    /// Writes `results.json`, `table.md` and `plot.svg`.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let json = json!({
            "machine": self.machine, "runs": self.runs, "size": self.size, "data": self.data, "cases": self.cases
        });
        fs::create_dir_all(folder)?;
        let files = [
            ("results.json", serde_json::to_string_pretty(&json)?),
            ("table.md", self.text()),
            ("plot.svg", plot::svg(&self.rows, &self.setting())),
        ];
        for (name, text) in files {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    fn setting(&self) -> String {
        let data = ByteSize(self.data >> 20 << 20);
        format!(
            "Image of {} with {data} of data; medians of {} runs; {}.",
            ByteSize(self.size),
            self.runs,
            self.machine.line()
        )
    }
}

fn contender(entry: &Entry) -> Value {
    let role = match entry.contender.role {
        Role::Ours => "ours",
        Role::Predecessor => "predecessor",
        Role::Best => "best",
        Role::Other => "other",
        Role::Floor => "floor",
    };
    let way = match entry.contender.way {
        Way::Script(name, argument) => format!("simpleimage script {name} {}", argument.unwrap_or_default()),
        Way::Shell(line) => line.to_owned(),
        Way::Floor(words) => words.join(" "),
    };
    json!({
        "role": role, "label": entry.contender.label, "command": way.trim_end(), "void": entry.void,
        "samples": entry.samples,
    })
}
