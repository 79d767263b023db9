// SPDX-License-Identifier: BSD-2-Clause
//! ureq's connections over OpenSSL, and the check that the server speaks the protocol of the URL.
//!
//! ureq has no TLS of its own here. This connector also hides a reset from ureq, which would take it for the end of a
//! body without a length.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use openssl::error::ErrorStack;
use openssl::ssl::{ConnectConfiguration, ErrorCode, HandshakeError, SslConnector, SslStream, SslVerifyMode};
use openssl::x509::X509VerifyResult;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use super::certificate::verification_fault;
use super::transport_error::TransportError;

/// The first bytes of TLS records (RFC 8446, section 5.1): an alert and a handshake.
const TLS_RECORDS: [[u8; 2]; 2] = [[0x15, 3], [0x16, 3]];

/// Makes connections over TLS for https, and checks the first bytes of other connections.
#[derive(Debug, Clone)]
pub(super) struct TlsConnector {
    connector: SslConnector,
    verify: bool,
}

impl TlsConnector {
    /// `connector` has all settings but the server's name. Without `verify` any certificate is accepted.
    pub(super) fn new(connector: SslConnector, verify: bool) -> Self {
        TlsConnector { connector, verify }
    }

    fn handshake(&self, details: &ConnectionDetails, inner: Box<dyn Transport>) -> Result<TlsTransport, ureq::Error> {
        let internal = |err: &ErrorStack| TransportError::Tls(last_reason(err));
        let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let mut configuration = self.connector.configure().map_err(|err| internal(&err))?;
        let found = CertificateFault::default();
        if self.verify {
            found.record(&mut configuration, &host);
        } else {
            configuration.set_verify_hostname(false);
        }
        let mut adapter = TransportAdapter::new(inner, Arc::clone(&details.current_time));
        adapter.set_timeout(details.timeout);
        match configuration.connect(&host, RecordingStream { inner: adapter, first: Vec::new() }) {
            Ok(stream) => {
                let config = details.config;
                let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
                Ok(TlsTransport { buffers, stream })
            }
            Err(HandshakeError::SetupFailure(err)) => Err(internal(&err).into()),
            Err(HandshakeError::Failure(failed) | HandshakeError::WouldBlock(failed)) => {
                let no_tls = failed.get_ref().no_tls();
                let error = translate(failed.into_error());
                Err(no_tls.or_else(|| found.take()).map_or(error, Into::into))
            }
        }
    }
}

/// The fault of a certificate in the chain, which OpenSSL tells only while it verifies.
#[derive(Clone, Default)]
struct CertificateFault(Arc<Mutex<Option<String>>>);

impl CertificateFault {
    fn record(&self, configuration: &mut ConnectConfiguration, host: &str) {
        let (slot, host) = (Arc::clone(&self.0), host.to_owned());
        configuration.set_verify_callback(SslVerifyMode::PEER, move |is_valid, context| {
            if is_valid {
                return true;
            }
            let fault = verification_fault(context, &host);
            let accepted = fault.is_none();
            if accepted {
                context.set_error(X509VerifyResult::OK);
            }
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = fault;
            accepted
        });
    }

    fn take(&self) -> Option<TransportError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().map(TransportError::Certificate)
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = MaybeTls<In>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(inner) = chained else { return Ok(None) };
        if !details.needs_tls() || inner.is_tls() {
            return Ok(Some(MaybeTls::Plain { inner, checked: false }));
        }
        self.handshake(details, Box::new(inner)).map(|tls| Some(MaybeTls::Tls(Box::new(tls))))
    }
}

/// A connection with or without TLS.
pub(super) enum MaybeTls<In> {
    Plain {
        inner: In,
        /// Whether the first bytes were checked.
        checked: bool,
    },
    Tls(Box<TlsTransport>),
}

