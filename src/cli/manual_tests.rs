// SPDX-License-Identifier: BSD-2-Clause
//! Compares simpleimage(8) with clap's tree of commands. Each has all commands, arguments and flags of the other.

use std::collections::{BTreeMap, BTreeSet};

use clap::{CommandFactory as _, ValueEnum as _};

use super::Tool;
use crate::ganeti::script::Script;

const MANUAL: &str = include_str!("../../man/simpleimage.8");

/// Every command has these flags, so the manual shows them only once.
const COMMON: [&str; 2] = ["help", "version"];

/// The usage of a command: its arguments, and its flags with the names of their values.
#[derive(Debug, Default, PartialEq)]
struct Usage {
    arguments: Vec<String>,
    flags: BTreeMap<String, Option<String>>,
}

/// Returns the tree of commands with the arguments that clap adds.
fn tree() -> clap::Command {
    let mut tree = Tool::command();
    tree.build();
    tree
}

fn usage(command: &clap::Command) -> Usage {
    let value = |arg: &clap::Arg| {
        let names = arg.get_value_names().filter(|_| arg.get_action().takes_values());
        names.map(|names| names[0].to_lowercase())
    };
    let arguments = command.get_positionals().filter_map(value).collect();
    let flags = command.get_arguments().filter_map(|arg| Some((arg.get_long()?.to_owned(), value(arg))));
    Usage { arguments, flags: flags.filter(|(name, _)| !COMMON.contains(&name.as_str())).collect() }
}

/// Collects all commands without subcommands, by their words.
fn commands(of: &clap::Command, words: &str, found: &mut BTreeMap<String, Usage>) {
    for command in of.get_subcommands().filter(|command| command.get_name() != "help" && !command.is_hide_set()) {
        let words = format!("{words} {}", command.get_name());
        if command.has_subcommands() {
            commands(command, &words, found);
        } else {
            found.insert(words.trim_start().to_owned(), usage(command));
        }
    }
}

fn all_commands() -> BTreeMap<String, Usage> {
    let mut found = BTreeMap::new();
    commands(&tree(), "", &mut found);
    found
}

/// Returns the flags that every command has.
fn global() -> BTreeSet<String> {
    usage(&tree()).flags.into_keys().collect()
}

/// Returns the words of mdoc(7) source, each with the macro that it belongs to.
fn words(source: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for line in source.lines().filter_map(|line| line.strip_prefix('.')) {
        let mut of = "";
        for word in line.split(' ') {
            if word.len() == 2 && word.starts_with(|first: char| first.is_ascii_uppercase()) {
                of = word;
            } else {
                found.push((of, word));
            }
        }
    }
    found
}

/// Returns the commands in this source, and their usage. `list | show` means two commands.
fn shown(source: &str) -> (Vec<String>, Usage) {
    let (mut names, mut usage, mut flag) = (vec![Vec::new()], Usage::default(), None);
    for (of, word) in words(source) {
        match of {
            "Cm" if word == "|" => names.push(names[0][..names[0].len() - 1].to_vec()),
            "Cm" => names.last_mut().unwrap().push(word),
            "Fl" => {
                flag = word.strip_prefix('-');
                usage.flags.extend(flag.map(|flag| (flag.to_owned(), None)));
            }
            "Ar" if word == "..." => {}
            "Ar" => match flag.take().and_then(|flag| usage.flags.get_mut(flag)) {
                Some(value) => *value = Some(word.to_owned()),
                None => usage.arguments.push(word.to_owned()),
            },
            _ => {}
        }
        flag = flag.filter(|_| of == "Fl");
    }
    (names.iter().map(|words| words.join(" ")).collect(), usage)
}

fn section(name: &str) -> &'static str {
    let start = MANUAL.split_once(&format!(".Sh {name}\n")).unwrap().1;
    start.split("\n.Sh ").next().unwrap()
}

