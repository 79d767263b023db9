// SPDX-License-Identifier: BSD-2-Clause
//! The checks that both config formats share. No message repeats the value: it may hold a password.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::settings::{DAY, RequireChecksum};
use crate::disk::write::Wipe;
use crate::image::format::Format;
use crate::node::report::LogFormat;
use crate::node::size::ByteSize;
use crate::store::http::{NoProxy, NoProxyError, Secret};

/// A value, or what is wrong with it.
pub(super) type Checked<T> = Result<T, &'static str>;

/// A hundred years: far enough, and no clock arithmetic overflows with it.
const MAX_DAYS: u64 = 36_500;
/// Three years in seconds, for the same reason.
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

/// A text without control characters, which would forge a header or break a log's line.
pub(super) fn text(text: &str) -> Checked<String> {
    if text.chars().any(char::is_control) { Err("control characters are not allowed") } else { Ok(text.to_owned()) }
}

/// A text of several lines, without other control characters.
pub(super) fn lines(lines: &str) -> Checked<String> {
    lines.lines().map(text).collect::<Checked<Vec<_>>>().map(|lines| lines.join("\n"))
}

/// A user name: RFC 7617 leaves no room for a colon in it.
pub(super) fn user(user: &str) -> Checked<Secret> {
    if user.contains(':') { Err("a user name can't hold a colon") } else { text(user).map(Secret) }
}

/// A User-Agent header.
pub(super) fn user_agent(agent: &str) -> Checked<String> {
    if agent.trim().is_empty() { Err("must not be empty") } else { text(agent) }
}

/// Which images need a checksum.
pub(super) fn require_checksum(which: &str) -> Checked<RequireChecksum> {
    match which {
        "never" => Ok(RequireChecksum::Never),
        "http" => Ok(RequireChecksum::Http),
        "always" => Ok(RequireChecksum::Always),
        _ => Err("must be \"never\", \"http\" or \"always\""),
    }
}

/// A disk format.
pub(super) fn format(name: &str) -> Checked<Format> {
    Format::named(name).ok_or("not a disk format (there are raw, qcow2, vmdk, vdi and vhdx)")
}

/// What messages look like.
pub(super) fn log_format(name: &str) -> Checked<LogFormat> {
    match name {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be \"text\" or \"json\""),
    }
}

/// What of the disk behind the image is zeroed.
pub(super) fn wipe(what: &str) -> Checked<Wipe> {
    match what {
        "full" => Ok(Wipe::Full),
        "ends" => Ok(Wipe::Ends),
        "none" => Ok(Wipe::None),
        _ => Err("must be \"full\", \"ends\" or \"none\""),
    }
}

/// What is said of a relative path. It never repeats one: in a wrong place may stand a password.
pub(super) const ABSOLUTE: &str = "must be an absolute path (begin it with /)";

/// An absolute path.
pub(super) fn absolute_path(path: &str) -> Checked<PathBuf> {
    if path.starts_with('/') { text(path).map(PathBuf::from) } else { Err(ABSOLUTE) }
}

/// A path as above, or empty for none.
pub(super) fn optional_path(path: &str) -> Checked<PathBuf> {
    if path.is_empty() { Ok(PathBuf::new()) } else { absolute_path(path) }
}

/// A proxy as `http://[user:password@]host:port`; empty stays empty and means none.
///
/// `http://` and `default_port` are filled in where the text has none.
pub(super) fn proxy(proxy: &str, default_port: u16) -> Checked<Secret> {
    if proxy.is_empty() {
        return Ok(Secret(String::new()));
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
    let given = url.port().or_else(|| has_port(proxy).then_some(80));
    let host = url.host_str().unwrap_or_default();
    let at = userinfo(&url);
    Ok(Secret(format!("http://{at}{host}:{}", given.unwrap_or(default_port))))
}

/// `proxy` with this user and password, percent-encoded.
pub(super) fn proxy_with_user(proxy: &Secret, user: &str, password: &str) -> Checked<Secret> {
    let mut url = Url::parse(&proxy.0).map_err(|_err| "there is no proxy for it (set PROXY or --proxy)")?;
    let port = url.port().unwrap_or(80);
    let set = url.set_username(user).and_then(|()| url.set_password(Some(password)));
    set.map_err(|()| "this proxy takes no user")?;
    Ok(Secret(format!("http://{}{}:{port}", userinfo(&url), url.host_str().unwrap_or_default())))
}

/// `user:password@` as the URL has it, percent-encoded, or nothing.
fn userinfo(url: &Url) -> String {
    match (url.username(), url.password()) {
        ("", None) => String::new(),
        (user, None) => format!("{user}@"),
        (user, Some(password)) => format!("{user}:{password}@"),
    }
}

/// Whether the text of a valid URL names a port, the scheme's default one included.
fn has_port(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    // What follows the bracket of an IPv6 address, or the whole name.
    let tail = host.rsplit(']').next().unwrap_or_default();
    tail.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty())
}

