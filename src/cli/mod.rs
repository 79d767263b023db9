// SPDX-License-Identifier: BSD-2-Clause
//! The commands for people. They call the same code as the scripts of Ganeti.

mod cache;
mod check;
mod cleanup;
mod complete;
mod images;
mod inspect;
mod install;
#[cfg(test)]
mod manual_tests;
mod output;
mod seed;
mod variants;

pub use output::standard_output;

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::ganeti::env::{Environment, OsParams};
use crate::ganeti::script::Script;
use crate::ganeti::script::{self, Invocation};
use crate::node::report::{LogFormat, Report, Subject, Verbosity};
use crate::node::trust;
use crate::store::cache::CacheError;
use crate::store::http::ImageUrl;

use complete::Shell;
use output::Results;

/// The help shows the options of every command after the command's own options.
const COMMON: usize = 100;

/// The exit code for invalid arguments.
const USAGE: u8 = 2;

/// Ganeti OS provider that installs instances from disk images.
///
/// Ganeti runs its scripts create, export, import, rename and verify; these commands are for people.
#[derive(Debug, Parser)]
#[command(name = "simpleimage", version, max_term_width = 80)]
struct Tool {
    /// Look for configuration and cache below DIR instead of /.
    // This option is for tests and for trying a configuration, so only the manual shows it.
    #[arg(long, global = true, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
    /// Show only warnings and errors.
    #[arg(short, long, global = true, conflicts_with = "verbose", display_order = COMMON)]
    quiet: bool,
    /// Show more details.
    #[arg(short, long, global = true, display_order = COMMON)]
    verbose: bool,
    /// Write messages as text, or as JSON with one object in a line.
    ///
    /// The default is text, and for script what the settings say.
    #[arg(long, global = true, value_name = "FORMAT", display_order = COMMON)]
    log_format: Option<LogFormat>,
    #[command(subcommand)]
    command: Command,
}

/// Options that say what the image must be.
#[derive(Debug, clap::Args)]
struct ImageArgs {
    /// The type that the image must have, like the OS parameter image_type.
    #[arg(long = "type", value_name = "TYPE", value_parser = not_empty)]
    image_type: Option<String>,
    /// The checksum that the image must have, like the OS parameter image_checksum.
    #[arg(long, value_name = "CHECKSUM", value_parser = not_empty)]
    checksum: Option<String>,
    /// The path or URL of the signature that the image must have, like the OS parameter image_signature.
    #[arg(long, value_name = "SIGNATURE", value_parser = not_empty)]
    signature: Option<String>,
}

impl ImageArgs {
    /// Returns the OS parameters of an instance that gets `image`.
    fn into_params(self, image: String) -> anyhow::Result<OsParams> {
        let ImageArgs { image_type, checksum, signature } = self;
        let image_signature = signature.map(|text| absolute_place(&text)).transpose().context("--signature")?;
        Ok(OsParams {
            image: Some(image),
            image_type,
            image_checksum: checksum,
            image_signature,
            ..OsParams::default()
        })
    }
}

/// Refuses an empty value. A shell makes one from an unset variable, and from `$(cat FILE)` if there is no such file.
/// Without this error the command would continue without a key or a checksum.
fn not_empty(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("it is empty") } else { Ok(text.to_owned()) }
}

/// Refuses a `~/` that no shell has replaced by the home folder.
fn refuse_tilde(text: &str) -> anyhow::Result<()> {
    if text.starts_with("~/") && !Path::new(text).exists() {
        anyhow::bail!("{text}: a shell makes a home folder of ~ only at the beginning of a word, and not in quotes");
    }
    Ok(())
}

