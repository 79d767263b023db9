// SPDX-License-Identifier: BSD-2-Clause
//! What is wrong with a server's certificate, in words, and the one exception from OpenSSL's judgement.

use openssl::nid::Nid;
use openssl::x509::{X509NameRef, X509Ref, X509StoreContextRef};

/// How many names of a certificate are told, and how long one may be, in characters: they are somebody else's words.
const MAX_NAMES: usize = 4;
const MAX_NAME: usize = 64;

/// Codes of X509_verify_cert (openssl/x509_vfy.h).
mod code {
    pub(super) const UNABLE_TO_GET_ISSUER: i32 = 2;
    pub(super) const NOT_YET_VALID: i32 = 9;
    pub(super) const EXPIRED: i32 = 10;
    pub(super) const SELF_SIGNED_LEAF: i32 = 18;
    pub(super) const SELF_SIGNED_IN_CHAIN: i32 = 19;
    pub(super) const NO_LOCAL_ISSUER: i32 = 20;
    pub(super) const NO_LEAF_SIGNATURE: i32 = 21;
    pub(super) const OTHER_HOST: i32 = 62;
    pub(super) const OTHER_ADDRESS: i32 = 64;
}

/// What OpenSSL found wrong with the certificate of `host`; nothing where curl would take it all the same: a certificate
/// without alternative names that has an address for its common name.
pub(super) fn fault(context: &mut X509StoreContextRef, host: &str) -> Option<String> {
    let (error, depth) = (context.error(), context.error_depth());
    let Some(certificate) = context.current_cert() else { return Some(error.error_string().to_owned()) };
    let it = if depth == 0 { "it".to_owned() } else { format!("'{}' above it", name(certificate.subject_name())) };
    Some(match error.as_raw() {
        code::OTHER_ADDRESS if is_for_address(certificate, host) => return None,
        code::OTHER_HOST | code::OTHER_ADDRESS => format!("it is for {} and not for {host}", names(certificate)),
        code::EXPIRED => {
            format!("{it} expired on {}, if the clock of the node is right", certificate.not_after())
        }
        code::NOT_YET_VALID => {
            format!("{it} holds from {} on, if the clock of the node is right", certificate.not_before())
        }
        code::SELF_SIGNED_LEAF => "it is self-signed: if it is the right one, give it as http.ca_file".to_owned(),
        code::UNABLE_TO_GET_ISSUER | code::SELF_SIGNED_IN_CHAIN | code::NO_LOCAL_ISSUER | code::NO_LEAF_SIGNATURE => {
            let issuer = name(certificate.issuer_name());
            format!("{it} comes from '{issuer}', which is not trusted here: give its certificate as http.ca_file")
        }
        _ if depth == 0 => error.error_string().to_owned(),
        _ => format!("{it}: {}", error.error_string()),
    })
}

fn is_for_address(certificate: &X509Ref, host: &str) -> bool {
    certificate.subject_alt_names().is_none() && common_name(certificate.subject_name()).as_deref() == Some(host)
}

/// Whom a certificate is for.
fn names(certificate: &X509Ref) -> String {
    let alternative = certificate.subject_alt_names().into_iter().flatten().filter_map(|name| {
        let address = |bytes: &[u8]| match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes).ok().map(|octets| std::net::Ipv4Addr::from(octets).to_string()),
            _ => <[u8; 16]>::try_from(bytes).ok().map(|octets| std::net::Ipv6Addr::from(octets).to_string()),
        };
        name.dnsname().map(shown).or_else(|| name.ipaddress().and_then(address))
    });
    let mut all: Vec<_> = alternative.collect();
    if all.is_empty() {
        all.push(name(certificate.subject_name()));
    }
    let more = all.len() > MAX_NAMES;
    all.truncate(MAX_NAMES);
    all.join(", ") + if more { ", ..." } else { "" }
}

/// The name that people know somebody by.
fn name(name: &X509NameRef) -> String {
    common_name(name).map_or_else(|| "somebody without a name".to_owned(), |text| shown(&text))
}

fn common_name(name: &X509NameRef) -> Option<String> {
    let organisation = || name.entries_by_nid(Nid::ORGANIZATIONNAME).next();
    let entry = name.entries_by_nid(Nid::COMMONNAME).next().or_else(organisation)?;
    entry.data().to_string().ok()
}

/// ASCII without control characters, cut.
fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.chars().take(MAX_NAME).map(plain).collect()
}
