// SPDX-License-Identifier: BSD-2-Clause
//! The values of the settings in `[http]`: their checks, and what may be shown of them.

use std::collections::BTreeMap;
use std::time::Duration;

use url::Url;

use super::no_proxy::{NoProxy, NoProxyError};
use super::settings::Secret;
use super::url::ImageUrl;
use crate::node::size::ByteSize;
use crate::node::value::{Checked, not_zero, text, value_kinds, written_size};

/// The port of a proxy whose setting names none: that of its scheme.
const PROXY_PORT: u16 = 80;
/// Three years in seconds: far enough, and no clock arithmetic overflows with it.
const MAX_SECONDS: f64 = 1e8;

/// Headers that the download itself decides about. `Accept-Encoding`: an image must arrive as it was published.
const MANAGED_HEADERS: [&str; 12] = [
    "accept-encoding",
    "connection",
    "content-length",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "range",
    "te",
    "transfer-encoding",
    "user-agent",
];

value_kinds! {
    /// A proxy, shown without its user and password; an empty text for none.
    Proxy: String => Option<Secret>, |text| proxy(&text, PROXY_PORT), |proxy| proxy.as_ref().map(shown_proxy).unwrap_or_default();
    /// Hosts that are reached without the proxy.
    NoProxyList: Vec<String> => Vec<NoProxy>, |hosts| hosts.iter().map(|host| no_proxy_host(host)).collect(),
        |hosts| hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    /// Request headers by name.
    Headers: BTreeMap<String, String> => Vec<(String, Secret)>,
        |headers| headers.iter().map(|(name, value)| header(name, value)).collect(),
        |headers| headers.iter().cloned().collect::<BTreeMap<_, _>>();
    /// The user of the basic authentication; an empty text for none.
    User: String => Option<Secret>, |name| user(&name).map(|user| Some(user).filter(|user| !user.0.is_empty())),
        |user| user.clone().unwrap_or_default();
    /// A password, which may be empty.
    Password: String => Secret, |password| text(&password).map(Secret), Secret::clone;
    /// The User-Agent header.
    UserAgent: String => String, |agent| user_agent(&agent), String::clone;
    /// Seconds that bound a wait for one step.
    Timeout: f64 => Duration, timeout, |time| shown_time(*time);
    /// Seconds that bound the whole; zero for no bound.
    MaxTime: f64 => Option<Duration>, |seconds| time(seconds).map(|time| Some(time).filter(|time| !time.is_zero())),
        |time| shown_time(time.unwrap_or_default());
    /// Bytes per second; zero for no limit.
    Rate: String => Option<ByteSize>, |text| rate(&text).map(not_zero),
        |rate| written_size(rate.unwrap_or(ByteSize(0)));
}

/// Accepts a user name: RFC 7617 leaves no room for a colon in it.
pub(crate) fn user(user: &str) -> Checked<Secret> {
    if user.contains(':') { Err("a user name can't hold a colon") } else { text(user).map(Secret) }
}

pub(crate) fn user_agent(agent: &str) -> Checked<String> {
    if agent.trim().is_empty() { Err("must not be empty") } else { text(agent) }
}