/// Flags that every command has may be missing in the synopsis.
#[test]
fn the_synopsis_is_that_of_the_program() {
    let (program, global) = (all_commands(), global());
    let mut seen = BTreeSet::new();
    for block in section("SYNOPSIS").split(".Nm\n").filter(|block| block.contains(".Cm ")) {
        let (names, in_manual) = shown(block);
        let known: Vec<_> =
            names.iter().map(|name| program.get(name).unwrap_or_else(|| panic!("no command {name}"))).collect();
        let mut flags: BTreeMap<_, _> = known.iter().flat_map(|usage| usage.flags.clone()).collect();
        flags.retain(|flag, _| !global.contains(flag) || in_manual.flags.contains_key(flag));
        let mut arguments: Vec<_> = known.iter().flat_map(|usage| usage.arguments.clone()).collect();
        arguments.dedup();
        assert_eq!(in_manual, Usage { arguments, flags }, "{names:?}");
        seen.extend(names);
    }
    assert_eq!(seen, program.into_keys().collect());
}

#[test]
fn the_description_has_every_command_and_no_other() {
    let (scripts, tool) = section("DESCRIPTION").split_once("For people there are these commands:").unwrap();
    let items = |text: &'static str| {
        let items = text.lines().filter(|line| line.starts_with(".It Cm "));
        items.map(shown).map(|(names, usage)| (names[0].clone(), usage.arguments)).collect::<BTreeMap<_, _>>()
    };
    let program = all_commands().into_iter().map(|(name, usage)| (name, usage.arguments));
    assert_eq!(items(tool), program.collect());
    let names = Script::value_variants().iter().map(|script| script.name().to_owned());
    assert_eq!(items(scripts).into_keys().collect::<Vec<_>>(), names.collect::<Vec<_>>());
}

/// The manual may describe a flag by the name of its value.
#[test]
fn the_description_tells_of_every_flag_and_no_other() {
    let program = all_commands();
    let flags: BTreeMap<_, _> = program.values().flat_map(|usage| &usage.flags).collect();
    let text = words(section("DESCRIPTION"));
    for (flag, value) in &flags {
        let described = text.iter().any(|(of, word)| match *of {
            "Fl" => word.strip_prefix('-') == Some(flag.as_str()),
            _ => *of == "Ar" && Some(*word) == value.as_deref(),
        });
        assert!(described, "--{flag}");
    }
    for flag in words(MANUAL).into_iter().filter_map(|(of, word)| word.strip_prefix('-').filter(|_| of == "Fl")) {
        assert!(flags.contains_key(&flag.to_owned()) || COMMON.contains(&flag), "--{flag} is not in the program");
    }
}

#[test]
fn the_description_names_every_value_that_can_be_chosen() {
    let (tree, text) = (tree(), words(section("DESCRIPTION")));
    for command in tree.get_subcommands() {
        for value in command.get_positionals().flat_map(|arg| arg.get_possible_values()) {
            assert!(
                text.iter().any(|(_, word)| *word == value.get_name()),
                "{}: {}",
                command.get_name(),
                value.get_name()
            );
        }
    }
}

/// Collects the help of every command, hidden ones included.
fn helps(command: &clap::Command, found: &mut Vec<String>) {
    let mut command = command.clone();
    found.extend([command.render_help().to_string(), command.render_long_help().to_string()]);
    command.get_subcommands().for_each(|command| helps(command, found));
}

#[test]
fn every_help_has_lines_of_80_columns_of_whole_words() {
    let mut all = Vec::new();
    helps(&tree(), &mut all);
    assert!(all.len() > 40);
    for help in all {
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
        assert!(!help.contains("--root"), "{help}");
    }
}

/// Completions choose the candidates for an argument by the name of its value.
#[test]
fn every_value_is_of_a_kind_that_is_known() {
    let mut found = BTreeSet::new();
    for usage in all_commands().values() {
        found.extend(usage.arguments.iter().cloned().chain(usage.flags.values().flatten().cloned()));
    }
    let known = [
        "argument",
        "checksum",
        "dir",
        "disk",
        "entry",
        "file",
        "format",
        "image",
        "key",
        "name",
        "shell",
        "signature",
        "type",
        "variant",
    ];
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), known, "see src/cli/complete.rs");
}
