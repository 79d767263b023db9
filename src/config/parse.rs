// SPDX-License-Identifier: BSD-2-Clause
//! Parses the text of a `config.toml`. Errors name a place in it.

use toml::de::DeTable;
use toml::{Table, Value};

use super::{ParseError, Settings};

/// Pairs of keys in `[http]`. The second key belongs to the first one in the same file, so that one file's user never
/// gets another file's password, and its certificate never another file's key.
pub(super) const PAIRS: [(&str, &str); 2] = [("user", "password"), ("client_cert", "client_key")];

/// Parses the text of a `config.toml`, and checks every value.
///
/// # Errors
/// A [`ParseError`] with line and column for a syntax error, an unknown key (with the allowed ones) or an invalid
/// value, which is never repeated.
pub(crate) fn parse_toml(text: &str) -> Result<Table, ParseError> {
    toml::from_str::<Settings>(text).map_err(|error| explain(text, error))?;
    let table: Table = toml::from_str(text).map_err(|error| explain(text, error))?;
    refuse_decimals(text)?;
    if let Some(Value::Table(http)) = table.get("http") {
        for (first, second) in PAIRS {
            if http.contains_key(second) && !http.contains_key(first) {
                return Err(ParseError::somewhere(&format!("http.{second} needs http.{first} in the same file")));
            }
        }
    }
    Ok(table)
}

/// Refuses times with decimals, which only the options of curl may have.
fn refuse_decimals(text: &str) -> Result<(), ParseError> {
    let document = DeTable::parse(text).map_err(|error| explain(text, error))?;
    let http = document.get_ref().get("http").and_then(|http| http.get_ref().as_table());
    match http.and_then(|http| http.iter().find(|(_, value)| value.get_ref().is_float())) {
        None => Ok(()),
        Some((key, value)) => {
            let words = "expected a whole number that is not negative, found a decimal number";
            Err(ParseError::at(text, value.span().start, &format!("http.{}: {words}", key.get_ref())))
        }
    }
}

pub(super) fn explain(text: &str, mut error: toml::de::Error) -> ParseError {
    // With the input, toml would show a line of the file, which may contain a password. Without it, toml shows the
    // path of the key instead.
    error.set_input(None);
    let words = error.to_string();
    let key = words.trim_end().rsplit_once("\nin `").map(|(_, key)| key.trim_end_matches('`'));
    let message = without_values(error.message());
    let message = match key {
        Some(key) => format!("{key}: {message}"),
        None => message,
    };
    match error.span() {
        Some(span) => ParseError::at(text, span.start, &message),
        None => ParseError::somewhere(&message),
    }
}

/// Removes the value from a message of serde, such as `invalid type: string "x", expected a boolean`.
fn without_values(message: &str) -> String {
    let found = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    if let Some((found, expected)) = found.and_then(|found| found.rsplit_once(", expected ")) {
        let found = found.split(['"', '`']).next().unwrap_or_default().trim_end();
        return format!("expected {}, found {}", plain(expected), plain(found));
    }
    message.replace("unknown field", "unknown key").replace("expected one of", "allowed are")
}

