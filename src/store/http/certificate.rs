// SPDX-License-Identifier: BSD-2-Clause
//! Certificates: reading the files of administrators, and saying what is wrong with a server's certificate.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::{GeneralNameRef, X509, X509NameRef, X509Ref, X509StoreContextRef};

use super::error::HttpError;

/// The first two bytes of a certificate in DER: a SEQUENCE with a long length. No text begins with them.
const DER: [u8; 2] = [0x30, 0x82];

/// At most this many names of a certificate are shown, and this many characters of each: others have chosen them.
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

/// Reads all certificates in `content`, which comes from `path` and which errors call `what`. It is PEM in any encoding
/// that editors write, with `BEGIN TRUSTED CERTIFICATE` too, or one certificate in DER.
pub(super) fn certificates(what: &'static str, path: &Path, content: &[u8]) -> Result<Vec<X509>, HttpError> {
    let refused = |reason: &str| HttpError::file(what, path, reason);
    if content.starts_with(&DER) {
        let one = X509::from_der(content).map_err(|_err| refused("neither PEM nor a certificate in DER"))?;
        return Ok(vec![one]);
    }
    let text = pem_text(content);
    let damaged = "a certificate in it is damaged";
    let all = X509::stack_from_pem(text.as_bytes()).map_err(|_err| refused(damaged))?;
    // OpenSSL stops without an error at a block that has no end.
    if all.len() < text.matches("-----BEGIN CERTIFICATE-----").count() {
        return Err(refused(damaged));
    }
    match (all.is_empty(), other_content(&text)) {
        (false, _) => Ok(all),
        (true, Some(found)) => Err(refused(&format!("no certificate in it, but {found}"))),
        (true, None) => Err(refused("no certificate in it (a PEM file has BEGIN CERTIFICATE)")),
    }
}

/// Reads the private key in `pem`. A key with a passphrase is an error, because nobody is there to type it.
pub(super) fn private_key(what: &'static str, path: &Path, pem: &[u8]) -> Result<PKey<Private>, HttpError> {
    let no_passphrase = |_: &mut [u8]| Ok(0);
    PKey::private_key_from_pem_callback(pem_text(pem).as_bytes(), no_passphrase)
        .map_err(|_err| HttpError::file(what, path, "no private key without a passphrase in it"))
}

/// PEM as OpenSSL can read it. Files that cat(1) joined have byte order marks in the middle too. The trust settings of
/// a `TRUSTED CERTIFICATE` come after the certificate itself, and are ignored.
fn pem_text(content: &[u8]) -> String {
    let text = match content {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ => String::from_utf8_lossy(content).into_owned(),
    };
    text.replace('\u{feff}', "").replace(" TRUSTED CERTIFICATE-----", " CERTIFICATE-----")
}

/// Decodes UTF-16, which redirections in PowerShell write.
fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
    String::from_utf16_lossy(&units)
}

/// Common mistakes: what is in `text` instead of a certificate.
fn other_content(text: &str) -> Option<&'static str> {
    [
        ("-----BEGIN PKCS7-----", "a PKCS #7 bundle (openssl pkcs7 -print_certs converts it)"),
        ("-----BEGIN CERTIFICATE REQUEST-----", "a certificate request, which nobody has signed"),
        ("PRIVATE KEY-----", "a private key"),
    ]
    .into_iter()
    .find_map(|(begin, found)| text.contains(begin).then_some(found))
}

