// SPDX-License-Identifier: BSD-2-Clause
//! Which of its six parts the binary plays, by the name it was called under.

use std::ffi::OsStr;
use std::path::Path;

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
