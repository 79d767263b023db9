// SPDX-License-Identifier: BSD-2-Clause
//! Is this node ready to install instances? Looks at all that a run of Ganeti's would meet, changes nothing, and says
//! for everything that is wrong what to do about it.

mod disks;
mod machine;
mod os_dir;
mod variant;

use std::path::Path;

use serde::Serialize;

use crate::config::{Paths, VariantName};
use crate::node::process::Children;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// Installations fail, or do something else than was meant.
    Error,
    /// Worth a look.
    Warning,
}

/// Something that is wrong, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// How bad it is.
    pub(crate) severity: Severity,
    /// What it is about: a file, a program, a variant.
    pub(crate) subject: String,
    /// What is wrong with it.
    pub(crate) problem: String,
    /// What to do.
    pub(crate) hint: String,
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Checkup {
    /// What is as it should be, one line each.
    pub(crate) fine: Vec<String>,
    /// What is not.
    pub(crate) findings: Vec<Finding>,
}

/// Where everything is looked for.
pub(super) struct Node<'n> {
    /// Below it lie Ganeti's folders; `/` but for trials.
    pub(crate) root: &'n Path,
    /// The provider's own places.
    pub(crate) paths: &'n Paths,
    /// Where the programs that are asked for their version are registered.
    pub(crate) children: &'n Children,
}

impl Checkup {
    /// Looks at the node, and at `variant` or at all variants that Ganeti offers.
    pub(super) fn of(node: &Node<'_>, variant: Option<&VariantName>) -> Self {
        let mut checkup = Checkup::default();
        machine::check(node, &mut checkup);
        let offered = os_dir::check(node, &mut checkup);
        match variant {
            Some(variant) => {
                variant::check(node, variant, &mut checkup);
                disks::check(node, std::slice::from_ref(variant), &mut checkup);
            }
            // Without a list there is nothing to compare with, which was said already.
            None if offered.is_empty() => {}
            None => {
                offered.iter().for_each(|variant| variant::check(node, variant, &mut checkup));
                variant::check_offered(node, &offered, &mut checkup);
                disks::check(node, &offered, &mut checkup);
            }
        }
        checkup
    }

    /// The number of findings of a severity.
    pub(super) fn count(&self, severity: Severity) -> usize {
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
