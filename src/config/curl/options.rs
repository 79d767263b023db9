// SPDX-License-Identifier: BSD-2-Clause
//! The command line syntax of curl(1), and which of its options mean something here.

/// What an option asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    /// What this provider does anyway, or what only changed curl's messages.
    Nothing,
    /// Any server certificate will do.
    Insecure,
    /// Authorities to trust.
    Cacert,
    /// The certificate to show.
    ClientCert,
    /// Its key.
    ClientKey,
    /// A file of users and passwords.
    Netrc,
    /// A request header.
    Header,
    /// Basic authentication.
    User,
    /// The User-Agent header.
    UserAgent,
    /// The proxy.
    Proxy,
    /// Its user and password.
    ProxyUser,
    /// Hosts reached without it.
    NoProxy,
    /// Longest time to reach the server.
    ConnectTimeout,
    /// Longest time for the whole.
    MaxTime,
    /// How often to try again.
    Retry,
    /// Bytes per second at most.
    LimitRate,
    /// Longest time without a byte.
    SpeedTime,
    /// Bytes per second at least.
    SpeedLimit,
}

/// An option as it was given.
pub(super) struct Given {
    /// Its name with the dashes, for messages.
    pub(super) name: String,
    /// What it asks for.
    pub(super) setting: Setting,
    /// Its value; empty for an option that takes none.
    pub(super) value: String,
}

/// Short name, long name, meaning; names as in curl(1).
const OPTIONS: [(Option<char>, &str, Setting); 31] = [
    (Some('s'), "silent", Setting::Nothing),
    (Some('S'), "show-error", Setting::Nothing),
    (Some('f'), "fail", Setting::Nothing),
    (Some('L'), "location", Setting::Nothing),
    (Some('#'), "progress-bar", Setting::Nothing),
    (Some('v'), "verbose", Setting::Nothing),
    (Some('g'), "globoff", Setting::Nothing),
    (None, "no-progress-meter", Setting::Nothing),
    (None, "retry-connrefused", Setting::Nothing),
    (None, "http1.1", Setting::Nothing),
    (None, "basic", Setting::Nothing),
    (None, "proxy-basic", Setting::Nothing),
    // TLS 1.2 or later is all that is spoken here.
    (Some('1'), "tlsv1", Setting::Nothing),
    (None, "tlsv1.2", Setting::Nothing),
    (Some('k'), "insecure", Setting::Insecure),
    (None, "cacert", Setting::Cacert),
    (Some('E'), "cert", Setting::ClientCert),
    (None, "key", Setting::ClientKey),
    (None, "netrc-file", Setting::Netrc),
    (Some('H'), "header", Setting::Header),
    (Some('u'), "user", Setting::User),
    (Some('A'), "user-agent", Setting::UserAgent),
    (Some('x'), "proxy", Setting::Proxy),
    (Some('U'), "proxy-user", Setting::ProxyUser),
    (None, "noproxy", Setting::NoProxy),
    (None, "connect-timeout", Setting::ConnectTimeout),
    (Some('m'), "max-time", Setting::MaxTime),
    (None, "retry", Setting::Retry),
    (None, "limit-rate", Setting::LimitRate),
    (Some('y'), "speed-time", Setting::SpeedTime),
    (Some('Y'), "speed-limit", Setting::SpeedLimit),
];

