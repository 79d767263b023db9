// SPDX-License-Identifier: BSD-2-Clause
//! A limit of time over many reads and writes of one connection.
//!
//! ureq gives every read a time of its own while it greets the server (TLS, and CONNECT of a proxy), and within a body for
//! each piece that has none of the image's bytes, such as an extension of a chunk. So a server that sends one byte now and
//! then would never end. The connection has a limit here that goes on over all of them: one for reaching the server, and
//! one for the next byte of the image.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::Timeout;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport, time};

/// The limit of one connection. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Deadline(Arc<Mutex<Option<Limit>>>);

#[derive(Debug, Clone, Copy)]
struct Limit {
    at: Instant,
    reason: Timeout,
}

impl Deadline {
    /// From now on the server has `time` for a byte of the image.
    pub(super) fn expect_byte_within(&self, time: Duration) {
        self.set(Instant::now().checked_add(time).map(|at| Limit { at, reason: Timeout::PerRead }));
    }

    fn set(&self, limit: Option<Limit>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = limit;
    }

    /// Shortens the time of one read or write to what is left. Where nothing is left, reading fails.
    fn shorten(&self, timeout: NextTimeout) -> NextTimeout {
        let limit = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Limit { at, reason }) = limit else { return timeout };
        let left = time::Duration::Exact(at.saturating_duration_since(Instant::now()));
        if *left < *timeout.after { NextTimeout { after: left, reason, ..timeout } } else { timeout }
    }
}

/// Begins the limit for reaching the server, behind the connector that opens the connection.
#[derive(Debug)]
pub(super) struct Reaching(pub(super) Deadline);

impl<In: Transport> Connector<In> for Reaching {
    type Out = Limited<In>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(inner) = chained else { return Ok(None) };
        // The time began before the connection was opened.
        let reason = details.timeout.reason;
        if let time::Instant::Exact(at) = details.now + details.timeout.after {
            self.0.set(Some(Limit { at, reason }));
        }
        Ok(Some(Limited { inner, deadline: self.0.clone() }))
    }
}

/// Ends the limit for reaching the server, as the last connector.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) deadline: Deadline,
    /// Whether there is a proxy that has to be asked for a tunnel.
    pub(super) through_tunnel: bool,
}

impl<In: Transport> Connector<In> for Reached {
    type Out = In;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        // The same connectors make the connection to the proxy, which is not the server yet. Then they know of no proxy.
        if !self.through_tunnel || details.config.proxy().is_some() {
            self.deadline.set(None);
        }
        Ok(chained)
    }
}

/// A connection with a limit.
#[derive(Debug)]
pub(super) struct Limited<T> {
    inner: T,
    deadline: Deadline,
}

impl<T: Transport> Transport for Limited<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.inner.transmit_output(amount, self.deadline.shorten(timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.inner.await_input(self.deadline.shorten(timeout))
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
