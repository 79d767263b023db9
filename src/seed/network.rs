// SPDX-License-Identifier: BSD-2-Clause
//! Makes a network-config of version 2 from what Ganeti says of the NICs of an instance.
//!
//! It uses only what all renderers of cloud-init 22.4 and later understand: `match` with `set-name`, and default routes
//! as `0.0.0.0/0` and `::/0`. Some of them do not know `gateway4` and `gateway6` any more, or `to: default` yet.
//!
//! A route to a gateway outside of the network has `on-link`, a key of netplan. cloud-init 22.4 and 25.1 pass it on to
//! netplan. The schema of cloud-init does not have the key, but where netplan is installed cloud-init does not use that
//! schema. A route to the gateway `via` 0.0.0.0 would be valid by the schema. It works with systemd 252 and 257, but a
//! guest with systemd 247 (Debian 11) would get no default route. netplan writes `gateway4` without on-link.
//!
//! Ganeti allocates IPv4 addresses only. In an IPv6 /64 the instance gets the address that it would derive from router
//! advertisements itself, so no router has to send them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Serialize, Serializer};

use super::dns::Dns;
use super::document;
use super::nic::{Mac, Nic, is_interface_name};

/// The gateway of a routed NIC for which Ganeti has none. The node answers ARP for any address (Ganeti sets proxy_arp
/// on routed NICs), so it may be any address that no network uses: RFC 3927 reserves 169.254.0.0/16 for single links.
const ANY_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The prefix length of an IPv6 network in which an address can be derived from a MAC address (RFC 4291, section
/// 2.5.1).
const EUI64_PREFIX: u8 = 64;

/// The network of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    interfaces: Vec<Interface>,
}

