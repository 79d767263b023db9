// SPDX-License-Identifier: BSD-2-Clause
//! The list of hosts that are reached without the proxy.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use url::{Host, Url};

/// An entry of a no-proxy list: a host name, `.domain`, an address, a network in CIDR notation, or `*`. With `:port` it
/// stands for that port only. IPv6 stands in brackets when a port follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoProxy {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    Name(String),
    /// A domain and everything below it.
    Domain(String),
    Network(IpNet),
}

/// The error that a text is no [`NoProxy`]. The text is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", NoProxyError::WORDS)]
pub struct NoProxyError;

impl NoProxyError {
    pub(crate) const WORDS: &str = "not a host for the no-proxy list (use host names, .domain, addresses, networks such as \
                             10.0.0.0/8, or *, each with :port where only that is meant)";
}

impl NoProxy {
    /// Whether the entry covers the host of `url`. Names are not looked up, so a network covers only addresses in URLs.
    pub(crate) fn covers(&self, url: &Url) -> bool {
        if self.port.is_some_and(|port| url.port_or_known_default() != Some(port)) {
            return false;
        }
        match url.host() {
            Some(Host::Ipv4(address)) => self.covers_address(IpAddr::from(address)),
            Some(Host::Ipv6(address)) => self.covers_address(IpAddr::from(address).to_canonical()),
            Some(Host::Domain(name)) => self.covers_name(&normal(name)),
            None => false,
        }
    }

    /// Makes a name cover everything below it too, as curl reads its entries.
    #[must_use]
    pub(crate) fn with_subdomains(self) -> Self {
        match self.hosts {
            Hosts::Name(name) => NoProxy { hosts: Hosts::Domain(name), ..self },
            _ => self,
        }
    }

    fn covers_address(&self, address: IpAddr) -> bool {
        match &self.hosts {
            Hosts::All => true,
            Hosts::Network(network) => network.contains(&address),
            Hosts::Name(_) | Hosts::Domain(_) => false,
        }
    }

    fn covers_name(&self, host: &str) -> bool {
        match &self.hosts {
            Hosts::All => true,
            Hosts::Name(name) => host == name,
            Hosts::Domain(domain) => {
                host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Hosts::Network(_) => false,
        }
    }
}

/// Shows a text that parses to the same entry.
impl fmt::Display for NoProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match &self.hosts {
            Hosts::All => "*".to_owned(),
            // Without the dot at its end, which is not stored, it would be an address.
            Hosts::Name(name) if name.parse::<IpAddr>().is_ok() => format!("{name}."),
            Hosts::Name(name) => name.clone(),
            Hosts::Domain(domain) => format!(".{domain}"),
            Hosts::Network(network) if network.prefix_len() == network.max_prefix_len() => network.addr().to_string(),
            Hosts::Network(network) => network.to_string(),
        };
        match self.port {
            None => f.write_str(&host),
            Some(port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Some(port) => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for NoProxy {
    type Err = NoProxyError;

    fn from_str(text: &str) -> Result<Self, NoProxyError> {
        // This comes before the search for a port, because an IPv6 address is full of colons.
        if let Some(hosts) = network(text) {
            return Ok(NoProxy { hosts, port: None });
        }
        let in_brackets = text.strip_prefix('[');
        let (host, port) = match in_brackets {
            Some(rest) => rest.split_once(']').ok_or(NoProxyError)?,
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => Some(port.parse().ok().filter(|port| *port > 0).ok_or(NoProxyError)?),
            None if port.is_empty() => None,
            None => return Err(NoProxyError),
        };
        let hosts = match network(host) {
            Some(hosts) => hosts,
            None if in_brackets.is_some() => return Err(NoProxyError),
            None if host == "*" => Hosts::All,
            None => name(host).ok_or(NoProxyError)?,
        };
        Ok(NoProxy { hosts, port })
    }
}

/// Reads an address or a network. An IPv4 network in IPv6 form becomes one of IPv4: ::ffff:10.0.0.0/104 is 10.0.0.0/8.
fn network(text: &str) -> Option<Hosts> {
    let network: IpNet = match text.parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => text.parse().ok()?,
    };
    let mapped = match network.addr().to_canonical() {
        IpAddr::V4(address) if network.addr().is_ipv6() => {
            network.prefix_len().checked_sub(96).and_then(|bits| IpNet::new(address.into(), bits).ok())
        }
        _ => None,
    };
    Some(Hosts::Network(mapped.unwrap_or(network)))
}

fn name(text: &str) -> Option<Hosts> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let name = normal(text.strip_prefix('.').unwrap_or(text));
    if name.is_empty() || name.starts_with('.') || !name.chars().all(valid) {
        return None;
    }
    Some(if text.starts_with('.') { Hosts::Domain(name) } else { Hosts::Name(name) })
}

/// Removes what makes no difference in a name: upper case, and a dot at the end.
fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::{NoProxy, NoProxyError};
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use url::Url;

