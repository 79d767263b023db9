// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage cache`: what is kept, for people and, as JSON, for programs.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use clap::Subcommand;
use serde::Serialize;
use serde_json::{Value, json};

use super::output;
use crate::cache::{Cache, KeptImage};
use crate::config::{Paths, VariantName};
use crate::ops::{self, Verdict};
use crate::request;
use crate::size::ByteSize;

/// How many digits of a key are shown: enough to tell any number of images apart.
const SHOWN_DIGITS: usize = 12;

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct CacheArgs {
    /// The variant whose cache folder is meant.
    #[arg(long, global = true, default_value = "default")]
    variant: VariantName,
    /// Write the result as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the kept images, the one used last first.
    List,
    /// Tell all about a kept image.
    Show {
        /// Its URL, or at least 4 digits of its key.
        entry: String,
    },
    /// Read kept images and compare them with what was downloaded; remove those that are damaged.
    Verify {
        /// Their URLs, or at least 4 digits of their keys; none for all.
        #[arg(value_name = "ENTRY")]
        entries: Vec<String>,
    },
    /// Remove what no create would have left: expired images, remains of killed downloads, what is beyond the size limit.
    Prune,
    /// Remove images.
    Remove {
        /// Their URLs, or at least 4 digits of their keys.
        #[arg(value_name = "ENTRY", required = true)]
        entries: Vec<String>,
    },
}

/// Does it; results go to `out`.
pub(super) fn cache(args: CacheArgs, root: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let settings = request::variant_cache(&args.variant, &Paths::below(root))?;
    let cache = Cache::open(&settings)?;
    let mut result = Output { out, json: args.json, now: SystemTime::now() };
    match args.verb {
        Verb::List => result.list(&cache),
        Verb::Show { entry } => result.show(&cache.find(&entry)?),
        Verb::Verify { entries } => result.verify(&cache, &entries),
        Verb::Prune => result.prune(&cache),
        Verb::Remove { entries } => result.remove(&cache, &entries),
    }
}

struct Output<'o> {
    out: &'o mut dyn Write,
    json: bool,
    now: SystemTime,
}

/// A kept image in JSON. Times in seconds since 1970.
#[derive(Serialize)]
struct Entry<'i> {
    key: &'i str,
    url: &'i str,
    path: String,
    size: u64,
    sha256: &'i str,
    etag: Option<&'i str>,
    last_modified: Option<&'i str>,
    fetched_at: u64,
    checked_at: u64,
    used_at: u64,
    in_use: bool,
}

