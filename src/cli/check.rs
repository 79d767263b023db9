// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage check`.

use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::cli::checkup::{Checkup, Node, Severity};
use crate::config::{Paths, VariantName};
use crate::node::process::Children;

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The variant to look at; all that Ganeti offers when none is given.
    variant: Option<VariantName>,
    /// Write the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Looks at the node and writes what was found to `out`; an error when something is wrong.
pub(super) fn check(args: &Check, root: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let (paths, children) = (Paths::below(root), Children::default());
    let checkup = Checkup::of(&Node { root, paths: &paths, children: &children }, args.variant.as_ref());
    let text = if args.json { serde_json::to_string_pretty(&checkup)? + "\n" } else { text(&checkup) };
    out.write_all(text.as_bytes()).context("writing the result")?;
    match checkup.count(Severity::Error) {
        0 => Ok(()),
        1 => bail!("1 error, see above"),
        errors => bail!("{errors} errors, see above"),
    }
}

fn text(checkup: &Checkup) -> String {
    let fine = checkup.fine.iter().map(|line| format!("ok: {line}\n"));
    let findings = checkup.findings.iter().map(|finding| {
        let kind = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        format!("{kind}: {}: {}\n  hint: {}\n", finding.subject, finding.problem, finding.hint)
    });
    fine.chain(findings).collect()
}
