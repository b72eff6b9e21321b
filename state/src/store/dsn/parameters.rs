//! The parameters of a MariaDB DSN, by the names that go-sql-driver/mysql gives them.

use std::time::Duration;

use super::{DsnError, Login, Tls, decode_percent};

/// Parameters that the driver knows and that have no effect here.
const WITHOUT_EFFECT: [&str; 20] = [
    "allowAllFiles",
    "allowCleartextPasswords",
    "allowFallbackToPlaintext",
    "allowNativePasswords",
    "allowOldPasswords",
    "checkConnLiveness",
    "clientFoundRows",
    "columnsWithAlias",
    "compress",
    "connectionAttributes",
    "interpolateParams",
    "loc",
    "maxAllowedPacket",
    "multiStatements",
    "parseTime",
    "readTimeout",
    "rejectReadOnly",
    "serverPubKey",
    "timeTruncate",
    "writeTimeout",
];

/// Parameters that have an effect here.
const WITH_EFFECT: [&str; 4] = ["charset", "collation", "timeout", "tls"];

const NANOSECONDS: [(&str, f64); 7] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// Whether a parameter has this name. All others are session variables, whatever their value.
pub(super) fn is_known(name: &str) -> bool {
    WITH_EFFECT.contains(&name) || WITHOUT_EFFECT.contains(&name)
}

/// Applies the part behind the `?` to `login`.
pub(super) fn apply_query(query: &str, login: &mut Login) -> Result<(), DsnError> {
    query.split('&').filter(|part| !part.is_empty()).try_for_each(|part| apply_parameter(part, login))
}

fn apply_parameter(part: &str, login: &mut Login) -> Result<(), DsnError> {
    let (name, value) = part.split_once('=').unwrap_or((part, ""));
    let refuse = |needs| DsnError::Parameter { name: name.to_owned(), needs };
    if !is_word(name) {
        return Err(DsnError::Form("the name of a parameter must be of letters, digits and _"));
    }
    let value = decode_percent(value)?;
    match name {
        "timeout" => {
            let timeout =
                parse_duration(&value).ok_or_else(|| refuse("must be a duration such as 5s or 300ms"))?;
            // For the driver, 0 means the system's own limit, which is minutes.
            login.timeout = if timeout.is_zero() { login.timeout } else { timeout };
        }
        "tls" => {
            login.tls = match value.as_str() {
                "false" => Tls::Off,
                "preferred" => Tls::Preferred,
                "skip-verify" => Tls::SkipVerify,
                "true" => Tls::On,
                _ => return Err(refuse("must be true, skip-verify, preferred or false")),
            }
        }
        "charset" => {
            if !value.split(',').all(is_word) {
                return Err(refuse("must be names of character sets with commas in between"));
            }
            login.charsets = value.split(',').map(str::to_owned).collect();
        }
        "collation" => {
            if !is_word(&value) {
                return Err(refuse("must be the name of a collation"));
            }
            login.collation = Some(value);
        }
        _ if WITHOUT_EFFECT.contains(&name) => {}
        _ => {
            if !is_literal(&value) {
                return Err(refuse("a session variable must be a number, a word or a 'quoted text'"));
            }
            login.variables.push((name.to_owned(), value));
        }
    }
    Ok(())
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'_')
}

/// Whether the value is one whose end can be seen without knowledge of SQL.
fn is_literal(text: &str) -> bool {
    let quoted = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    let number = text.strip_prefix('-').unwrap_or(text);
    is_word(text)
        || quoted.is_some_and(|inner| !inner.contains(['\'', '\\']))
        || !number.is_empty() && number.bytes().all(|octet| octet.is_ascii_digit() || octet == b'.')
}

/// A duration as Go writes it: `1m30s`, `1.5s`, `0`.
fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    if text.is_empty() {
        return None;
    }
    let (mut rest, mut nanoseconds) = (text, 0.0);
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| c != '.' && !c.is_ascii_digit())?);
        let (unit, tail) =
            tail.split_at(tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len()));
        let (_, factor) = NANOSECONDS.iter().find(|(name, _)| *name == unit)?;
        nanoseconds += number.parse::<f64>().ok()? * factor;
        rest = tail;
    }
    Duration::try_from_secs_f64(nanoseconds / 1e9).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::dsn::Dsn;

    fn read_all(query: &str) -> Result<Login, String> {
        match format!("u:geheim@tcp(h)/site?{query}").parse() {
            Ok(Dsn::Mariadb(login)) => Ok(*login),
            Ok(Dsn::Sqlite(_)) => Err("sqlite".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn durations_are_those_of_go() {
        for (text, milliseconds) in [
            ("5s", Some(5000)),
            ("300ms", Some(300)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("0", Some(0)),
            ("5", None),
            ("s", None),
            ("1.2.3s", None),
            ("-1s", None),
            ("5 s", None),
            ("", None),
        ] {
            assert_eq!(parse_duration(text), milliseconds.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn known_parameters_are_taken_and_others_are_session_variables() {
        let text = "timeout=7s&tls=skip-verify&charset=utf8mb4,utf8&collation=utf8mb4_bin&parseTime=true\
                    &loc=Europe%2FBerlin&maxAllowedPacket=0&time_zone=%27%2B00:00%27&lock_wait_timeout=11";
        let login = read_all(text).unwrap();
        assert_eq!((login.timeout, login.tls), (Duration::from_secs(7), Tls::SkipVerify));
        assert_eq!(login.charsets, ["utf8mb4", "utf8"]);
        assert_eq!(login.collation.as_deref(), Some("utf8mb4_bin"));
        let variables = [("time_zone", "'+00:00'"), ("lock_wait_timeout", "11")];
        assert_eq!(login.variables, variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(read_all("").unwrap().timeout, Duration::from_secs(10));
    }

    #[test]
    fn bad_values_are_named_by_their_parameter() {
        for (query, says) in [
            ("timeout=5", "parameter timeout: must be a duration"),
            ("tls=custom", "parameter tls: must be true, skip-verify"),
            ("charset=utf8%3b", "parameter charset: "),
            ("collation=", "parameter collation: "),
            ("sql_mode='a'%2bsleep(1)", "parameter sql_mode: a session variable"),
            ("x=1%3bDROP", "parameter x: "),
            ("a-b=1", "the name of a parameter"),
        ] {
            let error = read_all(query).expect_err(query);
            assert!(error.starts_with(says), "{query}: {error}");
        }
    }
}
