// SPDX-License-Identifier: BSD-2-Clause
//! Resolving host names. ureq's own resolver does not tell a name that does not exist from name servers that do not
//! answer.

use std::net::SocketAddr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use dns_lookup::{AddrInfoHints, LookupErrorKind, SockType, getaddrinfo};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::transport_error::TransportError;

/// The size of ureq's array of addresses.
const MAX_ADDRESSES: usize = 16;

/// Resolves names with getaddrinfo(3), as every program of the node does.
#[derive(Debug, Default)]
pub(super) struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        // getaddrinfo can't be interrupted. After a timeout its thread is left to end on its own.
        let (sender, answer) = mpsc::sync_channel(1);
        thread::spawn(move || sender.send(look_up(&host, port)));
        let found = match answer.recv_timeout(*timeout.after) {
            Ok(found) => found?,
            Err(RecvTimeoutError::Timeout) => return Err(ureq::Error::Timeout(timeout.reason)),
            Err(RecvTimeoutError::Disconnected) => return Err(ureq::Error::HostNotFound),
        };
        let mut addresses = self.empty();
        for address in found.into_iter().take(MAX_ADDRESSES) {
            addresses.push(address);
        }
        if addresses.is_empty() { Err(TransportError::NoHost.into()) } else { Ok(addresses) }
    }
}

fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, TransportError> {
    let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
    match getaddrinfo(Some(host), Some(&port.to_string()), Some(hints)) {
        Ok(found) => Ok(found.filter_map(Result::ok).map(|info| info.sockaddr).collect()),
        Err(error) if matches!(error.kind(), LookupErrorKind::NoName | LookupErrorKind::NoData) => {
            Err(TransportError::NoHost)
        }
        Err(error) => Err(TransportError::Unresolved(std::io::Error::from(error).to_string())),
    }
}

/// Resolves every name to the address of one proxy.
#[derive(Debug, Clone)]
pub(super) struct ProxyResolver {
    pub(super) proxy: Uri,
}

impl Resolver for ProxyResolver {
    fn resolve(&self, _: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        SystemResolver.resolve(&self.proxy, config, timeout)
    }
}
