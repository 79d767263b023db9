// SPDX-License-Identifier: BSD-2-Clause
//! The multi-call binary: looks at the name it was called under, and hands over to the library.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use simpleimage::cli;
use simpleimage::ganeti::env::Environment;
use simpleimage::ganeti::script::Applet;
use simpleimage::ganeti::script::{self, Invocation};
use simpleimage::node::report::Report;
use simpleimage::node::sandbox;

fn main() -> ExitCode {
    if let Err(err) = sandbox::harden_process() {
        Report::stderr(None, false).error(format_args!("setting limits: {err}"));
        return ExitCode::FAILURE;
    }
    let mut args = std::env::args_os();
    let argv0 = args.next().unwrap_or_else(|| OsString::from("simpleimage"));
    let environment = Environment::new(std::env::vars_os());
    let args = args.collect();
    let invocation = Invocation { args, environment, root: PathBuf::from("/"), log_format: None, verbosity: None };
    let mut out = cli::standard_output();
    match Applet::from_argv0(&argv0) {
        Ok(Applet::Script(script)) => script::run(script, &invocation, &mut *out),
        Ok(Applet::Tool) => cli::run(argv0, invocation, &mut *out),
        Err(err) => {
            Report::stderr(None, false).error(err);
            ExitCode::from(2)
        }
    }
}
