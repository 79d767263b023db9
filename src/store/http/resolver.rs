// SPDX-License-Identifier: BSD-2-Clause
//! Host names: unlike ureq's own resolver, this one tells a name that does not exist from servers that can't say.

use std::net::SocketAddr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use dns_lookup::{AddrInfoHints, LookupErrorKind, SockType, getaddrinfo};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::tls_transport::TransportError;

/// As many addresses as ureq's array holds.
const MAX_ADDRESSES: usize = 16;

/// Asks the system, as every program of the node does.
#[derive(Debug, Default)]
pub(super) struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        // Nobody can end getaddrinfo(3): its thread is left to itself.
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
        Err(error) => Err(fault(error.kind(), &std::io::Error::from(error).to_string())),
    }
}

fn fault(kind: LookupErrorKind, words: &str) -> TransportError {
    match kind {
        LookupErrorKind::NoName | LookupErrorKind::NoData => TransportError::NoHost,
        _ => TransportError::Unresolved(words.to_owned()),
    }
}
