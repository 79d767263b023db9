// SPDX-License-Identifier: BSD-2-Clause
//! Which of its six parts the binary plays, and an OS script from its arguments and environment to its exit code.

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

/// Exit code for arguments that a script does not take.
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
    /// Follows an instance's change of name.
    Rename,
    /// Checks OS parameters.
    Verify,
}

/// A part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applet {
    /// An OS script, run by Ganeti.
    Script(Script),
    /// The tool for people.
    Tool,
}

/// A name that is none of the six.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("called as '{0}', which is not one of create, export, import, rename, verify and simpleimage")]
pub struct UnknownApplet(String);

impl Script {
    /// The name Ganeti calls it by.
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
    /// From the path or name in `argv[0]`.
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
