//! The tracker that is loaded.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use ureq::http::Uri;

use super::LoadError;
use crate::client::TrackerUrl;

/// The placeholder for a passkey in the path of a URL.
pub const PASSKEY: &str = "{passkey}";

/// First port that a peer announces.
pub const FIRST_PORT: u16 = 1024;
/// Number of ports that the peers of one source address can announce.
pub const PORTS: u64 = 65_536 - FIRST_PORT as u64;

/// The protocol of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// BEP 15.
    Udp,
    /// BEP 3, without TLS.
    Http,
}

/// A tracker whose address is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The protocol.
    pub protocol: Protocol,
    /// Its first address.
    pub address: SocketAddr,
    /// Its first address of the other family, if it has one.
    pub other: Option<SocketAddr>,
    /// Host and port as the URL names them.
    pub authority: String,
    /// Path and query; may be empty.
    pub path: String,
}

impl Target {
    /// Reads a URL and looks up its host. `localhost` has both loopback addresses (RFC 6761, 6.3), also where
    /// the system knows only one of them.
    ///
    /// # Errors
    /// Fails with [`LoadError::Usage`] for any URL but those of trackers without TLS, with
    /// [`LoadError::Lookup`] if the host has no address.
    pub fn resolve(url: &str) -> Result<Self, LoadError> {
        let parsed = url.parse().map_err(|error| LoadError::Usage(format!("{error}")))?;
        let (protocol, host, port, path) = match parsed {
            TrackerUrl::Udp { host, port, path } => (Protocol::Udp, host, port, path),
            TrackerUrl::Http(url) => read_http(&url).ok_or_else(|| {
                LoadError::Usage(format!(
                    "{url:?}: expected udp://HOST:PORT[/PATH] or http://HOST[:PORT]/PATH"
                ))
            })?,
        };
        let lookup = |reason: String| LoadError::Lookup { host: host.clone(), reason };
        let mut addresses: Vec<_> =
            (host.as_str(), port).to_socket_addrs().map_err(|error| lookup(error.to_string()))?.collect();
        if host.eq_ignore_ascii_case("localhost") {
            let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            addresses.extend(loopback.map(|address| SocketAddr::new(address, port)));
        }
        let address = addresses.first().copied().ok_or_else(|| lookup("no address".into()))?;
        let other = addresses.into_iter().find(|other| other.is_ipv6() != address.is_ipv6());
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok(Self { protocol, address, other, authority, path })
    }

    /// Returns the path of scrapes over HTTP: the last `/announce` becomes `/scrape` (BEP 48).
    #[must_use]
    pub fn scrape_path(&self) -> Option<String> {
        let (before, after) = self.path.rsplit_once("/announce")?;
        Some(format!("{before}/scrape{after}"))
    }

    /// Returns path and query that announces over UDP carry (BEP 41), unless they are the usual ones.
    #[must_use]
    pub fn url_data(&self) -> Option<&str> {
        Some(self.path.as_str()).filter(|path| !matches!(*path, "" | "/" | "/announce"))
    }
}

fn read_http(url: &str) -> Option<(Protocol, String, u16, String)> {
    let uri: Uri = url.parse().ok().filter(|uri: &Uri| uri.scheme_str() == Some("http"))?;
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    Some((Protocol::Http, host, uri.port_u16().unwrap_or(80), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::resolve(url).unwrap()
    }

    #[test]
    fn urls_of_both_protocols_are_read() {
        let udp = target("udp://127.0.0.1:7/a?b=c");
        assert_eq!((udp.protocol, udp.url_data()), (Protocol::Udp, Some("/a?b=c")));
        assert_eq!(udp.address.to_string(), "127.0.0.1:7");
        let http = target("http://[::1]/{passkey}/announce?a=b");
        assert_eq!((http.protocol, http.authority.as_str()), (Protocol::Http, "[::1]:80"));
        assert_eq!(http.path, "/{passkey}/announce?a=b");
        assert_eq!(http.scrape_path().unwrap(), "/{passkey}/scrape?a=b");
    }

    #[test]
    fn localhost_has_addresses_of_both_families() {
        let both = target("udp://localhost:7");
        let mut addresses = [both.address.to_string(), both.other.unwrap().to_string()];
        addresses.sort();
        assert_eq!(addresses, ["127.0.0.1:7", "[::1]:7"]);
        assert_eq!(target("udp://127.0.0.1:7").other, None);
    }

    #[test]
    fn a_usual_path_is_no_url_data() {
        for path in ["", "/", "/announce"] {
            assert_eq!(target(&format!("udp://127.0.0.1:7{path}")).url_data(), None);
        }
    }

    #[test]
    fn other_urls_are_bad_usage() {
        for url in ["ftp://x", "https://127.0.0.1/announce", "udp://127.0.0.1", "http://"] {
            assert!(matches!(Target::resolve(url), Err(LoadError::Usage(text)) if text.contains("expected")));
        }
    }
}
