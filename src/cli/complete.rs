// SPDX-License-Identifier: BSD-2-Clause
//! Completions for shells. A shell's script calls `simpleimage __complete` at each Tab, so that it offers the
//! variants, images and cache entries that exist at that moment.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Arg, Command, CommandFactory as _, ValueEnum};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, complete as candidates};

use super::Tool;
use super::output::{self, printable};
use crate::config::{self, Paths, Settings, VariantName, Variants};
use crate::ganeti::request;
use crate::image::compression::Compression;
use crate::image::format::{Archive, DeclaredType, Format};
use crate::store::cache::Cache;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Fish,
    Zsh,
}

impl Shell {
    pub(super) fn script(self) -> &'static str {
        match self {
            Shell::Bash => include_str!("../../completions/simpleimage.bash"),
            Shell::Fish => include_str!("../../completions/simpleimage.fish"),
            Shell::Zsh => include_str!("../../completions/_simpleimage"),
        }
    }
}

/// A word and its description.
type Word = (String, String);

/// Writes the candidates for the last of `words`. The first word is the program's name. The first line of output is
/// `files` if paths are candidates too, and otherwise `words`. Each further line has a candidate, a tab and its
/// description. Errors only cause fewer candidates, because an error message would disturb the user's command line.
pub(super) fn complete(words: &[OsString], out: &mut dyn Write) -> anyhow::Result<()> {
    let files = Arc::new(AtomicBool::new(false));
    let context = Arc::new(Context::of(words));
    let mut tree = with_values(Tool::command(), &context, &files);
    let index = words.len().saturating_sub(1);
    let found = candidates(&mut tree, words.to_vec(), index, None).unwrap_or_default();
    // Flags are listed only after a `-`, because there are more of them than of anything else.
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

/// Removes tabs and line breaks, which separate words and descriptions in the output.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Gives every argument of `tree` its candidates, which depend on the name of its value.
fn with_values(tree: Command, context: &Arc<Context>, files: &Arc<AtomicBool>) -> Command {
    let tree = tree.mut_args(|arg| with_value(arg, context, files));
    tree.mut_subcommands(|command| with_values(command, context, files))
}

fn with_value(arg: Arg, context: &Arc<Context>, files: &Arc<AtomicBool>) -> Arg {
    let name = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    let name = name.unwrap_or_else(|| arg.get_id().to_string().to_uppercase());
    let (list, with_files): (fn(&Context) -> Vec<Word>, bool) = match name.as_str() {
        "VARIANT" => (Context::variants, false),
        "TYPE" => (Context::types, false),
        "ENTRY" | "ENTRIES" => (Context::entries, false),
        "IMAGE" => (Context::images, true),
        "DIR" | "DISK" | "FILE" | "KEY" | "SIGNATURE" => (|_| Vec::new(), true),
        _ => return arg,
    };
    let (context, files) = (Arc::clone(context), Arc::clone(files));
    arg.add(ArgValueCompleter::new(move |current: &OsStr| {
        files.fetch_or(with_files, Ordering::Relaxed);
        let Some(current) = current.to_str() else { return Vec::new() };
        let fitting = list(&context).into_iter().filter(|(word, _)| word.starts_with(current));
        fitting.map(|(word, meaning)| CompletionCandidate::new(word).help(Some(meaning.into()))).collect()
    }))
}

/// The root folder and the variant according to the command line so far.
struct Context {
    paths: Paths,
    /// `None` if the name on the command line is invalid.
    variant: Option<VariantName>,
}

impl Context {
    fn of(words: &[OsString]) -> Self {
        let root = value_of("--root", words).unwrap_or_else(|| "/".to_owned());
        let variant = value_of("--variant", words).unwrap_or_else(|| "default".to_owned());
        Context { paths: Paths::below(Path::new(&root)), variant: VariantName::parse(&variant).ok() }
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
        let formats = Format::ALL.map(DeclaredType::plain);
        let archives =
            Archive::ALL.map(|archive| DeclaredType { format: None, archive: Some(archive), compression: None });
        let plain: Vec<_> = formats.into_iter().chain(archives).collect();
        let all =
            packings.flat_map(|compression| plain.iter().map(move |plain| DeclaredType { compression, ..*plain }));
        let auto = ("auto".to_owned(), "what the content says".to_owned());
        std::iter::once(auto).chain(all.map(|image_type| (image_type.to_string(), String::new()))).collect()
    }

    /// Returns the names and keys of cached images. A URL is no candidate, because it would have to be quoted.
    fn entries(&self) -> Vec<Word> {
        let cache = self.settings().map(|settings| settings.cache_settings());
        let Some(Ok(Some(cache))) = cache.as_ref().map(Cache::existing) else { return Vec::new() };
        let names = request::image_names(cache.dir(), &self.paths);
        let mut words: Vec<Word> = Vec::new();
        for image in cache.list().unwrap_or_default() {
            let kept = |url| matches!(cache.info(url), Ok(Some(kept)) if kept.key == image.key);
            words.extend(
                names.iter().filter(|(_, url)| kept(url)).map(|(name, _)| (name.clone(), printable(&image.url))),
            );
            words.push((image.key[..output::SHOWN_DIGITS].to_owned(), printable(&image.url)));
        }
        words
    }
}

/// Returns the last value of the flag, which is written as `--flag value` or `--flag=value`.
fn value_of(flag: &str, words: &[OsString]) -> Option<String> {
    let words: Vec<_> = words.iter().take(words.len().saturating_sub(1)).filter_map(|word| word.to_str()).collect();
    let behind = |(index, word): (usize, &&str)| match word.strip_prefix(flag)? {
        "" => words.get(index + 1).map(|value| (*value).to_owned()),
        rest => rest.strip_prefix('=').map(str::to_owned),
    };
    words.iter().enumerate().rev().find_map(behind)
}
