// SPDX-License-Identifier: BSD-2-Clause
//! The settings of TLS: trusted authorities and the client certificate.
//!
//! TLS is that of the node's OpenSSL, with the node's trust store and policy, so that whatever works with curl works
//! here. rustls refuses by design what administrators have: a server's own certificate in `ca_file`, CA:TRUE on it, no
//! alternative names, P-521, an intermediate as the trusted one. A verifier of our own that accepts them would be code in
//! which a mistake costs most. The price of OpenSSL is a C library that reads a server's bytes. But the distribution
//! corrects it without a new binary of ours, and create runs it in the confined worker.

use std::path::Path;

use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslMethod, SslVerifyMode, SslVersion};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;

use super::certificate::{certificates, private_key};
use super::error::HttpError;
use super::means::fingerprint;
use super::secret_file::{read_public_file, read_secret_file};
use super::settings::HttpSettings;
use super::tls_transport::{TlsConnector, last_reason};

/// The names of the files in errors.
const CA_FILE: &str = "CA file";
const CLIENT_CERT: &str = "client certificate";
const CLIENT_KEY: &str = "client key";

/// A connector that shows no client certificate.
///
/// # Errors
/// The CA file can't be read, or has no certificate. Trusting nobody would show only as a failed download.
pub(super) fn tls_connector(settings: &HttpSettings) -> Result<TlsConnector, HttpError> {
    Ok(finish(builder(settings)?, settings))
}

/// A connector with the client certificate of `settings`, if they have one, and its fingerprint.
///
/// # Errors
/// Those of [`tls_connector`], a file that can't be used, a key that others can read, and a key of another certificate.
pub(super) fn tls_connector_with_client_certificate(
    settings: &HttpSettings,
) -> Result<Option<(TlsConnector, String)>, HttpError> {
    let path = match (&settings.client_cert, &settings.client_key) {
        (Some(path), _) => path,
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(HttpError::setting("client key", "there is no client certificate for it")),
    };
    let key_path = settings.client_key.as_ref().unwrap_or(path);
    let chain = read_certificates(CLIENT_CERT, path)?;
    let key = private_key(CLIENT_KEY, key_path, &read_secret_file(CLIENT_KEY, key_path)?)?;
    let (mut builder, fingerprint) = (builder(settings)?, fingerprint(&chain));
    for (index, certificate) in chain.into_iter().enumerate() {
        let added =
            if index == 0 { builder.set_certificate(&certificate) } else { builder.add_extra_chain_cert(certificate) };
        added.map_err(|err| HttpError::file(CLIENT_CERT, path, last_reason(&err)))?;
    }
    let is_its_key = builder.set_private_key(&key).and_then(|()| builder.check_private_key());
    is_its_key.map_err(|_err| HttpError::file(CLIENT_KEY, key_path, "it is not the key of the client certificate"))?;
    Ok(Some((finish(builder, settings), fingerprint)))
}

fn builder(settings: &HttpSettings) -> Result<SslConnectorBuilder, HttpError> {
    let failed = |err: ErrorStack| HttpError::setting("TLS", last_reason(&err));
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(failed)?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2)).map_err(failed)?;
    if let Some(path) = &settings.ca_file {
        let mut store = X509StoreBuilder::new().map_err(failed)?;
        for certificate in authorities(path)? {
            store.add_cert(certificate).map_err(|err| HttpError::file(CA_FILE, path, last_reason(&err)))?;
        }
        builder.set_cert_store(store.build());
    }
    // As with curl, a trusted certificate ends the chain. It may be an authority's or the server's own, and need not
    // be self-signed.
    let flags = X509VerifyFlags::PARTIAL_CHAIN | X509VerifyFlags::TRUSTED_FIRST;
    builder.cert_store_mut().set_flags(flags).map_err(failed)?;
    Ok(builder)
}

