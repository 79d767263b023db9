// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage check`: checks whether this node is ready to install instances. It checks everything that a run of
//! Ganeti needs, changes nothing, and says for every problem what to do about it.

mod node;
mod variant;

use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::config::{Paths, VariantName};
use crate::node::process::Children;

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The variant to check. Without it, all variants that Ganeti offers are checked.
    variant: Option<VariantName>,
    /// Write the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Checks the node and writes the result to `out`. Returns an error if there is a finding of [`Severity::Error`].
pub(super) fn check(args: &CheckArgs, root: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
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

/// The severity of a finding.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// Installations fail, or do something that the administrator did not want.
    Error,
    /// Installations work, but somebody should look at the problem.
    Warning,
}

/// A problem, and what to do about it.
#[derive(Serialize)]
struct Finding {
    severity: Severity,
    /// A file, a program or a variant.
    subject: String,
    problem: String,
    hint: String,
}

/// The result of all checks.
#[derive(Default, Serialize)]
struct Checkup {
    /// One line for each check that found no problem.
    fine: Vec<String>,
    findings: Vec<Finding>,
}

struct Node<'n> {
    /// The folder that contains Ganeti's folders. It is `/` unless an administrator tries a configuration.
    root: &'n Path,
    paths: &'n Paths,
    /// The list of children, for programs that are run to show their version.
    children: &'n Children,
}

impl Checkup {
    /// Checks the node, and `variant` or all variants that Ganeti offers.
    fn of(node: &Node<'_>, variant: Option<&VariantName>) -> Self {
        let mut checkup = Checkup::default();
        node::check(node, &mut checkup);
        let offered = node::check_os_folder(node, &mut checkup);
        match variant {
            Some(variant) => {
                variant::check(node, variant, &mut checkup);
                node::check_used_disks(node, std::slice::from_ref(variant), &mut checkup);
            }
            // A missing list of variants was already reported as an error.
            None if offered.is_empty() => {}
            None => {
                offered.iter().for_each(|variant| variant::check(node, variant, &mut checkup));
                variant::check_offered(node, &offered, &mut checkup);
                node::check_used_disks(node, &offered, &mut checkup);
            }
        }
        checkup
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    fn fine(&mut self, what: impl Into<String>) {
        self.fine.push(what.into());
    }

    fn error(&mut self, subject: impl ToString, problem: impl Into<String>, hint: impl Into<String>) {
        self.find(Severity::Error, subject, problem, hint);
    }

    fn warn(&mut self, subject: impl ToString, problem: impl Into<String>, hint: impl Into<String>) {
        self.find(Severity::Warning, subject, problem, hint);
    }

    fn find(
        &mut self,
        severity: Severity,
        subject: impl ToString,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let (subject, problem, hint) = (subject.to_string(), problem.into(), hint.into());
        self.findings.push(Finding { severity, subject, problem, hint });
    }
}