/// Why a network-config can't be made from what Ganeti says. `index` is the number of the NIC.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum NetworkError {
    #[error(
        "NIC_{index}_NAME '{name}' can't be the name of a network interface, which has 1 to 15 letters, digits, '-' and '_', and a letter first (give the NIC another name, or use -O network_config=off)",
        name = name.escape_default()
    )]
    Name { index: usize, name: String },
    /// `what` is `NAME` or `MAC`.
    #[error("NIC_{index}_{what} is another NIC's too")]
    Twice { index: usize, what: &'static str },
    /// `variable` is the rest of the variable's name.
    #[error("NIC_{index}_{variable} is not {wanted}")]
    Invalid { index: usize, variable: &'static str, wanted: &'static str },
    #[error("NIC_{index}_IP {ip} is not in the NIC's network {subnet} (give the NIC an address of its network)")]
    Outside { index: usize, ip: IpAddr, subnet: IpNet },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Interface {
    #[serde(skip)]
    name: String,
    #[serde(rename = "match")]
    matching: Match,
    #[serde(rename = "set-name")]
    set_name: String,
    #[serde(skip_serializing_if = "is_false")]
    dhcp4: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nameservers: Option<Dns>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Match {
    macaddress: Mac,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Route {
    to: IpNet,
    via: IpAddr,
    #[serde(rename = "on-link", skip_serializing_if = "is_false")]
    on_link: bool,
}

#[derive(Serialize)]
struct Document<'n> {
    version: u8,
    #[serde(serialize_with = "by_name")]
    ethernets: &'n [Interface],
}

impl Network {
    /// Takes all NICs of the instance in the order of Ganeti. An address whose network is known is static; other NICs
    /// use DHCP and router advertisements.
    pub(crate) fn new(nics: &[Nic], dns: &Dns) -> Result<Self, NetworkError> {
        let names = names(nics)?;
        let mut macs = BTreeSet::new();
        let mut interfaces = Vec::with_capacity(nics.len());
        for (index, (nic, name)) in nics.iter().zip(names).enumerate() {
            let nic = NumberedNic { index, nic };
            let mac = nic.parse("MAC", &nic.nic.mac, "a MAC address of an interface", Mac::parse)?;
            if !macs.insert(mac) {
                return Err(NetworkError::Twice { index, what: "MAC" });
            }
            interfaces.push(nic.interface(name, mac)?);
        }
        only_first_default(&mut interfaces, IpAddr::is_ipv4);
        only_first_default(&mut interfaces, IpAddr::is_ipv6);
        let named = interfaces.iter().position(|interface| !interface.routes.is_empty()).unwrap_or(0);
        if let Some(interface) = interfaces.get_mut(named).filter(|_| !dns.is_empty()) {
            interface.nameservers = Some(dns.clone());
        }
        Ok(Network { interfaces })
    }

    /// Returns the content of `network-config`, or `None` for an instance without NICs.
    pub(crate) fn document(&self) -> Option<Vec<u8>> {
        (!self.interfaces.is_empty()).then(|| document(&Document { version: 2, ethernets: &self.interfaces }))
    }
}

/// A NIC with its number, which error messages name.
struct NumberedNic<'n> {
    index: usize,
    nic: &'n Nic,
}

impl NumberedNic<'_> {
    fn interface(&self, name: String, macaddress: Mac) -> Result<Interface, NetworkError> {
        const IP: &str = "an IP address";
        let ip = self.optional("IP", self.nic.ip.as_ref(), IP, |text| text.parse::<IpAddr>().ok())?;
        let (v4, gateway4) = self.v4(ip)?;
        let (v6, gateway6) = self.v6(ip, macaddress)?;
        let addresses: Vec<_> = v4.map(IpNet::V4).into_iter().chain(v6.map(IpNet::V6)).collect();
        let routes = gateway4.into_iter().chain(gateway6).collect();
        // With an IPv6 address there is no IPv4 address. DHCP assigns an IPv4 address whose network is unknown.
        let dhcp4 = v4.is_none() && !(v6.is_some() && ip.is_some_and(|ip| ip.is_ipv6()));
        let matching = Match { macaddress };
        Ok(Interface { set_name: name.clone(), name, matching, dhcp4, addresses, routes, nameservers: None })
    }

    fn v4(&self, ip: Option<IpAddr>) -> Result<(Option<Ipv4Net>, Option<Route>), NetworkError> {
        const NET: &str = "an IPv4 network (address/prefix)";
        const ADDRESS: &str = "an IPv4 address";
        let subnet = self.optional("NETWORK_SUBNET", self.nic.subnet.as_ref(), NET, |text| text.parse().ok())?;
        let gateway = self.nic.gateway.as_ref();
        let gateway = self.optional("NETWORK_GATEWAY", gateway, ADDRESS, |text| text.parse::<Ipv4Addr>().ok())?;
        let Some(IpAddr::V4(ip)) = ip else { return Ok((None, None)) };
        let Some(prefix) = self.prefix(ip.into(), subnet.map(IpNet::V4))? else { return Ok((None, None)) };
        let gateway = gateway.or_else(|| self.nic.routed.then_some(ANY_GATEWAY)).filter(|gateway| *gateway != ip);
        let route = gateway.map(|via| {
            let reached = Ipv4Net::new_assert(ip, prefix).contains(&via);
            Route { to: Ipv4Net::default().into(), via: via.into(), on_link: !reached }
        });
        Ok((Some(Ipv4Net::new_assert(ip, prefix)), route))
    }

    fn v6(&self, ip: Option<IpAddr>, mac: Mac) -> Result<(Option<Ipv6Net>, Option<Route>), NetworkError> {
        const NET: &str = "an IPv6 network (address/prefix)";
        const ADDRESS: &str = "an IPv6 address";
        let subnet = self.nic.subnet6.as_ref();
        let subnet = self.optional("NETWORK_SUBNET6", subnet, NET, |text| text.parse::<Ipv6Net>().ok())?;
        let gateway = self.nic.gateway6.as_ref();
        let gateway = self.optional("NETWORK_GATEWAY6", gateway, ADDRESS, |text| text.parse::<Ipv6Addr>().ok())?;
        let address = match (ip, subnet) {
            (Some(IpAddr::V6(ip)), _) => {
                let prefix = self.prefix(ip.into(), subnet.map(IpNet::V6))?;
                prefix.map(|prefix| Ipv6Net::new_assert(ip, prefix))
            }
            (_, Some(subnet)) if subnet.prefix_len() == EUI64_PREFIX => {
                Some(Ipv6Net::new_assert(mac.address_in(subnet.network()), EUI64_PREFIX))
            }
            _ => None,
        };
        let Some(address) = address else { return Ok((None, None)) };
        let route = gateway.filter(|gateway| *gateway != address.addr()).map(|via| {
            // A link-local address can always be reached.
            let reached = address.contains(&via) || via.is_unicast_link_local();
            Route { to: Ipv6Net::default().into(), via: via.into(), on_link: !reached }
        });
        Ok((Some(address), route))
    }

    /// Returns the prefix length of the network of `ip`, or `None` if that network is unknown. The network of a routed
    /// NIC may be `ip` alone.
    fn prefix(&self, ip: IpAddr, subnet: Option<IpNet>) -> Result<Option<u8>, NetworkError> {
        match subnet {
            Some(subnet) if subnet.contains(&ip) => Ok(Some(subnet.prefix_len())),
            Some(subnet) => Err(NetworkError::Outside { index: self.index, ip, subnet }),
            None => Ok(self.nic.routed.then(|| IpNet::from(ip).prefix_len())),
        }
    }

    fn optional<T>(
        &self,
        variable: &'static str,
        text: Option<&String>,
        wanted: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, NetworkError> {
        text.map(|text| self.parse(variable, text, wanted, parse)).transpose()
    }

    fn parse<T>(
        &self,
        variable: &'static str,
        text: &str,
        wanted: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, NetworkError> {
        parse(text).ok_or(NetworkError::Invalid { index: self.index, variable, wanted })
    }
}

/// Returns the names of the interfaces: those of the NICs, otherwise `eth` and the number of the NIC, or the next free
/// number.
fn names(nics: &[Nic]) -> Result<Vec<String>, NetworkError> {
    let mut taken = BTreeSet::new();
    for (index, nic) in nics.iter().enumerate() {
        let Some(name) = &nic.name else { continue };
        if !is_interface_name(name) {
            return Err(NetworkError::Name { index, name: name.clone() });
        }
        if !taken.insert(name.clone()) {
            return Err(NetworkError::Twice { index, what: "NAME" });
        }
    }
    let mut names = Vec::with_capacity(nics.len());
    for (index, nic) in nics.iter().enumerate() {
        let mut numbered = std::iter::once(index).chain(nics.len()..).map(|number| format!("eth{number}"));
        let free = || numbered.find(|name| !taken.contains(name)).unwrap_or_default();
        let name = nic.name.clone().unwrap_or_else(free);
        taken.insert(name.clone());
        names.push(name);
    }
    Ok(names)
}

/// Keeps only the default route of the first interface that has one, for the address family that `is_family` selects.
fn only_first_default(interfaces: &mut [Interface], is_family: fn(&IpAddr) -> bool) {
    let mut found = false;
    for interface in interfaces {
        interface.routes.retain(|route| !is_family(&route.via) || !found);
        found |= interface.routes.iter().any(|route| is_family(&route.via));
    }
}

fn by_name<S: Serializer>(interfaces: &&[Interface], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(interfaces.iter().map(|interface| (&interface.name, interface)))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_false(value: &bool) -> bool {
    !value
}