/// Reads a proxy as `http://[user:password@]host:port`; an empty text gives none. `http://` and `default_port` are filled
/// in where the text has none.
pub(crate) fn proxy(proxy: &str, default_port: u16) -> Checked<Option<Secret>> {
    if proxy.is_empty() {
        return Ok(None);
    }
    const WRONG: &str = "not a proxy (use http://[user:password@]host:port; write special characters in user and \
                         password as %XX)";
    let url = Url::parse(&if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") });
    let url = url.ok().filter(|url| url.has_host()).ok_or(WRONG)?;
    if url.scheme() != "http" {
        return Err("only http:// proxies are supported (https images go through them too)");
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(WRONG);
    }
    // Url hides a port that is the scheme's own, so an explicit :80 has to be looked up in the text.
    let port = match url.port() {
        Some(port) => port,
        None if has_port(proxy) => 80,
        None => default_port,
    };
    Ok(Some(proxy_with_port(&url, port)))
}

/// Gives `proxy` this user and password, percent-encoded.
pub(crate) fn proxy_with_user(proxy: &str, user: &str, password: &str) -> Checked<Secret> {
    let mut url = Url::parse(proxy).map_err(|_err| "there is no proxy for it (set PROXY or --proxy)")?;
    let set = url.set_username(user).and_then(|()| url.set_password(Some(password)));
    set.map_err(|()| "this proxy takes no user")?;
    Ok(proxy_with_port(&url, url.port().unwrap_or(80)))
}

fn proxy_with_port(url: &Url, port: u16) -> Secret {
    let user_info = match (url.username(), url.password()) {
        ("", None) => String::new(),
        (user, None) => format!("{user}@"),
        (user, Some(password)) => format!("{user}:{password}@"),
    };
    Secret(format!("http://{user_info}{}:{port}", url.host_str().unwrap_or_default()))
}

/// Whether the text of a valid URL names a port, the scheme's default one included.
fn has_port(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    // The colons inside the brackets of an IPv6 address are no port's.
    let tail = host.rsplit(']').next().unwrap_or_default();
    tail.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty())
}

fn shown_proxy(proxy: &Secret) -> String {
    let shown = ImageUrl::parse(&proxy.0).map_or_else(|_err| Secret::HIDDEN.to_owned(), |url| url.to_string());
    shown.trim_end_matches('/').to_owned()
}

/// Reads one entry of a no-proxy list.
pub(crate) fn no_proxy_host(host: &str) -> Checked<NoProxy> {
    host.parse().map_err(|_err: NoProxyError| NoProxyError::WORDS)
}

/// Checks a request header.
pub(crate) fn header(name: &str, value: &str) -> Checked<(String, Secret)> {
    // RFC 9110, section 5.6.2: a field name is a token.
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(token) {
        return Err("a header needs a name of letters, digits and '-'");
    }
    if name.eq_ignore_ascii_case("user-agent") {
        return Err("the header User-Agent is the setting user_agent");
    }
    if MANAGED_HEADERS.iter().any(|managed| name.eq_ignore_ascii_case(managed)) {
        return Err("this header is set by the download itself");
    }
    Ok((name.to_owned(), Secret(text(value)?)))
}

pub(crate) fn rate(rate: &str) -> Checked<ByteSize> {
    rate.parse().map_err(|_err| "not a rate (use whole bytes per second, with K, M, G or T for binary units)")
}

/// What is said of a text or a number that is no time.
const NO_TIME: &str = "not a time (use seconds, such as 30 or 2.5)";

/// Reads whole or decimal seconds as curl(1) writes them.
pub(crate) fn seconds(text: &str) -> Checked<f64> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) || !text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(NO_TIME);
    }
    // By way of a duration, so that what is too short for one is zero.
    time(text.parse().map_err(|_err| NO_TIME)?).map(|time| time.as_secs_f64())
}

fn time(seconds: f64) -> Checked<Duration> {
    if seconds > MAX_SECONDS {
        return Err("too long a time");
    }
    Duration::try_from_secs_f64(seconds).map_err(|_err| NO_TIME)
}

fn timeout(seconds: f64) -> Checked<Duration> {
    let time = time(seconds)?;
    if time.is_zero() {
        return Err("must be at least 1 second: a silent server would block the job for ever");
    }
    Ok(time)
}

