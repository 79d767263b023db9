// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage variants`: which there are, and what holds for one.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;

use super::output::{line, write_json};
use crate::config::{self, Paths, ShownSetting, VariantName};

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Variants {
    /// Write the result as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the variants that Ganeti offers or that have a folder.
    List,
    /// Tell which settings hold for a variant, and which file each comes from.
    Show {
        /// The variant.
        variant: VariantName,
    },
}

/// A variant in the list.
#[derive(Serialize)]
struct Known {
    name: String,
    /// Whether it stands in `variants.list`.
    offered: bool,
    /// Whether it has a folder.
    configured: bool,
}

/// Writes the result to `out`.
pub(super) fn variants(args: &Variants, root: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let paths = Paths::below(root);
    match &args.verb {
        Verb::List => {
            let known = known(&paths)?;
            if args.json {
                return write_json(out, &known);
            }
            known.iter().try_for_each(|variant| line(out, &list_line(variant)))
        }
        Verb::Show { variant } => {
            let settings = settings(&paths, variant)?;
            if args.json {
                return write_json(out, &settings);
            }
            settings.iter().try_for_each(|setting| line(out, &show_line(setting)))
        }
    }
}

/// In the order of their names.
fn known(paths: &Paths) -> anyhow::Result<Vec<Known>> {
    let list = paths.variants_list();
    let text = fs::read_to_string(&list).unwrap_or_default();
    // Elsewhere such a line is only passed over: here it is looked at.
    VariantName::in_list(&text)
        .try_for_each(|name| name.map(drop))
        .with_context(|| format!("reading {}", list.display()))?;
    let config::Variants { offered, configured } = &config::Variants::of(paths)?;
    let known = offered.union(configured).map(|name| Known {
        name: name.to_string(),
        offered: offered.contains(name),
        configured: configured.contains(name),
    });
    Ok(known.collect())
}

fn settings(paths: &Paths, variant: &VariantName) -> anyhow::Result<Vec<ShownSetting>> {
    let layers = config::layers(paths, variant)?;
    Ok(config::show(&config::merge(&layers, paths, variant)?, &layers)?)
}

fn list_line(variant: &Known) -> String {
    let state = match (variant.offered, variant.configured) {
        (true, true) => "",
        (true, false) => " (no folder of its own: the site's settings hold)",
        (false, _) => " (not in variants.list: Ganeti does not offer it)",
    };
    format!("{}{state}", variant.name)
}

fn show_line(setting: &ShownSetting) -> String {
    format!("{} = {}  # {}", setting.key, setting.value, setting.source.as_deref().unwrap_or("built in"))
}
