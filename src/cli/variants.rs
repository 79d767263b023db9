// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage variants`: lists the variants, and shows the settings of one.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;

use super::output::{line, write_json};
use crate::config::{self, Paths, ShownSetting, VariantName};

#[derive(Debug, clap::Args)]
pub(super) struct VariantsArgs {
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
    /// Show the effective settings of a variant, and which file each comes from.
    Show {
        /// The variant.
        variant: VariantName,
    },
}

#[derive(Serialize)]
struct ListedVariant {
    name: String,
    /// Whether the variant is in `variants.list`.
    offered: bool,
    /// Whether the variant has a folder.
    configured: bool,
}

pub(super) fn variants(args: &VariantsArgs, root: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let paths = Paths::below(root);
    match &args.verb {
        Verb::List => {
            let known = all_variants(&paths)?;
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

/// Returns all variants, sorted by name.
fn all_variants(paths: &Paths) -> anyhow::Result<Vec<ListedVariant>> {
    let list = paths.variants_list();
    let text = fs::read_to_string(&list).unwrap_or_default();
    // Other commands skip a line that is no name. Here it is an error, because the user wants to see the list.
    VariantName::in_list(&text)
        .try_for_each(|name| name.map(drop))
        .with_context(|| format!("reading {}", list.display()))?;
    let config::Variants { offered, configured } = &config::Variants::of(paths)?;
    let known = offered.union(configured).map(|name| ListedVariant {
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

fn list_line(variant: &ListedVariant) -> String {
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