    fn covers(entry: &str, url: &str) -> bool {
        entry.parse::<NoProxy>().unwrap().covers(&Url::parse(url).unwrap())
    }

    #[test]
    fn names_domains_addresses_networks_and_ports() {
        for (entry, inside, outside) in [
            (
                "host.example",
                &["http://host.example/", "https://HOST.example.:8443/"][..],
                &["http://sub.host.example/", "http://ahost.example/"][..],
            ),
            (
                ".corp.example",
                &["http://a.corp.example/", "http://corp.example/", "http://a.b.corp.example/"],
                &["http://notcorp.example/", "http://example/"],
            ),
            ("10.0.0.1", &["http://10.0.0.1/", "http://0x0a000001/"], &["http://10.0.0.10/", "http://host/"]),
            ("::1", &["http://[::1]/", "http://[0:0::1]:80/"], &["http://[::2]/"]),
            ("[::1]", &["http://[::1]:99/"], &["http://[::2]/"]),
            ("*:80", &["http://any.example/"], &["https://any.example/"]),
            ("*", &["http://any.example/", "http://[::1]/", "http://1.2.3.4/"], &[]),
            (
                "10.0.0.0/8",
                &["http://10.200.3.4/", "http://[::ffff:10.1.1.1]/"],
                &["http://11.0.0.1/", "http://[::1]/"],
            ),
            ("10.1.2.3/12", &["http://10.15.255.255/"], &["http://10.16.0.0/"]),
            ("0.0.0.0/0", &["http://1.2.3.4/"], &["http://[2001:db8::1]/", "http://host/"]),
            ("2001:db8::/32", &["http://[2001:db8:ffff::1]/"], &["http://[2001:db9::1]/", "http://32.1.13.184/"]),
            ("::/0", &["http://[2001:db8::1]/"], &["http://1.2.3.4/"]),
            ("::ffff:10.0.0.0/104", &["http://10.9.9.9/"], &["http://11.0.0.1/"]),
            ("host:8080", &["http://host:8080/", "https://host:8080/"], &["http://host/", "http://host:80801/"]),
            ("host:443", &["https://host/"], &["http://host/"]),
            (".example:80", &["http://a.example/"], &["https://a.example/"]),
            ("10.0.0.0/8:3000", &["http://10.1.1.1:3000/"], &["http://10.1.1.1/"]),
            ("[2001:db8::1]:81", &["http://[2001:db8::1]:81/"], &["http://[2001:db8::1]/"]),
            ("[2001:db8::/32]:81", &["http://[2001:db8::9]:81/"], &["http://[2001:db8::9]/"]),
        ] {
            inside.iter().for_each(|url| assert!(covers(entry, url), "{entry} {url}"));
            // The one that is no URL stands for a port that does not exist.
            let urls = outside.iter().filter(|url| Url::parse(url).is_ok());
            urls.for_each(|url| assert!(!covers(entry, url), "{entry} {url}"));
        }
        let below = "a.b".parse::<NoProxy>().unwrap().with_subdomains();
        assert_eq!(below, ".a.b".parse().unwrap());
        assert_eq!("1.2.3.4".parse::<NoProxy>().unwrap().with_subdomains(), "1.2.3.4".parse().unwrap());
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            ".",
            "..",
            "..a",
            "*.example.com",
            "a b",
            "a,b",
            "host:",
            "host:0",
            "host:70000",
            "host:http",
            ":80",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "::/129",
            "host/8",
            "[::1",
            "[::1]80",
            "[host]:80",
            "http://host",
        ] {
            assert_eq!(text.parse::<NoProxy>(), Err(NoProxyError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_network_covers_exactly_its_addresses(net: u32, bits in 0..=32_u32, other: u32) {
            let (net, other) = (Ipv4Addr::from(net), Ipv4Addr::from(other));
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            let expected = (u32::from(net) & mask) == (u32::from(other) & mask);
            prop_assert_eq!(covers(&format!("{net}/{bits}"), &format!("http://{other}/")), expected);
            prop_assert!(covers(&[net.to_string(), bits.to_string()].join("/"), &["http://", &net.to_string()].concat()));
        }

        #[test]
        fn and_so_in_the_long_form(net: u128, bits in 0..=128_u32, flipped in 0..128_u32) {
            let other = Ipv6Addr::from(net ^ (1 << (127 - flipped)));
            let net = Ipv6Addr::from(net);
            prop_assume!(net.to_ipv4_mapped().is_none() && other.to_ipv4_mapped().is_none());
            prop_assert_eq!(covers(&format!("{net}/{bits}"), &format!("http://[{other}]/")), flipped >= bits);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,12}|[0-9a-f:./\\[\\]*]{0,20}") {
            let _ = text.parse::<NoProxy>();
        }
    }
}
