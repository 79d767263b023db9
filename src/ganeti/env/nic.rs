// SPDX-License-Identifier: BSD-2-Clause
//! The instance's NICs.

use super::{EnvError, Environment};
use crate::seed::Nic;

impl Environment {
    /// The NICs in their order; none when the instance has none.
    pub(crate) fn nics(&self) -> Result<Vec<Nic>, EnvError> {
        let count = self.get("NIC_COUNT")?.unwrap_or("0").parse::<u16>();
        let count = count.map_err(|_not_a_number| EnvError::Invalid("NIC_COUNT".to_owned(), "not a number of NICs"))?;
        (0..count).map(|index| self.nic(index)).collect()
    }

    fn nic(&self, index: u16) -> Result<Nic, EnvError> {
        let owned = |name| self.get(&format!("NIC_{index}_{name}")).map(|value| value.map(str::to_owned));
        Ok(Nic {
            name: owned("NAME")?,
            mac: self.required(&format!("NIC_{index}_MAC"))?.to_owned(),
            ip: owned("IP")?,
            routed: self.get(&format!("NIC_{index}_MODE"))? == Some("routed"),
            subnet: owned("NETWORK_SUBNET")?,
            gateway: owned("NETWORK_GATEWAY")?,
            subnet6: owned("NETWORK_SUBNET6")?,
            gateway6: owned("NETWORK_GATEWAY6")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Nic;
    use crate::ganeti::env::{EnvError, Environment};

    fn nics(variables: &[(&str, &str)]) -> Result<Vec<Nic>, EnvError> {
        Environment::new(variables.iter().map(|(name, value)| ((*name).into(), (*value).into()))).nics()
    }

    #[test]
    fn every_nic_is_read_with_its_network() {
        let read = nics(&[
            ("NIC_COUNT", "2"),
            ("NIC_0_MAC", "aa:00:00:00:00:01"),
            ("NIC_0_NAME", ""),
            ("NIC_0_MODE", "bridged"),
            ("NIC_1_MAC", "aa:00:00:00:00:02"),
            ("NIC_1_NAME", "lan"),
            ("NIC_1_IP", "192.0.2.10"),
            ("NIC_1_MODE", "routed"),
            ("NIC_1_NETWORK_SUBNET", "192.0.2.0/24"),
            ("NIC_1_NETWORK_GATEWAY", "192.0.2.1"),
            ("NIC_1_NETWORK_SUBNET6", "2001:db8::/64"),
            ("NIC_1_NETWORK_GATEWAY6", "2001:db8::1"),
        ]);
        let given = |text: &str| Some(text.to_owned());
        let plain = Nic { mac: "aa:00:00:00:00:01".to_owned(), ..Nic::default() };
        let full = Nic {
            name: given("lan"),
            mac: "aa:00:00:00:00:02".to_owned(),
            ip: given("192.0.2.10"),
            routed: true,
            subnet: given("192.0.2.0/24"),
            gateway: given("192.0.2.1"),
            subnet6: given("2001:db8::/64"),
            gateway6: given("2001:db8::1"),
        };
        assert_eq!(read, Ok(vec![plain, full]));
        assert_eq!([nics(&[]), nics(&[("NIC_COUNT", "0")])], [Ok(Vec::new()), Ok(Vec::new())]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        assert_eq!(nics(&[("NIC_COUNT", "1")]), Err(EnvError::Missing("NIC_0_MAC".to_owned())));
        let wrong = EnvError::Invalid("NIC_COUNT".to_owned(), "not a number of NICs");
        assert_eq!(nics(&[("NIC_COUNT", "-1")]), Err(wrong));
    }
}