impl<In: Transport> Transport for MaybeTls<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        match self {
            MaybeTls::Plain { inner, .. } => inner.buffers(),
            MaybeTls::Tls(tls) => &mut tls.buffers,
        }
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        match self {
            MaybeTls::Plain { inner, .. } => inner.transmit_output(amount, timeout),
            MaybeTls::Tls(tls) => tls.transmit_output(amount, timeout),
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        match self {
            MaybeTls::Plain { inner, checked } => {
                let progress = inner.await_input(timeout).map_err(mark_torn)?;
                let first = inner.buffers().input();
                if !*checked && TLS_RECORDS.iter().any(|record| first.starts_with(record)) {
                    return Err(TransportError::SpeaksTls.into());
                }
                *checked |= first.len() > 1;
                Ok(progress)
            }
            MaybeTls::Tls(tls) => tls.await_input(timeout).map_err(mark_torn),
        }
    }

    fn is_open(&mut self) -> bool {
        match self {
            MaybeTls::Plain { inner, .. } => inner.is_open(),
            MaybeTls::Tls(tls) => tls.stream.get_mut().inner.get_mut().is_open(),
        }
    }

    fn is_tls(&self) -> bool {
        matches!(self, MaybeTls::Tls(_))
    }
}

impl<In> fmt::Debug for MaybeTls<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaybeTls")
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
            let written = self.stream.ssl_write(rest).map_err(translate)?;
            rest = &rest[written..];
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().inner.set_timeout(timeout);
        // The stream's `Read` is not used, because it takes a connection that was cut for one that was closed.
        let count = match self.stream.ssl_read(self.buffers.input_append_buf()) {
            Ok(count) => count,
            Err(error) if error.code() == ErrorCode::ZERO_RETURN => 0,
            Err(error) => return Err(translate(error)),
        };
        self.buffers.input_appended(count);
        Ok(count > 0)
    }
}

/// The connection below TLS. It records the first bytes, which tell what the server speaks.
struct RecordingStream {
    inner: TransportAdapter,
    first: Vec<u8>,
}

impl RecordingStream {
    /// Enough bytes to recognise HTTP.
    const RECORDED: usize = 5;

    /// The error for a server that does not speak TLS.
    fn no_tls(&self) -> Option<TransportError> {
        if self.first.is_empty() || TLS_RECORDS.iter().any(|record| self.first.starts_with(record)) {
            return None;
        }
        // Some servers answer an unreadable request with a page without a header.
        Some(TransportError::NoTls { http: self.first.starts_with(b"HTTP/") || self.first.starts_with(b"<") })
    }
}

impl Read for RecordingStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let missing = Self::RECORDED - self.first.len();
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

/// Replaces the errors that ureq would take for the end of a body without a length.
fn mark_torn(error: ureq::Error) -> ureq::Error {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error {
        ureq::Error::Io(error) if matches!(error.kind(), ConnectionAborted | ConnectionReset | UnexpectedEof) => {
            TransportError::Torn.into()
        }
        other => other,
    }
}

/// Translates an error of OpenSSL. An I/O error of the connection below stays as it is.
fn translate(error: openssl::ssl::Error) -> ureq::Error {
    let unexpected_eof = || io::Error::from(io::ErrorKind::UnexpectedEof).into();
    let error = match error.into_io_error() {
        Ok(error) => return error.into(),
        Err(error) => error,
    };
    match error.ssl_error().filter(|errors| !errors.errors().is_empty()).map(last_reason) {
        Some(reason) if !reason.contains("unexpected eof") => TransportError::Tls(in_plain_words(&reason)).into(),
        _ => unexpected_eof(),
    }
}

/// OpenSSL's reason for its last error.
pub(super) fn last_reason(errors: &ErrorStack) -> String {
    let last = errors.errors().last().and_then(|error| error.reason());
    last.unwrap_or("unknown error of OpenSSL").to_owned()
}

/// Translates OpenSSL's reasons (ssl/ssl_err.c) that say too little to an administrator.
fn in_plain_words(reason: &str) -> String {
    let has = |text: &str| reason.contains(text);
    let meaning = if has("alert certificate required") {
        "the server wants a client certificate: set http.client_cert"
    } else if has("alert unknown ca") || has("alert bad certificate") {
        "the server does not accept the client certificate"
    } else if has("alert protocol version") || reason == "unsupported protocol" {
        "the server speaks no TLS of version 1.2 or later"
    } else if has("alert handshake failure") {
        "the server agrees to none of the ciphers offered, or wants a client certificate"
    } else if has("alert unrecognized name") {
        "the server does not know this host name"
    } else {
        reason
    };
    meaning.to_owned()
}
