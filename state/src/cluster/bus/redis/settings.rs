//! [`RedisSettings`]: where the server is, and how to log in. Nothing here shows a password as text.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;

/// The port of a url that names none.
const DEFAULT_PORT: u16 = 6379;

/// The host and port of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// A name or an address, an IPv6 one without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl ServerAddress {
    /// Reads `host`, `host:port` or `[v6]:port`; a bare IPv6 address has no port.
    fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']')?;
                (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
            }
            None => match text.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') => (host, Some(port)),
                _ => (text, None),
            },
        };
        let is_host = |octet: u8| octet.is_ascii_alphanumeric() || b".-_:%".contains(&octet);
        let port = port.map_or(Some(default_port), |port| port.parse().ok())?;
        (port != 0 && !host.is_empty() && host.bytes().all(is_host))
            .then(|| Self { host: host.to_owned(), port })
    }

    /// Reads the address of a redirection: an IPv6 one has no brackets, and no host is the `same` one.
    pub(super) fn of_redirection(text: &str, same: Option<&str>) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = if host.is_empty() { same? } else { host };
        let port = port.parse().ok().filter(|port| *port != 0)?;
        // A question mark stands for a name that the server does not know.
        (host != "?").then(|| Self { host: host.to_owned(), port })
    }
}

impl FromStr for ServerAddress {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<Self, RedisUrlError> {
        Self::parse(text, DEFAULT_PORT).ok_or(RedisUrlError::Host)
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ServerPlace {
    Tcp { address: ServerAddress, tls: bool },
    Unix(PathBuf),
}

impl ServerPlace {
    pub(super) fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp { address, .. } => Some(&address.host),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for ServerPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, .. } => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// A url of a server: `redis://`, `rediss://` (TLS) or `unix://`, a login with `%` escapes, and a database:
/// `redis://user:password@host:port/0`, `unix://user:password@/path/to/socket?db=0`. It is shown with `***`
/// for the password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    pub(super) place: ServerPlace,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) database: u32,
}

impl FromStr for RedisUrl {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<Self, RedisUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(RedisUrlError::Scheme)?;
        let is_unix = match scheme {
            "redis" | "rediss" => false,
            "unix" => true,
            _ => return Err(RedisUrlError::Scheme),
        };
        // The login ends before the path: a socket's path may have an @.
        let path_at = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(path_at);
        let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (user, password) = (unescape(user)?, unescape(password)?);
        if password.is_empty() && !user.is_empty() {
            return Err(RedisUrlError::Login);
        }
        let (path, database) = if is_unix {
            path.split_once('?').map_or((path, Ok("0")), |(path, query)| {
                (path, query.strip_prefix("db=").ok_or(RedisUrlError::Database))
            })
        } else {
            (path, Ok(path.strip_prefix('/').filter(|path| !path.is_empty()).unwrap_or("0")))
        };
        let database = database?.parse().map_err(|_| RedisUrlError::Database)?;
        let place = if is_unix {
            if !host.is_empty() || path.len() < 2 {
                return Err(RedisUrlError::Socket);
            }
            ServerPlace::Unix(unescape(path)?.into())
        } else {
            let address = ServerAddress::parse(host, DEFAULT_PORT).ok_or(RedisUrlError::Host)?;
            ServerPlace::Tcp { address, tls: scheme == "rediss" }
        };
        Ok(Self { place, user, password, database })
    }
}

fn unescape(text: &str) -> Result<String, RedisUrlError> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| RedisUrlError::Login)?;
    Ok(decoded.into_owned())
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.place {
            ServerPlace::Tcp { tls: false, .. } => "redis",
            ServerPlace::Tcp { tls: true, .. } => "rediss",
            ServerPlace::Unix(_) => "unix",
        };
        write!(f, "{scheme}://")?;
        if !self.password.is_empty() {
            write!(f, "{}:***@", self.user)?;
        }
        match &self.place {
            ServerPlace::Tcp { .. } => write!(f, "{}/{}", self.place, self.database),
            ServerPlace::Unix(_) => write!(f, "{}?db={}", self.place, self.database),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What is wrong with a url or an address. The texts have nothing of it: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisUrlError {
    /// It begins with something else.
    #[error("expected redis://, rediss:// or unix://")]
    Scheme,
    /// The host, or its port, is missing or impossible.
    #[error("expected a host and a port, such as redis.example:6379")]
    Host,
    /// The path of the socket is missing.
    #[error("expected the absolute path of a socket, such as unix:///run/redis.sock")]
    Socket,
    /// The login has a user without a password, or escapes that are not UTF-8.
    #[error("expected a login such as user:password, with %40 for an @")]
    Login,
    /// The database is no number.
    #[error("expected the number of a database")]
    Database,
}

/// What a [`RedisBus`](super::RedisBus) is told once.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// The server; the first of a Cluster, or the first Sentinel.
    pub url: RedisUrl,
    /// More servers of the Cluster, or more Sentinels.
    pub seeds: Vec<ServerAddress>,
    /// The name by which the Sentinels know the master; `None` where there are no Sentinels.
    pub sentinel_master: Option<String>,
    /// Certificates as PEM, instead of the system's, that the server's certificate is checked with.
    pub ca_pem: Option<Vec<u8>>,
    /// The longest time until a connection is made, without the look-up of its name.
    pub connect_timeout: Duration,
    /// The longest silence of the server. An answer as a whole may take ten times as long.
    pub read_timeout: Duration,
    /// The longest time in which the server accepts nothing.
    pub write_timeout: Duration,
    /// How the server lists the connection: printable, without spaces.
    pub client_name: String,
}

