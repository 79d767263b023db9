// SPDX-License-Identifier: BSD-2-Clause
//! Decides what an instance gets for its first boot, from the OS parameters or else from the variant's settings.
//!
//! Files are opened below the variant's `user-data` folder (openat2 with RESOLVE_BENEATH). Messages name entries by
//! their numbers, sizes and places, and never show content. They do not show the name of a missing file either,
//! because it may be a secret in the wrong place.

use std::path::Path;

use anyhow::{Context, anyhow, bail};

use super::Asked;
use crate::config::{self, Paths, Settings, VariantName};
use crate::ganeti::env::SeedParams;
use crate::install::job::SeedWish;
use crate::seed::{
    Dns, Entries, Identity, Keep, Network, NetworkPlan, Placement, Plan, Source, SourceError, SourceName, user_data,
};
use crate::store::http::Secret;

/// The seed that the parameters ask for. Each part is well-formed, but nothing was opened or fetched yet.
pub(super) struct NamedSeed {
    place: Place,
    persist: bool,
    keep: Keep,
    keys: Vec<SourceName>,
    user_data: Vec<SourceName>,
    network: NamedNetwork,
    dns: Dns,
    /// One sentence for each OS parameter that has no effect.
    no_effect: Vec<String>,
}

enum Place {
    /// The instance gets no seed.
    Nowhere,
    /// The instance gets a seed only to keep something of its old seed.
    IfKept,
    At(Placement),
}

enum NamedNetwork {
    Ganeti,
    Given(SourceName),
    Off,
}

impl NamedSeed {
    pub(super) fn new(params: &SeedParams, settings: &Settings) -> anyhow::Result<Self> {
        let secret = |secret: &'_ Option<Secret>| secret.as_ref().map(|secret| secret.0.clone());
        let keys = params.ssh_keys.clone().or_else(|| secret(&settings.ssh_keys));
        let documents = params.user_data.clone().or_else(|| secret(&settings.user_data));
        let network = params.network_config.clone().or_else(|| secret(&settings.network_config));
        let servers = params.dns_servers.as_ref().or(settings.dns_servers.as_ref());
        let search = params.dns_search.as_ref().or(settings.dns_search.as_ref());
        let dns = Dns::new(servers.map(String::as_str), search.map(String::as_str));
        let persist = params.seed_persist.as_deref().map(yes_or_no).transpose()?;
        let kept = |parameter: &Option<String>| settings.seed_keep && parameter.is_none();
        let mut seed = NamedSeed {
            place: Place::Nowhere,
            keep: Keep { keys: kept(&params.ssh_keys), user_data: kept(&params.user_data) },
            persist: persist.unwrap_or(settings.seed_persist),
            keys: entries("ssh_keys", SourceName::keys, keys.as_deref())?,
            user_data: entries("user_data", SourceName::documents, documents.as_deref())?,
            network: NamedNetwork::parse(network.as_deref()).context("parameter network_config")?,
            dns: dns.map_err(|(parameter, error)| anyhow!("parameter {parameter}: {error}"))?,
            no_effect: Vec::new(),
        };
        let mode = params.cloud_init.as_ref().or(settings.cloud_init.as_ref());
        seed.place = seed.place(mode.map(String::as_str))?;
        seed.check(settings)?;
        seed.no_effect = seed.without_effect(params);
        Ok(seed)
    }

    /// Returns one sentence for each OS parameter that was given and has no effect. What the settings give to every
    /// instance does not count.
    pub(super) fn no_effect(&self) -> &[String] {
        &self.no_effect
    }

    fn without_effect(&self, params: &SeedParams) -> Vec<String> {
        let says = |value: &Option<String>, nothing: &str| value.as_deref().is_some_and(|value| value != nothing);
        let dns =
            [("dns_servers", says(&params.dns_servers, "none")), ("dns_search", says(&params.dns_search, "none"))];
        let others = [
            ("ssh_keys", !self.keys.is_empty() && params.ssh_keys.is_some()),
            ("user_data", !self.user_data.is_empty() && params.user_data.is_some()),
            ("network_config", params.network_config.is_some() && matches!(self.network, NamedNetwork::Given(_))),
        ];
        let persist = [("seed_persist", says(&params.seed_persist, "no"))];
        let (given, why) = match (&self.place, &self.network) {
            (Place::Nowhere, _) => ([&others[..], &dns, &persist].concat(), "cloud_init is off"),
            (_, NamedNetwork::Ganeti) => return Vec::new(),
            _ => (dns.to_vec(), "network_config is not auto"),
        };
        let given = given.into_iter().filter(|(_, given)| *given);
        given.map(|(parameter, _)| format!("{parameter} has no effect: {why}")).collect()
    }

    /// Returns where the seed is placed. If `cloud_init` is not set, there is a seed as soon as one of its parameters
    /// is set.
    fn place(&self, mode: Option<&str>) -> anyhow::Result<Place> {
        let network = !matches!(self.network, NamedNetwork::Ganeti);
        let given = network || !self.keys.is_empty() || !self.user_data.is_empty() || self.dns != Dns::default();
        Ok(match mode {
            None if given || self.persist => Place::At(Placement::Auto),
            None if self.keep != Keep::default() => Place::IfKept,
            None | Some("off") => Place::Nowhere,
            Some("auto") => Place::At(Placement::Auto),
            Some("disk") => Place::At(Placement::Disk),
            Some("partition") => Place::At(Placement::Partition),
            Some(_) => bail!("parameter cloud_init: must be off, auto, disk or partition"),
        })
    }

