// SPDX-License-Identifier: BSD-2-Clause
//! What stands in a document between its sentences: commands, what they say, and settings.

/// A block of a document.
#[derive(Debug, PartialEq)]
pub(super) enum Block {
    /// A command as it is written, with all of its lines: from an indented block, a `sh` fence, or a `console` fence.
    Command(String),
    /// A `text` fence: what the command before says.
    Said(String),
    /// A `toml` fence: a config.toml.
    Settings(String),
}

/// The prompt in a `console` fence, a picture of a terminal of so many columns.
const PROMPT: &str = "node1# ";
const COLUMNS: usize = 80;

/// All blocks of a document. A fence of another kind, or of none, is an error: nobody would know whether to run it.
pub(super) fn blocks(document: &str) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    let mut lines = document.lines().peekable();
    let (mut indented, mut before) = (Vec::new(), "");
    while let Some(line) = lines.next() {
        // An indented block begins after an empty line; elsewhere indented lines go on with a list.
        let begins = before.is_empty() || !indented.is_empty();
        match line.strip_prefix("    ") {
            Some(code) if begins => indented.push(code),
            _ if line.is_empty() && !indented.is_empty() => indented.push(""),
            _ => blocks.extend(commands(&std::mem::take(&mut indented))),
        }
        if let Some(kind) = line.strip_prefix("```") {
            let fence: Vec<_> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            match kind {
                "sh" => blocks.extend(commands(&fence)),
                "console" => blocks.extend(commands(&typed(&fence))),
                "text" => blocks.push(Block::Said(fence.join("\n"))),
                "toml" => blocks.push(Block::Settings(fence.join("\n"))),
                _ => return Err(format!("a fence of the kind '{kind}', which is none of sh, console, text and toml")),
            }
        }
        before = line;
    }
    blocks.extend(commands(&indented));
    Ok(blocks)
}

/// A command goes on in the next line behind a backslash.
fn commands(lines: &[impl AsRef<str>]) -> Vec<Block> {
    let mut commands: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in lines.iter().map(AsRef::as_ref).filter(|line| !line.trim().is_empty()) {
        match commands.last_mut().filter(|_| goes_on) {
            Some(command) => *command = format!("{command}\n{line}"),
            None => commands.push(line.to_owned()),
        }
        goes_on = line.ends_with('\\');
    }
    commands.into_iter().map(Block::Command).collect()
}

/// What was typed in a picture. A full line goes on in the next one.
fn typed(picture: &[&str]) -> Vec<String> {
    let mut typed: Vec<String> = Vec::new();
    let mut is_full = false;
    for line in picture {
        if let Some(command) = line.strip_prefix(PROMPT) {
            typed.push(command.to_owned());
        } else if let Some(command) = typed.last_mut().filter(|_| is_full) {
            command.push_str(line);
        }
        is_full = line.len() == COLUMNS && (is_full || line.starts_with(PROMPT));
    }
    typed
}

/// A command in one line, with a blank for every run of them, as the table of the trials names it.
pub(super) fn in_one_line(command: &str) -> String {
    command.replace("\\\n", " ").split_whitespace().collect::<Vec<_>>().join(" ")
}
