//! Where the store is, as one text: `sqlite:PATH`, `user:password@tcp(host:port)/name?param=value`,
//! `user:password@unix(/path)/name`, `mysql://user:password@host:port/name`. `parameters` reads what follows
//! the `?`.
//!
//! The second and third form are those of go-sql-driver/mysql, which sites of the reference tracker use. No
//! error text and no debug text contains a password; where a broken text may have a part of it in the wrong
//! place, nothing is quoted at all.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;

mod parameters;

/// The port of MariaDB if the text does not name one.
const DEFAULT_PORT: u16 = 3306;
/// Time limit for connecting unless `timeout` sets another.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the store is.
#[derive(Clone, PartialEq, Eq)]
pub enum Dsn {
    /// A file of SQLite.
    Sqlite(PathBuf),
    /// A database of a MariaDB server.
    Mariadb(Box<Login>),
}

/// How to reach a MariaDB server and log in.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub(super) user: String,
    pub(super) password: String,
    pub(super) address: Address,
    pub(super) name: String,
    pub(super) timeout: Duration,
    pub(super) tls: Tls,
    /// Tried in this order.
    pub(super) charsets: Vec<String>,
    pub(super) collation: Option<String>,
    /// Session variables: a name, and a value as SQL has it.
    pub(super) variables: Vec<(String, String)>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// Host without brackets, and port.
    Tcp(String, u16),
    Unix(PathBuf),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tls {
    Off,
    /// If the server supports it; its certificate is not verified.
    Preferred,
    /// Required, but its certificate is not verified.
    SkipVerify,
    On,
}

/// Why a DSN is invalid. Never quotes a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DsnError {
    /// The text as a whole has none of the known forms.
    #[error("{0}")]
    Form(&'static str),
    /// A parameter has an invalid value.
    #[error("parameter {name}: {needs}")]
    Parameter {
        /// Its name.
        name: String,
        /// The values that are allowed.
        needs: &'static str,
    },
}

const FORMS: DsnError = DsnError::Form(
    "must be sqlite:PATH, user:password@tcp(host:port)/name, user:password@unix(/path)/name or \
     mysql://user:password@host:port/name",
);

impl Dsn {
    /// Whether a parameter of this name says how to connect. The values of others may be secrets that were
    /// put there by mistake.
    #[must_use]
    pub fn knows_parameter(name: &str) -> bool {
        parameters::is_known(name)
    }

    /// Returns the DSN with a relative path of a SQLite file taken as one in `folder`.
    #[must_use]
    pub fn resolve(self, folder: &Path) -> Self {
        match self {
            Self::Sqlite(path) => Self::Sqlite(folder.join(path)),
            other @ Self::Mariadb(_) => other,
        }
    }
}

impl FromStr for Dsn {
    type Err = DsnError;

    fn from_str(text: &str) -> Result<Self, DsnError> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            if path.is_empty() {
                return Err(DsnError::Form("sqlite: needs the path of a file"));
            }
            return Ok(Self::Sqlite(PathBuf::from(path)));
        }
        let login = match text.strip_prefix("mysql://") {
            Some(rest) => from_url(rest)?,
            None => from_driver_text(text)?,
        };
        Ok(Self::Mariadb(Box::new(login)))
    }
}

/// Parses `user:password@tcp(host:port)/name?parameters` as the driver does: the last `/` begins the name,
/// the last `@` ends the password, the first `:` ends the user.
fn from_driver_text(text: &str) -> Result<Login, DsnError> {
    let (place, rest) = text.rsplit_once('/').ok_or(FORMS)?;
    let (who, network) = place.rsplit_once('@').unwrap_or(("", place));
    let (user, password) = who.split_once(':').unwrap_or((who, ""));
    let (protocol, address) = match network.split_once('(') {
        Some((protocol, address)) => (protocol, address.strip_suffix(')').ok_or(FORMS)?),
        None => (network, ""),
    };
    let address = match (protocol, address) {
        ("tcp" | "", "") => Address::Tcp("127.0.0.1".to_owned(), DEFAULT_PORT),
        ("tcp", address) => parse_tcp(address)?,
        ("unix", "") => return Err(DsnError::Form("unix() needs the path of a socket")),
        ("unix", path) => Address::Unix(PathBuf::from(path)),
        _ => return Err(FORMS),
    };
    let (name, query) = rest.split_once('?').unwrap_or((rest, ""));
    build_login(user.to_owned(), password.to_owned(), address, name, query)
}

/// Parses what follows `mysql://`.
fn from_url(text: &str) -> Result<Login, DsnError> {
    let (authority, rest) =
        text.split_once('/').ok_or(DsnError::Form("mysql://host needs the name of a database: /name"))?;
    let (name, query) = rest.split_once('?').unwrap_or((rest, ""));
    if name.contains(['@', '/']) || authority.contains(['?', '#']) {
        return Err(DsnError::Form(
            "in a mysql:// URL, / ? # @ in user or password are written %2F %3F %23 %40",
        ));
    }
    let (who, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = who.split_once(':').unwrap_or((who, ""));
    build_login(decode_percent(user)?, decode_percent(password)?, parse_tcp(host)?, name, query)
}

fn decode_percent(text: &str) -> Result<String, DsnError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| DsnError::Form("what %XX stand for is not UTF-8"))
}

