// SPDX-License-Identifier: BSD-2-Clause
//! `simpleimage cache`: shows, verifies and removes cached images. The output is text for people, or JSON for
//! programs.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{anyhow, bail};
use clap::Subcommand;
use serde::Serialize;
use serde_json::json;

use super::output::{self, SHOWN_DIGITS, printable};
use crate::config::{Paths, VariantName};
use crate::ganeti::request;
use crate::install::{self, Verdict};
use crate::node::report::Report;
use crate::node::run::Run;
use crate::node::size::ByteSize;
use crate::store::cache::{Cache, CacheError, CachedImageInfo};
use crate::store::http::ImageUrl;

#[derive(Debug, clap::Args)]
pub(super) struct CacheArgs {
    /// The variant whose cache folder is used.
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
    #[command(visible_alias = "ls")]
    List,
    /// Show everything about a kept image.
    Show {
        /// The image's name, its URL, or at least 4 digits of its key.
        entry: String,
    },
    /// Read kept images and compare them with what was downloaded; remove those that are damaged.
    Verify {
        /// The images' names, URLs, or at least 4 digits of their keys. Without any, all images are read.
        #[arg(value_name = "ENTRY")]
        entries: Vec<String>,
    },
    /// Remove what a create would remove: expired images, remains of killed downloads, and what exceeds the size
    /// limit.
    Prune,
    /// Remove images.
    #[command(visible_alias = "rm")]
    Remove {
        /// The images' names, URLs, or at least 4 digits of their keys.
        #[arg(value_name = "ENTRY", required_unless_present = "all", conflicts_with = "all")]
        entries: Vec<String>,
        /// Remove every image that is not in use.
        #[arg(long)]
        all: bool,
    },
}

pub(super) fn cache(args: CacheArgs, root: &Path, report: &Report, out: &mut dyn Write) -> anyhow::Result<()> {
    let paths = Paths::below(root);
    let settings = request::variant_cache(&args.variant, &paths)?;
    let store = NamedCache { cache: Cache::open(&settings)?, names: request::image_names(&settings.dir, &paths) };
    let mut result = Output { out, json: args.json, now: SystemTime::now(), report };
    match args.verb {
        Verb::List => result.list(&store, settings.max_size),
        Verb::Show { entry } => {
            let image = store.find(&entry)?;
            result.show(&ListedImage::all(&store, vec![image], report)?.remove(0))
        }
        Verb::Verify { entries } => result.verify(&store, &entries),
        Verb::Prune => result.prune(&store.cache),
        Verb::Remove { entries, all: false } => result.remove(&store.cache, store.find_all(&entries)?),
        Verb::Remove { all: true, .. } => result.remove(&store.cache, store.cache.list()?),
    }
}

/// A cache, and the names of images from URLs in config.toml.
struct NamedCache {
    cache: Cache,
    names: Vec<(String, ImageUrl)>,
}

impl NamedCache {
    /// Finds the cached image by its name in config.toml, or else by its URL or key.
    fn find(&self, text: &str) -> anyhow::Result<CachedImageInfo> {
        let mut urls = self.names.iter().filter(|(name, _)| name == text).map(|(_, url)| url).peekable();
        if urls.peek().is_none() {
            return Ok(self.cache.find(text)?);
        }
        for url in urls {
            if let Some(kept) = self.cache.info(url)? {
                return Ok(kept);
            }
        }
        Err(CacheError::NotCached { what: text.to_owned() }.into())
    }

    fn find_all(&self, entries: &[String]) -> anyhow::Result<Vec<CachedImageInfo>> {
        let mut images: Vec<CachedImageInfo> = Vec::new();
        for entry in entries {
            let image = self.find(entry)?;
            if images.iter().all(|found| found.key != image.key) {
                images.push(image);
            }
        }
        Ok(images)
    }
}

/// A cached image, with its names and its image type.
struct ListedImage {
    image: CachedImageInfo,
    /// The names of the image in config.toml.
    names: Vec<String>,
    /// The image type that the first bytes show.
    image_type: Option<String>,
}

impl ListedImage {
    fn all(store: &NamedCache, images: Vec<CachedImageInfo>, report: &Report) -> anyhow::Result<Vec<Self>> {
        let paths: Vec<_> = images.iter().map(|image| image.path.clone()).collect();
        let types = install::likely_types(&paths, &Run::new(report.clone()))?;
        let mut named = Vec::new();
        for (name, url) in &store.names {
            named.extend(store.cache.info(url)?.map(|kept| (kept.key, name)));
        }
        let listed = images.into_iter().zip(types).map(|(image, image_type)| {
            let names = named.iter().filter(|(key, _)| *key == image.key).map(|(_, name)| (*name).clone());
            ListedImage { names: names.collect(), image, image_type }
        });
        Ok(listed.collect())
    }
}

struct Output<'o> {
    out: &'o mut dyn Write,
    json: bool,
    now: SystemTime,
    report: &'o Report,
}

