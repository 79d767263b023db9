// SPDX-License-Identifier: BSD-2-Clause
//! The ureq agents that carry requests: direct ones, and those through a proxy.

use ureq::Agent;
use ureq::config::Config;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};

use super::error::HttpError;
use super::proxy::Proxy;
use super::resolver::SystemResolver;
use super::settings::HttpSettings;
use super::tls_transport::TlsConnector;
use super::url::ImageUrl;

/// Bytes read from the network at once, at most.
const INPUT_BUFFER: usize = 256 << 10;

/// One agent for each way to a server.
#[derive(Debug)]
pub(super) struct Agents {
    direct: Agent,
    /// Sends absolute-form requests to the proxy for http URLs.
    http_proxy: Option<ProxyAgent>,
    /// Opens CONNECT tunnels for https URLs.
    https_proxy: Option<ProxyAgent>,
}

#[derive(Debug)]
struct ProxyAgent {
    /// `host:port`.
    proxy: String,
    agent: Agent,
}

impl Agents {
    /// Makes the agents that `settings` ask for, with `tls` for https.
    pub(super) fn new(settings: &HttpSettings, tls: &TlsConnector) -> Result<Self, HttpError> {
        let http_proxy = settings.proxy.as_ref().map(Proxy::parse).transpose()?;
        let https_proxy = settings.https_proxy.as_ref().or(settings.proxy.as_ref()).map(Proxy::parse).transpose()?;
        Ok(Agents {
            direct: agent(settings, tls, None),
            http_proxy: http_proxy.map(|proxy| ProxyAgent::absolute_form(&proxy, settings, tls)).transpose()?,
            https_proxy: https_proxy.map(|proxy| ProxyAgent::tunnels(&proxy, settings, tls)).transpose()?,
        })
    }

    /// The agent for `url`, and `host:port` of its proxy.
    pub(super) fn select(&self, url: &ImageUrl, settings: &HttpSettings) -> (&Agent, Option<&str>) {
        let through_proxy = if url.is_https() { &self.https_proxy } else { &self.http_proxy };
        match through_proxy {
            Some(found) if !settings.no_proxy.iter().any(|entry| entry.covers(url.as_url())) => {
                (&found.agent, Some(&found.proxy))
            }
            _ => (&self.direct, None),
        }
    }
}

impl ProxyAgent {
    fn absolute_form(proxy: &Proxy, settings: &HttpSettings, tls: &TlsConnector) -> Result<Self, HttpError> {
        let (absolute_form, resolver) = proxy.for_requests()?;
        let connector = ().chain(TcpConnector::default()).chain(tls.clone()).chain(absolute_form);
        let agent = Agent::with_parts(config(settings, None), connector, resolver);
        Ok(ProxyAgent { proxy: proxy.host_and_port(), agent })
    }

    fn tunnels(proxy: &Proxy, settings: &HttpSettings, tls: &TlsConnector) -> Result<Self, HttpError> {
        let agent = agent(settings, tls, Some(proxy.for_tunnels()?));
        Ok(ProxyAgent { proxy: proxy.host_and_port(), agent })
    }
}

fn agent(settings: &HttpSettings, tls: &TlsConnector, proxy: Option<ureq::Proxy>) -> Agent {
    let connector = ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default()).chain(tls.clone());
    Agent::with_parts(config(settings, proxy), connector, SystemResolver)
}

/// The client judges statuses and redirects itself. An explicit `proxy` keeps ureq from reading the environment.
fn config(settings: &HttpSettings, proxy: Option<ureq::Proxy>) -> Config {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(proxy)
        .user_agent(settings.user_agent.as_str())
        .timeout_resolve(Some(settings.connect_timeout))
        .timeout_connect(Some(settings.connect_timeout))
        // Without a limit in all, a server could send its header one byte at a time and never stall.
        .timeout_recv_response(Some(settings.stall_timeout))
        // timeout_recv_body would limit the whole body. These two start again with every read and write.
        .timeout_per_read(Some(settings.stall_timeout))
        .timeout_per_write(Some(settings.stall_timeout))
        .input_buffer_size(INPUT_BUFFER)
        // Downloads are long and few, so that a connection kept for the next one would only grow stale.
        .max_idle_connections(0)
        .build()
}