/// Makes a relative path absolute, because the scripts take only absolute paths. A text with a slash that is no URL
/// is a path. URLs and names are not changed.
fn absolute_place(text: &str) -> anyhow::Result<String> {
    if !text.contains('/') || ImageUrl::looks_like_url(text) {
        return Ok(text.to_owned());
    }
    refuse_tilde(text)?;
    let path = absolute(text).context("finding out where this folder is")?;
    path.into_os_string().into_string().map_err(|_path| anyhow::anyhow!("the path of this folder is not UTF-8"))
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what an image is: its type, the disk it needs, its partitions, and whether create would take it.
    Inspect(inspect::InspectArgs),
    /// List the images that have a name in config.toml.
    Images(images::ImagesArgs),
    /// Fetch an image into the cache, so that no create has to wait for it.
    Fetch(images::FetchArgs),
    /// Install an image onto a disk as create does, without Ganeti.
    Install(install::InstallArgs),
    /// Check whether this node is ready to install instances: programs, OS folder, configuration, hooks, cache.
    Check(check::CheckArgs),
    /// Show, check and remove the kept images.
    Cache(cache::CacheArgs),
    /// Remove what killed runs and power failures left on this machine.
    Cleanup(cleanup::CleanupArgs),
    /// Show which variants exist, and the settings of one.
    Variants(variants::VariantsArgs),
    /// Show the first-boot seed on a disk, or remove it.
    Seed(seed::SeedArgs),
    /// Run an OS script as Ganeti does, with its input in the environment (ganeti-os-interface(7)).
    Script {
        /// The name of the script.
        name: Script,
        /// The script's arguments: `parameters` for verify.
        #[arg(value_name = "ARGUMENT")]
        args: Vec<OsString>,
    },
    /// Write the completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Show the version, as --version does.
    Version,
    /// Write the words that can replace the last one, for the scripts of `completions`.
    #[command(name = "__complete", hide = true)]
    Complete {
        /// The words so far, beginning with the program's name.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
}

impl Command {
    fn subject(&self) -> Subject {
        match self {
            Command::Fetch(args) => args.subject(),
            Command::Install(args) => args.subject(),
            _ => Subject::default(),
        }
    }

    /// Runs the command. Results are written to `out`.
    fn run(self, root: &Path, report: &Report, caller: &Environment, out: &mut dyn Write) -> anyhow::Result<()> {
        match self {
            // `run` already handled this command, because a script has exit codes of its own.
            Command::Script { .. } => Ok(()),
            Command::Inspect(args) => inspect::inspect(args, root, report, out),
            Command::Images(args) => images::images(&args, root, report, out),
            Command::Fetch(args) => images::fetch(args, root, report, out),
            Command::Install(args) => install::install(args, root, report, caller, out),
            Command::Seed(args) => seed::seed(args, report, out),
            Command::Cache(args) => cache::cache(args, root, report, out),
            Command::Cleanup(args) => cleanup::cleanup(&args, root, out),
            Command::Variants(args) => variants::variants(&args, root, out),
            Command::Check(args) => check::check(&args, root, out),
            Command::Completions { shell } => {
                out.write_all(shell.script().as_bytes()).context("writing the completions")
            }
            Command::Version => output::line(out, concat!("simpleimage ", env!("CARGO_PKG_VERSION"))),
            Command::Complete { words } => complete::complete(&words, out),
        }
    }
}

impl Tool {
    fn verbosity(&self) -> Option<Verbosity> {
        match (self.quiet, self.verbose) {
            (true, _) => Some(Verbosity::Quiet),
            (false, true) => Some(Verbosity::Detail),
            (false, false) => None,
        }
    }
}

/// Returns the advice to run the command as root, if missing rights are the reason why it failed.
fn root_hint(err: &anyhow::Error) -> &'static str {
    let denied = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<std::io::Error>().is_some_and(|err| err.kind() == ErrorKind::PermissionDenied);
        io || matches!(cause.downcast_ref(), Some(CacheError::Folder { .. }))
    };
    if !nix::unistd::geteuid().is_root() && err.chain().any(denied) { " (run it as root)" } else { "" }
}

/// Returns the arguments with a placeholder for each URL.
fn without_urls(arguments: &[OsString]) -> Vec<OsString> {
    const HIDDEN: &str = "<URL>";
    let hidden = |arg: &OsString| match arg.to_string_lossy() {
        text if !text.starts_with('-') && ImageUrl::looks_like_url(&text) => HIDDEN.into(),
        text => match text.split_once('=') {
            Some((flag, value)) if ImageUrl::looks_like_url(value) && !ImageUrl::looks_like_url(flag) => {
                format!("{flag}={HIDDEN}").into()
            }
            _ if ImageUrl::looks_like_url(&text) => HIDDEN.into(),
            _ => arg.clone(),
        },
    };
    arguments.iter().map(hidden).collect()
}

/// Runs a command. Results are written to `out`.
pub fn run(argv0: OsString, invocation: Invocation, out: &mut dyn Write) -> ExitCode {
    let out = &mut Results::new(out);
    let report = Report::stderr(None, false);
    let arguments: Vec<_> = std::iter::once(argv0).chain(invocation.args).collect();
    let tool = match Tool::try_parse_from(&arguments) {
        Ok(tool) => tool,
        Err(err) => {
            // The error repeats arguments, and a URL may contain a password. Without the URLs, parsing gives the same
            // error.
            let err = Tool::try_parse_from(without_urls(&arguments)).err().unwrap_or(err);
            // clap decides whether this goes to stdout or stderr. A reader that closed the pipe is no error.
            let printed = match err.print() {
                Ok(()) => true,
                Err(err) => err.kind() == ErrorKind::BrokenPipe,
            };
            return if err.use_stderr() || !printed { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let verbosity = tool.verbosity();
    let (Tool { root, log_format, command, .. }, environment) = (tool, invocation.environment);
    trust::judge_below(&root);
    if let Command::Script { name, args } = command {
        return script::run(name, &Invocation { args, environment, root, log_format, verbosity }, out);
    }
    let report = report.with_verbosity(verbosity.unwrap_or_default());
    let report = report.formatted(log_format.unwrap_or_default(), command.subject());
    match command.run(&root, &report, &environment, out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            report.error(format_args!("{err:#}{}", root_hint(&err)));
            ExitCode::FAILURE
        }
    }
}