/// Translates serde's name of a type into the words of the manual page.
fn plain(kind: &str) -> &str {
    match kind {
        "u32" | "u64" | "f64" => "a whole number that is not negative",
        "integer" => "an integer",
        "floating point" => "a decimal number",
        "boolean" => "true or false",
        "string" => "a string",
        "sequence" => "an array",
        "map" | "a map" => "a table",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::parse_toml;
    use crate::config::tests::{FULL, message};
    use proptest::prelude::*;

    #[test]
    fn unknown_keys_are_named_with_the_allowed_ones() {
        let top = "allowed are `image`, `image_type`, `image_checksum`, `image_signature`, `cloud_init`, \
                   `ssh_keys`, `user_data`, `network_config`, `dns_servers`, `dns_search`, `seed_persist`, `seed_keep`, `require_checksum`, \
                   `require_signature`, `keyring`, `allow_unknown_content`, `image_formats`, `mbr_tolerance`, `qcow2`, `wipe`, `verify_readback`, \
                   `wipe_other_disks`, `allowed_images`, `log_format`, `images`, `http`, `cache`";
        assert_eq!(message("# x\nimgs = 1"), format!("2:1: unknown key `imgs`, {top}"));
        assert_eq!(message("\"a\\nb\" = 1"), format!("1:1: unknown key `a\\nb`, {top}"));
        let cache = "allowed are `dir`, `max_age_days`, `stale_if_error`, `max_size`, `min_free`, `verify_cached`";
        assert_eq!(message("[cache]\n  path = '/x'"), format!("2:3: cache: unknown key `path`, {cache}"));
        assert!(message("http.retry = 1").starts_with("1:6: http: unknown key `retry`, allowed are `proxy`, "));
    }

    #[test]
    fn wrong_values_name_place_key_and_reason() {
        for (text, expected) in [
            ("image = 5", "1:9: image: expected a string, found an integer"),
            ("require_checksum = 's3cret'", "1:20: require_checksum: must be \"never\", \"http\" or \"always\""),
            (
                "image_formats = ['raw', 'iso']",
                "1:17: image_formats: not a disk format (there are raw, qcow2, vmdk, vdi and vhdx)",
            ),
            ("wipe = 'all'", "1:8: wipe: must be \"full\", \"ends\" or \"none\""),
            ("log_format = 'xml'", "1:14: log_format: must be \"text\" or \"json\""),
            ("seed_persist = 'yes'", "1:16: seed_persist: expected a boolean, found a string"),
            ("ssh_keys = \"a\\nb\\tc\"", "1:12: ssh_keys: control characters are not allowed"),
            ("keyring = 'k.gpg'", "1:11: keyring: must be an absolute path (begin it with /)"),
            (
                "[cache]\nmax_size = '50 GB!'",
                "2:12: cache.max_size: not a size (use whole bytes, with K, M, G or T for binary units)",
            ),
            ("allow_unknown_content = 'yes'", "1:25: allow_unknown_content: expected a boolean, found a string"),
            (
                "[http]\nproxy = 'ftp://p'",
                "2:9: http.proxy: only http:// proxies are supported (https images go through them too)",
            ),
            (
                "[http]\nno_proxy = ['a', 'b c']",
                "2:12: http.no_proxy: not a host for the no-proxy list (use host names, .domain, addresses, networks such as 10.0.0.0/8, or *, each with :port where only that is meant)",
            ),
            ("[http]\nca_file = 'ca.pem'", "2:11: http.ca_file: must be an absolute path (begin it with /)"),
            (
                "[http]\nheaders = { 'A b' = 'c' }",
                "2:11: http.headers: a header needs a name of letters, digits and '-'",
            ),
            ("[http]\nheaders = { Range = 'c' }", "2:11: http.headers: this header is set by the download itself"),
            ("[http]\nuser = 'a:b'", "2:8: http.user: a user name can't hold a colon"),
            ("[http]\npassword = 'x'", "http.password needs http.user in the same file"),
            ("[http]\npassword = \"x\\n\"\nuser = 'u'", "2:12: http.password: control characters are not allowed"),
            ("[http]\nuser_agent = ''", "2:14: http.user_agent: must not be empty"),
            (
                "[http]\nstall_timeout = 0",
                "2:17: http.stall_timeout: must be at least 1 second: a silent server would block the job for ever",
            ),
            ("[http]\nmax_time = 4000000000", "2:12: http.max_time: too long a time"),
            (
                "[http]\nretries = -1",
                "2:11: http.retries: expected a whole number that is not negative, found an integer",
            ),
            (
                "[http]\nlimit_rate = 'fast'",
                "2:14: http.limit_rate: not a rate (use whole bytes per second, with K, M, G or T for binary units)",
            ),
            ("[http]\nlimit_rate = 5", "2:14: http.limit_rate: expected a string, found an integer"),
            ("[cache]\ndir = 'x'", "2:7: cache.dir: must be an absolute path (begin it with /)"),
            ("[cache]\nmax_age_days = 40000", "2:16: cache.max_age_days: at most 36500 days"),
            (
                "[cache]\nmax_age_days = 1.5",
                "2:16: cache.max_age_days: expected a whole number that is not negative, found a decimal number",
            ),
        ] {
            assert_eq!(message(text), expected, "{text}");
        }
    }

    #[test]
    fn times_are_whole_seconds() {
        let words = "expected a whole number that is not negative, found a decimal number";
        assert_eq!(message("[http]\nstall_timeout = 2.5"), format!("2:17: http.stall_timeout: {words}"));
        assert_eq!(message("http.max_time = 1.0"), format!("1:17: http.max_time: {words}"));
    }

    #[test]
    fn syntax_errors_name_the_place() {
        assert_eq!(message("image = x"), "1:9: string values must be quoted, expected literal string");
        assert_eq!(message("[http]\nproxy = 'a\n"), "2:11: invalid literal string, expected `'`");
        let legacy = message("PROXY=http://joe:s3cret@proxy:1");
        assert_eq!(legacy, "1:7: string values must be quoted, expected literal string");
    }

    #[test]
    fn no_error_repeats_a_value() {
        for text in [
            "http = 's3cret'",
            "http = { password = 's3cret', user = 5 }",
            "[http]\npassword = s3cret",
            "[http]\npassword = 's3cret",
            "[http]\npassword = ['s3cret, expected x']",
            "[http]\nheaders = 'X: s3cret, expected y'",
            "[http]\nheaders = { X = ['s3cret'] }",
            "[http]\nproxy = 'joe:s3cret@p:x'",
            "[http]\nproxy = 's3cret' 's3cret'",
            "[http]\nno_proxy = 's3cret'",
            "[http]\nretries = 's3cret'",
            "[http]\nconnect_timeout = 's3cret'",
            "s3cret",
        ] {
            let error = message(text);
            assert!(!error.contains("s3cret") && !error.contains('\n'), "{error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_errors_are_one_line(cut in 0..FULL.len(), text in "\\PC{0,8}|[\"'=\\[\\]{}\n\t ]{0,4}", skip in 0..40_usize) {
            let rest = FULL.get(cut + skip..).unwrap_or_default();
            if let Err(error) = parse_toml(&format!("{}{text}{rest}", &FULL[..cut])) {
                prop_assert!(!error.to_string().contains('\n'), "{}", error);
            }
        }
    }
}