/// Parses `host`, `host:port`, `[v6]` or `[v6]:port`.
fn parse_tcp(address: &str) -> Result<Address, DsnError> {
    let (host, port) = match address.strip_prefix('[') {
        Some(bracketed) => {
            let (host, port) =
                bracketed.split_once(']').ok_or(DsnError::Form("the host has no closing ]"))?;
            (host, port.strip_prefix(':').or((!port.is_empty()).then_some("")))
        }
        None => match address.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(DsnError::Form("an IPv6 address is written in brackets: [::1]:3306"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().ok().filter(|&port| port != 0),
        None => Some(DEFAULT_PORT),
    };
    let port = port.ok_or(DsnError::Form("the port must be a number from 1 to 65535"))?;
    if host.is_empty() {
        return Err(DsnError::Form("the host is missing"));
    }
    Ok(Address::Tcp(host.to_owned(), port))
}

fn build_login(
    user: String,
    password: String,
    address: Address,
    name: &str,
    query: &str,
) -> Result<Login, DsnError> {
    let name = decode_percent(name)?;
    if name.is_empty() {
        return Err(DsnError::Form("the name of the database is missing: ../name"));
    }
    let mut login = Login {
        user,
        password,
        address,
        name,
        timeout: DEFAULT_TIMEOUT,
        tls: Tls::Off,
        charsets: Vec::new(),
        collation: None,
        variables: Vec::new(),
    };
    parameters::apply_query(query, &mut login)?;
    Ok(login)
}

/// The DSN for logs, without the password.
impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Mariadb(login) => login.fmt(f),
        }
    }
}

/// The login for logs, without the password.
impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = if self.password.is_empty() { "" } else { ":***" };
        write!(f, "{}{secret}@", self.user)?;
        match &self.address {
            Address::Tcp(host, port) if host.contains(':') => write!(f, "tcp([{host}]:{port})")?,
            Address::Tcp(host, port) => write!(f, "tcp({host}:{port})")?,
            Address::Unix(path) => write!(f, "unix({})", path.display())?,
        }
        write!(f, "/{}", self.name)
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login_of(text: &str) -> Login {
        match text.parse() {
            Ok(Dsn::Mariadb(login)) => *login,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_sqlite_file_is_looked_for_in_the_folder() {
        let dsn: Dsn = "sqlite:hayate.db".parse().unwrap();
        assert_eq!(dsn.clone().resolve(Path::new("/state")), Dsn::Sqlite("/state/hayate.db".into()));
        assert_eq!(dsn.to_string(), "sqlite:hayate.db");
        let absolute: Dsn = "sqlite:/elsewhere/h.db".parse().unwrap();
        assert_eq!(absolute.resolve(Path::new("/state")), Dsn::Sqlite("/elsewhere/h.db".into()));
        assert!("sqlite:".parse::<Dsn>().is_err());
    }

    #[test]
    fn user_password_and_place_are_distinguished() {
        let unix = |path: &str| Address::Unix(path.into());
        let tcp = |host: &str, port| Address::Tcp(host.to_owned(), port);
        for (text, user, password, address, name) in [
            ("u:p@tcp(db.example:3307)/site", "u", "p", tcp("db.example", 3307), "site"),
            ("u:p@ss:w(r/d)@tcp(db.example)/site", "u", "p@ss:w(r/d)", tcp("db.example", 3306), "site"),
            ("u@tcp([2001:db8::1]:13)/s%20p", "u", "", tcp("2001:db8::1", 13), "s p"),
            ("u:p@tcp([::1])/site", "u", "p", tcp("::1", 3306), "site"),
            ("u:p@unix(/run/m.sock)/site?tls=false", "u", "p", unix("/run/m.sock"), "site"),
            ("chihaya:@tcp(127.0.0.1:3306)/chihaya", "chihaya", "", tcp("127.0.0.1", 3306), "chihaya"),
            ("/site", "", "", tcp("127.0.0.1", 3306), "site"),
            ("mysql://u:p%40%2F%3A@h/site", "u", "p@/:", tcp("h", 3306), "site"),
            ("mysql://u%3a@[::1]:7/site?timeout=1s", "u:", "", tcp("::1", 7), "site"),
        ] {
            let login = login_of(text);
            let found = (&*login.user, &*login.password, &login.address, &*login.name);
            assert!(found == (user, password, &address, name), "{text}: {login}");
        }
    }

    #[test]
    fn broken_texts_are_refused_without_a_part_of_the_password() {
        for text in [
            "",
            "u:geheim",
            "u:geheim@tcp(h:1)",
            "u:geheim@tcp(h:1/site",
            "u:geheim@tcp(h:65536)/site",
            "u:geheim@tcp(h:0)/site",
            "u:geheim@tcp(::1)/site",
            "u:geheim@tcp([::1]1)/site",
            "u:geheim@tcp(:3306)/site",
            "u:geheim@tcp(h:1)/",
            "u:geheim@unix()/site",
            "u:geheim@pipe(x)/site",
            "u:geheim/site",
            "u:x/geheim",
            "u:x/y?geheim=geheim",
            "mysql://u:geheim@h",
            "mysql://u:x/geheim@h/site",
            "mysql://u:geheim?@h/site",
            "mysql://u:geheim%ff@h/site",
            "mysql://u:geheim@h:x/site",
            "postgres://u:geheim@h/site",
        ] {
            let error = text.parse::<Dsn>().expect_err(text);
            for shown in [error.to_string(), format!("{error:?}")] {
                assert!(!shown.contains("geheim"), "{text}: {shown}");
            }
        }
    }

    #[test]
    fn logs_show_no_password() {
        for text in ["u:geheim@tcp([::1]:7)/site", "mysql://u:geheim@[::1]:7/site"] {
            let dsn: Dsn = text.parse().unwrap();
            assert_eq!(dsn.to_string(), "u:***@tcp([::1]:7)/site");
            assert_eq!(format!("{dsn:?}"), "u:***@tcp([::1]:7)/site");
        }
    }
}
