// SPDX-License-Identifier: BSD-2-Clause
//! Selects one of the six programs in this binary by its name, and runs an OS script: from its arguments and
//! environment to its exit code.

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::config::{self, Paths, VariantName};
use crate::ganeti::env::Environment;
use crate::ganeti::new_disk::{create, import};
use crate::ganeti::request;
use crate::install;
use crate::node::report::{LogFormat, Report, Subject, Verbosity};
use crate::node::run::Run;
use crate::node::sandbox::{Sandbox, WorkerAccess};

/// The exit code for invalid arguments of a script.
const USAGE: u8 = 2;

/// One of the five OS scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Script {
    /// Installs an instance.
    Create,
    /// Dumps a disk to standard output.
    Export,
    /// Restores a disk from standard input.
    Import,
    /// Changes the name in an instance's seed.
    Rename,
    /// Checks OS parameters.
    Verify,
}

/// A program in this binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applet {
    /// An OS script, run by Ganeti.
    Script(Script),
    /// The command line tool `simpleimage`.
    Tool,
}

/// The error for a name that is none of the six.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("called as '{0}', which is not one of create, export, import, rename, verify and simpleimage")]
pub struct UnknownApplet(String);

impl Script {
    /// The file name of the script.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Script::Create => "create",
            Script::Export => "export",
            Script::Import => "import",
            Script::Rename => "rename",
            Script::Verify => "verify",
        }
    }
}

impl Applet {
    /// Selects the program from the path or name in `argv[0]`.
    pub fn from_argv0(argv0: &OsStr) -> Result<Self, UnknownApplet> {
        let name = Path::new(argv0).file_name().unwrap_or(argv0);
        Ok(match name.to_str() {
            Some("create") => Applet::Script(Script::Create),
            Some("export") => Applet::Script(Script::Export),
            Some("import") => Applet::Script(Script::Import),
            Some("rename") => Applet::Script(Script::Rename),
            Some("verify") => Applet::Script(Script::Verify),
            Some("simpleimage") => Applet::Tool,
            _ => return Err(UnknownApplet(name.to_string_lossy().into_owned())),
        })
    }
}

/// The way in which this process was called.
#[derive(Debug)]
pub struct Invocation {
    /// The arguments, without the program's name.
    pub args: Vec<OsString>,
    /// The environment variables.
    pub environment: Environment,
    /// The folder that contains configuration and cache. It is `/` except in tests and trials.
    pub root: std::path::PathBuf,
    /// The format of messages. If it is `None`, then the settings decide.
    pub log_format: Option<LogFormat>,
    /// The verbosity of messages. If it is `None`, then the environment decides.
    pub verbosity: Option<Verbosity>,
}

/// Runs the script. If it fails, its last line on stderr is the error.
pub fn run(script: Script, invocation: &Invocation, out: &mut dyn Write) -> ExitCode {
    let report = report(script, invocation);
    match invocation.args.as_slice() {
        [help] if help == "-h" || help == "--help" => {
            return match out.write_all(usage(script).as_bytes()) {
                // A broken pipe is no error, because the reader has seen enough.
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

/// Returns a report in the format that the settings ask for. Errors in environment and settings are ignored here:
/// what can be read decides the format, and the script reports in that format what is wrong, if it needs the rest.
fn report(script: Script, invocation: &Invocation) -> Report {
    let Invocation { environment: env, root, log_format, verbosity, .. } = invocation;
    let variant = env.variant().ok().and_then(|name| VariantName::parse(name).ok());
    let format = log_format.unwrap_or_else(|| config::log_format(&Paths::below(root), variant.as_ref()));
    let instance = env.instance_name().ok().map(str::to_owned);
    let subject = Subject { instance, variant: variant.map(|variant| variant.to_string()) };
    let report = Report::stderr(Some(script.name()), env.debug()).formatted(format, subject);
    match verbosity {
        Some(verbosity) => report.with_verbosity(*verbosity),
        None => report,
    }
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
            // `verify` only reads settings and compares words, and leaves nothing behind when a signal ends it. So it
            // confines itself. The other scripts use a worker.
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

#[cfg(test)]
mod tests {
    use super::{Applet, Script};

    #[test]
    fn only_the_six_names() {
        assert_eq!(
            Applet::from_argv0("/usr/share/ganeti/os/simpleimage/create".as_ref()),
            Ok(Applet::Script(Script::Create))
        );
        assert_eq!(Applet::from_argv0("simpleimage".as_ref()), Ok(Applet::Tool));
        for other in ["Create", "create.sh", "simpleimage2", "", "/"] {
            let message = Applet::from_argv0(other.as_ref()).unwrap_err().to_string();
            assert!(
                message.ends_with("is not one of create, export, import, rename, verify and simpleimage"),
                "{message}"
            );
        }
    }
}
