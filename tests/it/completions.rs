// SPDX-License-Identifier: BSD-2-Clause
//! What `simpleimage completions` writes, loaded by the shells themselves.

use std::fs;
use std::process::Command;

use crate::support::world::World;

/// The completions of `shell`, in a file called `name`.
fn written(world: &World, shell: &str, name: &str) -> String {
    let outcome = world.tool(&["completions", shell]).run();
    outcome.succeeds();
    let file = world.path(name);
    fs::write(&file, outcome.output()).unwrap();
    file.to_str().unwrap().to_owned()
}

/// What `script` prints in a shell that ends at the first error. `file` is its first argument.
fn output(shell: &[&str], script: &str, file: &str) -> String {
    let output = Command::new(shell[0]).args(&shell[1..]).args(["-c", script, "shell", file]).output();
    let output = output.unwrap_or_else(|err| panic!("{}: {err}", shell[0]));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{}", shell[0]);
    assert!(output.status.success(), "{}: {}", shell[0], output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bash_completes_commands_and_flags() {
    let world = World::new();
    let file = written(&world, "bash", "completions");
    let strict = ["bash", "--norc", "--noprofile", "-e", "-u"];
    assert_eq!(output(&strict, r#". "$1"; complete -p simpleimage >/dev/null; echo loaded"#, &file), "loaded\n");
    // The function itself is not written for -u.
    let complete = r#". "$1"
        try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _simpleimage simpleimage "${@: -1}" "${@: -2:1}"; echo "${COMPREPLY[*]}"; }
        try simpleimage ins
        try simpleimage cache ver
        try simpleimage install --no"#;
    let plain = ["bash", "--norc", "--noprofile"];
    assert_eq!(output(&plain, complete, &file), "inspect install\nverify\n--no-hooks\n");
}

#[test]
fn zsh_finds_the_completions_by_itself() {
    let world = World::new();
    let file = written(&world, "zsh", "_simpleimage");
    assert_eq!(output(&["zsh", "-f"], r#"zsh -f -n "$1""#, &file), "");
    let load = r#"fpath=(${1:h} $fpath); autoload -Uz compinit; compinit -u -D; print $_comps[simpleimage]
        autoload +X _simpleimage; print ${+functions[_simpleimage]}"#;
    assert_eq!(output(&["zsh", "-f", "-e", "-u"], load, &file), "_simpleimage\n1\n");
}
