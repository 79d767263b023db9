// SPDX-License-Identifier: BSD-2-Clause
//! Certificates of every kind for one test, and servers that have them.

use std::path::Path;
use std::sync::Arc;

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslAcceptor, SslAcceptorBuilder, SslMethod, SslVerifyMode};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{X509, X509Name};

/// What a certificate says.
#[derive(Debug, Clone)]
pub(crate) struct Wish<'w> {
    /// The common name.
    pub(crate) name: &'w str,
    /// The alternative names: hosts and addresses.
    pub(crate) names: Vec<&'w str>,
    pub(crate) curve: Nid,
    /// Whether it may issue others.
    pub(crate) authority: bool,
    /// The first and the last day, from today on.
    pub(crate) days: (i64, i64),
}

impl<'w> Wish<'w> {
    /// One for the host `name`.
    pub(crate) fn host(name: &'w str) -> Self {
        Wish { name, names: vec![name], curve: Nid::X9_62_PRIME256V1, authority: false, days: (-1, 30) }
    }
}

/// A certificate and its key.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: X509,
    key: PKey<Private>,
}

impl Identity {
    pub(crate) fn self_signed(wish: &Wish) -> Self {
        let key = new_key(wish.curve);
        Identity { certificate: sign(wish, &key, None), key }
    }

    /// Writes the certificate as PEM.
    pub(crate) fn save(&self, path: &Path) {
        std::fs::write(path, self.certificate.to_pem().unwrap()).unwrap();
    }

    /// Certificate and key in one PEM text.
    pub(crate) fn pem(&self) -> String {
        let all = [self.certificate.to_pem().unwrap(), self.key.private_key_to_pem_pkcs8().unwrap()].concat();
        String::from_utf8(all).unwrap()
    }

    /// What a server needs that shows it.
    pub(crate) fn server_config(&self) -> Arc<SslAcceptor> {
        Arc::new(self.acceptor().build())
    }

    fn acceptor(&self) -> SslAcceptorBuilder {
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        builder.set_certificate(&self.certificate).unwrap();
        builder.set_private_key(&self.key).unwrap();
        builder
    }
}

/// A certificate authority.
pub(crate) struct Authority(Identity);

impl Authority {
    pub(crate) fn new() -> Self {
        let wish = Wish { name: "test authority", names: Vec::new(), authority: true, ..Wish::host("") };
        Authority(Identity::self_signed(&wish))
    }

    /// One that another one has signed.
    pub(crate) fn of(identity: Identity) -> Self {
        Authority(identity)
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.0
    }

    /// Writes its certificate as PEM.
    pub(crate) fn save(&self, path: &Path) {
        self.0.save(path);
    }

    pub(crate) fn issue(&self, wish: &Wish) -> Identity {
        let key = new_key(wish.curve);
        Identity { certificate: sign(wish, &key, Some(&self.0)), key }
    }

    /// What a server for `name` needs.
    pub(crate) fn server_config(&self, name: &str) -> Arc<SslAcceptor> {
        self.issue(&Wish::host(name)).server_config()
    }

    /// The same with a certificate that was good once.
    pub(crate) fn expired_server_config(&self, name: &str) -> Arc<SslAcceptor> {
        self.issue(&Wish { days: (-30, -2), ..Wish::host(name) }).server_config()
    }

    /// The same, for clients with a certificate of this authority only.
    pub(crate) fn client_checking_config(&self, name: &str) -> Arc<SslAcceptor> {
        let mut builder = self.issue(&Wish::host(name)).acceptor();
        let mut store = X509StoreBuilder::new().unwrap();
        store.add_cert(self.0.certificate.clone()).unwrap();
        builder.set_cert_store(store.build());
        builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        Arc::new(builder.build())
    }

    /// Certificate and key of a client, or of a server `name`, in one PEM text.
    pub(crate) fn client_pem(&self, name: &str) -> String {
        self.issue(&Wish::host(name)).pem()
    }
}

fn new_key(curve: Nid) -> PKey<Private> {
    PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(curve).unwrap()).unwrap()).unwrap()
}

/// Signed by `issuer`, or else by its own key.
fn sign(wish: &Wish, key: &PKey<Private>, issuer: Option<&Identity>) -> X509 {
    let mut subject = X509Name::builder().unwrap();
    subject.append_entry_by_text("CN", wish.name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, MsbOption::MAYBE_ZERO, false).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(issuer.map_or(&*subject, |issuer| issuer.certificate.subject_name())).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let day = |days: i64| Asn1Time::from_unix(i64::try_from(now).unwrap() + days * 86_400).unwrap();
    builder.set_not_before(&day(wish.days.0)).unwrap();
    builder.set_not_after(&day(wish.days.1)).unwrap();
    builder.set_pubkey(key).unwrap();
    if wish.authority {
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    }
    if !wish.names.is_empty() {
        let mut names = SubjectAlternativeName::new();
        for name in &wish.names {
            if name.parse::<std::net::IpAddr>().is_ok() {
                names.ip(name)
            } else {
                names.dns(name)
            };
        }
        let names = names.build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(names).unwrap();
    }
    builder.sign(issuer.map_or(key, |issuer| &issuer.key), MessageDigest::sha512()).unwrap();
    builder.build()
}