impl RedisSettings {
    /// Returns settings of one server, with timeouts of 15 seconds.
    #[must_use]
    pub fn new(url: RedisUrl, client_name: String) -> Self {
        let timeout = Duration::from_secs(15);
        Self {
            url,
            seeds: Vec::new(),
            sentinel_master: None,
            ca_pem: None,
            connect_timeout: timeout,
            read_timeout: timeout,
            write_timeout: timeout,
            client_name,
        }
    }

    pub(super) fn check(&self) -> Result<(), RedisSettingsError> {
        let is_cluster = !self.seeds.is_empty() && self.sentinel_master.is_none();
        if is_cluster && self.url.database != 0 {
            return Err(RedisSettingsError::ClusterDatabase);
        }
        let is_unix = matches!(self.url.place, ServerPlace::Unix(_));
        if is_unix && (!self.seeds.is_empty() || self.sentinel_master.is_some()) {
            return Err(RedisSettingsError::SocketWithSeeds);
        }
        let timeouts = [self.connect_timeout, self.read_timeout, self.write_timeout];
        if timeouts.contains(&Duration::ZERO) {
            return Err(RedisSettingsError::Timeout);
        }
        Ok(())
    }

    /// Returns the servers to begin with: the url's, and the seeds with the same TLS.
    pub(super) fn places(&self) -> Vec<ServerPlace> {
        let mut places = vec![self.url.place.clone()];
        places.extend(self.seeds.iter().map(|seed| self.place_at(seed.clone())));
        places
    }

    /// Returns the place of another server of the same installation: with TLS if the url's has it.
    pub(super) fn place_at(&self, address: ServerAddress) -> ServerPlace {
        ServerPlace::Tcp { address, tls: matches!(self.url.place, ServerPlace::Tcp { tls: true, .. }) }
    }
}

/// Why no bus can be made of settings.
#[derive(Debug, thiserror::Error)]
pub enum RedisSettingsError {
    /// A Cluster has one database.
    #[error("a Redis Cluster has the database 0 alone")]
    ClusterDatabase,
    /// Other servers cannot be reached by the socket of one.
    #[error("a socket of one server cannot have seeds or Sentinels")]
    SocketWithSeeds,
    /// A timeout is zero.
    #[error("a timeout of zero")]
    Timeout,
    /// The PEM has no certificate, or one that cannot be read.
    #[error("no usable certificate in the PEM of the authority")]
    Certificates,
    /// The library of TLS refuses.
    #[error("cannot use TLS")]
    Tls(#[from] rustls::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> String {
        url.parse::<RedisUrl>().map_or_else(|error| format!("{error:?}"), |url| url.to_string())
    }

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, expected) in [
            ("redis://h", "redis://h:6379/0"),
            ("redis://h/", "redis://h:6379/0"),
            ("redis://ann:s%40cret@h:7/11", "redis://ann:***@h:7/11"),
            ("rediss://:s:e@cret@[::1]:7/1", "rediss://:***@[::1]:7/1"),
            ("unix:///run/a@b.sock", "unix:///run/a@b.sock?db=0"),
            ("unix://ann:secret@/run/r.sock?db=13", "unix://ann:***@/run/r.sock?db=13"),
        ] {
            assert_eq!(shown(url), expected);
            assert_eq!(format!("{:?}", url.parse::<RedisUrl>().unwrap()), expected);
        }
        let url: RedisUrl = "redis://ann:s%40cret@h".parse().unwrap();
        assert_eq!((url.user.as_str(), url.password.as_str()), ("ann", "s@cret"));
        let settings = RedisSettings::new(url, "hayate-a".to_owned());
        assert!(!format!("{settings:?}").contains("cret"));
    }

    #[test]
    fn a_broken_url_is_an_error_without_its_text() {
        for (url, expected) in [
            ("", "Scheme"),
            ("h:6379", "Scheme"),
            ("http://h", "Scheme"),
            ("redis://", "Host"),
            ("redis://h:0", "Host"),
            ("redis://h:65536", "Host"),
            ("redis://h h", "Host"),
            ("redis://[::1", "Host"),
            ("redis://[::1]7", "Host"),
            ("redis://ann@h", "Login"),
            ("redis://ann:%ff@h", "Login"),
            ("redis://h/one", "Database"),
            ("redis://h/-1", "Database"),
            ("unix://", "Socket"),
            ("unix://h/run", "Socket"),
            ("unix:///run?x=1", "Database"),
        ] {
            assert_eq!(shown(url), expected, "{url}");
        }
    }

    #[test]
    fn a_redirection_may_have_no_host() {
        let of = |text, same| ServerAddress::of_redirection(text, same).map(|it| it.to_string());
        assert_eq!(of("10.0.0.1:7", None).as_deref(), Some("10.0.0.1:7"));
        assert_eq!(of("name.example:7", None).as_deref(), Some("name.example:7"));
        assert_eq!(of("2001:db8::1:7", None).as_deref(), Some("[2001:db8::1]:7"));
        assert_eq!(of("[2001:db8::1]:7", None).as_deref(), Some("[2001:db8::1]:7"));
        assert_eq!(of(":7", Some("h")).as_deref(), Some("h:7"));
        for text in [":7", "?:7", "h", "h:", "h:0", "h:65536"] {
            assert_eq!(of(text, None), None, "{text}");
        }
    }
}
