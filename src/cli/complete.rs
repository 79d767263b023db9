// SPDX-License-Identifier: BSD-2-Clause
//! Completions: a script for the shell, and what it asks this program for.
//!
//! The scripts know nothing but how their shell wants its words. Each time they ask for those that may stand in place of
//! the last one, so that variants, images and kept entries are those of this moment.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Arg, Command, CommandFactory as _, ValueEnum};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, complete as candidates};

use super::Tool;
use super::output;
use crate::config::{self, Paths, Settings, VariantName, Variants};
use crate::ganeti::request;
use crate::image::format::{Compression, Format, ImageType};
use crate::store::cache::Cache;

/// The shells that there is a script for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Fish,
    Zsh,
}

impl Shell {
    /// Its script.
    pub(super) fn script(self) -> &'static str {
        match self {
            Shell::Bash => include_str!("../../completions/simpleimage.bash"),
            Shell::Fish => include_str!("../../completions/simpleimage.fish"),
            Shell::Zsh => include_str!("../../completions/_simpleimage"),
        }
    }
}

/// A word, and what it means.
type Word = (String, String);

/// Writes what may stand in place of the last of `words`, of which the first is the program's name. The first line is `files`
/// where a path may stand there too, else `words`; then comes a word in each line, with a tab and its meaning. Whatever
/// can't be found out is left out: nobody who types wants to read an error.
pub(super) fn complete(words: &[OsString], out: &mut dyn Write) -> anyhow::Result<()> {
    let files = Arc::new(AtomicBool::new(false));
    let known = Arc::new(Known::of(words));
    let mut tree = with_values(Tool::command(), &known, &files);
    let index = words.len().saturating_sub(1);
    let found = candidates(&mut tree, words.to_vec(), index, None).unwrap_or_default();
    // Flags only for who asks for them: they would drown the rest.
    let flags = words.last().is_some_and(|word| word.as_encoded_bytes().starts_with(b"-"));
    output::line(out, if files.load(Ordering::Relaxed) { "files" } else { "words" })?;
    for candidate in found {
        let Some(word) = candidate.get_value().to_str().filter(|word| flags || !word.starts_with('-')) else {
            continue;
        };
        let meaning = candidate.get_help().map(ToString::to_string).unwrap_or_default();
        output::line(out, &format!("{}\t{}", one_line(word), one_line(meaning.lines().next().unwrap_or_default())))?;
    }
    Ok(())
}

/// Tabs and line breaks are the scripts'.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// `tree` with arguments that know their values, by what these are called.
fn with_values(tree: Command, known: &Arc<Known>, files: &Arc<AtomicBool>) -> Command {
    let tree = tree.mut_args(|arg| with_value(arg, known, files));
    tree.mut_subcommands(|command| with_values(command, known, files))
}

fn with_value(arg: Arg, known: &Arc<Known>, files: &Arc<AtomicBool>) -> Arg {
    let name = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    let name = name.unwrap_or_else(|| arg.get_id().to_string().to_uppercase());
    let (list, with_files): (fn(&Known) -> Vec<Word>, bool) = match name.as_str() {
        "VARIANT" => (Known::variants, false),
        "TYPE" => (Known::types, false),
        "ENTRY" | "ENTRIES" => (Known::entries, false),
        "IMAGE" => (Known::images, true),
        "DIR" | "DISK" | "FILE" | "KEY" | "SIGNATURE" => (|_| Vec::new(), true),
        _ => return arg,
    };
    let (known, files) = (Arc::clone(known), Arc::clone(files));
    arg.add(ArgValueCompleter::new(move |current: &OsStr| {
        files.fetch_or(with_files, Ordering::Relaxed);
        let Some(current) = current.to_str() else { return Vec::new() };
        let fitting = list(&known).into_iter().filter(|(word, _)| word.starts_with(current));
        fitting.map(|(word, meaning)| CompletionCandidate::new(word).help(Some(meaning.into()))).collect()
    }))
}

/// What the words so far say about where to look.
struct Known {
    paths: Paths,
    /// None where the name is no variant's.
    variant: Option<VariantName>,
}

impl Known {
    fn of(words: &[OsString]) -> Self {
        let root = value_of("--root", words).unwrap_or_else(|| "/".to_owned());
        let variant = value_of("--variant", words).unwrap_or_else(|| "default".to_owned());
        Known { paths: Paths::below(Path::new(&root)), variant: VariantName::parse(&variant).ok() }
    }

    fn settings(&self) -> Option<Settings> {
        config::load(&self.paths, self.variant.as_ref()?).ok()
    }

    fn variants(&self) -> Vec<Word> {
        let Ok(variants) = Variants::of(&self.paths) else { return Vec::new() };
        variants.all().map(|name| (name.to_string(), String::new())).collect()
    }

    fn images(&self) -> Vec<Word> {
        let images = self.settings().map(|settings| settings.images).unwrap_or_default();
        images.into_iter().map(|(name, alias)| (name, alias.note.unwrap_or_default())).collect()
    }

    fn types(&self) -> Vec<Word> {
        let packings = std::iter::once(None).chain(Compression::ALL.map(Some));
        let all = packings.flat_map(|compression| Format::ALL.map(|format| ImageType { format, compression }));
        let auto = ("auto".to_owned(), "what the content says".to_owned());
        std::iter::once(auto).chain(all.map(|image_type| (image_type.to_string(), String::new()))).collect()
    }

    /// By name or by key: a URL would have to be quoted.
    fn entries(&self) -> Vec<Word> {
        let cache = self.settings().map(|settings| settings.cache_settings());
        let Some(Ok(Some(cache))) = cache.as_ref().map(Cache::existing) else { return Vec::new() };
        let names = request::image_names(cache.dir(), &self.paths);
        let mut words: Vec<Word> = Vec::new();
        for image in cache.list().unwrap_or_default() {
            let kept = |url| matches!(cache.kept(url), Ok(Some(kept)) if kept.key == image.key);
            words.extend(names.iter().filter(|(_, url)| kept(url)).map(|(name, _)| (name.clone(), image.url.clone())));
            words.push((image.key[..output::SHOWN_DIGITS].to_owned(), image.url.clone()));
        }
        words
    }
}

/// What the flag was given last, in either way.
fn value_of(flag: &str, words: &[OsString]) -> Option<String> {
    let words: Vec<_> = words.iter().take(words.len().saturating_sub(1)).filter_map(|word| word.to_str()).collect();
    let behind = |(index, word): (usize, &&str)| match word.strip_prefix(flag)? {
        "" => words.get(index + 1).map(|value| (*value).to_owned()),
        rest => rest.strip_prefix('=').map(str::to_owned),
    };
    words.iter().enumerate().rev().find_map(behind)
}
