// SPDX-License-Identifier: BSD-2-Clause
//! The ureq agents that carry requests: directly, or through a proxy.

use ureq::Agent;
use ureq::config::Config;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};

use super::deadline::{Deadline, Reached, Reaching};
use super::error::HttpError;
use super::proxy::{AbsoluteForm, Proxy};
use super::resolver::{ProxyResolver, SystemResolver};
use super::settings::HttpSettings;
use super::tls_transport::TlsConnector;
use super::url::ImageUrl;

/// Bytes read from the network at once, at most, which are also the longest header of an answer.
const INPUT_BUFFER: usize = 256 << 10;

/// What the agents for all ways to servers are made of.
#[derive(Debug)]
pub(super) struct Agents {
    tls: TlsConnector,
    /// The proxy for http URLs, which gets absolute-form requests.
    http_proxy: Option<RequestProxy>,
    /// The proxy for https URLs, which opens CONNECT tunnels.
    https_proxy: Option<TunnelProxy>,
}

#[derive(Debug)]
struct RequestProxy {
    /// `host:port`.
    name: String,
    absolute_form: AbsoluteForm,
    resolver: ProxyResolver,
}

#[derive(Debug)]
struct TunnelProxy {
    /// `host:port`.
    name: String,
    proxy: ureq::Proxy,
}

/// The way of one request.
pub(super) struct Way<'a> {
    pub(super) agent: Agent,
    /// The limit of the request's connection.
    pub(super) deadline: Deadline,
    /// `host:port` of the proxy, if there is one.
    pub(super) proxy: Option<&'a str>,
}

impl Agents {
    /// Checks the proxies of `settings`. https is spoken with `tls`.
    pub(super) fn new(settings: &HttpSettings, tls: &TlsConnector) -> Result<Self, HttpError> {
        let http_proxy = settings.proxy.as_ref().map(Proxy::parse).transpose()?;
        let https_proxy = settings.https_proxy.as_ref().or(settings.proxy.as_ref()).map(Proxy::parse).transpose()?;
        Ok(Agents {
            tls: tls.clone(),
            http_proxy: http_proxy.map(|proxy| RequestProxy::new(&proxy)).transpose()?,
            https_proxy: https_proxy.map(|proxy| TunnelProxy::new(&proxy)).transpose()?,
        })
    }

    /// Makes the agent for one request of `url`. Each has its own, because a connection serves one request and has a
    /// limit of its own.
    pub(super) fn way_to(&self, url: &ImageUrl, settings: &HttpSettings) -> Way<'_> {
        let is_direct = settings.no_proxy.iter().any(|entry| entry.covers(url.as_url()));
        match (url.is_https(), &self.http_proxy, &self.https_proxy) {
            (false, Some(proxy), _) if !is_direct => self.by_requests(proxy, settings),
            (true, _, Some(proxy)) if !is_direct => self.by_tunnel(Some(proxy), settings),
            _ => self.by_tunnel(None, settings),
        }
    }

    fn by_requests<'a>(&self, proxy: &'a RequestProxy, settings: &HttpSettings) -> Way<'a> {
        let deadline = Deadline::default();
        let connector =
            ().chain(TcpConnector::default())
                .chain(Reaching(deadline.clone()))
                .chain(self.tls.clone())
                .chain(proxy.absolute_form.clone())
                .chain(Reached { deadline: deadline.clone(), through_tunnel: false });
        let agent = Agent::with_parts(config(settings, None), connector, proxy.resolver.clone());
        Way { agent, deadline, proxy: Some(&proxy.name) }
    }

    /// Without a proxy, the way is direct.
    fn by_tunnel<'a>(&self, through: Option<&'a TunnelProxy>, settings: &HttpSettings) -> Way<'a> {
        let deadline = Deadline::default();
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default())
                .chain(Reaching(deadline.clone()))
                .chain(self.tls.clone())
                .chain(Reached { deadline: deadline.clone(), through_tunnel: through.is_some() });
        let proxy = through.map(|through| through.proxy.clone());
        let agent = Agent::with_parts(config(settings, proxy), connector, SystemResolver);
        Way { agent, deadline, proxy: through.map(|through| through.name.as_str()) }
    }
}

impl RequestProxy {
    fn new(proxy: &Proxy) -> Result<Self, HttpError> {
        let (absolute_form, resolver) = proxy.for_requests()?;
        Ok(RequestProxy { name: proxy.host_and_port(), absolute_form, resolver })
    }
}

impl TunnelProxy {
    fn new(proxy: &Proxy) -> Result<Self, HttpError> {
        Ok(TunnelProxy { name: proxy.host_and_port(), proxy: proxy.for_tunnels()? })
    }
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
        .max_response_header_size(INPUT_BUFFER)
        // Downloads are long and few, so that a connection kept for the next one would only grow stale.
        .max_idle_connections(0)
        .build()
}
