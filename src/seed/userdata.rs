// SPDX-License-Identifier: BSD-2-Clause
//! user-data: one document as it is, or several in one of MIME.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::node::size::ByteSize;

/// What user-data may have at most, in bytes. All files of a seed have to fit into a FAT volume of 4 MiB.
pub(crate) const MAX_USER_DATA: usize = 2 << 20;
/// What cloud-init tells a part's type by (`INCLUSION_TYPES_MAP` of cloudinit/handlers), the longest first.
const TYPES: [(&str, &str); 9] = [
    ("#cloud-config-archive", "text/cloud-config-archive"),
    ("#cloud-config-jsonp", "text/cloud-config-jsonp"),
    ("## template: jinja", "text/jinja2"),
    ("#cloud-boothook", "text/cloud-boothook"),
    ("#include-once", "text/x-include-once-url"),
    ("#part-handler", "text/part-handler"),
    ("#cloud-config", "text/cloud-config"),
    ("#include", "text/x-include-url"),
    ("#!", "text/x-shellscript"),
];
/// The first bytes of a gzip member (RFC 1952, section 2.3.1).
const GZIP: &[u8] = b"\x1f\x8b";
/// How far cloud-init looks for a MIME document's header, in bytes (`convert_string` of cloudinit/user_data.py).
const MIME_WINDOW: usize = 4096;
/// No base64 has dashes or more than two equals signs in it, so that no part can hold this.
const BOUNDARY: &str = "===============simpleimage==";
/// The length of a line of base64 (RFC 2045, section 6.8), in bytes.
const LINE: usize = 76;

/// Why there is no user-data. The content is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UserDataError {
    /// A part with nothing in it.
    #[error("part {0} of user_data is empty")]
    Empty(usize),
    /// A part that is a page of a web server.
    #[error("part {0} of user_data is an HTML page")]
    Html(usize),
    /// A part that can't be a part.
    #[error("part {0} of user_data is a MIME document itself, which only stands alone (name its parts)")]
    Mime(usize),
    /// More than fits.
    #[error("the user-data has {0} and may have {limit} at most (keep less in it and fetch the rest with #include)", limit = ByteSize(MAX_USER_DATA as u64))]
    TooLarge(ByteSize),
}

/// The file `user-data`, and which of its parts, from 1, begin with nothing that cloud-init knows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct UserData {
    /// The document.
    pub(crate) document: Vec<u8>,
    /// The parts that cloud-init will pass over.
    pub(crate) unknown: Vec<usize>,
}

/// One document of `parts`: empty without any, a single one as it is, more as a MIME document, in this order.
///
/// # Errors
/// [`UserDataError`] for a part that can't be used, and for more than [`MAX_USER_DATA`] in all.
pub(crate) fn user_data(mut parts: Vec<Vec<u8>>) -> Result<UserData, UserDataError> {
    for (number, part) in (1..).zip(&parts) {
        match part {
            part if part.trim_ascii().is_empty() => return Err(UserDataError::Empty(number)),
            part if is_html(part) => return Err(UserDataError::Html(number)),
            part if parts.len() > 1 && is_mime(part) => return Err(UserDataError::Mime(number)),
            _ => {}
        }
    }
    let known = |part: &[u8]| content_type(part).is_some() || is_mime(part);
    let unknown = (1..).zip(&parts).filter(|(_, part)| !known(part)).map(|(number, _)| number).collect();
    let document = match parts.len() {
        0 | 1 => parts.pop().unwrap_or_default(),
        _ => multipart(&parts),
    };
    if document.len() > MAX_USER_DATA {
        return Err(UserDataError::TooLarge(ByteSize(document.len() as u64)));
    }
    Ok(UserData { document, unknown })
}

