// SPDX-License-Identifier: BSD-2-Clause
//! Translates the shell predecessor's `config`, which its scripts sourced, into the keys and values of config.toml.

mod curl;
pub(crate) mod shell;

use std::collections::BTreeMap;

use toml::{Table, Value};

use self::shell::{Assignment, assignments};
use super::{ParseError, values};
use crate::node::value::{Checked, absolute_path};
use crate::store::http::values::proxy;

/// The variables that the predecessor used.
pub(super) const KEYS: [&str; 4] = ["PROXY", "IMAGE_STORAGE", "DOWNLOAD_CACHE_MAX_DAYS", "CUSTOM_CURL_OPTS"];
/// The cache folder below IMAGE_STORAGE. The predecessor deleted every old file below IMAGE_STORAGE, including golden
/// images. Only this folder is used, so that other files there are never touched.
const CACHE_FOLDER: &str = "ganeti-instance-simpleimage";

/// Translates the text of a predecessor's `config`.
///
/// `PROXY` becomes `http.proxy`, with curl's port 1080 if it has no port. `DOWNLOAD_CACHE_MAX_DAYS` becomes
/// `cache.max_age_days`. `IMAGE_STORAGE` becomes `cache.dir`, with our own folder `ganeti-instance-simpleimage`
/// added. The options in `CUSTOM_CURL_OPTS` become their equivalents in `http`. The last assignment to a key is used.
///
/// # Errors
/// A [`ParseError`] with line and column for what a shell would execute or expand, an unknown key, an invalid value
/// or an option of curl without an equivalent. No value is repeated.
pub(crate) fn parse_legacy(text: &str) -> Result<Table, ParseError> {
    let mut set = BTreeMap::new();
    for assignment in assignments(text)? {
        let Some(key) = KEYS.into_iter().find(|key| *key == assignment.key) else {
            return Err(unknown(text, &assignment));
        };
        set.insert(key, assignment);
    }
    let (mut http, mut cache) = (Table::new(), Table::new());
    // The order of KEYS matters, because curl's --proxy has priority over PROXY.
    for (key, assignment) in KEYS.into_iter().filter_map(|key| set.remove_entry(key)) {
        translate(key, &assignment.value, &mut http, &mut cache)
            .map_err(|problem| ParseError::at(text, assignment.offset, &format!("{key}: {problem}")))?;
    }
    let tables = [("http", http), ("cache", cache)].into_iter().filter(|(_, table)| !table.is_empty());
    Ok(tables.map(|(name, table)| (name.to_owned(), Value::Table(table))).collect())
}

fn translate(key: &str, value: &str, http: &mut Table, cache: &mut Table) -> Result<(), String> {
    match key {
        "PROXY" => {
            let proxy = proxy(value, curl::PROXY_PORT)?.unwrap_or_default();
            http.insert("proxy".to_owned(), proxy.0.into());
        }
        "IMAGE_STORAGE" => {
            let folder = absolute_path(value)?.join(CACHE_FOLDER).display().to_string();
            cache.insert("dir".to_owned(), folder.into());
        }
        "DOWNLOAD_CACHE_MAX_DAYS" => {
            cache.insert("max_age_days".to_owned(), days(value)?.into());
        }
        _ => curl::translate(value, http)?,
    }
    Ok(())
}

fn days(value: &str) -> Checked<i64> {
    const WRONG: &str = "must be a whole number of days";
    // Parsing a u64 would also accept a sign.
    if !value.chars().all(|c| c.is_ascii_digit()) {
        return Err(WRONG);
    }
    let number: u64 = value.parse().map_err(|_err| WRONG)?;
    values::days(number)?;
    i64::try_from(number).map_err(|_err| WRONG)
}

fn unknown(text: &str, assignment: &Assignment) -> ParseError {
    let message = format!("unknown key {} (allowed are {})", assignment.key, KEYS.join(", "));
    ParseError::at(text, assignment.offset, &message)
}

#[cfg(test)]
mod tests {
    use super::parse_legacy;
    use proptest::prelude::*;
    use toml::Table;

    fn proxy(text: &str) -> String {
        parse_legacy(text).unwrap()["http"]["proxy"].as_str().unwrap().to_owned()
    }

    fn message(text: &str) -> String {
        parse_legacy(text).unwrap_err().to_string()
    }

