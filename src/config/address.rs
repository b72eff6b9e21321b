//! Addresses to listen on: `:6969`, `192.0.2.7:6969`, `[2001:db8::7]:http-alt`, `localhost:6969`, or nothing.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is allowed, in the words of errors.
const ALLOWED: &str =
    "an address such as \":6969\", \"192.0.2.7:6969\" or \"[2001:db8::7]:6969\", or \"\" for off";
/// Longest address that is read.
const TEXT_MAX: usize = 300;

/// Where a server listens, as the operator wrote it. Names are looked up in [`Listen::resolve`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listen(Option<HostPort>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct HostPort {
    text: String,
    host: Host,
    port: Port,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// Both families, whatever the machine has.
    Any,
    Address(IpAddr),
    Name(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Port {
    Number(u16),
    Service(String),
}

/// How the ports of a server are spelled in `/etc/services`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// Why a name in an address could not be looked up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddressError {
    #[error(
        "{text:?}: there is no service {service:?} for {transport} in /etc/services; a port from 0 to \
         65535 is allowed"
    )]
    NoService { text: String, service: String, transport: &'static str },
    #[error("{text:?}: host {host:?} cannot be looked up: {source}")]
    NoHost { text: String, host: String, source: std::io::Error },
    #[error("{text:?}: host {host:?} has no address")]
    EmptyHost { text: String, host: String },
}

impl Listen {
    /// Returns the address of a server that does not listen.
    pub(crate) const fn off() -> Self {
        Self(None)
    }

    /// Returns port `port` of every address of the machine.
    pub(crate) fn everywhere(port: u16) -> Self {
        Self(Some(HostPort { text: format!(":{port}"), host: Host::Any, port: Port::Number(port) }))
    }

    /// Returns port `port` of 127.0.0.1.
    pub(crate) fn loopback(port: u16) -> Self {
        let host = Host::Address(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Self(Some(HostPort { text: format!("127.0.0.1:{port}"), host, port: Port::Number(port) }))
    }

    /// Whether nothing is listened on.
    pub(crate) fn is_off(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the addresses to listen on: none, one, or one of each family. `services` is the text of
    /// `/etc/services`.
    ///
    /// # Errors
    /// Fails when a service or host name is unknown.
    pub(crate) fn resolve(
        &self,
        transport: Transport,
        services: &str,
    ) -> Result<Vec<SocketAddr>, AddressError> {
        let Some(HostPort { text, host, port }) = &self.0 else { return Ok(Vec::new()) };
        let port = match port {
            Port::Number(port) => *port,
            Port::Service(service) => {
                service_port(services, service, transport).ok_or_else(|| AddressError::NoService {
                    text: text.clone(),
                    service: service.clone(),
                    transport: transport.name(),
                })?
            }
        };
        Ok(match host {
            Host::Any => vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()],
            Host::Address(address) => vec![(*address, port).into()],
            Host::Name(name) => vec![resolve_host(text, name, port)?],
        })
    }

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(None));
        }
        if text.len() > TEXT_MAX {
            return None;
        }
        let (host, port) = text.rsplit_once(':')?;
        let (host, port) = (parse_host(host)?, parse_port(port)?);
        Some(Self(Some(HostPort { text: text.to_owned(), host, port })))
    }
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

fn parse_host(text: &str) -> Option<Host> {
    if let Some(inner) = text.strip_prefix('[') {
        let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(host_of(IpAddr::V6(address)));
    }
    if text.is_empty() {
        return Some(Host::Any);
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(host_of(IpAddr::V4(address)));
    }
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let numeric = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    (text.chars().all(name) && !numeric).then(|| Host::Name(text.to_owned()))
}

fn host_of(address: IpAddr) -> Host {
    if address.is_unspecified() { Host::Any } else { Host::Address(address) }
}

fn parse_port(text: &str) -> Option<Port> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().map(Port::Number);
    }
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '*' | '/');
    (!text.is_empty() && text.chars().all(name)).then(|| Port::Service(text.to_owned()))
}

/// Returns the port of a service, found by its name or one of its aliases.
fn service_port(services: &str, service: &str, transport: Transport) -> Option<u16> {
    services.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let name = words.next()?;
        let (port, protocol) = words.next()?.split_once('/')?;
        let named = name == service || words.any(|alias| alias == service);
        (named && protocol == transport.name()).then(|| port.parse().ok())?
    })
}

fn resolve_host(text: &str, host: &str, port: u16) -> Result<SocketAddr, AddressError> {
    let (text, host) = (text.to_owned(), host.to_owned());
    match (host.as_str(), port).to_socket_addrs().map(|mut found| found.next()) {
        Ok(Some(address)) => Ok(address),
        Ok(None) => Err(AddressError::EmptyHost { text, host }),
        Err(source) => Err(AddressError::NoHost { text, host, source }),
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_ref().map_or("", |address| &address.text))
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &ALLOWED))
    }
}

impl JsonSchema for Listen {
    fn schema_name() -> Cow<'static, str> {
        "Listen".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": TEXT_MAX, "pattern": r"^$|:[^:]+$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: &str =
        "# services\nhttp 80/tcp www # web\nhttp 8/udp\nbt-tracker 6969/udp tracker\nbroken\n";

    fn resolved(text: &str) -> Vec<String> {
        let listen = Listen::parse(text).unwrap_or_else(|| panic!("{text}"));
        let addresses = listen.resolve(Transport::Udp, SERVICES).unwrap();
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn three_spellings_mean_both_families() {
        for text in [":6969", "0.0.0.0:6969", "[::]:6969", ":bt-tracker", ":tracker"] {
            assert_eq!(resolved(text), ["0.0.0.0:6969", "[::]:6969"], "{text}");
        }
    }

    #[test]
    fn any_other_address_is_one_socket_and_nothing_is_off() {
        assert_eq!(resolved("192.0.2.7:80"), ["192.0.2.7:80"]);
        assert_eq!(resolved("[2001:db8::7]:0"), ["[2001:db8::7]:0"]);
        assert_eq!(resolved("[::1]:http"), ["[::1]:8"]);
        assert!(resolved("").is_empty() && Listen::parse("").unwrap().is_off());
    }

    #[test]
    fn service_names_go_by_transport() {
        let listen = Listen::parse("127.0.0.1:www").unwrap();
        assert_eq!(listen.resolve(Transport::Tcp, SERVICES).unwrap(), ["127.0.0.1:80".parse().unwrap()]);
        let error = listen.resolve(Transport::Udp, SERVICES).unwrap_err().to_string();
        assert!(error.contains("\"127.0.0.1:www\"") && error.contains("udp"), "{error}");
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_is_allowed() {
        for text in [
            "6969",
            ":",
            "x",
            ":65536",
            "::1:80",
            "[::1:80",
            "[192.0.2.7]:80",
            "1.2.3:80",
            "a b:80",
            ":8 0",
            "[::1]80",
        ] {
            let error = serde_json::from_value::<Listen>(text.into()).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("expected an address such as"), "{error}");
        }
        assert!(Listen::parse(&format!("{}:80", "a".repeat(TEXT_MAX))).is_none());
    }

    #[test]
    fn an_address_is_written_as_it_was_read() {
        for text in ["", ":http", "localhost:6969", "[::]:6969"] {
            assert_eq!(serde_json::to_value(Listen::parse(text).unwrap()).unwrap(), text);
        }
        assert_eq!(Listen::everywhere(6969), Listen::parse(":6969").unwrap());
        assert_eq!(Listen::loopback(6880), Listen::parse("127.0.0.1:6880").unwrap());
    }
}
