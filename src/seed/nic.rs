// SPDX-License-Identifier: BSD-2-Clause
//! An instance's NIC, as far as its network configuration is made of it.

/// One NIC with what Ganeti knows of its network, unchecked; what is empty counts as not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Nic {
    /// `NIC_n_NAME`.
    pub(crate) name: Option<String>,
    /// `NIC_n_MAC`.
    pub(crate) mac: String,
    /// `NIC_n_IP`, of either family.
    pub(crate) ip: Option<String>,
    /// `NIC_n_MODE` is `routed`.
    pub(crate) routed: bool,
    /// `NIC_n_NETWORK_SUBNET`: an IPv4 network as `address/prefix`.
    pub(crate) subnet: Option<String>,
    /// `NIC_n_NETWORK_GATEWAY`.
    pub(crate) gateway: Option<String>,
    /// `NIC_n_NETWORK_SUBNET6`: an IPv6 network as `address/prefix`.
    pub(crate) subnet6: Option<String>,
    /// `NIC_n_NETWORK_GATEWAY6`.
    pub(crate) gateway6: Option<String>,
}