/// One entry of a no-proxy list.
pub(super) fn no_proxy_host(host: &str) -> Checked<NoProxy> {
    host.parse().map_err(|_err: NoProxyError| NoProxyError::WORDS)
}

/// curl's `--cert`, which may carry a passphrase.
pub(super) fn client_cert(cert: &str) -> Checked<PathBuf> {
    if cert.contains(':') { Err("a key with a passphrase is not supported") } else { absolute_path(cert) }
}

/// A request header.
pub(super) fn header(name: &str, value: &str) -> Checked<(String, Secret)> {
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

/// Bytes per second; zero means no limit.
pub(super) fn rate(rate: &str) -> Checked<ByteSize> {
    rate.parse().map_err(|_err| "not a rate (use whole bytes per second, with K, M, G or T for binary units)")
}

/// A number of bytes; zero means no limit.
pub(super) fn size(size: &str) -> Checked<ByteSize> {
    size.parse().map_err(|_err| "not a size (use whole bytes, with K, M, G or T for binary units)")
}

/// A time in whole or decimal seconds; none for zero.
pub(super) fn seconds(seconds: &str) -> Checked<Option<Duration>> {
    const WRONG: &str = "not a time (use seconds, such as 30 or 2.5)";
    let plain = seconds.starts_with(|c: char| c.is_ascii_digit());
    if !plain || !seconds.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(WRONG);
    }
    let value: f64 = seconds.parse().map_err(|_err| WRONG)?;
    if value > MAX_SECONDS {
        return Err("too long a time");
    }
    Duration::try_from_secs_f64(value).map(|time| Some(time).filter(|time| !time.is_zero())).map_err(|_err| WRONG)
}

/// A time that bounds a wait for one step, from whole seconds.
pub(super) fn timeout(seconds: u32) -> Checked<Duration> {
    if seconds == 0 {
        Err("must be at least 1 second: a silent server would block the job for ever")
    } else {
        max_time(seconds)
    }
}

/// A time that bounds the whole, from whole seconds; zero means no bound.
pub(super) fn max_time(seconds: u32) -> Checked<Duration> {
    if f64::from(seconds) > MAX_SECONDS { Err("too long a time") } else { Ok(Duration::from_secs(seconds.into())) }
}

/// An age in whole days.
pub(super) fn days(days: u64) -> Checked<Duration> {
    if days > MAX_DAYS { Err("at most 36500 days") } else { Ok(Duration::from_secs(days * DAY)) }
}

#[cfg(test)]
mod tests {
    use super::{has_port, header, no_proxy_host, proxy, proxy_with_user, rate, seconds, size};
    use crate::node::size::ByteSize;
    use crate::store::http::NoProxyError;
    use std::time::Duration;

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
            assert_eq!(proxy(text, 1080).map(|proxy| proxy.0).as_deref(), Ok(complete), "{text}");
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
        let plain = proxy("proxy:80", 1080).unwrap();
        let with = proxy_with_user(&plain, "joe", "a:b@c/d").unwrap();
        assert_eq!(with.0, "http://joe:a%3Ab%40c%2Fd@proxy:80");
        let none = proxy("", 1080).unwrap();
        let message = proxy_with_user(&none, "joe", "x").unwrap_err();
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
        assert_eq!(size("50G"), Ok(ByteSize(50 << 30)));
        assert_eq!(size("1.5G"), Err("not a size (use whole bytes, with K, M, G or T for binary units)"));
        assert_eq!(seconds("2.5"), Ok(Some(Duration::from_millis(2500))));
        assert_eq!(seconds("0"), Ok(None));
        for bad in ["", "-1", "inf", "1e3", "1.2.3", "5s", "."] {
            assert_eq!(seconds(bad), Err("not a time (use seconds, such as 30 or 2.5)"), "{bad}");
        }
        assert_eq!(seconds("99999999999999999999"), Err("too long a time"));
    }
}
