// SPDX-License-Identifier: BSD-2-Clause
//! Connections for ureq, secured by OpenSSL where the URL says https; and whether the other side speaks the same.
//!
//! ureq has no TLS of its own here: this is its connector. It also keeps a reset from ureq, which would take it for
//! the end of a body without a length.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use openssl::ssl::{ConnectConfiguration, ErrorCode, HandshakeError, SslConnector, SslStream, SslVerifyMode};
use openssl::x509::X509VerifyResult;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use super::certificate;
use super::tls::told;

/// How the messages of TLS begin (RFC 8446, section 5.1): an alert, a handshake.
const TLS_RECORDS: [[u8; 2]; 2] = [[0x15, 3], [0x16, 3]];

/// Why there is no connection of the kind that the URL asks for. Each text is one that a person can read.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    /// The server's certificate.
    #[error("{0}")]
    Certificate(String),
    /// Something else of TLS.
    #[error("{0}")]
    Tls(String),
    /// Where TLS was to be spoken is plain HTTP, or something that is neither.
    #[error("no TLS")]
    NoTls {
        /// Whether it is HTTP.
        http: bool,
    },
    /// Where plain HTTP was to be spoken is TLS.
    #[error("TLS")]
    SpeaksTls,
    /// The connection was torn off: reset, or ended without TLS saying so.
    #[error("torn off")]
    Torn,
    /// The name stands for no address, and will not in a moment.
    #[error("no such host")]
    NoHost,
    /// The name servers could not say.
    #[error("{0}")]
    Unresolved(String),
}

impl From<TransportError> for ureq::Error {
    fn from(fault: TransportError) -> Self {
        ureq::Error::Other(Box::new(fault))
    }
}

/// Secures connections for https, and looks at the first bytes on the others.
#[derive(Debug, Clone)]
pub(super) struct TlsConnector {
    connector: SslConnector,
    verify: bool,
}

impl TlsConnector {
    /// With a `connector` that is settled but for the server's name; without `verify` any certificate is taken.
    pub(super) fn new(connector: SslConnector, verify: bool) -> Self {
        TlsConnector { connector, verify }
    }

    fn handshake(&self, details: &ConnectionDetails, inner: Box<dyn Transport>) -> Result<TlsTransport, ureq::Error> {
        let internal = |err: &openssl::error::ErrorStack| TransportError::Tls(told(err));
        let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let mut configuration = self.connector.configure().map_err(|err| internal(&err))?;
        let blamed = CertificateCheck::default();
        if self.verify {
            blamed.watch(&mut configuration, &host);
        } else {
            configuration.set_verify_hostname(false);
        }
        let mut adapter = TransportAdapter::new(inner, Arc::clone(&details.current_time));
        adapter.set_timeout(details.timeout);
        let opening = RecordingStream { inner: adapter, first: Vec::new() };
        match configuration.connect(&host, opening) {
            Ok(stream) => {
                let config = details.config;
                let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
                Ok(TlsTransport { buffers, stream })
            }
            Err(HandshakeError::SetupFailure(err)) => Err(internal(&err).into()),
            Err(HandshakeError::Failure(failed) | HandshakeError::WouldBlock(failed)) => {
                let no_tls = failed.get_ref().no_tls();
                let error = translated(failed.into_error());
                Err(no_tls.or_else(|| blamed.take()).map_or(error, Into::into))
            }
        }
    }
}

/// What the check of the certificate found wrong.
#[derive(Clone, Default)]
struct CertificateCheck(Arc<Mutex<Option<String>>>);

impl CertificateCheck {
    /// Notes what is wrong, while it is known which certificate of the chain it is.
    fn watch(&self, configuration: &mut ConnectConfiguration, host: &str) {
        let (slot, host) = (Arc::clone(&self.0), host.to_owned());
        configuration.set_verify_callback(SslVerifyMode::PEER, move |holds, context| {
            if holds {
                return true;
            }
            let wrong = certificate::fault(context, &host);
            if wrong.is_none() {
                context.set_error(X509VerifyResult::OK);
            }
            let forgiven = wrong.is_none();
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = wrong;
            forgiven
        });
    }

    fn take(&self) -> Option<TransportError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().map(TransportError::Certificate)
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = TransportStream<In>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(inner) = chained else { return Ok(None) };
        if !details.needs_tls() || inner.is_tls() {
            return Ok(Some(TransportStream::Plain { inner, looked: false }));
        }
        self.handshake(details, Box::new(inner)).map(|secured| Some(TransportStream::TlsTransport(Box::new(secured))))
    }
}

/// A connection as the URL asks for.
pub(super) enum TransportStream<In> {
    /// Not secured.
    Plain {
        /// It.
        inner: In,
        /// Whether its first bytes were looked at.
        looked: bool,
    },
    /// TlsTransport.
    TlsTransport(Box<TlsTransport>),
}