/// A cached image in JSON. Times are in seconds since 1970.
#[derive(Serialize)]
struct EntryJson<'i> {
    key: &'i str,
    names: &'i [String],
    url: &'i str,
    path: String,
    #[serde(rename = "type")]
    image_type: Option<&'i str>,
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
    fn list(&mut self, store: &NamedCache, max_size: Option<ByteSize>) -> anyhow::Result<()> {
        let images = ListedImage::all(store, store.cache.list()?, self.report)?;
        if self.json {
            return self.write_json(&images.iter().map(entry).collect::<Vec<_>>());
        }
        let head = ["KEY", "NAME", "TYPE", "SIZE", "FETCHED", "CHECKED", "USED", "URL"].map(str::to_owned);
        let lines: Vec<_> = std::iter::once(head).chain(images.iter().map(|listed| self.row(listed))).collect();
        output::table(self.out, &lines)?;
        let (count, size) = (images.len(), ByteSize(images.iter().map(|listed| listed.image.len).sum()).rounded());
        let limit = max_size.map(|max| format!(", and max_size is {}", max.rounded())).unwrap_or_default();
        self.line(&format!("{count} {}, {size} in all{limit}", if count == 1 { "image" } else { "images" }))
    }

    fn row(&self, listed: &ListedImage) -> [String; 8] {
        let ListedImage { image, names, image_type } = listed;
        let used = if image.in_use { "now".to_owned() } else { self.age(image.used_at) };
        let name = if names.is_empty() { "-".to_owned() } else { names.join(",") };
        let image_type = image_type.clone().unwrap_or_else(|| "-".to_owned());
        let (fetched, checked) = (self.age(image.fetched_at), self.age(image.checked_at));
        let (key, size) = (image.key[..SHOWN_DIGITS].to_owned(), ByteSize(image.len).rounded());
        [key, name, image_type, size, fetched, checked, used, printable(&image.url)]
    }

    fn show(&mut self, listed: &ListedImage) -> anyhow::Result<()> {
        if self.json {
            return self.write_json(&entry(listed));
        }
        let ListedImage { image, names, image_type } = listed;
        let used = if image.in_use { "now".to_owned() } else { format!("{} ago", self.age(image.used_at)) };
        let none = || "none".to_owned();
        let lines = [
            ("name", if names.is_empty() { none() } else { names.join(", ") }),
            ("url", printable(&image.url)),
            ("key", image.key.clone()),
            ("file", image.path.display().to_string()),
            ("type", image_type.clone().unwrap_or_else(|| "not a disk image".to_owned())),
            ("size", ByteSize(image.len).to_string()),
            ("sha256", printable(&image.sha256)),
            ("fetched", format!("{} ago", self.age(image.fetched_at))),
            ("checked", format!("{} ago", self.age(image.checked_at))),
            ("used", used),
            ("etag", image.etag.as_deref().map_or_else(none, printable)),
            ("last modified", image.last_modified.as_deref().map_or_else(none, printable)),
        ];
        for (name, value) in lines {
            self.line(&format!("{:<14} {value}", format!("{name}:")))?;
        }
        Ok(())
    }

    fn verify(&mut self, store: &NamedCache, entries: &[String]) -> anyhow::Result<()> {
        let cache = &store.cache;
        let images = if entries.is_empty() { cache.list()? } else { store.find_all(entries)? };
        let (mut damaged, mut results) = (0, Vec::new());
        for image in &images {
            let words = match install::verify_kept(cache, image)? {
                Verdict::Gone => continue,
                Verdict::Intact => "intact",
                Verdict::Damaged(_) => "damaged, removed",
            };
            damaged += usize::from(words != "intact");
            if !self.json {
                self.line(&format!("{} {words}: {}", &image.key[..SHOWN_DIGITS], printable(&image.url)))?;
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
        let total = |images: &[CachedImageInfo]| images.iter().map(|image| image.len).sum::<u64>();
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

    /// Removes the images. An image in use stays. It is an error, which is reported after all other images were
    /// removed.
    fn remove(&mut self, cache: &Cache, images: Vec<CachedImageInfo>) -> anyhow::Result<()> {
        let (mut removed, mut in_use, mut size) = (Vec::new(), Vec::new(), 0);
        for image in images {
            match cache.remove(&image) {
                Ok(()) => {}
                Err(error @ CacheError::InUse { .. }) => {
                    in_use.push(error);
                    continue;
                }
                other => other?,
            }
            if !self.json {
                self.line(&format!("removed {} {}", &image.key[..SHOWN_DIGITS], printable(&image.url)))?;
            }
            size += image.len;
            removed.push(json!({ "key": image.key, "url": image.url }));
        }
        if self.json {
            self.write_json(&removed)?;
        } else if removed.len() != 1 {
            self.line(&format!("images removed: {} ({})", removed.len(), ByteSize(size).rounded()))?;
        }
        let (count, all) = (in_use.len(), in_use.len() + removed.len());
        match in_use.pop() {
            None => Ok(()),
            Some(error) if count == 1 => Err(error.into()),
            Some(error) => Err(anyhow!("{count} of {all} images are in use and stay, the last one: {error}")),
        }
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

fn entry(listed: &ListedImage) -> EntryJson<'_> {
    let ListedImage { image, names, image_type } = listed;
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    EntryJson {
        key: &image.key,
        names,
        url: &image.url,
        path: image.path.display().to_string(),
        image_type: image_type.as_deref(),
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

/// Formats a time in the largest unit that gives a number of at least two.
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
