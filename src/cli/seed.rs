// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage seed`: shows or removes the first-boot seed of a disk. The output is text for people, or JSON for
//! programs.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use serde_json::{Value, json};

use super::output::printable;
use crate::install::{self, Removed, SeedDisk};
use crate::node::report::Report;
use crate::node::run::Run;
use crate::node::size::ByteSize;
use crate::seed::volume::{Contents, Found, Kind, Trace};

/// The file with the instance's identity, and those of its keys that are no secrets.
const META_DATA: &str = "meta-data";
const PLAIN_KEYS: [&str; 2] = ["instance-id", "local-hostname"];

/// This file contains only addresses, so it is shown.
const NETWORK: &str = "network-config";

#[derive(Debug, clap::Args)]
pub(super) struct SeedArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what cloud-init would find on a disk, without SSH keys, user-data and vendor-data.
    Show {
        /// The disk of an instance, or an image file in raw format.
        disk: PathBuf,
        /// Show all of every file. The files may contain passwords.
        #[arg(long)]
        secrets: bool,
        /// Write the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove the seed from a disk that is not in use: its bytes read zero, and its partition is free.
    Remove {
        /// The disk of a stopped instance, or an image file in raw format.
        disk: PathBuf,
        /// Also remove a seed that another program made.
        #[arg(long)]
        force: bool,
    },
}

pub(super) fn seed(args: SeedArgs, report: &Report, out: &mut dyn Write) -> anyhow::Result<()> {
    let run = Run::ended_by_signals(report.clone())?;
    let text = match args.verb {
        Verb::Show { disk, secrets, json } => {
            let found = install::show_seeds(&disk, &run)?;
            if json { as_json(&disk, &found, secrets)? } else { as_text(&disk, &found, secrets) }
        }
        Verb::Remove { disk, force } => match install::remove_seed(&disk, force, &run)? {
            Removed::Seed(found) => format!("removed the seed from disk {}: {found}\n", disk.display()),
            Removed::Trace => format!("removed the trace of a seed from disk {}\n", disk.display()),
        },
    };
    out.write_all(text.as_bytes()).context("writing the result")
}

fn as_text(path: &Path, disk: &SeedDisk, secrets: bool) -> String {
    if disk.seeds.is_empty() {
        let trace = disk.trace.as_ref().map(trace_text).unwrap_or_default();
        return format!("disk {} holds no seed\n{trace}", path.display());
    }
    let mut text = format!("disk:     {}, {}\n", path.display(), ByteSize(disk.size));
    for (found, contents) in &disk.seeds {
        // Writing to a `String` can't fail.
        let _ = write!(text, "\nplace:    {found}\nmade by:  {}\nserial:   {}\n", maker(found), serial(found));
        match contents {
            Ok(contents) => text += &files_text(contents, secrets),
            Err(error) => text += &format!("contents: {error}\n"),
        }
    }
    text
}

/// Describes the trace that is left after the instance copied the seed into its own file system.
fn trace_text(trace: &Trace) -> String {
    let Trace { serial, keys, user_data } = *trace;
    let user_data = if user_data { "user-data" } else { "no user-data" };
    format!("trace:    of a seed with {keys} SSH keys and {user_data}, serial {}\n", shown_serial(serial))
}

fn files_text(contents: &Contents, secrets: bool) -> String {
    let mut text = String::new();
    for (name, content) in &contents.files {
        let _ = writeln!(text, "file:     {}, {} bytes", printable(name), content.len());
        match visible(name, content, secrets) {
            Visible::All => printable_lines(&mut text, &String::from_utf8_lossy(content)),
            Visible::Keys(keys) => keys.iter().for_each(|(key, value)| {
                let _ = writeln!(text, "  {key}: {}", printable(value));
            }),
        }
    }
    for name in &contents.folders {
        let _ = writeln!(text, "folder:   {}", printable(name));
    }
    text
}

fn printable_lines(text: &mut String, content: &str) {
    for line in content.lines() {
        let _ = writeln!(text, "  {}", printable(line));
    }
}

/// The part of a file that is shown.
enum Visible {
    All,
    Keys(Vec<(&'static str, String)>),
}

fn visible(name: &str, content: &[u8], secrets: bool) -> Visible {
    if secrets || name.eq_ignore_ascii_case(NETWORK) {
        return Visible::All;
    }
    if !name.eq_ignore_ascii_case(META_DATA) {
        return Visible::Keys(Vec::new());
    }
    let meta_data: Value = serde_json::from_slice(content).unwrap_or_default();
    let value = |key: &'static str| Some((key, meta_data.get(key)?.as_str()?.to_owned()));
    Visible::Keys(PLAIN_KEYS.into_iter().filter_map(value).collect())
}

fn as_json(path: &Path, disk: &SeedDisk, secrets: bool) -> anyhow::Result<String> {
    let seeds: Vec<_> = disk.seeds.iter().map(|(found, contents)| seed_json(found, contents, secrets)).collect();
    let trace = disk.trace.map(|Trace { serial, keys, user_data }| {
        json!({ "serial": shown_serial(serial), "ssh_keys": keys, "user_data": user_data })
    });
    let all = json!({ "disk": path.display().to_string(), "size": disk.size, "seeds": seeds, "trace": trace });
    Ok(serde_json::to_string_pretty(&all).context("writing the result")? + "\n")
}

fn seed_json(found: &Found, contents: &Result<Contents, String>, secrets: bool) -> Value {
    let files = contents.as_ref().map(|contents| {
        contents.files.iter().map(|(name, content)| file_json(name, content, secrets)).collect::<Vec<_>>()
    });
    json!({
        "partition": found.partition,
        "start": found.start,
        "ours": found.our_serial().is_some(),
        "made_by": maker(found),
        "serial": serial(found),
        "files": files.as_ref().ok(),
        "folders": contents.as_ref().ok().map(|contents| &contents.folders),
        "error": contents.as_ref().err(),
    })
}

/// Describes a file with its `content` (`base64` if it is no text), or with those keys of meta-data that are no
/// secrets.
fn file_json(name: &str, content: &[u8], secrets: bool) -> Value {
    let mut file = json!({ "name": name, "size": content.len() });
    match (visible(name, content, secrets), std::str::from_utf8(content)) {
        (Visible::All, Ok(text)) => file["content"] = text.into(),
        (Visible::All, Err(_)) => file["base64"] = STANDARD.encode(content).into(),
        (Visible::Keys(keys), _) => keys.into_iter().for_each(|(key, value)| file[key] = value.into()),
    }
    file
}

fn maker(found: &Found) -> String {
    match found.kind {
        _ if found.our_serial().is_some() => "simpleimage".to_owned(),
        Kind::Fat { maker, .. } => {
            format!("another program ({})", printable(String::from_utf8_lossy(&maker).trim_end()))
        }
        Kind::Iso => "another program (ISO 9660)".to_owned(),
    }
}

fn serial(found: &Found) -> String {
    match found.kind {
        Kind::Fat { serial, .. } => shown_serial(serial),
        Kind::Iso => "none".to_owned(),
    }
}

/// Formats the serial number as blkid shows it.
fn shown_serial(serial: u32) -> String {
    format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)
}
