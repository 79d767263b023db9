// SPDX-License-Identifier: BSD-2-Clause
//! Whom to trust over https, and who we are.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::error::HttpError;
use super::private;
use super::settings::HttpSettings;

/// What files are called in errors.
const CA_FILE: &str = "CA file";
const CLIENT_CERT: &str = "client certificate";
const CLIENT_KEY: &str = "client key";

/// The TLS configuration that `settings` ask for: the system's authorities unless they name their own. It shows no
/// client certificate.
///
/// # Errors
/// A CA file that cannot be read or that holds no certificate: trusting nobody would only show as a failing download.
pub(super) fn tls_config(settings: &HttpSettings) -> Result<TlsConfig, HttpError> {
    let roots = match &settings.ca_file {
        Some(path) => {
            let pem = std::fs::read(path).map_err(|err| fault(CA_FILE, path, &err.to_string()))?;
            RootCerts::Specific(Arc::new(certificates(CA_FILE, path, &pem)?))
        }
        None => RootCerts::PlatformVerifier,
    };
    Ok(TlsConfig::builder().root_certs(roots).disable_verification(settings.insecure_tls).build())
}

/// The certificate and key that `settings` name, if they do.
///
/// # Errors
/// Files that cannot be used, a key that others can read, and a key that is not the certificate's.
pub(super) fn client_cert(settings: &HttpSettings) -> Result<Option<ClientCert>, HttpError> {
    let setting = |reason: &str| HttpError::Setting { setting: "client key", reason: reason.to_owned() };
    let Some(path) = &settings.client_cert else {
        let alone = settings.client_key.is_some();
        return if alone { Err(setting("there is no client certificate for it")) } else { Ok(None) };
    };
    let key_path = settings.client_key.as_ref().unwrap_or(path);
    let pem = std::fs::read(path).map_err(|err| fault(CLIENT_CERT, path, &err.to_string()))?;
    let chain = certificates(CLIENT_CERT, path, &pem)?;
    let key = private_key(key_path, &private::read(CLIENT_KEY, key_path)?)?;
    check_pair(&chain, &key).map_err(|reason| fault(CLIENT_KEY, key_path, &reason))?;
    Ok(Some(ClientCert::new_with_certs(&chain, key)))
}

fn fault(what: &'static str, path: &Path, reason: &str) -> HttpError {
    HttpError::File { what, path: path.to_owned(), reason: reason.to_owned() }
}

fn certificates(what: &'static str, path: &Path, pem: &[u8]) -> Result<Vec<Certificate<'static>>, HttpError> {
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(_) => return Err(fault(what, path, "not a PEM file")),
        }
    }
    if certificates.is_empty() {
        return Err(fault(what, path, "no certificate in it"));
    }
    Ok(certificates)
}

fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKey<'static>, HttpError> {
    let key = parse_pem(pem).find_map(|item| match item {
        Ok(PemItem::PrivateKey(key)) => Some(key),
        _ => None,
    });
    key.ok_or_else(|| fault(CLIENT_KEY, path, "no private key without a passphrase in it"))
}

/// ureq takes it for granted that the two fit each other.
fn check_pair(chain: &[Certificate<'static>], key: &PrivateKey<'static>) -> Result<(), String> {
    let chain = chain.iter().map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect();
    let key = PrivateKeyDer::try_from(key.der().to_vec()).map_err(str::to_owned)?;
    match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err("it is not the key of the client certificate".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::{client_cert, tls_config};
    use crate::http::HttpSettings;
    use std::path::Path;

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

    /// A certificate and its key as PEM.
    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["client".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_client_certificate_comes_from_one_file_or_two_and_only_with_its_own_key() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let save = |path: &Path, text: &str, mode| {
            std::fs::write(path, text).unwrap();
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        let ((chain, own_key), (_, other_key)) = (pair(), pair());
        let one = HttpSettings { client_cert: Some(cert.clone()), ..HttpSettings::default() };
        let two = HttpSettings { client_key: Some(key.clone()), ..one.clone() };
        let message = |settings| client_cert(settings).err().map(|err| err.to_string()).unwrap_or_default();

        save(&cert, &format!("{chain}{own_key}"), 0o600);
        assert!(client_cert(&one).unwrap().is_some());
        save(&cert, &chain, 0o644);
        save(&key, &own_key, 0o640);
        assert!(client_cert(&two).unwrap().is_some());
        assert!(client_cert(&HttpSettings::default()).unwrap().is_none());

        save(&key, &other_key, 0o600);
        assert_eq!(message(&two), format!("client key {}: it is not the key of the client certificate", key.display()));
        save(&key, &own_key, 0o644);
        let open = "its mode 0644 lets others at the secrets in it (check it, then chmod 0600)";
        assert_eq!(message(&two), format!("client key {}: {open}", key.display()));
        save(&key, &chain, 0o600);
        let none = format!("client key {}: no private key without a passphrase in it", key.display());
        assert_eq!(message(&two), none);
        save(&cert, "x", 0o600);
        assert_eq!(message(&one), format!("client certificate {}: no certificate in it", cert.display()));
        let alone = HttpSettings { client_key: Some(key), ..HttpSettings::default() };
        assert_eq!(message(&alone), "client key: there is no client certificate for it");
    }
}
