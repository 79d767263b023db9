// SPDX-License-Identifier: BSD-2-Clause
//! An instance's NIC, as far as its network configuration is made of it.

/// One NIC with what Ganeti knows of its network, unchecked; what is empty counts as not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nic {
    /// `NIC_n_NAME`.
    pub name: Option<String>,
    /// `NIC_n_MAC`.
    pub mac: String,
    /// `NIC_n_IP`, of either family.
    pub ip: Option<String>,
    /// `NIC_n_MODE` is `routed`.
    pub routed: bool,
    /// `NIC_n_NETWORK_SUBNET`: an IPv4 network as `address/prefix`.
    pub subnet: Option<String>,
    /// `NIC_n_NETWORK_GATEWAY`.
    pub gateway: Option<String>,
    /// `NIC_n_NETWORK_SUBNET6`: an IPv6 network as `address/prefix`.
    pub subnet6: Option<String>,
    /// `NIC_n_NETWORK_GATEWAY6`.
    pub gateway6: Option<String>,
}
