// SPDX-License-Identifier: BSD-2-Clause
//! Ways to use a disk, in the words of whoever types them, and the scripts that meet a disk in such a state.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::drive::Target;
use crate::support::disk::Kind;
use crate::support::images::{MIB, disk, encode};
use crate::support::world::{Outcome, World};

/// What is typed to use a disk, in a shell that ends at the first command that fails. There `$D` is the disk and `$W` a folder.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    pub(crate) kind: Kind,
    pub(crate) make: &'static str,
    /// Ends the use, but not what is no use.
    pub(crate) end: &'static str,
    /// Removes the rest.
    pub(crate) clean: &'static str,
}

/// Those that write to a disk, or have hooks do so.
const SCRIPTS: [&str; 5] = ["create", "reinstall", "import", "rename", "install"];

/// A disk that is used in one way, with all that ends with it.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) target: Target,
    way: Way,
    image: PathBuf,
    content: Vec<u8>,
    ended: bool,
}

impl Scene {
    pub(crate) fn set(way: Way) -> Self {
        let world = World::new();
        fs::create_dir(world.path("mnt")).unwrap();
        world.hook("hooks.rename/tell", &format!("touch {}", world.path("renamed").display()));
        let content = disk(2 * MIB);
        let image = encode(&world, &content, "raw");
        let target = Target::stale(&world, way.kind);
        let scene = Scene { world, target, way, image, content, ended: false };
        scene.shell(way.make);
        scene
    }

    /// Nobody uses it any more.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.shell(self.way.end);
    }

    fn shell(&self, lines: &str) {
        let (ok, said) = self.try_shell(lines);
        assert!(ok, "{lines}: {said}");
    }

    fn try_shell(&self, lines: &str) -> (bool, String) {
        let said = self.world.path("said");
        let log = File::create(&said).unwrap();
        let mut command = Command::new("sh");
        command.args(["-exc", lines]).env("D", self.target.path()).env("W", self.world.path("")).stdin(Stdio::null());
        // A file, for what goes on in the background would keep a pipe open.
        let status = command.stdout(log.try_clone().unwrap()).stderr(log).status().unwrap();
        (status.success(), fs::read_to_string(said).unwrap())
    }

    /// `$W` is the folder of the shell, and `$P` the process whose number it has put in the file `pid` there.
    pub(crate) fn expand(&self, text: &str) -> String {
        let pid = fs::read_to_string(self.world.path("pid")).unwrap_or_default();
        text.replace("$W/", self.world.path("").to_str().unwrap()).replace("$P", pid.trim())
    }

    /// All scripts that write to a disk, each on this one, with its name.
    pub(crate) fn scripts(&self) -> impl Iterator<Item = (&'static str, Outcome)> {
        SCRIPTS.into_iter().map(|name| (name, self.run(name)))
    }

    fn run(&self, name: &str) -> Outcome {
        let (image, disk) = (self.image.to_str().unwrap(), self.target.path());
        let _ = fs::remove_file(self.world.path("renamed"));
        let create = |reinstall| self.world.create(disk, image, "raw").env("INSTANCE_REINSTALL", reinstall);
        let rename = || self.world.script("rename").env("OLD_INSTANCE_NAME", "web0.example.org");
        let script = match name {
            "create" => create("0"),
            "reinstall" => create("1"),
            "import" => {
                let script = self.world.script("import").env("IMPORT_DEVICE", self.target.text());
                script.stdin(File::open(&self.image).unwrap())
            }
            "rename" => rename().env("DISK_0_PATH", self.target.text()),
            _ => self.world.tool(&["install", image, self.target.text(), "--type", "raw"]),
        };
        script.run()
    }

    /// The script does what it is for.
    pub(crate) fn succeeds(&self, name: &str) {
        let before = self.target.bytes();
        let log = self.run(name).succeeds();
        if name == "rename" {
            assert!(self.was_renamed() && self.target.bytes() == before, "{log}");
        } else {
            self.target.assert_holds(&self.content, &format!("{name}: {log}"));
        }
    }

    pub(crate) fn was_renamed(&self) -> bool {
        self.world.path("renamed").exists()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let end = if self.ended { "" } else { self.way.end };
        // Whatever of it there is.
        for line in [end, self.way.clean] {
            if let (false, said) = self.try_shell(line) {
                eprintln!("{said}");
            }
        }
    }
}
