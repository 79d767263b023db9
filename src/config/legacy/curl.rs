// SPDX-License-Identifier: BSD-2-Clause
//! Translates CUSTOM_CURL_OPTS, which the predecessor passed to curl(1), into keys of the table `[http]`.

use toml::{Table, Value};

use super::shell::words;
use crate::node::value::{Checked, absolute_path, text};
use crate::store::http::values;

/// The port that curl uses for a proxy without one (curl(1), `--proxy`).
pub(super) const PROXY_PORT: u16 = 1080;

/// The meaning of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The option has no effect here: this provider does the same anyway, or the option only changes curl's messages.
    Nothing,
    Insecure,
    /// The option sets this key to an absolute path.
    File(&'static str),
    ClientCert,
    Header,
    User,
    UserAgent,
    Proxy,
    ProxyUser,
    NoProxy,
    ConnectTimeout,
    MaxTime,
    Retry,
    SpeedTime,
    /// The option sets this key to a number of bytes per second.
    Rate(&'static str),
}

/// An option in CUSTOM_CURL_OPTS.
struct Given {
    /// The name with the dashes, for messages.
    name: String,
    meaning: Meaning,
    /// The value, which is empty for an option without a value.
    value: String,
}

/// The short name, long name and meaning of each option, with the names of curl(1).
const OPTIONS: [(Option<char>, &str, Meaning); 31] = [
    (Some('s'), "silent", Meaning::Nothing),
    (Some('S'), "show-error", Meaning::Nothing),
    (Some('f'), "fail", Meaning::Nothing),
    (Some('L'), "location", Meaning::Nothing),
    (Some('#'), "progress-bar", Meaning::Nothing),
    (Some('v'), "verbose", Meaning::Nothing),
    (Some('g'), "globoff", Meaning::Nothing),
    (None, "no-progress-meter", Meaning::Nothing),
    (None, "retry-connrefused", Meaning::Nothing),
    (None, "http1.1", Meaning::Nothing),
    (None, "basic", Meaning::Nothing),
    (None, "proxy-basic", Meaning::Nothing),
    // This provider always uses TLS 1.2 or later.
    (Some('1'), "tlsv1", Meaning::Nothing),
    (None, "tlsv1.2", Meaning::Nothing),
    (Some('k'), "insecure", Meaning::Insecure),
    (None, "cacert", Meaning::File("ca_file")),
    (Some('E'), "cert", Meaning::ClientCert),
    (None, "key", Meaning::File("client_key")),
    (None, "netrc-file", Meaning::File("netrc_file")),
    (Some('H'), "header", Meaning::Header),
    (Some('u'), "user", Meaning::User),
    (Some('A'), "user-agent", Meaning::UserAgent),
    (Some('x'), "proxy", Meaning::Proxy),
    (Some('U'), "proxy-user", Meaning::ProxyUser),
    (None, "noproxy", Meaning::NoProxy),
    (None, "connect-timeout", Meaning::ConnectTimeout),
    (Some('m'), "max-time", Meaning::MaxTime),
    (None, "retry", Meaning::Retry),
    (None, "limit-rate", Meaning::Rate("limit_rate")),
    (Some('y'), "speed-time", Meaning::SpeedTime),
    (Some('Y'), "speed-limit", Meaning::Rate("min_speed")),
];

/// Options that people use, but that are replaced by something else here: the short name, the long name and the
/// replacement.
const ELSEWHERE: [(Option<char>, &str, &str); 15] = [
    (Some('b'), "cookie", "use -H 'Cookie: NAME=VALUE'"),
    (Some('e'), "referer", "use -H 'Referer: URL'"),
    // Ganeti runs the scripts without HOME, so there is no ~/.netrc.
    (Some('n'), "netrc", "use --netrc-file FILE"),
    (None, "netrc-optional", "use --netrc-file FILE"),
    (None, "oauth2-bearer", "use -H 'Authorization: Bearer TOKEN'"),
    (None, "capath", "use --cacert with one PEM file"),
    (None, "compressed", "remove it: an image is kept as it was published"),
    (Some('o'), "output", "remove it: IMAGE_STORAGE is the place of images"),
    (Some('O'), "remote-name", "remove it: IMAGE_STORAGE is the place of images"),
    (Some('C'), "continue-at", "remove it: cut downloads are gone on with by themselves"),
    (Some('z'), "time-cond", "remove it: kept images are revalidated"),
    (None, "retry-delay", "remove it: the delay grows with each retry"),
    (None, "retry-max-time", "use -m, which bounds all retries together"),
    (None, "retry-all-errors", "remove it: transient failures are retried"),
    (Some('K'), "config", "write its options here"),
];

/// Sets in `http` what the options in `text` ask for. As in curl, a later option replaces an earlier one.
///
/// # Errors
/// The first error, with the option's name and never with its value.
pub(super) fn translate(text: &str, http: &mut Table) -> Result<(), String> {
    let mut proxy_user = None;
    for Given { name, meaning, value } in scan(&words(text)?)? {
        let set = match meaning {
            Meaning::ProxyUser => pair(&value).map(|pair| proxy_user = Some((name.clone(), pair))),
            meaning => set(meaning, &value, http),
        };
        set.map_err(|problem| format!("curl option {name}: {problem}"))?;
    }
    if http.contains_key("client_key") && !http.contains_key("client_cert") {
        return Err("curl option --key: needs --cert".to_owned());
    }
    // This comes last, because curl accepts --proxy and --proxy-user in any order.
    if let Some((name, (user, password))) = proxy_user {
        let proxy = http.get("proxy").and_then(Value::as_str).unwrap_or_default();
        let proxy = values::proxy_with_user(proxy, &user, &password)
            .map_err(|problem| format!("curl option {name}: {problem}"))?;
        http.insert("proxy".to_owned(), proxy.0.into());
    }
    Ok(())
}

fn set(meaning: Meaning, value: &str, http: &mut Table) -> Checked<()> {
    let (key, value): (_, Value) = match meaning {
        Meaning::Nothing | Meaning::ProxyUser => return Ok(()),
        Meaning::Insecure => ("insecure_tls", true.into()),
        Meaning::File(key) => (key, file(value)?),
        Meaning::ClientCert if value.contains(':') => return Err("a key with a passphrase is not supported"),
        Meaning::ClientCert => ("client_cert", file(value)?),
        Meaning::Header => return header(value, http),
        Meaning::User => return user(value, http),
        Meaning::UserAgent => ("user_agent", values::user_agent(value)?.into()),
        Meaning::Proxy => ("proxy", values::proxy(value, PROXY_PORT)?.unwrap_or_default().0.into()),
        Meaning::NoProxy => ("no_proxy", no_proxy(value)?),
        Meaning::ConnectTimeout => match values::seconds(value)? {
            // Zero means the default in curl, so it means our default here.
            0.0 => {
                http.remove("connect_timeout");
                return Ok(());
            }
            seconds => ("connect_timeout", seconds.into()),
        },
        Meaning::MaxTime => ("max_time", values::seconds(value)?.into()),
        Meaning::SpeedTime => match values::seconds(value)? {
            0.0 => return Err("must be more than 0 seconds"),
            seconds => ("stall_timeout", seconds.into()),
        },
        Meaning::Retry => {
            let number: u32 = value.parse().map_err(|_err| "needs a whole number")?;
            ("retries", i64::from(number).into())
        }
        Meaning::Rate(key) => values::rate(value).map(|_rate| (key, value.into()))?,
    };
    http.insert(key.to_owned(), value);
    Ok(())
}

fn file(path: &str) -> Checked<Value> {
    absolute_path(path).map(|_path| path.into())
}

fn user(value: &str, http: &mut Table) -> Checked<()> {
    let (user, password) = pair(value)?;
    http.insert("user".to_owned(), values::user(&user)?.0.into());
    http.insert("password".to_owned(), text(&password)?.into());
    Ok(())
}

fn pair(value: &str) -> Checked<(String, String)> {
    let (user, password) = value.split_once(':').ok_or("needs user:password")?;
    if user.is_empty() { Err("needs user:password") } else { Ok((user.to_owned(), password.to_owned())) }
}

fn header(value: &str, http: &mut Table) -> Checked<()> {
    const WRONG: &str = "needs 'Name: value' in quotes (to remove a header or to read a file is not supported)";
    let (name, value) = value.split_once(':').map(|(name, value)| (name, value.trim())).ok_or(WRONG)?;
    if value.is_empty() {
        return Err(WRONG);
    }
    if name.eq_ignore_ascii_case("user-agent") {
        http.insert("user_agent".to_owned(), values::user_agent(value)?.into());
        return Ok(());
    }
    values::header(name, value)?;
    let headers = http.entry("headers").or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(headers) = headers {
        // Headers with the same name are one header with a list (RFC 9110, section 5.3). Cookies have their own
        // separator (RFC 6265).
        let separator = if name.eq_ignore_ascii_case("cookie") { "; " } else { ", " };
        let earlier = headers.get(name).and_then(Value::as_str).map(|earlier| format!("{earlier}{separator}"));
        headers.insert(name.to_owned(), format!("{}{value}", earlier.unwrap_or_default()).into());
    }
    Ok(())
}

/// Translates the value of `--noproxy`, in which each name means itself and everything below it (curl(1)).
fn no_proxy(value: &str) -> Checked<Value> {
    let hosts = value.split([',', ' ']).filter(|host| !host.is_empty());
    let entry = |host| values::no_proxy_host(host).map(|host| Value::String(host.with_subdomains().to_string()));
    hosts.map(entry).collect::<Checked<Vec<_>>>().map(Value::Array)
}

/// Reads the options in `words`, in their order.
///
/// # Errors
/// An option without an equivalent, a missing value, or a word that belongs to no option. The error names it, but
/// shows no value.
fn scan(words: &[String]) -> Result<Vec<Given>, String> {
    let mut found = Vec::new();
    let mut rest = words.iter().enumerate();
    while let Some((index, word)) = rest.next() {
        let mut next = || rest.next().map(|(_, word)| word.clone());
        if let Some(long) = word.strip_prefix("--") {
            found.push(long_option(long, &mut next)?);
        } else if let Some(cluster) = word.strip_prefix('-').filter(|cluster| !cluster.is_empty()) {
            short_options(cluster, &mut next, &mut found)?;
        } else {
            // The word may be a part of a password, so only its position is shown.
            return Err(format!(
                "word {} belongs to no option (a value with blanks needs quotes of its own)",
                index + 1
            ));
        }
    }
    Ok(found)
}

/// Reads `--name`, `--name value`, or `--name=value`, which curl accepts since 8.16.
fn long_option(text: &str, next: &mut dyn FnMut() -> Option<String>) -> Result<Given, String> {
    let (long, attached) = match text.split_once('=') {
        Some((long, value)) => (long, Some(value.to_owned())),
        None => (text, None),
    };
    let name = format!("--{long}");
    let Some((_, _, meaning)) = OPTIONS.into_iter().find(|(_, known, _)| *known == long) else {
        let advice = ELSEWHERE.iter().find(|(_, known, _)| *known == long).map(|(_, _, advice)| *advice);
        // A word that does not look like the name of an option may be a value whose option is missing, so it is not
        // shown.
        let plausible = long.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'));
        return Err(refused(if plausible { &name } else { "(unreadable)" }, advice));
    };
    if !takes_value(meaning) {
        return match attached {
            Some(_) => Err(format!("curl option {name}: takes no value")),
            None => Ok(Given { name, meaning, value: String::new() }),
        };
    }
    let value = attached.or_else(next).ok_or_else(|| format!("curl option {name}: needs a value"))?;
    Ok(Given { name, meaning, value })
}

/// Reads `-ksS`, `-u value`, `-uvalue` or `-ksuvalue`: the first option with a value takes the rest of the word.
fn short_options(
    cluster: &str,
    next: &mut dyn FnMut() -> Option<String>,
    found: &mut Vec<Given>,
) -> Result<(), String> {
    for (index, letter) in cluster.char_indices() {
        let name = format!("-{letter}");
        let Some((_, _, meaning)) = OPTIONS.into_iter().find(|(known, _, _)| *known == Some(letter)) else {
            let advice = ELSEWHERE.iter().find(|(known, _, _)| *known == Some(letter)).map(|(_, _, advice)| *advice);
            return Err(refused(&name, advice));
        };
        if takes_value(meaning) {
            let rest = &cluster[index + letter.len_utf8()..];
            let value = if rest.is_empty() { next() } else { Some(rest.to_owned()) };
            let value = value.ok_or_else(|| format!("curl option {name}: needs a value"))?;
            found.push(Given { name, meaning, value });
            return Ok(());
        }
        found.push(Given { name, meaning, value: String::new() });
    }
    Ok(())
}

fn takes_value(meaning: Meaning) -> bool {
    !matches!(meaning, Meaning::Nothing | Meaning::Insecure)
}

fn refused(name: &str, advice: Option<&str>) -> String {
    let advice = advice.unwrap_or("remove it; simpleimage.toml(5) lists those that have one");
    format!("curl option {name} has no equivalent here ({advice})")
}

#[cfg(test)]
mod tests {
    use super::{ELSEWHERE, OPTIONS, scan, translate};
    use toml::Table;

    fn set(text: &str) -> Table {
        let mut http = Table::new();
        translate(text, &mut http).unwrap_or_else(|error| panic!("{text}: {error}"));
        http
    }

    fn message(text: &str) -> String {
        translate(text, &mut Table::new()).unwrap_err()
    }

    #[test]
    fn every_mapped_option_long_and_short() {
        for text in [
            "--insecure --cacert /ca.pem --header 'X-A: b' --user u:p:q --user-agent 'a b' --proxy px:1 --proxy-user v:w \
             --noproxy 'a.b,10.0.0.0/8' --connect-timeout 2.5 --max-time 60 --retry 3 --limit-rate 200k --speed-time 30 \
             --cert /c.pem --key /k.pem --netrc-file /netrc --speed-limit 5k",
            "--insecure --cacert=/ca.pem --header='X-A: b' --user=u:p:q --user-agent='a b' --proxy=px:1 --proxy-user=v:w \
             --noproxy=a.b,10.0.0.0/8 --connect-timeout=2.5 --max-time=60 --retry=3 --limit-rate=200k --speed-time=30 \
             --cert=/c.pem --key=/k.pem --netrc-file=/netrc --speed-limit=5k",
            "-ksS --cacert /ca.pem -H'X-A: b' -uu:p:q -A 'a b' -fxpx:1 -Uv:w --noproxy .a.b,,10.0.0.0/8 -y 30 -m60 \
             --connect-timeout 2.5 --retry 3 --limit-rate 200K -E /c.pem --key /k.pem --netrc-file /netrc -Y5k",
        ] {
            let expected = "insecure_tls = true\nca_file = '/ca.pem'\nclient_cert = '/c.pem'\nclient_key = '/k.pem'\n\
                            netrc_file = '/netrc'\nheaders = { X-A = 'b' }\nuser = 'u'\npassword = 'p:q'\n\
                            user_agent = 'a b'\nproxy = 'http://v:w@px:1'\nno_proxy = ['.a.b', '10.0.0.0/8']\n\
                            connect_timeout = 2.5\nmax_time = 60.0\nretries = 3\nstall_timeout = 30.0\n";
            let mut http = set(text);
            let rates =
                ["min_speed", "limit_rate"].map(|key| http.remove(key).unwrap().as_str().unwrap().to_lowercase());
            assert_eq!(rates, ["5k", "200k"]);
            assert_eq!(http, toml::from_str::<Table>(expected).unwrap());
        }
    }

    #[test]
    fn options_without_effect_set_nothing() {
        let text = "-s --silent -S --show-error -f --fail -L --location -# --progress-bar --no-progress-meter -v --verbose \
                    --retry-connrefused --http1.1 --basic --tlsv1.2 -sSfL#";
        assert_eq!(set(text), Table::new());
        assert_eq!(set(""), Table::new());
    }

    #[test]
    fn later_options_win_and_headers_add_up() {
        let http = set(
            "-m 1 -m 0 -x a:1 -x '' --connect-timeout 5 --connect-timeout 0 -H A:1 -H 'B: 2' -H A:3 -H Cookie:a=1 \
                        -H Cookie:b=2 -H 'User-Agent: me'",
        );
        let expected = "max_time = 0.0\nproxy = ''\nheaders = { A = '1, 3', B = '2', Cookie = 'a=1; b=2' }\n\
                        user_agent = 'me'\n";
        assert_eq!(http, toml::from_str::<Table>(expected).unwrap());
        assert_eq!(set("--noproxy '*'"), toml::from_str::<Table>("no_proxy = ['*']").unwrap());
    }

    #[test]
    fn wrong_values_name_the_option_only() {
        for (text, expected) in [
            ("--cacert s3cret", "--cacert: must be an absolute path (begin it with /)"),
            ("-E /c.pem:s3cret", "-E: a key with a passphrase is not supported"),
            ("--key /s3cret", "--key: needs --cert"),
            ("-u s3cret", "-u: needs user:password"),
            ("--user=:s3cret", "--user: needs user:password"),
            ("-U joe:s3cret", "-U: there is no proxy for it (set PROXY or --proxy)"),
            ("--max-time s3cret", "--max-time: not a time (use seconds, such as 30 or 2.5)"),
            ("-y0", "-y: must be more than 0 seconds"),
            ("--retry -1", "--retry: needs a whole number"),
            (
                "--limit-rate 1.5s3cret",
                "--limit-rate: not a rate (use whole bytes per second, with K, M, G or T for binary units)",
            ),
            ("-A ''", "-A: must not be empty"),
            ("-H 'Range: s3cret'", "-H: this header is set by the download itself"),
        ] {
            assert_eq!(message(text), format!("curl option {expected}"));
        }
        let header =
            "curl option -H: needs 'Name: value' in quotes (to remove a header or to read a file is not supported)";
        for text in ["-H s3cret", "-H 'X-S3cret:'", "-H @/s3cret", "-H 'X-S3cret;'"] {
            assert_eq!(message(text), header);
        }
    }
    fn refused(words: &[&str]) -> String {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        scan(&words).err().unwrap_or_else(|| panic!("{words:?} was accepted"))
    }

    #[test]
    fn names_are_unique() {
        let all =
            || OPTIONS.iter().map(|(short, long, _)| (short, long)).chain(ELSEWHERE.iter().map(|(s, l, _)| (s, l)));
        let mut long: Vec<_> = all().map(|(_, long)| *long).collect();
        let mut short: Vec<_> = all().filter_map(|(short, _)| *short).collect();
        let counts = (long.len(), short.len());
        long.sort_unstable();
        long.dedup();
        short.sort_unstable();
        short.dedup();
        assert_eq!((long.len(), short.len()), counts);
    }

    #[test]
    fn the_manual_names_every_option() {
        let manual = include_str!("../../../man/simpleimage.toml.5");
        for (short, long, _) in OPTIONS {
            let names = short.map_or_else(|| format!("Fl -{long}"), |short| format!("Fl {short} , Fl -{long}"));
            let found =
                manual.lines().any(|line| line.split_once(&names).is_some_and(|(_, rest)| !rest.starts_with('-')));
            assert!(found, "{names}");
        }
    }

    #[test]
    fn other_options_are_named_without_their_value() {
        let none = "has no equivalent here (remove it; simpleimage.toml(5) lists those that have one)";
        assert_eq!(refused(&["--ciphers", "s3cret"]), format!("curl option --ciphers {none}"));
        assert_eq!(refused(&["--data=s3cret"]), format!("curl option --data {none}"));
        assert_eq!(refused(&["-sTs3cret"]), format!("curl option -T {none}"));
        assert_eq!(refused(&["--S3 cret"]), format!("curl option (unreadable) {none}"));
        assert_eq!(refused(&["--max-tim", "1"]), format!("curl option --max-tim {none}"));
        assert_eq!(refused(&["-b", "s3cret"]), "curl option -b has no equivalent here (use -H 'Cookie: NAME=VALUE')");
        let compressed =
            "curl option --compressed has no equivalent here (remove it: an image is kept as it was published)";
        assert_eq!(refused(&["--compressed"]), compressed);
    }

    #[test]
    fn missing_and_superfluous_values() {
        assert_eq!(refused(&["--cacert"]), "curl option --cacert: needs a value");
        assert_eq!(refused(&["-ku"]), "curl option -u: needs a value");
        assert_eq!(refused(&["--insecure=s3cret"]), "curl option --insecure: takes no value");
        for words in [&["-k", "s3cret"], &["-k", "-"], &["-H", "X-A:"]] {
            let words = [words.as_slice(), &["b"]].concat();
            let place = if words[0] == "-H" { 3 } else { 2 };
            let rest = "belongs to no option (a value with blanks needs quotes of its own)";
            assert_eq!(refused(&words), format!("word {place} {rest}"));
        }
    }
}
