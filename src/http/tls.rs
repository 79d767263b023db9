// SPDX-License-Identifier: BSD-2-Clause
//! Whom to trust over https.

use std::path::Path;
use std::sync::Arc;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::error::HttpError;
use super::settings::HttpSettings;

/// The TLS configuration that `settings` ask for: the system's authorities unless they name their own.
///
/// # Errors
/// A CA file that cannot be read or that holds no certificate: trusting nobody would only show as a failing download.
pub(super) fn tls_config(settings: &HttpSettings) -> Result<TlsConfig, HttpError> {
    let roots = match &settings.ca_file {
        Some(path) => RootCerts::Specific(Arc::new(read_certificates(path)?)),
        None => RootCerts::PlatformVerifier,
    };
    Ok(TlsConfig::builder().root_certs(roots).disable_verification(settings.insecure_tls).build())
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate<'static>>, HttpError> {
    let fault = |reason: String| HttpError::CaFile { path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(|err| fault(err.to_string()))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(_) => return Err(fault("not a PEM file".to_owned())),
        }
    }
    if certificates.is_empty() {
        return Err(fault("no certificate in it".to_owned()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::tls_config;
    use crate::http::HttpSettings;

    #[test]
    fn an_unusable_ca_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let settings = HttpSettings { ca_file: Some(path.clone()), ..HttpSettings::default() };
        let message = || tls_config(&settings).err().map(|err| err.to_string()).unwrap_or_default();
        assert_eq!(message(), format!("CA file {}: No such file or directory (os error 2)", path.display()));
        std::fs::write(&path, "no certificate here\n").unwrap();
        assert_eq!(message(), format!("CA file {}: no certificate in it", path.display()));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n").unwrap();
        assert_eq!(message(), format!("CA file {}: not a PEM file", path.display()));
    }
}
