// SPDX-License-Identifier: BSD-2-Clause
//! Completions, asked for by the shells themselves: bash and zsh at a terminal with a Tab, fish by its own command.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::install::checks::Published;
use crate::support::images::{MIB, disk};
use crate::support::world::World;

/// A node with a variant, images with names, one of them kept, and the completions of each shell.
struct Site {
    world: World,
    server: Published,
    key: String,
}

impl Site {
    fn new() -> Self {
        let (world, server) = (World::new(), Published::new(&[("/a.raw", &disk(2 * MIB))]));
        world.variant_file("../variants.list", "default\nweb-frontend\n");
        let url = server.url("/a.raw");
        let config = format!("[images.debian-12]\nurl = \"{url}\"\nnote = \"the usual one\"\n");
        world.variant_file("../config.toml", &config);
        world.variant_file("../web-frontend/config.toml", "[images.frontend]\npath = '/srv/frontend.raw'\n");
        world.tool(&["fetch", "debian-12"]).run().succeeds();
        let list = world.tool(&["cache", "list"]).run().output();
        let key = list.lines().nth(1).unwrap().split(' ').next().unwrap().to_owned();
        fs::create_dir(world.path("here")).unwrap();
        fs::write(world.path("here/disk.raw"), "").unwrap();
        for (shell, name) in [("bash", "simpleimage.bash"), ("zsh", "_simpleimage"), ("fish", "simpleimage.fish")] {
            let outcome = world.tool(&["completions", shell]).run();
            outcome.succeeds();
            fs::write(world.path(name), outcome.output()).unwrap();
        }
        Site { world, server, key }
    }