impl<In: Transport> Transport for TransportStream<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        match self {
            TransportStream::Plain { inner, .. } => inner.buffers(),
            TransportStream::TlsTransport(secured) => &mut secured.buffers,
        }
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        match self {
            TransportStream::Plain { inner, .. } => inner.transmit_output(amount, timeout),
            TransportStream::TlsTransport(secured) => secured.transmit_output(amount, timeout),
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        match self {
            TransportStream::Plain { inner, looked } => {
                let progress = inner.await_input(timeout).map_err(torn)?;
                let first = inner.buffers().input();
                if !*looked && TLS_RECORDS.iter().any(|record| first.starts_with(record)) {
                    return Err(TransportError::SpeaksTls.into());
                }
                *looked |= first.len() > 1;
                Ok(progress)
            }
            TransportStream::TlsTransport(secured) => secured.await_input(timeout).map_err(torn),
        }
    }

    fn is_open(&mut self) -> bool {
        match self {
            TransportStream::Plain { inner, .. } => inner.is_open(),
            TransportStream::TlsTransport(secured) => secured.stream.get_mut().inner.get_mut().is_open(),
        }
    }

    fn is_tls(&self) -> bool {
        matches!(self, TransportStream::TlsTransport(_))
    }
}

impl<In> fmt::Debug for TransportStream<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

/// A connection over TLS.
pub(super) struct TlsTransport {
    buffers: LazyBuffers,
    stream: SslStream<RecordingStream>,
}

impl TlsTransport {
    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().inner.set_timeout(timeout);
        let mut rest = &self.buffers.output()[..amount];
        while !rest.is_empty() {
            let written = self.stream.ssl_write(rest).map_err(translated)?;
            rest = &rest[written..];
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().inner.set_timeout(timeout);
        // Not by its `Read`: that takes a connection that was cut for one that was closed.
        let count = match self.stream.ssl_read(self.buffers.input_append_buf()) {
            Ok(count) => count,
            Err(error) if error.code() == ErrorCode::ZERO_RETURN => 0,
            Err(error) => return Err(translated(error)),
        };
        self.buffers.input_appended(count);
        Ok(count > 0)
    }
}

/// The connection below, of which the first bytes are noted: they tell what the other side speaks.
struct RecordingStream {
    inner: TransportAdapter,
    first: Vec<u8>,
}

impl RecordingStream {
    /// Enough to tell HTTP.
    const NOTED: usize = 5;

    /// What is spoken if it is not TLS.
    fn no_tls(&self) -> Option<TransportError> {
        let tls = self.first.is_empty() || TLS_RECORDS.iter().any(|record| self.first.starts_with(record));
        // Some servers answer a request that they can't read with a page and no head.
        (!tls).then(|| TransportError::NoTls { http: self.first.starts_with(b"HTTP/") || self.first.starts_with(b"<") })
    }
}

impl Read for RecordingStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let missing = Self::NOTED - self.first.len();
        self.first.extend_from_slice(&buffer[..count.min(missing)]);
        Ok(count)
    }
}

impl Write for RecordingStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.inner.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The errors that ureq would take for the end of a body that has no length. A connection that was closed is none.
fn torn(error: ureq::Error) -> ureq::Error {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error {
        ureq::Error::Io(error) if matches!(error.kind(), ConnectionAborted | ConnectionReset | UnexpectedEof) => {
            TransportError::Torn.into()
        }
        other => other,
    }
}

/// An error of OpenSSL: one of the connection below as it was, one of TLS in words.
fn translated(error: openssl::ssl::Error) -> ureq::Error {
    let error = match error.into_io_error() {
        Ok(error) => return error.into(),
        Err(error) => error,
    };
    let Some(errors) = error.ssl_error().filter(|errors| !errors.errors().is_empty()) else {
        return io::Error::from(io::ErrorKind::UnexpectedEof).into();
    };
    let reason = told(errors);
    if reason.contains("unexpected eof") {
        return io::Error::from(io::ErrorKind::UnexpectedEof).into();
    }
    TransportError::Tls(words(&reason)).into()
}

/// What the words of OpenSSL (ssl/ssl_err.c) mean for an administrator; those that say enough stay.
fn words(reason: &str) -> String {
    let meaning = match reason {
        _ if reason.contains("alert certificate required") => {
            "the server wants a client certificate: set http.client_cert"
        }
        _ if reason.contains("alert unknown ca") || reason.contains("alert bad certificate") => {
            "the server does not accept the client certificate"
        }
        _ if reason.contains("alert protocol version") || reason == "unsupported protocol" => {
            "the server speaks no TLS of version 1.2 or later"
        }
        _ if reason.contains("alert handshake failure") => {
            "the server agrees to none of the ciphers offered, or wants a client certificate"
        }
        _ if reason.contains("alert unrecognized name") => "the server does not know this host name",
        _ => reason,
    };
    meaning.to_owned()
}