/// Most times are whole seconds, and shall look so.
fn shown_time(time: Duration) -> toml::Value {
    match i64::try_from(time.as_secs()) {
        Ok(seconds) if time.subsec_nanos() == 0 => seconds.into(),
        _ => time.as_secs_f64().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{has_port, header, no_proxy_host, proxy, proxy_with_user, rate, seconds};
    use crate::node::size::ByteSize;
    use crate::store::http::no_proxy::NoProxyError;

    #[test]
    fn proxies_become_complete_urls() {
        for (text, complete) in [
            ("", ""),
            ("proxy:3128", "http://proxy:3128"),
            ("http://proxy.example:80/", "http://proxy.example:80"),
            ("http://proxy.example", "http://proxy.example:1080"),
            ("joe:p%40ss@proxy:8080", "http://joe:p%40ss@proxy:8080"),
            ("joe@proxy", "http://joe@proxy:1080"),
            ("http://[2001:db8::1]:3128", "http://[2001:db8::1]:3128"),
            ("[2001:db8::1]", "http://[2001:db8::1]:1080"),
        ] {
            let proxy = proxy(text, 1080).map(|proxy| proxy.map(|proxy| proxy.0).unwrap_or_default());
            assert_eq!(proxy.as_deref(), Ok(complete), "{text}");
        }
    }

    #[test]
    fn wrong_proxies_are_refused_without_their_text() {
        let wrong = "not a proxy (use http://[user:password@]host:port; write special characters in user and password as \
                     %XX)";
        for text in ["http://u:s3cret#x@proxy:1", "http://", "proxy:port", "http://proxy/path", "a b:1", "http://p/?q"]
        {
            assert_eq!(proxy(text, 80), Err(wrong), "{text}");
        }
        for text in ["socks5://proxy:1080", "https://proxy:443", "file:///etc/passwd"] {
            let message = proxy(text, 80).unwrap_err();
            let scheme = "only http:// proxies are supported (https images go through them too)";
            assert!([scheme, wrong].contains(&message), "{message}");
        }
    }

    #[test]
    fn proxy_users_are_percent_encoded() {
        let plain = proxy("proxy:80", 1080).unwrap().unwrap();
        let with = proxy_with_user(&plain.0, "joe", "a:b@c/d").unwrap();
        assert_eq!(with.0, "http://joe:a%3Ab%40c%2Fd@proxy:80");
        let message = proxy_with_user("", "joe", "x").unwrap_err();
        assert_eq!(message, "there is no proxy for it (set PROXY or --proxy)");
    }

    #[test]
    fn ports_are_seen_in_the_text() {
        assert!(["http://u:p@h:80/x", "h:80", "[::1]:80"].into_iter().all(has_port));
        assert!(!["http://u:p@h/x:80", "h", "[::1]", "http://h:"].into_iter().any(has_port));
    }

    #[test]
    fn headers_can_not_forge_a_request() {
        assert_eq!(
            header("X-Token", "s3cret").map(|(name, value)| (name, value.0)),
            Ok(("X-Token".into(), "s3cret".into()))
        );
        assert_eq!(header("X Token", ""), Err("a header needs a name of letters, digits and '-'"));
        assert_eq!(header("", ""), Err("a header needs a name of letters, digits and '-'"));
        assert_eq!(header("X-A", "b\r\nX-C: d"), Err("control characters are not allowed"));
        assert_eq!(header("Accept-encoding", "gzip"), Err("this header is set by the download itself"));
        assert_eq!(header("USER-AGENT", "x"), Err("the header User-Agent is the setting user_agent"));
    }

    #[test]
    fn hosts_rates_and_times() {
        assert_eq!(no_proxy_host("10.0.0.0/8:80").ok(), "10.0.0.0/8:80".parse().ok());
        assert_eq!(no_proxy_host("*.example.com"), Err(NoProxyError::WORDS));
        assert_eq!(rate("10M"), Ok(ByteSize(10 << 20)));
        assert_eq!(rate("fast"), Err("not a rate (use whole bytes per second, with K, M, G or T for binary units)"));
        assert_eq!(seconds("2.5"), Ok(2.5));
        assert_eq!([seconds("0"), seconds("0.0000000001")], [Ok(0.0), Ok(0.0)]);
        for bad in ["", "-1", "inf", "1e3", "1.2.3", "5s", "."] {
            assert_eq!(seconds(bad), Err("not a time (use seconds, such as 30 or 2.5)"), "{bad}");
        }
        assert_eq!(seconds("99999999999999999999"), Err("too long a time"));
    }
}
