// SPDX-License-Identifier: BSD-2-Clause
//! A certificate authority for one test.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier};

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes its certificate as PEM.
    pub(crate) fn save(&self, path: &Path) {
        std::fs::write(path, self.0.pem()).unwrap();
    }

    /// What a server for `name` needs.
    pub(crate) fn server_config(&self, name: &str) -> Arc<ServerConfig> {
        let (chain, key) = self.issue(CertificateParams::new(vec![name.to_owned()]).unwrap());
        Arc::new(builder().with_no_client_auth().with_single_cert(chain, key).unwrap())
    }

    /// The same with a certificate that was good once.
    pub(crate) fn expired_server_config(&self, name: &str) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
        let (chain, key) = self.issue(params);
        Arc::new(builder().with_no_client_auth().with_single_cert(chain, key).unwrap())
    }

    /// The same, for clients with a certificate of this authority only.
    pub(crate) fn client_checking_config(&self, name: &str) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let (chain, key) = self.issue(CertificateParams::new(vec![name.to_owned()]).unwrap());
        Arc::new(builder().with_client_cert_verifier(clients).with_single_cert(chain, key).unwrap())
    }

    /// Certificate and key of a client, or of a server `name`, in one PEM text.
    pub(crate) fn client_pem(&self, name: &str) -> String {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        certificate.pem() + &key.serialize_pem()
    }

    fn issue(&self, params: CertificateParams) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

fn builder() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap()
}