impl Output<'_> {
    fn list(&mut self, cache: &Cache) -> anyhow::Result<()> {
        let images = cache.list()?;
        if self.json {
            return self.write_json(&images.iter().map(entry).collect::<Vec<_>>());
        }
        let mut lines = vec![["KEY", "SIZE", "FETCHED", "CHECKED", "USED", "URL"].map(str::to_owned)];
        for image in &images {
            let used = if image.in_use { "now".to_owned() } else { self.age(image.used_at) };
            let (fetched, checked) = (self.age(image.fetched_at), self.age(image.checked_at));
            let size = ByteSize(image.len).rounded();
            lines.push([image.key[..SHOWN_DIGITS].to_owned(), size, fetched, checked, used, image.url.clone()]);
        }
        self.write_table(&lines)
    }

    fn show(&mut self, image: &KeptImage) -> anyhow::Result<()> {
        if self.json {
            return self.write_json(&entry(image));
        }
        let used = if image.in_use { "now".to_owned() } else { format!("{} ago", self.age(image.used_at)) };
        let none = || "none".to_owned();
        let lines = [
            ("url", image.url.clone()),
            ("key", image.key.clone()),
            ("file", image.path.display().to_string()),
            ("size", ByteSize(image.len).to_string()),
            ("sha256", image.sha256.clone()),
            ("fetched", format!("{} ago", self.age(image.fetched_at))),
            ("checked", format!("{} ago", self.age(image.checked_at))),
            ("used", used),
            ("etag", image.etag.clone().unwrap_or_else(none)),
            ("last modified", image.last_modified.clone().unwrap_or_else(none)),
        ];
        for (name, value) in lines {
            self.line(&format!("{:<14} {value}", format!("{name}:")))?;
        }
        Ok(())
    }

    fn verify(&mut self, cache: &Cache, entries: &[String]) -> anyhow::Result<()> {
        let images = if entries.is_empty() { cache.list()? } else { find_all(cache, entries)? };
        let (mut damaged, mut results) = (0, Vec::new());
        for image in &images {
            let words = match ops::verify_kept(cache, image)? {
                Verdict::Gone => continue,
                Verdict::Intact => "intact",
                Verdict::Damaged(_) => "damaged, removed",
            };
            damaged += usize::from(words != "intact");
            if !self.json {
                self.line(&format!("{} {words}: {}", &image.key[..SHOWN_DIGITS], image.url))?;
            }
            results.push(json!({ "key": image.key, "url": image.url, "intact": words == "intact" }));
        }
        if self.json {
            self.write_json(&results)?;
        }
        if damaged > 0 {
            bail!("{damaged} of {} kept images were damaged", results.len());
        }
        Ok(())
    }

    fn prune(&mut self, cache: &Cache) -> anyhow::Result<()> {
        let total = |images: &[KeptImage]| images.iter().map(|image| image.len).sum::<u64>();
        let before = total(&cache.list()?);
        let removed = cache.prune_expired(self.now)?;
        let left = cache.list()?;
        let (bytes, size) = (before.saturating_sub(total(&left)), total(&left));
        if self.json {
            return self.write_json(&json!({ "removed": removed, "bytes": bytes, "left": left.len(), "size": size }));
        }
        let (bytes, size) = (ByteSize(bytes).rounded(), ByteSize(size).rounded());
        self.line(&format!("images removed: {removed} ({bytes}), left: {} ({size})", left.len()))
    }

    fn remove(&mut self, cache: &Cache, entries: &[String]) -> anyhow::Result<()> {
        let images = find_all(cache, entries)?;
        for image in &images {
            cache.remove(image)?;
            if !self.json {
                self.line(&format!("removed {} {}", &image.key[..SHOWN_DIGITS], image.url))?;
            }
        }
        if self.json {
            let removed: Vec<Value> =
                images.iter().map(|image| json!({ "key": image.key, "url": image.url })).collect();
            self.write_json(&removed)?;
        }
        Ok(())
    }

    /// Columns as wide as their widest cell.
    fn write_table<const N: usize>(&mut self, lines: &[[String; N]]) -> anyhow::Result<()> {
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or_default();
        for line in lines {
            let cells: Vec<_> = (0..N).map(|column| format!("{:<1$}", line[column], width(column))).collect();
            self.line(cells.join("  ").trim_end())?;
        }
        Ok(())
    }

    fn write_json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        output::write_json(self.out, value)
    }

    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        output::line(self.out, line)
    }

    fn age(&self, time: SystemTime) -> String {
        age(self.now.duration_since(time).unwrap_or_default())
    }
}

fn find_all(cache: &Cache, entries: &[String]) -> anyhow::Result<Vec<KeptImage>> {
    Ok(entries.iter().map(|entry| cache.find(entry)).collect::<Result<_, _>>()?)
}

fn entry(image: &KeptImage) -> Entry<'_> {
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    Entry {
        key: &image.key,
        url: &image.url,
        path: image.path.display().to_string(),
        size: image.len,
        sha256: &image.sha256,
        etag: image.etag.as_deref(),
        last_modified: image.last_modified.as_deref(),
        fetched_at: seconds(image.fetched_at),
        checked_at: seconds(image.checked_at),
        used_at: seconds(image.used_at),
        in_use: image.in_use,
    }
}

/// A time in the largest unit of which it has two.
fn age(time: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "days"), (3600, "h"), (60, "min"), (1, "s")];
    let seconds = time.as_secs();
    let (length, unit) = UNITS.into_iter().find(|(length, _)| seconds >= 2 * length).unwrap_or((1, "s"));
    format!("{} {unit}", seconds / length)
}

#[cfg(test)]
mod tests {
    use super::age;
    use std::time::Duration;

    #[test]
    fn ages_have_a_unit_that_fits() {
        let shown = [0, 1, 119, 120, 7199, 7200, 172_799, 172_800, 8_640_000].map(|s| age(Duration::from_secs(s)));
        assert_eq!(shown, ["0 s", "1 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days", "100 days"]);
    }
}
