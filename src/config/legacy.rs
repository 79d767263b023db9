// SPDX-License-Identifier: BSD-2-Clause
//! The shell predecessor's `config`: what its scripts sourced, read as data.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::shell::{Assignment, assignments};
use super::values::{self, Checked};
use super::{ParseError, PartialSettings, curl};

/// The variables that the predecessor knew.
pub(super) const KEYS: [&str; 4] = ["PROXY", "IMAGE_STORAGE", "DOWNLOAD_CACHE_MAX_DAYS", "CUSTOM_CURL_OPTS"];
/// The folder below IMAGE_STORAGE that is ours alone: the predecessor deleted whatever was old below IMAGE_STORAGE,
/// golden images included, so its own files and foreign ones stay where they are.
const CACHE_FOLDER: &str = "ganeti-instance-simpleimage";

/// Reads the text of a predecessor's `config`.
///
/// `PROXY` becomes `http.proxy` (curl's port 1080 where it names none), `DOWNLOAD_CACHE_MAX_DAYS` `cache.max_age_days`,
/// `IMAGE_STORAGE` with our own folder `ganeti-instance-simpleimage` below it `cache.dir`, and the options in
/// `CUSTOM_CURL_OPTS` their equivalents in `http`. The last assignment to a key holds.
///
/// # Errors
/// [`ParseError`] with line and column for what a shell would execute or expand, an unknown key, a wrong value or a
/// curl option without an equivalent. No value is repeated.
pub(crate) fn parse_legacy(text: &str) -> Result<PartialSettings, ParseError> {
    let mut set = BTreeMap::new();
    for assignment in assignments(text)? {
        let Some(key) = KEYS.into_iter().find(|key| *key == assignment.key) else {
            return Err(unknown(text, &assignment));
        };
        set.insert(key, assignment);
    }
    let mut settings = PartialSettings::default();
    // In the order of KEYS: curl's --proxy is stronger than PROXY.
    for (key, assignment) in KEYS.into_iter().filter_map(|key| set.remove_entry(key)) {
        apply(key, &assignment.value, &mut settings)
            .map_err(|problem| ParseError::at(text, assignment.offset, &format!("{key}: {problem}")))?;
    }
    Ok(settings)
}

fn apply(key: &str, value: &str, settings: &mut PartialSettings) -> Result<(), String> {
    match key {
        "PROXY" => settings.http.proxy = Some(values::proxy(value, curl::PROXY_PORT)?),
        "IMAGE_STORAGE" => settings.cache.dir = Some(storage(value)?),
        "DOWNLOAD_CACHE_MAX_DAYS" => settings.cache.max_age = Some(days(value)?),
        _ => curl::apply(value, &mut settings.http)?,
    }
    Ok(())
}

fn storage(value: &str) -> Checked<PathBuf> {
    values::absolute_path(value).map(|path| path.join(CACHE_FOLDER))
}

fn days(value: &str) -> Checked<Duration> {
    const WRONG: &str = "must be a whole number of days";
    // u64 also takes a sign.
    if !value.chars().all(|c| c.is_ascii_digit()) {
        return Err(WRONG);
    }
    values::days(value.parse().map_err(|_err| WRONG)?)
}

fn unknown(text: &str, assignment: &Assignment) -> ParseError {
    let message = format!("unknown key {} (allowed are {})", assignment.key, KEYS.join(", "));
    ParseError::at(text, assignment.offset, &message)
}

#[cfg(test)]
mod tests {
    use super::parse_legacy;
    use crate::config::PartialSettings;
    use proptest::prelude::*;
    use std::path::Path;

    fn message(text: &str) -> String {
        parse_legacy(text).unwrap_err().to_string()
    }

    #[test]
    fn a_config_of_the_predecessor() {
        let text = "# our proxy\nPROXY=\"proxy.example:3128\"\nexport IMAGE_STORAGE=/srv/images # shared\n\n\
                    DOWNLOAD_CACHE_MAX_DAYS='30'\nCUSTOM_CURL_OPTS=\"-k \\\n  --retry 3\"\n";
        let settings = parse_legacy(text).unwrap();
        assert_eq!(settings.http.proxy.as_ref().unwrap().0, "http://proxy.example:3128");
        assert_eq!(settings.cache.dir.as_deref(), Some(Path::new("/srv/images/ganeti-instance-simpleimage")));
        assert_eq!(settings.cache.max_age.unwrap().as_secs(), 30 * 86_400);
        assert_eq!((settings.http.insecure_tls, settings.http.retries), (Some(true), Some(3)));
        let keys = ["http.proxy", "http.insecure_tls", "http.retries", "cache.dir", "cache.max_age_days"];
        assert_eq!(settings.keys(), keys);
    }

    #[test]
    fn empty_values() {
        assert_eq!(parse_legacy("# nothing\n"), Ok(PartialSettings::default()));
        assert_eq!(parse_legacy("CUSTOM_CURL_OPTS=\n"), Ok(PartialSettings::default()));
        assert_eq!(parse_legacy("PROXY=\n").unwrap().http.proxy.unwrap().0, "");
        assert_eq!(message("IMAGE_STORAGE="), "1:1: IMAGE_STORAGE: must be an absolute path (begin it with /)");
        assert_eq!(message("DOWNLOAD_CACHE_MAX_DAYS="), "1:1: DOWNLOAD_CACHE_MAX_DAYS: must be a whole number of days");
    }

    #[test]
    fn a_later_assignment_wins() {
        let settings =
            parse_legacy("PROXY=::\nDOWNLOAD_CACHE_MAX_DAYS=1\nPROXY=b:2\nDOWNLOAD_CACHE_MAX_DAYS=0").unwrap();
        assert_eq!(settings.http.proxy.unwrap().0, "http://b:2");
        assert!(settings.cache.max_age.unwrap().is_zero());
    }

    #[test]
    fn curls_proxy_is_stronger_in_any_order() {
        for text in ["PROXY=a:1\nCUSTOM_CURL_OPTS='-x b -U u:p'", "CUSTOM_CURL_OPTS='-U u:p -x b'\nPROXY=a:1"] {
            assert_eq!(parse_legacy(text).unwrap().http.proxy.unwrap().0, "http://u:p@b:1080");
        }
        let settings = parse_legacy("CUSTOM_CURL_OPTS='-U joe:s3cret'\nPROXY=a:1").unwrap();
        assert_eq!(settings.http.proxy.unwrap().0, "http://joe:s3cret@a:1");
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
        let proxy = message("PROXY=socks5://joe:s3cret@p:1");
        assert_eq!(proxy, "1:1: PROXY: only http:// proxies are supported (https images go through them too)");
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