/// Options that people use and that have another way here, by short and long name.
const ELSEWHERE: [(Option<char>, &str, &str); 15] = [
    (Some('b'), "cookie", "use -H 'Cookie: NAME=VALUE'"),
    (Some('e'), "referer", "use -H 'Referer: URL'"),
    // Ganeti runs the scripts without HOME, so that there is no ~/.netrc.
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

/// The options in `words`, in their order.
///
/// # Errors
/// An option without an equivalent, a missing value, or a word that belongs to no option: named, but without values.
pub(super) fn scan(words: &[String]) -> Result<Vec<Given>, String> {
    let mut found = Vec::new();
    let mut rest = words.iter().enumerate();
    while let Some((index, word)) = rest.next() {
        let mut next = || rest.next().map(|(_, word)| word.clone());
        if let Some(long) = word.strip_prefix("--") {
            found.push(long_option(long, &mut next)?);
        } else if let Some(cluster) = word.strip_prefix('-').filter(|cluster| !cluster.is_empty()) {
            short_options(cluster, &mut next, &mut found)?;
        } else {
            // The word may be a piece of a password, so only its place is named.
            return Err(format!(
                "word {} belongs to no option (a value with blanks needs quotes of its own)",
                index + 1
            ));
        }
    }
    Ok(found)
}

/// `--name`, `--name value`, or `--name=value` as curl has it from 8.16 on.
fn long_option(text: &str, next: &mut dyn FnMut() -> Option<String>) -> Result<Given, String> {
    let (long, attached) = text.split_once('=').map_or((text, None), |(long, value)| (long, Some(value.to_owned())));
    let name = format!("--{long}");
    let Some((_, _, setting)) = OPTIONS.into_iter().find(|(_, known, _)| *known == long) else {
        let advice = ELSEWHERE.iter().find(|(_, known, _)| *known == long).map(|(_, _, advice)| *advice);
        // What does not even look like an option's name may be a value that lost its option.
        let plausible = long.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'));
        return Err(refused(if plausible { &name } else { "(unreadable)" }, advice));
    };
    if !takes_value(setting) {
        return match attached {
            Some(_) => Err(format!("curl option {name}: takes no value")),
            None => Ok(Given { name, setting, value: String::new() }),
        };
    }
    let value = attached.or_else(next).ok_or_else(|| format!("curl option {name}: needs a value"))?;
    Ok(Given { name, setting, value })
}

/// `-ksS`, `-u value`, `-uvalue`, `-ksuvalue`: the first option that takes a value takes the rest of the word.
fn short_options(
    cluster: &str,
    next: &mut dyn FnMut() -> Option<String>,
    found: &mut Vec<Given>,
) -> Result<(), String> {
    for (index, letter) in cluster.char_indices() {
        let name = format!("-{letter}");
        let Some((_, _, setting)) = OPTIONS.into_iter().find(|(known, _, _)| *known == Some(letter)) else {
            let advice = ELSEWHERE.iter().find(|(known, _, _)| *known == Some(letter)).map(|(_, _, advice)| *advice);
            return Err(refused(&name, advice));
        };
        if takes_value(setting) {
            let rest = &cluster[index + letter.len_utf8()..];
            let value = if rest.is_empty() { next() } else { Some(rest.to_owned()) };
            let value = value.ok_or_else(|| format!("curl option {name}: needs a value"))?;
            found.push(Given { name, setting, value });
            return Ok(());
        }
        found.push(Given { name, setting, value: String::new() });
    }
    Ok(())
}

fn takes_value(setting: Setting) -> bool {
    !matches!(setting, Setting::Nothing | Setting::Insecure)
}

fn refused(name: &str, advice: Option<&str>) -> String {
    let advice = advice.unwrap_or("remove it; simpleimage.toml(5) lists those that have one");
    format!("curl option {name} has no equivalent here ({advice})")
}

#[cfg(test)]
mod tests {
    use super::{ELSEWHERE, OPTIONS, scan};

    fn message(words: &[&str]) -> String {
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
        assert_eq!(message(&["--ciphers", "s3cret"]), format!("curl option --ciphers {none}"));
        assert_eq!(message(&["--data=s3cret"]), format!("curl option --data {none}"));
        assert_eq!(message(&["-sTs3cret"]), format!("curl option -T {none}"));
        assert_eq!(message(&["--S3 cret"]), format!("curl option (unreadable) {none}"));
        assert_eq!(message(&["--max-tim", "1"]), format!("curl option --max-tim {none}"));
        assert_eq!(message(&["-b", "s3cret"]), "curl option -b has no equivalent here (use -H 'Cookie: NAME=VALUE')");
        let compressed =
            "curl option --compressed has no equivalent here (remove it: an image is kept as it was published)";
        assert_eq!(message(&["--compressed"]), compressed);
    }

    #[test]
    fn missing_and_superfluous_values() {
        assert_eq!(message(&["--cacert"]), "curl option --cacert: needs a value");
        assert_eq!(message(&["-ku"]), "curl option -u: needs a value");
        assert_eq!(message(&["--insecure=s3cret"]), "curl option --insecure: takes no value");
        for words in [&["-k", "s3cret"], &["-k", "-"], &["-H", "X-A:"]] {
            let words = [words.as_slice(), &["b"]].concat();
            let place = if words[0] == "-H" { 3 } else { 2 };
            let rest = "belongs to no option (a value with blanks needs quotes of its own)";
            assert_eq!(message(&words), format!("word {place} {rest}"));
        }
    }
}
