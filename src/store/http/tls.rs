// SPDX-License-Identifier: BSD-2-Clause
//! Whom to trust over https, and who we are.
//!
//! OpenSSL decides, as it does for curl: what an administrator has tried with curl has to hold here. It is the node's
//! library, with the node's trust store and policy.
//!
//! rustls refuses by design what administrators have: a server's own certificate in `ca_file`, CA:TRUE on it, no
//! alternative names, P-521, an intermediate as the trusted one. A verifier that accepts them would be own code where
//! a mistake costs most. The price of OpenSSL is a C library that reads a server's bytes. But the distribution mends
//! it, without a new binary of ours, and create runs it in the confined worker.

use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslMethod, SslVerifyMode, SslVersion};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;

use super::error::HttpError;
use super::pem::{certificates, fault, private_key};
use super::secret_file;
use super::settings::HttpSettings;
use super::tls_transport::TlsConnector;

/// What files are called in errors.
const CA_FILE: &str = "CA file";
const CLIENT_CERT: &str = "client certificate";
const CLIENT_KEY: &str = "client key";

/// How to secure connections as `settings` ask for: with the system's authorities unless they name their own. It shows
/// no client certificate.
///
/// # Errors
/// A CA file that cannot be read or that holds no certificate: trusting nobody would only show as a failing download.
pub(super) fn security(settings: &HttpSettings) -> Result<TlsConnector, HttpError> {
    Ok(finished(builder(settings)?, settings))
}

/// The same with the certificate and key that `settings` name, if they do.
///
/// # Errors
/// Those of [`security`], files that cannot be used, a key that others can read, and a key that is not the
/// certificate's.
pub(super) fn showing_certificate(settings: &HttpSettings) -> Result<Option<TlsConnector>, HttpError> {
    let setting = |reason: &str| HttpError::Setting { setting: "client key", reason: reason.to_owned() };
    let Some(path) = &settings.client_cert else {
        let alone = settings.client_key.is_some();
        return if alone { Err(setting("there is no client certificate for it")) } else { Ok(None) };
    };
    let key_path = settings.client_key.as_ref().unwrap_or(path);
    let content = std::fs::read(path).map_err(|err| fault(CLIENT_CERT, path, &err.to_string()))?;
    let chain = certificates(CLIENT_CERT, path, &content)?;
    let key = private_key(CLIENT_KEY, key_path, &secret_file::read(CLIENT_KEY, key_path)?)?;
    let mut builder = builder(settings)?;
    for (place, certificate) in chain.into_iter().enumerate() {
        let added =
            if place == 0 { builder.set_certificate(&certificate) } else { builder.add_extra_chain_cert(certificate) };
        added.map_err(|err| fault(CLIENT_CERT, path, &told(&err)))?;
    }
    let fits = builder.set_private_key(&key).and_then(|()| builder.check_private_key());
    fits.map_err(|_err| fault(CLIENT_KEY, key_path, "it is not the key of the client certificate"))?;
    Ok(Some(finished(builder, settings)))
}

fn builder(settings: &HttpSettings) -> Result<SslConnectorBuilder, HttpError> {
    let failed = |err: ErrorStack| HttpError::Setting { setting: "TLS", reason: told(&err) };
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(failed)?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2)).map_err(failed)?;
    if let Some(path) = &settings.ca_file {
        let content = std::fs::read(path).map_err(|err| fault(CA_FILE, path, &err.to_string()))?;
        let mut store = X509StoreBuilder::new().map_err(failed)?;
        for certificate in certificates(CA_FILE, path, &content)? {
            store.add_cert(certificate).map_err(|err| fault(CA_FILE, path, &told(&err)))?;
        }
        builder.set_cert_store(store.build());
    }
    // As curl does: a certificate that is trusted ends the chain, whether it signed itself or not, and whether it is an
    // authority's or the server's own.
    let flags = X509VerifyFlags::PARTIAL_CHAIN | X509VerifyFlags::TRUSTED_FIRST;
    builder.cert_store_mut().set_flags(flags).map_err(failed)?;
    Ok(builder)
}

fn finished(mut builder: SslConnectorBuilder, settings: &HttpSettings) -> TlsConnector {
    if settings.insecure_tls {
        builder.set_verify(SslVerifyMode::NONE);
    }
    TlsConnector::new(builder.build(), !settings.insecure_tls)
}

/// What OpenSSL says of its last error.
pub(super) fn told(errors: &ErrorStack) -> String {
    let last = errors.errors().last().and_then(|error| error.reason());
    last.unwrap_or("unknown error of OpenSSL").to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::{security, showing_certificate};
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
        let message = || security(&settings).err().map(|err| err.to_string()).unwrap_or_default();
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
        let message = |settings| showing_certificate(settings).err().map(|err| err.to_string()).unwrap_or_default();

        save(&cert, &format!("{chain}{own_key}"), 0o600);
        assert!(showing_certificate(&one).unwrap().is_some());
        save(&cert, &chain, 0o644);
        save(&key, &own_key, 0o640);
        assert!(showing_certificate(&two).unwrap().is_some());
        assert!(showing_certificate(&HttpSettings::default()).unwrap().is_none());

        save(&key, &other_key, 0o600);
        assert_eq!(message(&two), format!("client key {}: it is not the key of the client certificate", key.display()));
        save(&key, &own_key, 0o644);
        let open = "its mode 0644 lets others at the secrets in it (check it, then chmod 0600)";
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