    /// A command in the folder `here`, which finds the program by its name.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let folder = Path::new(env!("CARGO_BIN_EXE_simpleimage")).parent().unwrap();
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.display());
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.world.path(""))
            .env("TERM", "dumb")
            .env("LC_ALL", "C.UTF-8");
        command.current_dir(self.world.path("here"));
        command
    }

    fn root(&self) -> String {
        format!("--root {}", self.world.path("").display())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.world.path(name)
    }

    /// What an interactive shell makes of each line when Tab and Enter are typed behind it: the words that the command
    /// then gets.
    fn typed(&self, shell: &str, setup: &str, lines: &[String]) -> Vec<String> {
        let seen = self.world.path("seen");
        let _ = fs::remove_file(&seen);
        let mut terminal = self.command("script");
        terminal.args(["-qec", shell, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = terminal.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // The program stays what it is for the completions, which ask for it as a command.
        let function = format!("simpleimage() {{ (IFS=' '; printf '%s\\n' \"$*\") >>{}; }}\n", seen.display());
        let typed: String = lines.iter().map(|line| format!("{line}\t\n")).collect();
        input.write_all(format!("{setup}\n{function}{typed}exit\n").as_bytes()).unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let seen = fs::read_to_string(&seen).unwrap_or_else(|err| panic!("{err}: {said}"));
        seen.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Lines as they are typed, and what they become. Each has one way to go on.
    fn cases(&self) -> Vec<(String, String)> {
        let root = self.root();
        let here = [
            ("ins", "ins"),
            ("inst", "install"),
            ("cache ver", "cache verify"),
            ("install --no", "install --no-hooks"),
            (&format!("{root} check web"), &format!("{root} check web-frontend")),
            (&format!("{root} fetch --variant web"), &format!("{root} fetch --variant web-frontend")),
            (&format!("{root} fetch --variant=web"), &format!("{root} fetch --variant=web-frontend")),
            (&format!("{root} inspect deb"), &format!("{root} inspect debian-12")),
            (&format!("{root} inspect front"), &format!("{root} inspect front")),
            (
                &format!("{root} inspect --variant web-frontend front"),
                &format!("{root} inspect --variant web-frontend frontend"),
            ),
            ("inspect ./di", "inspect ./disk.raw"),
            ("install x di", "install x disk.raw"),
            ("fetch a --type qcow2+x", "fetch a --type qcow2+xz"),
            (&format!("{root} cache rm {}", &self.key[..5]), &format!("{root} cache rm {}", self.key)),
            (&format!("{root} cache show debian-12 --js"), &format!("{root} cache show debian-12 --json")),
        ];
        here.map(|(typed, whole)| (format!("simpleimage {typed}"), whole.to_owned())).into()
    }
}

#[test]
fn bash_completes_what_is_typed() {
    let site = Site::new();
    let file = site.file("simpleimage.bash");
    let load = ["--norc", "--noprofile", "-eu", "-c", ". \"$1\"; complete -p simpleimage", "bash"];
    let output = Command::new("bash").args(load).arg(&file).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "complete -F _simpleimage simpleimage\n", "{output:?}");
    let (typed, expected): (Vec<_>, Vec<_>) = site.cases().into_iter().unzip();
    let seen = site.typed("bash --norc --noprofile -i", &format!(". {}", file.display()), &typed);
    assert_eq!(seen, expected);
}

#[test]
fn zsh_completes_what_is_typed() {
    let site = Site::new();
    let file = site.file("_simpleimage");
    let output = Command::new("zsh").args(["-f", "-n"]).arg(&file).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    // As a real one would: found by its name in a folder of functions.
    let setup = format!(
        "unsetopt zle_bracketed_paste; unset zle_bracketed_paste; fpath=({} $fpath); autoload -Uz compinit; compinit -u -D; \
         setopt no_auto_list no_list_beep",
        file.parent().unwrap().display()
    );
    let (typed, expected): (Vec<_>, Vec<_>) = site.cases().into_iter().unzip();
    let seen = site.typed("zsh -f -i", &setup, &typed);
    assert_eq!(seen, expected);
}

#[test]
fn fish_lists_words_and_what_they_mean() {
    let site = Site::new();
    let root = site.root();
    let ask = |line: &str| -> Vec<String> {
        let file = site.file("simpleimage.fish");
        let output = site
            .command("fish")
            .args(["--no-config", "-c", "source $argv[1]; complete -C $argv[2]"])
            .arg(file)
            .arg(line)
            .output();
        let output = output.unwrap();
        assert!(output.stderr.is_empty() && output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    };
    let words = |line: &str| -> Vec<String> {
        ask(line).iter().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    };
    assert_eq!(words(&format!("simpleimage {root} fetch --variant ")), ["default", "web-frontend"]);
    assert_eq!(words(&format!("simpleimage {root} fetch --variant=web")), ["--variant=web-frontend"]);
    assert_eq!(ask(&format!("simpleimage {root} fetch ")), ["debian-12\tthe usual one", "disk.raw"]);
    assert_eq!(words(&format!("simpleimage {root} --variant web-frontend fetch front")), ["frontend"]);
    assert_eq!(words("simpleimage install x d"), ["disk.raw"]);
    assert_eq!(words("simpleimage install x y --type vh"), ["vhdx", "vhdx+bz2", "vhdx+gz", "vhdx+xz", "vhdx+zst"]);
    let url = site.server.url("/a.raw");
    let mut entries = ask(&format!("simpleimage {root} cache remove "));
    entries.sort();
    let mut expected = [format!("debian-12\t{url}"), format!("{}\t{url}", site.key)];
    expected.sort();
    assert_eq!(entries, expected);
    assert!(
        words("simpleimage ").contains(&"images".to_owned())
            && !words("simpleimage ").iter().any(|word| word.starts_with('_'))
    );
}

/// Whatever is typed, and whoever types it: no error, and nothing is made.
#[test]
fn what_can_not_be_known_is_left_out() {
    let world = World::new();
    world.variant_file("config.toml", "oops");
    let ask = |words: &[&str]| {
        let outcome = world.tool(&[&["__complete", "simpleimage"], words].concat()).run();
        assert_eq!(outcome.succeeds(), "");
        outcome.output()
    };
    let root = world.path("");
    let root = root.to_str().unwrap();
    assert_eq!(ask(&["--root", root, "fetch", ""]), "files\n");
    assert_eq!(ask(&["--root", root, "cache", "show", ""]), "words\n");
    assert_eq!(ask(&["--root", root, "--variant", "../x", "fetch", ""]), "files\n");
    assert_eq!(ask(&["nonsense", "--nonsense", "x", ""]).lines().next(), Some("words"));
    assert_eq!(world.tool(&["__complete"]).run().succeeds(), "");
    assert!(
        ask(&["fetch", "--"]).lines().any(|line| line.starts_with("--signature\tThe path or URL of the signature"))
    );
    assert!(!world.cache().exists());
}
