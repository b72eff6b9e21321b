//! Where Redis is: `cluster.redis.url`, and the further addresses of `cluster.redis.seeds`.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use hayate_state::ids::hex_value;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::values::MASK;

/// The port of Redis if the URL does not name one.
const DEFAULT_PORT: u16 = 6379;
/// Most digits of the number of a database.
const DATABASE_DIGITS_MAX: usize = 9;
/// Parameters of a unix URL that are no secret; the third one, `pass`, is.
const OPEN_PARAMETERS: [&str; 2] = ["db", "user"];

/// The URL of Redis; empty = there is no cluster. It may hold a password, which is never shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct RedisUrl(String);

/// Where a [`RedisUrl`] leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RedisPlace {
    /// A server by its host, without brackets, and its port.
    Tcp { host: String, port: u16, tls: bool },
    /// A unix socket.
    Unix(PathBuf),
}

impl RedisUrl {
    /// Reads the URL as [`Deserialize`] does, but ignores a line break at the end.
    ///
    /// # Errors
    /// Returns what is expected if it is neither empty nor such a URL; the text is not quoted.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim_end_matches(['\r', '\n']);
        if text.contains(MASK) {
            return Err("holds the mask that print-config shows instead of a password");
        }
        if !text.is_empty() {
            parse_place(text)?;
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether there is no cluster.
    pub(crate) fn is_off(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns where it leads; `None` if it is empty.
    pub(crate) fn place(&self) -> Option<RedisPlace> {
        parse_place(&self.0).ok()
    }

    /// Returns the text with its password, for connecting only.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the start of the cluster, which comes next"))]
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

/// Shows the text with masks in place of the password and of the values of unknown parameters.
impl std::fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://") else { return Ok(()) };
        if let Some((path, query)) = rest.split_once('?') {
            let shown = query.split('&').map(|part| match part.split_once('=') {
                Some((name, value)) if !value.is_empty() && !OPEN_PARAMETERS.contains(&name) => {
                    format!("{name}={MASK}")
                }
                _ => part.to_owned(),
            });
            return write!(f, "{scheme}://{path}?{}", shown.collect::<Vec<_>>().join("&"));
        }
        let end = if scheme == "unix" { 0 } else { rest.find('/').unwrap_or(rest.len()) };
        let (authority, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let login = authority.rsplit_once('@').and_then(|(login, at)| Some((login.split_once(':')?, at)));
        match login {
            Some(((user, password), address)) if !password.is_empty() => {
                write!(f, "{scheme}://{user}:{MASK}@{address}{tail}")
            }
            _ => write!(f, "{scheme}://{rest}"),
        }
    }
}

impl std::fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl Serialize for RedisUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RedisUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not as a string directly: the error about another type would quote the value.
        let value = serde_json::Value::deserialize(deserializer)?;
        let text =
            value.as_str().ok_or_else(|| D::Error::custom("expected a string (the value is not shown)"))?;
        Self::parse(text).map_err(D::Error::custom)
    }
}

impl JsonSchema for RedisUrl {
    fn schema_name() -> Cow<'static, str> {
        "RedisUrl".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^((rediss?|unix)://.+)?$" })
    }
}

/// Another server of a Redis Cluster, or another Sentinel: a host, without brackets, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seed {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Serialize for Seed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { host, port } = self;
        match host.contains(':') {
            true => serializer.collect_str(&format_args!("[{host}]:{port}")),
            false => serializer.collect_str(&format_args!("{host}:{port}")),
        }
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parts = split_address(&text).and_then(|(host, port)| Some(Self { host, port: port? }));
        // The text is not quoted: somebody may have put a password into it.
        parts.ok_or_else(|| {
            D::Error::custom(
                "expected host:port such as \"192.0.2.7:6379\"; user and password are in the url",
            )
        })
    }
}

impl JsonSchema for Seed {
    fn schema_name() -> Cow<'static, str> {
        "Seed".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": r"^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$" })
    }
}

fn parse_place(url: &str) -> Result<RedisPlace, &'static str> {
    match url.split_once("://") {
        Some(("redis", rest)) => parse_tcp(rest, false),
        Some(("rediss", rest)) => parse_tcp(rest, true),
        Some(("unix", rest)) => parse_unix(rest),
        _ => Err("expected redis://, rediss:// or unix:// (the value is not shown)"),
    }
}