/// Says what OpenSSL found wrong with a certificate in the chain of `host`. It is none for a certificate that curl
/// accepts all the same: one without alternative names whose common name is the address.
pub(super) fn verification_fault(context: &mut X509StoreContextRef, host: &str) -> Option<String> {
    let (error, depth) = (context.error(), context.error_depth());
    let Some(certificate) = context.current_cert() else { return Some(error.error_string().to_owned()) };
    let it = if depth == 0 { "it".to_owned() } else { format!("'{}' above it", name(certificate.subject_name())) };
    Some(match error.as_raw() {
        code::OTHER_ADDRESS if is_for_address(certificate, host) => return None,
        code::OTHER_HOST | code::OTHER_ADDRESS => format!("it is for {} and not for {host}", names(certificate)),
        code::EXPIRED => format!("{it} expired on {}, if the clock of the node is right", certificate.not_after()),
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

/// The hosts that a certificate is for.
fn names(certificate: &X509Ref) -> String {
    let mut all = Vec::new();
    if let Some(alternative) = certificate.subject_alt_names() {
        all.extend(alternative.iter().filter_map(alternative_name));
    }
    if all.is_empty() {
        all.push(name(certificate.subject_name()));
    }
    let more = if all.len() > MAX_NAMES { ", ..." } else { "" };
    all.truncate(MAX_NAMES);
    all.join(", ") + more
}

fn alternative_name(name: &GeneralNameRef) -> Option<String> {
    if let Some(host) = name.dnsname() {
        return Some(printable(host));
    }
    let address = name.ipaddress()?;
    let v4 = <[u8; 4]>::try_from(address).map(|octets| Ipv4Addr::from(octets).to_string());
    let v6 = <[u8; 16]>::try_from(address).map(|octets| Ipv6Addr::from(octets).to_string());
    v4.or(v6).ok()
}

fn name(name: &X509NameRef) -> String {
    common_name(name).map_or_else(|| "an unnamed subject".to_owned(), |text| printable(&text))
}

/// The common name, or else the organisation.
fn common_name(name: &X509NameRef) -> Option<String> {
    let organisation = || name.entries_by_nid(Nid::ORGANIZATIONNAME).next();
    let entry = name.entries_by_nid(Nid::COMMONNAME).next().or_else(organisation)?;
    entry.data().to_string().ok()
}

/// Cuts a long name, and replaces all but printable ASCII.
fn printable(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.chars().take(MAX_NAME).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::{certificates, private_key};
    use crate::store::http::tls::tests::pair;
    use std::path::Path;

    fn read(content: &[u8]) -> Result<usize, String> {
        let read = certificates("CA file", Path::new("/ca"), content);
        read.map(|all| all.len()).map_err(|err| err.to_string())
    }

    #[test]
    fn every_form_of_a_certificate_is_read() {
        let (pem, key) = pair("a");
        let other = pair("b").0;
        let der = openssl::x509::X509::from_pem(pem.as_bytes()).unwrap().to_der().unwrap();
        let wide = |unit: fn(u16) -> [u8; 2]| {
            let text = format!("\u{feff}{pem}");
            text.encode_utf16().flat_map(unit).collect::<Vec<_>>()
        };
        let trusted = pem.replace("CERTIFICATE", "TRUSTED CERTIFICATE");
        for (form, number, name) in [
            (pem.clone().into_bytes(), 1, "PEM"),
            (pem.replace('\n', "\r\n").into_bytes(), 1, "line ends of Windows"),
            (format!("\u{feff}{pem}\u{feff}{other}").into_bytes(), 2, "byte order marks"),
            (wide(u16::to_le_bytes), 1, "UTF-16, little-endian"),
            (wide(u16::to_be_bytes), 1, "UTF-16, big-endian"),
            (format!("{trusted}{other}").into_bytes(), 2, "a trusted certificate"),
            (format!("subject=a\n{key}\n{pem}").into_bytes(), 1, "text and a key before it"),
            (pem.trim_end().as_bytes().to_vec(), 1, "no end of the last line"),
            (der, 1, "DER"),
        ] {
            assert_eq!(read(&form), Ok(number), "{name}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_told() {
        let (pem, key) = pair("a");
        let message = |reason: &str| Err(format!("CA file /ca: {reason}"));
        let damaged = message("a certificate in it is damaged");
        assert_eq!(read(b"hello\n"), message("no certificate in it (a PEM file has BEGIN CERTIFICATE)"));
        assert_eq!(read(b""), message("no certificate in it (a PEM file has BEGIN CERTIFICATE)"));
        assert_eq!(read(key.as_bytes()), message("no certificate in it, but a private key"));
        assert_eq!(read(b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"), damaged);
        assert_eq!(read(&pem.as_bytes()[..pem.len() / 2]), damaged, "cut");
        assert_eq!(read(format!("{pem}{}", &pem[..pem.len() / 2]).as_bytes()), damaged, "the second is cut");
        assert_eq!(read(&[0x30, 0x82, 1, 2, 3]), message("neither PEM nor a certificate in DER"));
        let bundle = read(b"-----BEGIN PKCS7-----\nAAAA\n-----END PKCS7-----\n");
        assert_eq!(
            bundle,
            message("no certificate in it, but a PKCS #7 bundle (openssl pkcs7 -print_certs converts it)")
        );
    }

    #[test]
    fn a_key_with_a_passphrase_is_none_and_nobody_is_asked_for_it() {
        let key = openssl::pkey::PKey::private_key_from_pem(pair("a").1.as_bytes()).unwrap();
        let cipher = openssl::symm::Cipher::aes_128_cbc();
        let locked = key.private_key_to_pem_pkcs8_passphrase(cipher, b"sesame").unwrap();
        let read =
            |pem: &[u8]| private_key("client key", Path::new("/k"), pem).map(drop).map_err(|err| err.to_string());
        assert_eq!(read(&locked), Err("client key /k: no private key without a passphrase in it".to_owned()));
        let open = key.private_key_to_pem_pkcs8().unwrap();
        assert_eq!(read(&[b"\xef\xbb\xbf", open.as_slice()].concat()), Ok(()));
    }
}
