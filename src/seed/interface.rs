// SPDX-License-Identifier: BSD-2-Clause
//! What a network interface is called, and its MAC address.

use std::fmt;
use std::net::Ipv6Addr;

use serde::{Serialize, Serializer};

/// IFNAMSIZ of linux/if.h without the terminating zero, in bytes.
const MAX_NAME: usize = 15;
/// Names that have a meaning of their own in /proc/sys/net and for the loopback interface.
const RESERVED: [&str; 3] = ["all", "default", "lo"];

/// Whether a network interface of the instance can have this name. The kernel takes more (`dev_valid_name`), but a `.`
/// makes ifupdown see a VLAN, a number alone is an index, and netplan takes `*` and brackets for patterns.
pub(super) fn is_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    name.len() <= MAX_NAME
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphabetic())
        && name.bytes().all(word)
        && !RESERVED.contains(&name)
}

/// A MAC address of one interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mac([u8; 6]);

impl Mac {
    /// From `aa:00:00:35:ac:5d`; none for anything else, and for addresses that no interface has: all zeros, and those of
    /// groups.
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

    /// The address that an interface with this MAC has in the network `prefix` of 64 bits (RFC 4291, appendix A).
    pub(super) fn address_in(self, prefix: Ipv6Addr) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let suffix = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        Ipv6Addr::from_bits(prefix.to_bits() | u128::from(suffix))
    }
}

impl fmt::Display for Mac {
    /// In lower case, as cloud-init compares it with the kernel's.
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
    use super::{Mac, is_name};

    #[test]
    fn names_are_those_that_every_tool_takes() {
        for name in ["eth0", "lan", "e", "wan_2", "my-dmz", "abcdefghijklmno"] {
            assert!(is_name(name), "{name}");
        }
        let too_long = "abcdefghijklmnop";
        for name in
            ["", "lo", "all", "default", "0", "42", "0a", "-a", "a.5", "a b", "a/b", "a:0", "a\n", "e*", too_long]
        {
            assert!(!is_name(name), "{name}");
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