/// Reads `[user]:password@host:port/db` behind the scheme. What might be read in two ways is refused, and so
/// is a fragment, which could turn off the check of certificates.
fn parse_tcp(rest: &str, tls: bool) -> Result<RedisPlace, &'static str> {
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, address) =
        authority.rsplit_once('@').map_or((None, authority), |(login, address)| (Some(login), address));
    if address.is_empty() {
        return Err(match tls {
            true => "rediss:// needs a host: there is no TLS over a unix socket, which is unix:///path",
            false => "expected a host; a unix socket is unix:///path",
        });
    }
    if rest.contains(['?', '#']) {
        return Err("nothing may follow the number of the database; ? and # in a password are %3F and %23");
    }
    if let Some(login) = login {
        let (user, password) =
            login.split_once(':').ok_or("expected user:password@ or :password@ before the host")?;
        if !is_encoded_text(user) || !is_encoded_text(password) {
            return Err("user and password must be UTF-8; a % in them is %25");
        }
    }
    if database.len() > DATABASE_DIGITS_MAX || !database.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err("expected the number of a database behind the host; a / in a password is %2F");
    }
    let (host, port) = split_address(address).ok_or("expected a host, or a host and a port")?;
    Ok(RedisPlace::Tcp { host, port: port.unwrap_or(DEFAULT_PORT), tls })
}

/// Reads `/path?db=1&user=name&pass=password` behind the scheme.
fn parse_unix(rest: &str) -> Result<RedisPlace, &'static str> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !path.starts_with('/') || path.contains('#') {
        return Err("expected unix:///path, with the login behind it: ?user=name&pass=password&db=0");
    }
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let accepted = match name {
            "db" => {
                (1..=DATABASE_DIGITS_MAX).contains(&value.len())
                    && value.bytes().all(|octet| octet.is_ascii_digit())
            }
            "user" | "pass" => is_encoded_text(value) && !value.contains('#'),
            _ => false,
        };
        if !accepted {
            return Err("expected db, user or pass behind the path, each %-encoded");
        }
    }
    Ok(RedisPlace::Unix(path.into()))
}

/// Splits `host`, `host:port` or `[2001:db8::7]:port`; `None` if it is none of them, or the address of no
/// server.
fn split_address(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').filter(|(host, _)| host.parse::<Ipv6Addr>().is_ok())?,
        None => text.split_at_checked(text.find(':').unwrap_or(text.len())).filter(|(host, _)| {
            !host.is_empty()
                && host.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._".contains(&octet))
        })?,
    };
    if host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()) {
        return None;
    }
    if port.is_empty() {
        return Some((host.to_owned(), None));
    }
    let digits = port.strip_prefix(':').filter(|port| port.bytes().all(|octet| octet.is_ascii_digit()))?;
    Some((host.to_owned(), Some(digits.parse().ok().filter(|port| *port > 0)?)))
}

