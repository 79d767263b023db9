// SPDX-License-Identifier: BSD-2-Clause
//! The tool for people: thin calls of the same library code that the scripts use.

mod cache;
mod check;
mod cleanup;
mod fetch;
mod inspect;
mod install;
#[cfg(test)]
mod manual_tests;
mod output;
mod seed;
mod variants;

pub use output::standard_output;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::applet::Script;
use crate::report::{LogFormat, Report, Subject};
use crate::script::{self, Invocation};

/// Ganeti OS provider that installs instances from disk images.
///
/// Ganeti runs its scripts create, export, import, rename and verify; these commands are for people.
#[derive(Debug, Parser)]
#[command(name = "simpleimage", version)]
struct Tool {
    /// Look for configuration and cache below DIR instead of /.
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Write messages as text, or as JSON with one object in a line.
    ///
    /// The default is text, and for script what the settings say.
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    #[command(subcommand)]
    command: Command,
}

/// What is said of an image on the command line.
#[derive(Debug, clap::Args)]
struct Said {
    /// The image's type, which it has to be: as the OS parameter image_type.
    #[arg(long = "type", value_name = "TYPE")]
    image_type: Option<String>,
    /// The checksum it has to have: as the OS parameter image_checksum.
    #[arg(long, value_name = "CHECKSUM")]
    checksum: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell what an image file is: its type, the disk it needs, its partitions, and whether create would take it.
    Inspect(inspect::Inspect),
    /// Fetch an image into the cache, so that no create has to wait for it.
    Fetch(fetch::Fetch),
    /// Install an image onto a disk as create does, without Ganeti.
    Install(install::Install),
    /// Look whether this node is ready to install instances: programs, OS folder, configuration, hooks, cache.
    Check(check::Check),
    /// Look at the kept images, check and remove them.
    Cache(cache::CacheArgs),
    /// Remove what killed runs and power cuts left on this machine.
    Cleanup(cleanup::Cleanup),
    /// Tell which variants there are, and which settings hold for one.
    Variants(variants::Variants),
    /// Look at the first-boot seed on a disk, or remove it.
    Seed(seed::SeedArgs),
    /// Run an OS script as Ganeti does, with its input in the environment (ganeti-os-interface(7)).
    Script {
        /// Which one.
        name: Script,
        /// Its arguments: `parameters` for verify.
        #[arg(value_name = "ARGUMENT")]
        args: Vec<OsString>,
    },
    /// Write the completions for a shell.
    Completions {
        /// Which one.
        shell: Shell,
    },
}

impl Command {
    /// What its messages are about.
    fn subject(&self) -> Subject {
        match self {
            Command::Fetch(args) => args.subject(),
            Command::Install(args) => args.subject(),
            _ => Subject::default(),
        }
    }
}

/// Runs the tool; results go to `out`.
pub fn run(argv0: OsString, invocation: Invocation, out: &mut dyn Write) -> ExitCode {
    let report = Report::stderr(None, false);
    // clap's errors repeat arguments, and a URL may hold a password.
    let secrets = invocation.args.iter().any(|arg| arg.to_string_lossy().contains("://"));
    let arguments = std::iter::once(argv0).chain(invocation.args);
    let tool = match Tool::try_parse_from(arguments) {
        Ok(tool) => tool,
        Err(err) if secrets && err.use_stderr() => {
            report.error(format_args!("{} (see --help)", err.kind()));
            return ExitCode::from(2);
        }
        Err(err) => {
            // clap's help and errors know by themselves which stream they belong to.
            let printed = err.print();
            return ExitCode::from(u8::from(err.use_stderr() || printed.is_err()) * 2);
        }
    };
    let Tool { root, log_format, command } = tool;
    let report = report.formatted(log_format.unwrap_or_default(), command.subject());
    match command {
        Command::Script { name, args } => {
            script::run(name, &Invocation { args, environment: invocation.environment, root, log_format }, out)
        }
        Command::Inspect(args) => exit_code(&report, inspect::inspect(&args, &report, out)),
        Command::Fetch(args) => exit_code(&report, fetch::fetch(args, &root, &report, out)),
        Command::Install(args) => exit_code(&report, install::install(args, &root, &report, &invocation.environment)),
        Command::Seed(args) => exit_code(&report, seed::seed(args, out)),
        Command::Cache(args) => exit_code(&report, cache::cache(args, &root, out)),
        Command::Cleanup(args) => exit_code(&report, cleanup::cleanup(&args, &root, out)),
        Command::Variants(args) => exit_code(&report, variants::variants(&args, &root, out)),
        Command::Check(args) => exit_code(&report, check::check(&args, &root, out)),
        Command::Completions { shell } => exit_code(&report, completions(shell, out)),
    }
}

/// Writes the completions of `shell` to `out`. They are collected first: clap_complete panics when it can't write.
fn completions(shell: Shell, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Tool::command(), "simpleimage", &mut script);
    out.write_all(&script).context("writing the completions")
}

fn exit_code(report: &Report, result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            report.error(format_args!("{err:#}"));
            ExitCode::FAILURE
        }
    }
}