fn finish(mut builder: SslConnectorBuilder, settings: &HttpSettings) -> TlsConnector {
    if settings.insecure_tls {
        builder.set_verify(SslVerifyMode::NONE);
    }
    TlsConnector::new(builder.build(), !settings.insecure_tls)
}

/// The certificates of the CA file at `path`.
pub(super) fn authorities(path: &Path) -> Result<Vec<X509>, HttpError> {
    read_certificates(CA_FILE, path)
}

fn read_certificates(what: &'static str, path: &Path) -> Result<Vec<X509>, HttpError> {
    certificates(what, path, &read_public_file(what, path)?)
}

#[cfg(test)]
pub(super) mod tests {
    use super::{tls_connector, tls_connector_with_client_certificate};
    use crate::store::http::HttpSettings;
    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use openssl::x509::{X509, X509Name};
    use std::path::Path;

    /// A self-signed certificate and its key as PEM.
    pub(in crate::store::http) fn pair(name: &str) -> (String, String) {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut names = X509Name::builder().unwrap();
        names.append_entry_by_text("CN", name).unwrap();
        let names = names.build();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder.set_subject_name(&names).unwrap();
        builder.set_issuer_name(&names).unwrap();
        builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        let text = |pem: Vec<u8>| String::from_utf8(pem).unwrap();
        (text(builder.build().to_pem().unwrap()), text(key.private_key_to_pem_pkcs8().unwrap()))
    }

    #[test]
    fn an_unusable_ca_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let settings = HttpSettings { ca_file: Some(path.clone()), ..HttpSettings::default() };
        let message = || tls_connector(&settings).err().map(|err| err.to_string()).unwrap_or_default();
        assert_eq!(message(), format!("CA file {}: No such file or directory (os error 2)", path.display()));
        std::fs::write(&path, "no certificate here\n").unwrap();
        let none = "no certificate in it (a PEM file has BEGIN CERTIFICATE)";
        assert_eq!(message(), format!("CA file {}: {none}", path.display()));
        std::fs::write(&path, pair("a").0.repeat(2)).unwrap();
        assert_eq!(message(), "", "the same one twice is no mistake");
    }

    #[test]
    fn a_client_certificate_comes_from_one_file_or_two_and_only_with_its_own_key() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let save = |path: &Path, text: &str, mode| {
            std::fs::write(path, text).unwrap();
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        let ((chain, own_key), (_, other_key)) = (pair("client"), pair("client"));
        let one = HttpSettings { client_cert: Some(cert.clone()), ..HttpSettings::default() };
        let two = HttpSettings { client_key: Some(key.clone()), ..one.clone() };
        let message = |settings| {
            tls_connector_with_client_certificate(settings).err().map(|err| err.to_string()).unwrap_or_default()
        };

        save(&cert, &format!("{chain}{own_key}"), 0o600);
        assert!(tls_connector_with_client_certificate(&one).unwrap().is_some());
        save(&cert, &chain, 0o644);
        save(&key, &own_key, 0o640);
        assert!(tls_connector_with_client_certificate(&two).unwrap().is_some());
        assert!(tls_connector_with_client_certificate(&HttpSettings::default()).unwrap().is_none());

        save(&key, &other_key, 0o600);
        assert_eq!(message(&two), format!("client key {}: it is not the key of the client certificate", key.display()));
        save(&key, &own_key, 0o644);
        let open = "its mode 0644 lets others read or change the secrets in it (check it, then chmod 0600)";
        assert_eq!(message(&two), format!("client key {}: {open}", key.display()));
        save(&key, &chain, 0o600);
        let none = format!("client key {}: no private key without a passphrase in it", key.display());
        assert_eq!(message(&two), none);
        save(&cert, "x", 0o600);
        let none = "no certificate in it (a PEM file has BEGIN CERTIFICATE)";
        assert_eq!(message(&one), format!("client certificate {}: {none}", cert.display()));
        let alone = HttpSettings { client_key: Some(key), ..HttpSettings::default() };
        assert_eq!(message(&alone), "client key: there is no client certificate for it");
    }
}
