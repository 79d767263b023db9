// SPDX-License-Identifier: BSD-2-Clause
//! By what means a client asks for a URL: what the server may make its answer depend on, and whom the client believes.
//!
//! The cache compares them, so that it gives an image only to those who could have fetched it. A User-Agent is no means:
//! it changes with every version of this program, and no secret.

use std::fmt;

use openssl::x509::X509;
use sha2::{Digest, Sha256};
use ureq::http::header;

use super::client::Client;
use super::error::HttpError;
use super::request::{Conditions, Wanted};
use super::settings::{HttpSettings, Secret};
use super::tls;
use super::url::ImageUrl;
use crate::store::hex;

/// Whose certificates a client believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Anybody's.
    Anybody,
    /// Those that the node's authorities vouch for.
    System,
    /// Those that the authorities of a file vouch for: the SHA-256 of their certificates, as hex digits.
    Authorities(String),
}

/// All that a request shows of who asks. It holds secrets.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Identification(Vec<u8>);

impl Identification {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Identification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Secret::HIDDEN)
    }
}

/// The means of a client at one URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Means {
    /// Headers, credentials of whatever origin, the client certificate, and the proxy; none if there is nothing of that,
    /// so that the request is everybody's.
    pub(crate) identification: Option<Identification>,
    pub(crate) trust: Trust,
}

impl Trust {
    pub(super) fn of(settings: &HttpSettings) -> Result<Self, HttpError> {
        match &settings.ca_file {
            _ if settings.insecure_tls => Ok(Trust::Anybody),
            None => Ok(Trust::System),
            Some(path) => Ok(Trust::Authorities(fingerprint(&tls::authorities(path)?))),
        }
    }
}

impl Client {
    /// By what means the image of `url` is asked for. Where it redirects to gets no secrets.
    pub(crate) fn means(&self, url: &ImageUrl) -> Means {
        let mut shown = Shown::default();
        let wanted = Wanted { conditions: &Conditions::default(), range: None };
        for (name, value) in self.headers.build(url, url, wanted) {
            if name != header::ACCEPT_ENCODING {
                shown.add("header", name.as_str().as_bytes(), value.as_bytes());
            }
        }
        if let Some(certificate) = self.certificate.as_ref().filter(|_| url.is_https()) {
            shown.add("certificate", certificate.as_bytes(), b"");
        }
        if let Some(proxy) = self.settings.proxy_for(url) {
            shown.add("proxy", proxy.0.as_bytes(), b"");
        }
        let identification = Some(Identification(shown.0)).filter(|all| !all.0.is_empty());
        Means { identification, trust: self.trust.clone() }
    }
}

/// Everything that was added, so that no two lists give the same bytes.
#[derive(Default)]
struct Shown(Vec<u8>);

impl Shown {
    fn add(&mut self, kind: &str, name: &[u8], value: &[u8]) {
        for part in [kind.as_bytes(), name, value] {
            self.0.extend((part.len() as u64).to_le_bytes());
            self.0.extend(part);
        }
    }
}

/// The SHA-256 of all these certificates as hex digits. One that can't be encoded counts for nothing.
pub(super) fn fingerprint(certificates: &[X509]) -> String {
    let mut hash = Sha256::new();
    for der in certificates.iter().filter_map(|certificate| certificate.to_der().ok()) {
        hash.update((der.len() as u64).to_le_bytes());
        hash.update(&der);
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::{Means, Trust};
    use crate::store::http::{Client, HttpSettings, ImageUrl, Secret};
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    fn means(settings: &HttpSettings, url: &str) -> Means {
        Client::new(settings).unwrap().means(&ImageUrl::parse(url).unwrap())
    }

    fn secret(text: &str) -> Secret {
        Secret(text.to_owned())
    }

    #[test]
    fn who_shows_nothing_is_everybody() {
        let plain = means(&HttpSettings::default(), "https://h/x");
        assert_eq!(plain, Means { identification: None, trust: Trust::System });
        let agent = HttpSettings { user_agent: "another".to_owned(), ..HttpSettings::default() };
        assert_eq!(means(&agent, "https://h/x"), plain);
    }

    #[test]
    fn every_kind_of_credential_counts_and_the_same_one_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let netrc = folder.path().join("netrc");
        write(&netrc, "machine h login joe password pw\n").unwrap();
        set_permissions(&netrc, Permissions::from_mode(0o600)).unwrap();
        let certificate = folder.path().join("client.pem");
        let (chain, key) = crate::store::http::tls::tests::pair("client");
        write(&certificate, chain + &key).unwrap();
        set_permissions(&certificate, Permissions::from_mode(0o600)).unwrap();
        let base = HttpSettings::default;
        let header = |name: &str, value: &str| (name.to_owned(), secret(value));
        let all = [
            base(),
            HttpSettings { user: Some(secret("joe")), password: secret("pw"), ..base() },
            HttpSettings { user: Some(secret("joe")), password: secret("other"), ..base() },
            HttpSettings { user: Some(secret("jo")), password: secret("epw"), ..base() },
            HttpSettings { headers: vec![header("X-Token", "1")], ..base() },
            HttpSettings { headers: vec![header("X-Token", "2")], ..base() },
            HttpSettings { headers: vec![header("X-Token", "1"), header("X-More", "2")], ..base() },
            HttpSettings { client_cert: Some(certificate), ..base() },
            HttpSettings { proxy: Some(secret("http://joe:pw@proxy:3128")), ..base() },
        ];
        for (at, one) in all.iter().enumerate() {
            for (other_at, other) in all.iter().enumerate() {
                let same = means(one, "https://h/x") == means(other, "https://h/x");
                assert_eq!(same, at == other_at, "{at} {other_at}");
            }
        }
        // What the server gets is what counts, wherever it stands.
        let by_netrc = HttpSettings { netrc_file: Some(netrc), ..base() };
        assert_eq!(means(&by_netrc, "https://h/x"), means(&all[1], "https://h/x"));
        assert_eq!(means(&base(), "https://joe:pw@h/x"), means(&all[1], "https://h/x"));
        assert_eq!(means(&by_netrc, "https://elsewhere/x").identification, None);
        assert_eq!(means(&all[7], "http://h/x").identification, None, "a certificate is shown over TLS only");
        assert!(!format!("{:?}", means(&all[1], "https://h/x")).contains("pw"));
    }

    #[test]
    fn whom_a_client_believes_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one.pem"), folder.path().join("two.pem"));
        write(&one, crate::store::http::tls::tests::pair("one").0).unwrap();
        write(&two, crate::store::http::tls::tests::pair("two").0).unwrap();
        let trust = |ca_file: Option<&std::path::Path>, insecure_tls| {
            let settings = HttpSettings { ca_file: ca_file.map(Into::into), insecure_tls, ..HttpSettings::default() };
            means(&settings, "https://h/x").trust
        };
        assert_eq!(trust(None, true), Trust::Anybody);
        assert_eq!(trust(Some(&one), true), Trust::Anybody);
        assert_eq!(trust(None, false), Trust::System);
        assert!(matches!(trust(Some(&one), false), Trust::Authorities(digest) if digest.len() == 64));
        assert_ne!(trust(Some(&one), false), trust(Some(&two), false));
    }
}
