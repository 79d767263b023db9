// SPDX-License-Identifier: BSD-2-Clause
//! A NIC of an instance as Ganeti describes it, and the checks of interface names and MAC addresses.

use std::fmt;
use std::net::Ipv6Addr;

use serde::{Serialize, Serializer};

/// IFNAMSIZ of linux/if.h without the terminating zero, in bytes.
const MAX_NAME: usize = 15;
/// Names with a special meaning in /proc/sys/net, and the loopback interface.
const RESERVED: [&str; 3] = ["all", "default", "lo"];

/// What Ganeti says of one NIC and its network, before any check. An empty value counts as none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Nic {
    pub(crate) name: Option<String>,
    pub(crate) mac: String,
    /// `NIC_n_IP`, of either family.
    pub(crate) ip: Option<String>,
    /// Whether `NIC_n_MODE` is `routed`.
    pub(crate) routed: bool,
    /// `NIC_n_NETWORK_SUBNET`: an IPv4 network as `address/prefix`.
    pub(crate) subnet: Option<String>,
    pub(crate) gateway: Option<String>,
    /// `NIC_n_NETWORK_SUBNET6`: an IPv6 network as `address/prefix`.
    pub(crate) subnet6: Option<String>,
    pub(crate) gateway6: Option<String>,
}

/// Returns whether a network interface of the instance can have this name. The kernel accepts more names
/// (`dev_valid_name`), but ifupdown takes a `.` for a VLAN, a number alone is an index, and netplan takes `*` and
/// brackets for patterns.
pub(super) fn is_interface_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    name.len() <= MAX_NAME
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphabetic())
        && name.bytes().all(word)
        && !RESERVED.contains(&name)
}

/// The MAC address of one interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mac([u8; 6]);

impl Mac {
    /// Parses a text such as `aa:00:00:35:ac:5d`. Returns `None` for any other form, and for addresses that no
    /// interface can have: all zeros, and multicast addresses.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit()))?;
            *octet = u8::from_str_radix(part, 16).ok()?;
        }
        let usable = octets != [0; 6] && octets[0] & 1 == 0;
        (parts.next().is_none() && usable).then_some(Mac(octets))
    }

    /// Returns the address of an interface with this MAC address in the network `prefix` of 64 bits (RFC 4291, appendix
    /// A).
    pub(super) fn address_in(self, prefix: Ipv6Addr) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let suffix = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        Ipv6Addr::from_bits(prefix.to_bits() | u128::from(suffix))
    }
}

impl fmt::Display for Mac {
    /// Writes lower case, because cloud-init compares it with the text of the kernel.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::{Mac, is_interface_name};

    #[test]
    fn names_are_those_that_every_tool_takes() {
        for name in ["eth0", "lan", "e", "wan_2", "my-dmz", "abcdefghijklmno"] {
            assert!(is_interface_name(name), "{name}");
        }
        let too_long = "abcdefghijklmnop";
        for name in
            ["", "lo", "all", "default", "0", "42", "0a", "-a", "a.5", "a b", "a/b", "a:0", "a\n", "e*", too_long]
        {
            assert!(!is_interface_name(name), "{name}");
        }
    }

    #[test]
    fn macs_are_six_octets_of_one_interface() {
        assert_eq!(Mac::parse("AA:00:00:35:ac:5D").unwrap().to_string(), "aa:00:00:35:ac:5d");
        for text in [
            "",
            "aa:00:00:35:ac",
            "aa:00:00:35:ac:5d:00",
            "aa-00-00-35-ac-5d",
            "a:0:0:35:ac:5d",
            "+a:00:00:35:ac:5d",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
        ] {
            assert_eq!(Mac::parse(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_follow_from_macs_as_the_rfc_says() {
        let mac = Mac::parse("34:56:78:9a:bc:de").unwrap();
        let address = mac.address_in("2001:db8:1:2::".parse().unwrap());
        assert_eq!(address.to_string(), "2001:db8:1:2:3656:78ff:fe9a:bcde");
    }
}