    /// Checks the policy, and the content as far as it is known before anything is fetched.
    fn check(&self, settings: &Settings) -> anyhow::Result<()> {
        let network = match &self.network {
            NamedNetwork::Given(name) => Some(name),
            NamedNetwork::Ganeti | NamedNetwork::Off => None,
        };
        for name in self.keys.iter().chain(&self.user_data).chain(network) {
            if let SourceName::Url(url) = name {
                settings.http.check_allowed(url)?;
            }
        }
        let inline = self.user_data.iter().map(|name| match name {
            SourceName::Inline(content) => Some(content.clone()),
            SourceName::File(_) | SourceName::Url(_) => None,
        });
        // The document can only be made here if no part of it has to be read first.
        if let Some(parts) = inline.collect::<Option<Vec<_>>>() {
            user_data(parts)?;
        }
        Ok(())
    }

    /// Opens the files that the seed is made from.
    pub(super) fn resolve(self, asked: &Asked, paths: &Paths) -> anyhow::Result<SeedWish> {
        match self.place {
            Place::IfKept if asked.reinstall => Ok(SeedWish::IfKept(self.plan(Placement::Auto, asked, paths))),
            Place::Nowhere | Place::IfKept => Ok(SeedWish::Off),
            Place::At(placement) => self.plan(placement, asked, paths).map(SeedWish::Given),
        }
    }

    fn plan(self, placement: Placement, asked: &Asked, paths: &Paths) -> anyhow::Result<Plan> {
        let folder = paths.user_data_dir(&asked.variant);
        let network = match self.network {
            NamedNetwork::Ganeti => NetworkPlan::Ganeti(Network::new(required_for_seed(&asked.nics)?, &self.dns)?),
            NamedNetwork::Given(name) => NetworkPlan::Given(open("network_config", name, &folder)?),
            NamedNetwork::Off => NetworkPlan::Off,
        };
        let all = |parameter: &str, names: Vec<SourceName>| -> anyhow::Result<Vec<Source>> {
            names.into_iter().map(|name| open(parameter, name, &folder)).collect()
        };
        Ok(Plan {
            placement,
            persist: self.persist,
            keep: self.keep,
            identity: Identity::new(&asked.name, required_for_seed(&asked.uuid)?)?,
            keys: all("ssh_keys", self.keys)?,
            user_data: all("user_data", self.user_data)?,
            network,
        })
    }
}

/// Checks that the files exist that the settings name for the seeds of instances without OS parameters.
///
/// # Errors
/// The error names the parameter and says what is wrong with its file.
pub(crate) fn check_seed_files(settings: &Settings, paths: &Paths, variant: &VariantName) -> anyhow::Result<()> {
    let seed = NamedSeed::new(&SeedParams::default(), settings)?;
    if matches!(seed.place, Place::Nowhere) {
        return Ok(());
    }
    let folder = paths.user_data_dir(variant);
    let network = match seed.network {
        NamedNetwork::Given(name) => Some(("network_config", name)),
        NamedNetwork::Ganeti | NamedNetwork::Off => None,
    };
    let keys = seed.keys.into_iter().map(|name| ("ssh_keys", name));
    let user_data = seed.user_data.into_iter().map(|name| ("user_data", name));
    keys.chain(user_data).chain(network).try_for_each(|(parameter, name)| open(parameter, name, &folder).map(drop))
}

impl NamedNetwork {
    fn parse(text: Option<&str>) -> Result<Self, SourceError> {
        match text {
            None | Some("auto") => Ok(NamedNetwork::Ganeti),
            Some("off") => Ok(NamedNetwork::Off),
            Some(name) => SourceName::parse(name).map(NamedNetwork::Given),
        }
    }
}

/// Returns the value, or its error as an owned one.
fn required_for_seed<T>(value: &anyhow::Result<T>) -> anyhow::Result<&T> {
    value.as_ref().map_err(|err| anyhow!("{err:#}"))
}

/// Parses the entries of a list. Errors name an entry only by its number.
fn entries(parameter: &str, parse: fn(&str) -> Entries, text: Option<&str>) -> anyhow::Result<Vec<SourceName>> {
    let Some(text) = text else { return Ok(Vec::new()) };
    parse(text).map_err(|(number, error)| anyhow!("parameter {parameter}, entry {number}: {error}"))
}

fn yes_or_no(text: &str) -> anyhow::Result<bool> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => bail!("parameter seed_persist: must be yes or no"),
    }
}

fn open(parameter: &str, name: SourceName, folder: &Path) -> anyhow::Result<Source> {
    Ok(match name {
        SourceName::Inline(content) => Source::Inline(content),
        SourceName::Url(url) => Source::Url(url),
        SourceName::File(name) => {
            let file = config::open_below(folder, &name).with_context(|| format!("parameter {parameter}"))?;
            Source::File { file, path: folder.join(name) }
        }
    })
}
