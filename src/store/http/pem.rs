// SPDX-License-Identifier: BSD-2-Clause
//! Certificates and keys in the forms in which administrators have them.

use std::path::Path;

use openssl::pkey::{PKey, Private};
use openssl::x509::X509;

use super::error::HttpError;

/// A UTF-8 byte order mark. OpenSSL does not see the first block behind one.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// That `path`, which is called `what`, can't be used.
pub(super) fn fault(what: &'static str, path: &Path, reason: &str) -> HttpError {
    HttpError::File { what, path: path.to_owned(), reason: reason.to_owned() }
}

/// All certificates in `content`: PEM in any encoding that editors leave, `BEGIN TRUSTED CERTIFICATE` among them, or one in DER.
pub(super) fn certificates(what: &'static str, path: &Path, content: &[u8]) -> Result<Vec<X509>, HttpError> {
    // DER begins with a SEQUENCE of a long form length. No text does.
    if content.starts_with(&[0x30, 0x82]) {
        let one = X509::from_der(content).map_err(|_err| fault(what, path, "neither PEM nor a certificate in DER"))?;
        return Ok(vec![one]);
    }
    let text = plain(content);
    let all = X509::stack_from_pem(&text).map_err(|_err| fault(what, path, "a certificate in it is damaged"))?;
    // Reading stops without an error at a block that has no end.
    if all.len() < count(&text, b"-----BEGIN CERTIFICATE-----") {
        return Err(fault(what, path, "a certificate in it is damaged"));
    }
    let none = || match other_block(&text) {
        Some(label) => format!("no certificate in it, but {label}"),
        None => "no certificate in it (a PEM file has BEGIN CERTIFICATE)".to_owned(),
    };
    if all.is_empty() { Err(fault(what, path, &none())) } else { Ok(all) }
}

/// The private key in `pem`. One with a passphrase is none: nobody is there to type it.
pub(super) fn private_key(what: &'static str, path: &Path, pem: &[u8]) -> Result<PKey<Private>, HttpError> {
    let no_passphrase = |_: &mut [u8]| Ok(0);
    PKey::private_key_from_pem_callback(&plain(pem), no_passphrase)
        .map_err(|_err| fault(what, path, "no private key without a passphrase in it"))
}

/// PEM as OpenSSL reads it. What OpenSSL adds to a trusted certificate stands behind the certificate itself: who is named
/// here is trusted anyway.
fn plain(content: &[u8]) -> Vec<u8> {
    let text = match content {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ => content.to_vec(),
    };
    // Files put together with cat(1) have marks in the middle, too.
    let text = replaced(&text, BYTE_ORDER_MARK, b"");
    replaced(&text, b" TRUSTED CERTIFICATE-----", b" CERTIFICATE-----")
}

/// PowerShell's redirections write UTF-16.
fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Vec<u8> {
    let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
    char::decode_utf16(units).map(|decoded| decoded.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>().into()
}

fn replaced(mut text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len());
    while let Some(at) = find(text, from) {
        result.extend_from_slice(&text[..at]);
        result.extend_from_slice(to);
        text = &text[at + from.len()..];
    }
    result.extend_from_slice(text);
    result
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

fn count(text: &[u8], part: &[u8]) -> usize {
    text.windows(part.len()).filter(|window| *window == part).count()
}

/// What the first block of `text` is said to be, where that is a common mistake.
fn other_block(text: &[u8]) -> Option<&'static str> {
    [
        (&b"-----BEGIN PKCS7-----"[..], "a PKCS #7 bundle (openssl pkcs7 -print_certs converts it)"),
        (b"-----BEGIN CERTIFICATE REQUEST-----", "a certificate request, which nobody has signed"),
        (b"PRIVATE KEY-----", "a private key"),
    ]
    .into_iter()
    .find_map(|(begin, words)| find(text, begin).map(|_| words))
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
