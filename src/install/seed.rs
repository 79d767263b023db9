// SPDX-License-Identifier: BSD-2-Clause
//! The files of an instance's seed, from wherever they come.

use std::fs::File;
use std::io::{self, Read};

use anyhow::{Context as _, anyhow, bail};

use crate::node::run::Run;
use crate::node::size::{ByteSize, MIB};
use crate::seed::{self, Identity, MAX_FILE, NetworkPlan, Plan, SeedContent, SeedFiles, Source, UserData};
use crate::store::http::{Client, HttpSettings};

/// What one source may have, in bytes: as much as a small file from a server.
const MAX_SOURCE: u64 = MIB;

/// Fetches what `plan` names, and makes a seed of it, with what the `old` one has that is to be kept. Nothing of its content
/// is reported but sizes.
///
/// # Errors
/// What can't be had, is no key, or is too large; the content is not repeated.
pub fn seed_files(plan: &Plan, old: &SeedContent, http: &HttpSettings, run: &Run) -> anyhow::Result<SeedFiles> {
    let sources = Sources { http, run };
    tell_long_name(&plan.identity, run);
    let network_config = match &plan.network {
        NetworkPlan::Ganeti(network) => network.document(),
        NetworkPlan::Given(source) => Some(sources.network_config(source)?),
        NetworkPlan::Off => None,
    };
    let files = SeedFiles {
        meta_data: sources.meta_data(plan, old)?,
        user_data: sources.user_data(plan, old)?,
        network_config,
        vendor_data: plan.persist.then(|| seed::vendor_data(&plan.identity)),
    };
    check_size("meta-data (with the keys)", &files.meta_data)?;
    check_size("network-config", files.network_config.as_deref().unwrap_or_default())?;
    let sizes: Vec<_> = files.iter().map(|(name, file)| format!("{name} {} bytes", file.len())).collect();
    run.report.info(format_args!("first-boot seed: {}", sizes.join(", ")));
    Ok(files)
}

/// Warns of a name that a Linux instance can't have as a whole.
pub(super) fn tell_long_name(identity: &Identity, run: &Run) {
    if let Some(warning) = identity.warning() {
        run.report.warn(warning);
    }
}

/// How sources are read.
struct Sources<'s> {
    http: &'s HttpSettings,
    run: &'s Run,
}

impl Sources<'_> {
    fn meta_data(&self, plan: &Plan, old: &SeedContent) -> anyhow::Result<Vec<u8>> {
        let mut keys = Vec::new();
        for (number, source) in (1..).zip(&plan.keys) {
            let entry = || format!("ssh_keys, entry {number}{}", shown(source));
            let content = self.read(source).with_context(entry)?;
            keys.extend(seed::parse_keys(&content).map_err(|error| anyhow!("{}: {error}", entry()))?);
        }
        if plan.keep.keys && !old.keys.is_empty() {
            let (with, count) = (seed::meta_data(&plan.identity, [&keys[..], &old.keys].concat()), old.keys.len());
            let report = &self.run.report;
            if with.len() <= MAX_FILE {
                report.info(format_args!("SSH keys kept from the old seed: {count} (seed_keep)"));
                return Ok(with);
            }
            report.warn(format_args!("the {count} SSH keys of the old seed are too many to be kept"));
        }
        Ok(seed::meta_data(&plan.identity, keys))
    }

    fn user_data(&self, plan: &Plan, old: &SeedContent) -> anyhow::Result<Vec<u8>> {
        if plan.keep.user_data && !old.user_data.is_empty() {
            let len = old.user_data.len();
            self.run.report.info(format_args!("user-data kept from the old seed: {len} bytes (seed_keep)"));
            return Ok(old.user_data.clone());
        }
        let mut parts = Vec::with_capacity(plan.user_data.len());
        for (number, source) in (1..).zip(&plan.user_data) {
            parts.push(self.read(source).with_context(|| format!("user_data, entry {number}{}", shown(source)))?);
        }
        let UserData { document, unknown } = seed::user_data(parts)?;
        for number in unknown {
            self.run.report.warn(format_args!(
                "part {number} of user_data begins with nothing that cloud-init knows, such as #cloud-config or #!: it will not use it"
            ));
        }
        Ok(document)
    }

    fn network_config(&self, source: &Source) -> anyhow::Result<Vec<u8>> {
        let content = self.read(source).with_context(|| format!("network_config{}", shown(source)))?;
        if content.trim_ascii().is_empty() {
            bail!("network_config{} is empty (use network_config=off for none)", shown(source));
        }
        if seed::is_html(&content) || std::str::from_utf8(&content).is_err() {
            bail!("network_config{} is an HTML page or not text", shown(source));
        }
        Ok(content)
    }

    fn read(&self, source: &Source) -> anyhow::Result<Vec<u8>> {
        match source {
            Source::Inline(content) => Ok(content.clone()),
            Source::File { file, .. } => Ok(read_file(file)?),
            Source::Url(url) => Ok(Client::new(self.http)?.fetch_small(url, &self.run.report)?),
        }
    }
}

/// Which file it was, for messages; a URL's errors name it themselves.
fn shown(source: &Source) -> String {
    match source {
        Source::File { path, .. } => format!(" ({})", path.display()),
        Source::Inline(_) | Source::Url(_) => String::new(),
    }
}

fn read_file(file: &File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(MAX_SOURCE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_SOURCE {
        return Err(io::Error::other(format!("larger than {}", ByteSize(MAX_SOURCE))));
    }
    Ok(content)
}

fn check_size(what: &str, content: &[u8]) -> anyhow::Result<()> {
    if content.len() > MAX_FILE {
        let size = ByteSize(content.len() as u64);
        bail!("the {what} has {size} and may have {} at most", ByteSize(MAX_FILE as u64));
    }
    Ok(())
}
