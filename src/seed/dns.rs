// SPDX-License-Identifier: BSD-2-Clause
//! The name servers and search domains of an instance.

use std::net::IpAddr;

use serde::Serialize;

/// The largest number of entries. A resolver uses fewer: resolv.conf(5) says 3 and 6.
const MAX_ENTRIES: usize = 16;
/// The longest name that DNS can hold, in bytes (RFC 1035, section 2.3.4).
const MAX_DOMAIN: usize = 253;
/// The longest label of a name, in bytes.
const MAX_LABEL: usize = 63;
/// A list that consists of this word is empty, so this word can't be a domain.
const NO_ENTRIES: &str = "none";

/// The name servers and search domains in the form of a network-config.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Dns {
    #[serde(rename = "addresses", skip_serializing_if = "Vec::is_empty")]
    servers: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    search: Vec<String>,
}

/// Why a list is refused. The message does not repeat the list, as it may be a secret that was given as the wrong
/// parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DnsError {
    #[error("not a list of IP addresses (use addresses with blanks between them, or none)")]
    Servers,
    #[error("not a list of domain names (use names with blanks between them, or none)")]
    Search,
    #[error("more than {MAX_ENTRIES} entries")]
    Many,
}

impl Dns {
    /// Parses two lists with blanks or commas between their entries; `none` is an empty list. The error has the name of
    /// the parameter.
    pub(crate) fn new(servers: Option<&str>, search: Option<&str>) -> Result<Self, (&'static str, DnsError)> {
        let servers = list(servers, |text| text.parse().map_err(|_not_an_address| DnsError::Servers));
        let search = list(search, domain);
        Ok(Dns {
            servers: servers.map_err(|error| ("dns_servers", error))?,
            search: search.map_err(|error| ("dns_search", error))?,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.search.is_empty()
    }
}

fn list<T>(text: Option<&str>, parse: impl Fn(&str) -> Result<T, DnsError>) -> Result<Vec<T>, DnsError> {
    let entries = text.unwrap_or_default().split(|c: char| c.is_ascii_whitespace() || c == ',');
    let entries: Vec<_> = entries.filter(|entry| !entry.is_empty()).collect();
    match entries[..] {
        [NO_ENTRIES] => Ok(Vec::new()),
        _ if entries.len() > MAX_ENTRIES => Err(DnsError::Many),
        _ => entries.into_iter().map(parse).collect(),
    }
}

fn domain(text: &str) -> Result<String, DnsError> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(inside);
    let edges = |label: &str| !label.starts_with('-') && !label.ends_with('-');
    let is_name = name.len() <= MAX_DOMAIN && name.split('.').all(|part| label(part) && edges(part));
    if is_name && name != NO_ENTRIES { Ok(name) } else { Err(DnsError::Search) }
}

#[cfg(test)]
mod tests {
    use super::{Dns, DnsError};

    #[test]
    fn lists_are_addresses_and_domains() {
        let dns = Dns::new(Some("192.0.2.53, 2001:db8::53"), Some("Example.org. sub.example.org")).unwrap();
        assert_eq!(dns.servers, ["192.0.2.53", "2001:db8::53"].map(|text| text.parse::<std::net::IpAddr>().unwrap()));
        assert_eq!(dns.search, ["example.org", "sub.example.org"]);
        assert!(
            [Dns::new(None, None), Dns::new(Some("none"), Some(" none,"))]
                .iter()
                .all(|dns| dns.as_ref().unwrap().is_empty())
        );
        for text in ["192.0.2.256", "dns.example.org", "192.0.2.1;192.0.2.2", "192.0.2.1 none"] {
            assert_eq!(Dns::new(Some(text), None), Err(("dns_servers", DnsError::Servers)), "{text}");
        }
        for text in [".", "a..b", "-a", "a_b-", "caf\u{e9}", "a/b", "none.", "None", "a none", &"a".repeat(64)] {
            assert_eq!(Dns::new(None, Some(text)), Err(("dns_search", DnsError::Search)), "{text}");
        }
        let many = "192.0.2.1 ".repeat(17);
        assert_eq!(Dns::new(Some(&many), None), Err(("dns_servers", DnsError::Many)));
    }
}