/// All parts in base64, which takes scripts and gzip alike.
fn multipart(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut document = format!("Content-Type: multipart/mixed; boundary=\"{BOUNDARY}\"\nMIME-Version: 1.0\n\n");
    for part in parts {
        // cloud-init itself looks at what is declared as plain.
        let content_type = content_type(part).unwrap_or("text/plain");
        let charset = if content_type.starts_with("text/") { "; charset=\"utf-8\"" } else { "" };
        document += &format!(
            "--{BOUNDARY}\nContent-Type: {content_type}{charset}\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\n"
        );
        let encoded = STANDARD.encode(part);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(LINE));
            document += line;
            document.push('\n');
            rest = after;
        }
    }
    document += &format!("--{BOUNDARY}--\n");
    document.into_bytes()
}

/// What `part` is, by its first bytes, as cloud-init tells it: blanks before them and letter case make no difference.
fn content_type(part: &[u8]) -> Option<&'static str> {
    if part.starts_with(GZIP) {
        return Some("application/gzip");
    }
    TYPES.iter().find(|(start, _)| begins(part, start)).map(|(_, name)| *name)
}

/// Whether `part` is what a server shows people, and no document of cloud-init's.
pub(crate) fn is_html(part: &[u8]) -> bool {
    ["<!doctype html", "<html"].iter().any(|start| begins(part, start))
}

fn begins(part: &[u8], start: &str) -> bool {
    let head = part.trim_ascii_start();
    head.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes()))
}

fn is_mime(part: &[u8]) -> bool {
    const HEADER: &[u8] = b"mime-version:";
    part[..part.len().min(MIME_WINDOW)].windows(HEADER.len()).any(|window| window.eq_ignore_ascii_case(HEADER))
}

#[cfg(test)]
mod tests {
    use super::{MAX_USER_DATA, UserDataError, user_data};

    fn parts(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_single_document_stays_as_it_is() {
        let gzip = b"\x1f\x8b\x08\0\xff\n\n".to_vec();
        for document in
            [b"#cloud-config\n{}\n".to_vec(), b" \n#!/bin/sh\n".to_vec(), gzip, b"MIME-Version: 1.0\n\n".to_vec()]
        {
            let made = user_data(vec![document.clone()]).unwrap();
            assert_eq!((made.document, made.unknown), (document, Vec::new()));
        }
        assert_eq!(user_data(Vec::new()).unwrap().document, b"");
        let strange = user_data(parts(&["#ps1_sysnative\n"])).unwrap();
        assert_eq!((strange.document, strange.unknown), (b"#ps1_sysnative\n".to_vec(), vec![1]));
    }

    #[test]
    fn several_become_one_of_mime() {
        let long = format!("#!/bin/sh\n: {}\n", "x".repeat(80));
        let made = user_data(parts(&["#cloud-config\n", &long, "\x1f", "hm"])).unwrap();
        assert_eq!(made.unknown, [3, 4]);
        let text = String::from_utf8(made.document).unwrap();
        let expected = "Content-Type: multipart/mixed; boundary=\"===============simpleimage==\"\nMIME-Version: 1.0\n\n\
            --===============simpleimage==\nContent-Type: text/cloud-config; charset=\"utf-8\"\nMIME-Version: 1.0\n\
            Content-Transfer-Encoding: base64\n\nI2Nsb3VkLWNvbmZpZwo=\n\
            --===============simpleimage==\nContent-Type: text/x-shellscript; charset=\"utf-8\"\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.lines().all(|line| line.len() <= 76) && text.ends_with("\naG0=\n--===============simpleimage==--\n")
        );
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let refused = |texts: &[&str]| user_data(parts(texts)).err();
        assert_eq!(refused(&["#!x", " \n"]), Some(UserDataError::Empty(2)));
        assert_eq!(refused(&["\n<!DOCTYPE HTML><title>"]), Some(UserDataError::Html(1)));
        assert_eq!(refused(&["#!x", "Content-Type: x\nmime-Version: 1.0\n"]), Some(UserDataError::Mime(2)));
        let most = "#".repeat(MAX_USER_DATA);
        assert_eq!(refused(&[&most]), None);
        let message = refused(&[&(most + "#")]).unwrap().to_string();
        let expected = "the user-data has 2.00 MiB (2097153 bytes) and may have 2 MiB at most (keep less in it and fetch the \
                        rest with #include)";
        assert_eq!(message, expected);
    }
}
