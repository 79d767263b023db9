// SPDX-License-Identifier: BSD-2-Clause
//! An OS script from its arguments and environment to its exit code.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::config::{self, Paths, VariantName};
use crate::ganeti::applet::Script;
use crate::ganeti::create::create;
use crate::ganeti::env::Environment;
use crate::ganeti::import::import;
use crate::ganeti::request;
use crate::install;
use crate::node::report::{LogFormat, Report, Subject, Verbosity};
use crate::node::run::Run;
use crate::node::sandbox::{Sandbox, WorkerAccess};

/// Exit code for arguments that a script does not take.
const USAGE: u8 = 2;

/// How a process was called.
#[derive(Debug)]
pub struct Invocation {
    /// Arguments, without the program's name.
    pub args: Vec<OsString>,
    /// The environment.
    pub environment: Environment,
    /// Where configuration and cache are looked for; `/` but for tests and trials.
    pub root: std::path::PathBuf,
    /// What messages look like; none where the settings decide.
    pub log_format: Option<LogFormat>,
    /// How much is said; none where the environment decides.
    pub verbosity: Option<Verbosity>,
}

/// Runs the script. Its last line on stderr is the error, if there is one.
pub fn run(script: Script, invocation: &Invocation, out: &mut dyn Write) -> ExitCode {
    let report = report(script, invocation);
    match invocation.args.as_slice() {
        [help] if help == "-h" || help == "--help" => {
            return match out.write_all(usage(script).as_bytes()) {
                // Who reads has seen enough.
                Err(err) if err.kind() != ErrorKind::BrokenPipe => ExitCode::FAILURE,
                _ => ExitCode::SUCCESS,
            };
        }
        [] if script != Script::Verify => {}
        [checks] if script == Script::Verify && checks == "parameters" => {}
        _ => {
            report.info(usage(script));
            report.error(format_args!("these arguments are not for {} (see {} --help)", script.name(), script.name()));
            return ExitCode::from(USAGE);
        }
    }
    match perform(script, invocation, &report) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            report.error(format_args!("{err:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Messages as the settings say. Nothing that is wrong with environment or settings is told here: what can be read of them
/// decides, and the script says in that format what is wrong if it needs the rest.
fn report(script: Script, invocation: &Invocation) -> Report {
    let Invocation { environment: env, root, log_format, verbosity, .. } = invocation;
    let variant = env.variant().ok().and_then(|name| VariantName::parse(name).ok());
    let format = log_format.unwrap_or_else(|| config::log_format(&Paths::below(root), variant.as_ref()));
    let instance = env.instance_name().ok().map(str::to_owned);
    let subject = Subject { instance, variant: variant.map(|variant| variant.to_string()) };
    let report = Report::stderr(Some(script.name()), env.debug()).formatted(format, subject);
    verbosity.map_or_else(|| report.clone(), |verbosity| report.clone().with_verbosity(verbosity))
}

fn perform(script: Script, invocation: &Invocation, report: &Report) -> anyhow::Result<()> {
    let env = &invocation.environment;
    let paths = Paths::below(Path::new(&invocation.root));
    let run = || Run::ended_by_signals(report.clone());
    match script {
        Script::Create => create(env, &paths, &run()?),
        Script::Export => install::export(&request::export(env)?, &run()?),
        Script::Import => import(env, &paths, &run()?),
        Script::Rename => install::rename(request::rename(env, &paths)?, &run()?),
        Script::Verify => {
            // It reads settings and compares words, and leaves nothing behind when a signal ends it. The others have
            // their work done by a confined process.
            Sandbox::for_worker(WorkerAccess::default()).and_then(Sandbox::enter).context("giving up privileges")?;
            request::verify(env, &paths)
        }
    }
}

fn usage(script: Script) -> String {
    let (args, what) = match script {
        Script::Create => ("", "Installs the image OSP_IMAGE onto DISK_0_PATH and runs the hooks of OS_VARIANT."),
        Script::Export => ("", "Writes the disk EXPORT_DEVICE to standard output."),
        Script::Import => {
            ("", "Writes standard input to the disk IMPORT_DEVICE and runs the import hooks of\nOS_VARIANT.")
        }
        Script::Rename => {
            ("", "Writes INSTANCE_NAME into the instance's seed and runs the rename hooks of\nOS_VARIANT.")
        }
        Script::Verify => (" parameters", "Checks the OS parameters."),
    };
    let name = script.name();
    format!(
        "usage: {name}{args}\nOS script of the Ganeti OS provider simpleimage.\n{what}\nGaneti calls it with everything in the environment, see ganeti-os-interface(7).\n"
    )
}