    #[test]
    fn a_config_of_the_predecessor() {
        let text = "# our proxy\nPROXY=\"proxy.example:3128\"\nexport IMAGE_STORAGE=/srv/images # shared\n\n\
                    DOWNLOAD_CACHE_MAX_DAYS='30'\nCUSTOM_CURL_OPTS=\"-k \\\n  --retry 3\"\n";
        let expected = "[http]\nproxy = 'http://proxy.example:3128'\ninsecure_tls = true\nretries = 3\n\
                        [cache]\ndir = '/srv/images/ganeti-instance-simpleimage'\nmax_age_days = 30\n";
        assert_eq!(parse_legacy(text), Ok(toml::from_str(expected).unwrap()));
    }

    #[test]
    fn empty_values() {
        assert_eq!(parse_legacy("# nothing\n"), Ok(Table::new()));
        assert_eq!(parse_legacy("CUSTOM_CURL_OPTS=\n"), Ok(Table::new()));
        assert_eq!(proxy("PROXY=\n"), "");
        assert_eq!(message("IMAGE_STORAGE="), "1:1: IMAGE_STORAGE: must be an absolute path (begin it with /)");
        assert_eq!(message("DOWNLOAD_CACHE_MAX_DAYS="), "1:1: DOWNLOAD_CACHE_MAX_DAYS: must be a whole number of days");
    }

    #[test]
    fn a_later_assignment_wins() {
        let text = "PROXY=::\nDOWNLOAD_CACHE_MAX_DAYS=1\nPROXY=b:2\nDOWNLOAD_CACHE_MAX_DAYS=0";
        assert_eq!(proxy(text), "http://b:2");
        assert_eq!(parse_legacy(text).unwrap()["cache"]["max_age_days"].as_integer(), Some(0));
    }

    #[test]
    fn curls_proxy_is_stronger_in_any_order() {
        for text in ["PROXY=a:1\nCUSTOM_CURL_OPTS='-x b -U u:p'", "CUSTOM_CURL_OPTS='-U u:p -x b'\nPROXY=a:1"] {
            assert_eq!(proxy(text), "http://u:p@b:1080");
        }
        assert_eq!(proxy("CUSTOM_CURL_OPTS='-U joe:s3cret'\nPROXY=a:1"), "http://joe:s3cret@a:1");
    }

    #[test]
    fn errors_name_place_key_and_way_out_but_no_value() {
        let allowed = "(allowed are PROXY, IMAGE_STORAGE, DOWNLOAD_CACHE_MAX_DAYS, CUSTOM_CURL_OPTS)";
        for (text, expected) in [
            ("\n  TLS_VERIFY=s3cret", format!("2:3: unknown key TLS_VERIFY {allowed}")),
            ("export proxy=s3cret", format!("1:8: unknown key proxy {allowed}")),
            ("IMAGE_STORAGE=s3cret", "1:1: IMAGE_STORAGE: must be an absolute path (begin it with /)".to_owned()),
            ("DOWNLOAD_CACHE_MAX_DAYS=+1", "1:1: DOWNLOAD_CACHE_MAX_DAYS: must be a whole number of days".to_owned()),
            ("DOWNLOAD_CACHE_MAX_DAYS=40000", "1:1: DOWNLOAD_CACHE_MAX_DAYS: at most 36500 days".to_owned()),
            (
                "#\nCUSTOM_CURL_OPTS='-u s3cret'",
                "2:1: CUSTOM_CURL_OPTS: curl option -u: needs user:password".to_owned(),
            ),
        ] {
            assert_eq!(message(text), expected);
        }
        let refused = message("PROXY=socks5://joe:s3cret@p:1");
        assert_eq!(refused, "1:1: PROXY: only http:// proxies are supported (https images go through them too)");
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,30}|((PROXY|IMAGE_STORAGE|DOWNLOAD_CACHE_MAX_DAYS|CUSTOM_CURL_OPTS)=\\PC{0,20}\n){0,3}") {
            let _ = parse_legacy(&text);
        }

        #[test]
        fn no_error_holds_a_secret(
            key in prop::sample::select(vec!["PROXY=", "CUSTOM_CURL_OPTS="]),
            quote in "['\"]?",
            before in "[-a-zA-Z:/@ '\"$;\\\\]{0,12}",
            after in "[:/@ '\"$;\\\\]{0,6}",
        ) {
            if let Err(error) = parse_legacy(&format!("{key}{quote}{before}Zq7Zq7{after}{quote}")) {
                prop_assert!(!error.to_string().contains("Zq7Zq7"), "{}", error);
            }
        }
    }
}