/// Whether every `%` begins an octet, `%40`, and the decoded octets are UTF-8.
fn is_encoded_text(text: &str) -> bool {
    let mut decoded = Vec::with_capacity(text.len());
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        if octet != b'%' {
            decoded.push(octet);
            continue;
        }
        let mut digit = || octets.next().and_then(hex_value);
        let (Some(high), Some(low)) = (digit(), digit()) else { return false };
        decoded.push(high << 4 | low);
    }
    str::from_utf8(&decoded).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, tls: bool) -> RedisPlace {
        RedisPlace::Tcp { host: host.into(), port, tls }
    }

    #[test]
    fn a_url_says_where_redis_is_and_its_password_is_not_shown() {
        for (url, place, shown) in [
            ("redis://127.0.0.1", tcp("127.0.0.1", 6379, false), "redis://127.0.0.1"),
            ("redis://h:7/", tcp("h", 7, false), "redis://h:7/"),
            ("rediss://h.example:7/11", tcp("h.example", 7, true), "rediss://h.example:7/11"),
            ("redis://:s3cret@[2001:db8::7]:13/2", tcp("2001:db8::7", 13, false), ""),
            ("rediss://u:s3%40cret@h", tcp("h", 6379, true), "rediss://u:********@h"),
            ("redis://u:s3:cr@cret@h/3", tcp("h", 6379, false), "redis://u:********@h/3"),
            ("redis://u:@h", tcp("h", 6379, false), "redis://u:@h"),
            ("unix:///run/r@b:c.sock", RedisPlace::Unix("/run/r@b:c.sock".into()), "unix:///run/r@b:c.sock"),
            (
                "unix:///r.sock?db=7&user=u&pass=s3cret",
                RedisPlace::Unix("/r.sock".into()),
                "unix:///r.sock?db=7&user=u&pass=********",
            ),
        ] {
            let read = RedisUrl::parse(&format!("{url}\r\n")).unwrap();
            let shown = if shown.is_empty() { "redis://:********@[2001:db8::7]:13/2" } else { shown };
            assert_eq!((read.place(), read.reveal()), (Some(place), url));
            assert_eq!((read.to_string(), format!("{read:?}")), (shown.to_owned(), shown.to_owned()));
            assert!(!serde_json::to_string(&read).unwrap().contains("cret"));
        }
        let off = RedisUrl::parse("").unwrap();
        assert!(off.is_off() && off.place().is_none() && off == RedisUrl::default());
        assert_eq!(off.to_string(), "");
    }

    #[test]
    fn a_url_that_is_none_is_refused_without_being_quoted() {
        for (url, expected) in [
            ("s3cret", "expected redis://, rediss:// or unix://"),
            ("http://s3cret@h", "expected redis://, rediss:// or unix://"),
            ("rediss+unix:///s3cret", "expected redis://, rediss:// or unix://"),
            ("REDIS://s3cret", "expected redis://, rediss:// or unix://"),
            ("rediss:///run/s3cret.sock", "no TLS over a unix socket"),
            ("redis:///run/s3cret.sock", "a unix socket is unix:///path"),
            ("redis://s3cret@h", "expected user:password@ or :password@"),
            ("redis://u:s3cret%@h", "a % in them is %25"),
            ("redis://u:s3cret%ff@h", "must be UTF-8"),
            ("redis://u:s3/cret@h", "a / in a password is %2F"),
            ("redis://h/s3cret", "expected the number of a database"),
            ("redis://h/1234567890", "expected the number of a database"),
            ("rediss://u:s3cret@h#insecure", "nothing may follow"),
            ("redis://u:s3cret@h/0?protocol=resp3", "nothing may follow"),
            ("redis://u:s3cret@h:0", "expected a host, or a host and a port"),
            ("redis://u:s3cret@h:+7", "expected a host, or a host and a port"),
            ("redis://u:s3cret@[h]:7", "expected a host, or a host and a port"),
            ("redis://u:s3cret@0.0.0.0", "expected a host, or a host and a port"),
            ("unix://s3cret.sock", "expected unix:///path"),
            ("unix:///r.sock#s3cret", "expected unix:///path"),
            ("unix:///r.sock?password=s3cret", "expected db, user or pass"),
            ("unix:///r.sock?db=s3cret", "expected db, user or pass"),
            ("redis://u:********@h", "mask"),
        ] {
            let error = RedisUrl::parse(url).unwrap_err();
            assert!(error.contains(expected) && !error.contains("cret"), "{url}: {error}");
        }
        let number = serde_json::from_str::<RedisUrl>("7337").unwrap_err().to_string();
        assert!(number.contains("expected a string") && !number.contains("7337"), "{number}");
    }

    #[test]
    fn a_seed_is_a_host_and_a_port() {
        for (text, host) in
            [("h-1.example:7", "h-1.example"), ("192.0.2.7:7", "192.0.2.7"), ("[::1]:7", "::1")]
        {
            let seed: Seed = serde_json::from_value(text.into()).unwrap();
            assert_eq!((seed.host.as_str(), seed.port), (host, 7));
            assert_eq!(serde_json::to_value(&seed).unwrap(), text);
        }
        for wrong in ["", "h", "h:", ":7", "h:70000", "::1:7", "u:s3cret@h:7", "redis://h:7", "h 1:7"] {
            let error = serde_json::from_value::<Seed>(wrong.into()).unwrap_err().to_string();
            assert!(error.starts_with("expected host:port") && !error.contains("s3cret"), "{wrong}: {error}");
        }
    }
}
