// SPDX-License-Identifier: BSD-2-Clause
//! Signatures made by a real gpg, checked by a real gpgv.

use std::fs::{self, File};
use std::io::Write;

use simpleimage::node::process::Children;
use simpleimage::store::signature::Signature;

use crate::support::bytes;
use crate::support::gpg::Key;

fn check(keyring: &[u8], signature: &[u8], content: &[u8]) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keyring.gpg");
    fs::write(&path, keyring).unwrap();
    let signature = Signature::new("x.sig".to_owned(), signature, File::open(&path).unwrap(), &path);
    let signature = signature.map_err(|err| err.to_string().replace(dir.path().to_str().unwrap(), ""))?;
    let children = Children::default();
    let in_pieces = |gpgv: &mut dyn Write| content.chunks(777).try_for_each(|piece| gpgv.write_all(piece));
    let (_, checked) = signature.check("image x", content.len() as u64, &children, in_pieces).unwrap();
    let bytes = signature.check_bytes(content, "image x", &children).map_err(|err| err.to_string());
    assert_eq!(checked.map_err(|err| err.to_string()), bytes, "however the bytes come");
    bytes
}

#[test]
fn a_good_signature_holds_in_every_form() {
    let (key, other, content) = (Key::new(), Key::new(), bytes(1, 300_000));
    check(&key.public(), &key.sign(&content, &[]), &content).unwrap();
    check(&key.public(), &key.sign(&content, &["--armor"]), &content).unwrap();
    let keyring = [other.public(), key.public()].concat();
    check(&keyring, &key.sign(&content, &[]), &content).unwrap();
    // Signed by two keys, of which one is known here.
    let both = [other.sign(&content, &[]), key.sign(&content, &[])].concat();
    check(&key.public(), &both, &content).unwrap();
}

#[test]
fn anything_else_does_not_and_says_why() {
    let (key, other, old, content) = (Key::new(), Key::new(), Key::expired(), bytes(2, 5000));
    let mut changed = content.clone();
    changed[4999] ^= 1;
    let past = ["--faked-system-time", "20200101T000100!"];
    let cases = [
        (key.sign(&changed, &[]), "the signature is bad: the file was changed, or this belongs to another one"),
        (other.sign(&content, &[]), "the key that made it is not in the keyring"),
        ([key.sign(&content, &[]), key.sign(&changed, &[])].concat(), "the signature is bad"),
        (old.sign(&content, &past), "the key that made it has expired"),
        (key.sign(&content, &["--digest-algo", "SHA1"]), "the signature can't be checked: gpgv refuses its algorithms"),
        (b"not a signature".to_vec(), "it is not an OpenPGP signature"),
        (Vec::new(), "it is not an OpenPGP signature"),
        // Signed by the right key, but it is another content that is signed.
        (key.sign_inline(b"other", &[]), "not a detached signature"),
        (key.sign_inline(b"other", &["--armor"]), "not a detached signature"),
        (key.clear_sign(b"other\n"), "not a detached signature"),
    ];
    let keyring = [key.public(), old.public()].concat();
    for (number, (signature, reason)) in cases.iter().enumerate() {
        let message = check(&keyring, signature, &content).unwrap_err();
        let expected = format!("x.sig is no valid signature of image x: {reason}");
        assert!(message.starts_with(&expected), "{number}: {message}");
    }
}

#[test]
fn a_keyring_that_gpgv_cannot_read_is_named() {
    let (key, content) = (Key::new(), b"content");
    let signature = key.sign(content, &[]);
    let message = check(&key.armoured(), &signature, content).unwrap_err();
    assert_eq!(message, "the keyring /keyring.gpg is armoured text, which gpgv can't read (use gpg --dearmor)");
    for keyring in [b"".as_slice(), b"junk that is no keyring"] {
        let message = check(keyring, &signature, content).unwrap_err();
        assert!(message.ends_with("the key that made it is not in the keyring"), "{message}");
    }
}
