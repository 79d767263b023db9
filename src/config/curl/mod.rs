// SPDX-License-Identifier: BSD-2-Clause
//! CUSTOM_CURL_OPTS: what the predecessor passed to curl(1), as settings of our own.

mod options;

use std::time::Duration;

use options::{Given, Setting};

use super::PartialHttp;
use super::shell::words;
use super::values::{self, Checked};
use crate::store::http::{NoProxy, Secret};

/// curl's port for a proxy without one (curl(1), `--proxy`).
pub(super) const PROXY_PORT: u16 = 1080;

/// Sets in `http` what the options in `text` ask for, the later option over the earlier as in curl.
///
/// # Errors
/// The one thing that is wrong, with the option's name and never its value.
pub(super) fn apply(text: &str, http: &mut PartialHttp) -> Result<(), String> {
    let mut proxy_user = None;
    for Given { name, setting, value } in options::scan(&words(text)?)? {
        let set = if setting == Setting::ProxyUser {
            pair(&value).map(|pair| proxy_user = Some((name.clone(), pair)))
        } else {
            apply_one(setting, &value, http)
        };
        set.map_err(|problem| format!("curl option {name}: {problem}"))?;
    }
    if http.client_key.is_some() && http.client_cert.is_none() {
        return Err("curl option --key: needs --cert".to_owned());
    }
    // At the end: curl does not care which of --proxy and --proxy-user comes first.
    if let Some((name, (user, password))) = proxy_user {
        let proxy = http.proxy.get_or_insert(Secret(String::new()));
        *proxy = values::proxy_with_user(proxy, &user, &password)
            .map_err(|problem| format!("curl option {name}: {problem}"))?;
    }
    Ok(())
}

fn apply_one(setting: Setting, value: &str, http: &mut PartialHttp) -> Checked<()> {
    match setting {
        Setting::Insecure => http.insecure_tls = Some(true),
        Setting::Cacert => http.ca_file = Some(values::absolute_path(value)?),
        Setting::ClientCert => http.client_cert = Some(values::client_cert(value)?),
        Setting::ClientKey => http.client_key = Some(values::absolute_path(value)?),
        Setting::Netrc => http.netrc_file = Some(values::absolute_path(value)?),
        Setting::Header => header(value, http)?,
        Setting::User => {
            let (user, password) = pair(value)?;
            (http.user, http.password) = (Some(values::user(&user)?), Some(Secret(values::text(&password)?)));
        }
        Setting::UserAgent => http.user_agent = Some(values::user_agent(value)?),
        Setting::Proxy => http.proxy = Some(values::proxy(value, PROXY_PORT)?),
        Setting::NoProxy => http.no_proxy = Some(no_proxy(value)?),
        // Zero is curl's default, and here ours.
        Setting::ConnectTimeout => http.connect_timeout = values::seconds(value)?,
        Setting::MaxTime => http.max_time = Some(values::seconds(value)?.unwrap_or(Duration::ZERO)),
        Setting::Retry => http.retries = Some(value.parse().map_err(|_err| "needs a whole number")?),
        Setting::LimitRate => http.limit_rate = Some(values::rate(value)?),
        Setting::SpeedTime => http.stall_timeout = Some(values::seconds(value)?.ok_or("must be more than 0 seconds")?),
        Setting::SpeedLimit => http.min_speed = Some(values::rate(value)?),
        Setting::ProxyUser | Setting::Nothing => {}
    }
    Ok(())
}

fn pair(value: &str) -> Checked<(String, String)> {
    let (user, password) = value.split_once(':').ok_or("needs user:password")?;
    if user.is_empty() { Err("needs user:password") } else { Ok((user.to_owned(), password.to_owned())) }
}

fn header(value: &str, http: &mut PartialHttp) -> Checked<()> {
    const WRONG: &str = "needs 'Name: value' in quotes (to remove a header or to read a file is not supported)";
    let (name, value) = value.split_once(':').map(|(name, value)| (name, value.trim())).ok_or(WRONG)?;
    if value.is_empty() {
        return Err(WRONG);
    }
    if name.eq_ignore_ascii_case("user-agent") {
        http.user_agent = Some(values::user_agent(value)?);
        return Ok(());
    }
    http.headers.get_or_insert_default().push(values::header(name, value)?);
    Ok(())
}

/// curl(1), `--noproxy`: each name stands for itself and for everything below it.
fn no_proxy(value: &str) -> Checked<Vec<NoProxy>> {
    let hosts = value.split([',', ' ']).filter(|host| !host.is_empty());
    hosts.map(|host| values::no_proxy_host(host).map(NoProxy::with_subdomains)).collect()
}

#[cfg(test)]
mod tests {
    use super::{PartialHttp, Secret, apply};
    use crate::node::size::ByteSize;
    use std::path::Path;
    use std::time::Duration;

    fn set(text: &str) -> PartialHttp {
        let mut http = PartialHttp::default();
        apply(text, &mut http).unwrap_or_else(|error| panic!("{text}: {error}"));
        http
    }

    fn message(text: &str) -> String {
        apply(text, &mut PartialHttp::default()).unwrap_err()
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
            let http = set(text);
            assert_eq!(http.insecure_tls, Some(true));
            assert_eq!(http.ca_file.as_deref(), Some(Path::new("/ca.pem")));
            let files = [&http.client_cert, &http.client_key, &http.netrc_file].map(|file| file.as_deref().unwrap());
            assert_eq!(files, ["/c.pem", "/k.pem", "/netrc"].map(Path::new));
            assert_eq!(http.min_speed, Some(ByteSize(5 << 10)));
            assert_eq!(http.headers, Some(vec![("X-A".to_owned(), Secret("b".to_owned()))]));
            assert_eq!((http.user, http.password), (Some(Secret("u".to_owned())), Some(Secret("p:q".to_owned()))));
            assert_eq!(http.user_agent.as_deref(), Some("a b"));
            assert_eq!(http.proxy, Some(Secret("http://v:w@px:1".to_owned())));
            assert_eq!(http.no_proxy, Some([".a.b", "10.0.0.0/8"].map(|host| host.parse().unwrap()).into()));
            assert_eq!(http.connect_timeout, Some(Duration::from_millis(2500)));
            assert_eq!(http.max_time, Some(Duration::from_secs(60)));
            assert_eq!(http.retries, Some(3));
            assert_eq!(http.limit_rate, Some(ByteSize(200 << 10)));
            assert_eq!(http.stall_timeout, Some(Duration::from_secs(30)));
        }
    }

    #[test]
    fn options_without_effect_set_nothing() {
        let text = "-s --silent -S --show-error -f --fail -L --location -# --progress-bar --no-progress-meter -v --verbose \
                    --retry-connrefused --http1.1 --basic --tlsv1.2 -sSfL#";
        assert_eq!(set(text), PartialHttp::default());
        assert_eq!(set(""), PartialHttp::default());
    }

    #[test]
    fn later_options_win_and_headers_add_up() {
        let http =
            set("-m 1 -m 0 -x a:1 -x '' --connect-timeout 5 --connect-timeout 0 -H A:1 -H 'B: 2' -H 'User-Agent: me'");
        assert_eq!((http.max_time, http.connect_timeout), (Some(Duration::ZERO), None));
        assert_eq!(http.proxy, Some(Secret(String::new())));
        assert_eq!(http.headers.unwrap().len(), 2);
        assert_eq!(http.user_agent.as_deref(), Some("me"));
        assert_eq!(set("--noproxy '*'").no_proxy, Some(vec!["*".parse().unwrap()]));
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
}
