//! The client's address: that of the socket's peer, unless a trusted proxy names another one
//! (`rules/http.md#client-address`), or the client may claim an address of its own (BEP 7).
//!
//! A header that cannot be read is a failure: the proxy's own address never becomes a peer
//! (`rules/http.md#unreadable-header`).

use std::net::{IpAddr, SocketAddr};

use hayate_state::address::AddressClass;
use ipnet::IpNet;

use crate::config::HttpConfig;
use crate::engine::bad_request::BadRequest;
use crate::wire::query::{BadEscape, Escaped, Parameters};

/// Octets of the longest claimed address that is read.
const CLAIM_MAX: usize = 64;
/// Headers in which proxies usually name their client.
const USUAL_HEADERS: [&str; 3] = ["X-Forwarded-For", "X-Real-IP", FORWARDED];
/// The header of RFC 7239, which is never read.
pub(crate) const FORWARDED: &str = "Forwarded";

/// The other end of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A TCP peer.
    Address(IpAddr),
    /// The peer of a unix socket, which counts as a trusted proxy (`rules/http.md#unix-socket`).
    Unix,
}

impl Source {
    /// Whether `address` is another one than the connection came from.
    #[must_use]
    pub fn is_other_than(self, address: IpAddr) -> bool {
        match self {
            Self::Address(own) => own.to_canonical() != address,
            Self::Unix => true,
        }
    }
}

/// The header lines of a request.
pub trait Headers {
    /// The values of all lines called `name`, in order. Names match in any case.
    fn values_of<'h>(&'h self, name: &'h str) -> impl DoubleEndedIterator<Item = &'h [u8]>;

    /// The names of all lines.
    fn names(&self) -> impl Iterator<Item = &str>;
}

impl Headers for [(&str, &[u8])] {
    fn values_of<'h>(&'h self, name: &'h str) -> impl DoubleEndedIterator<Item = &'h [u8]> {
        self.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| *name)
    }
}

/// The settings that decide whose word about a client's address is believed.
#[derive(Clone, Copy, Debug)]
pub struct AddressTrust<'c> {
    /// The header that names the client; `None` = no header is believed.
    pub proxy_header: Option<&'c str>,
    /// Networks of the proxies that may send that header.
    pub trusted_proxies: &'c [IpNet],
    /// Networks of the clients that may claim an address by `ip`, `ipv4` or `ipv6`.
    pub spoofing_sources: &'c [IpNet],
    /// Reads one entry of the header.
    pub read_entry: fn(&[u8]) -> Option<IpAddr>,
    /// Whether any header may hold a list, or only `X-Forwarded-For`.
    pub read_any_list: bool,
}

impl<'c> AddressTrust<'c> {
    /// The settings of `config`, with headers read as in the open modes.
    #[must_use]
    pub fn from_config(config: &'c HttpConfig) -> Self {
        Self {
            proxy_header: config.proxy_header.as_deref(),
            trusted_proxies: &config.trusted_proxies,
            spoofing_sources: &config.spoofing_sources,
            read_entry: read_address,
            read_any_list: true,
        }
    }

    /// Whether a client seen at `seen` may claim an address.
    #[must_use]
    pub fn may_claim(&self, seen: IpAddr) -> bool {
        contains(self.spoofing_sources, seen)
    }

    /// Returns the client's address as the gateway sees it; an IPv4-mapped address is returned as IPv4.
    ///
    /// # Errors
    /// Returns [`BadRequest::UnreadableAddress`] when a trusted proxy's header cannot be read, or a unix
    /// socket's peer sends none.
    pub fn client_address<H: Headers + ?Sized>(
        &self,
        source: Source,
        headers: &H,
    ) -> Result<IpAddr, BadRequest> {
        let socket = match source {
            Source::Unix => None,
            Source::Address(address) => Some(address.to_canonical()),
        };
        let believed = || socket.is_none_or(|address| contains(self.trusted_proxies, address));
        let named = match self.proxy_header {
            Some(name) if believed() && (self.read_any_list || is_list(name)) => {
                self.read_list(headers.values_of(name))?
            }
            Some(name) if believed() => self.read_single(headers.values_of(name))?,
            _ => None,
        };
        named.or(socket).ok_or(BadRequest::UnreadableAddress)
    }

    /// Returns the source and the name of a header that names a client and is not believed: the configured
    /// header from a source that is not a trusted proxy. Where none is configured, one of the usual headers
    /// from a private address, as proxies have: on the internet at large anybody may write headers.
    #[must_use]
    pub fn untrusted_header<H: Headers + ?Sized>(
        &self,
        source: Source,
        headers: &H,
    ) -> Option<(IpAddr, &'c str)> {
        let Source::Address(address) = source else { return None };
        let address = address.to_canonical();
        let header = match self.proxy_header {
            Some(_) if contains(self.trusted_proxies, address) => None,
            Some(name) => headers.values_of(name).next().map(|_| name),
            None if AddressClass::of(address).is_public() => None,
            None => usual_header(headers),
        };
        header.map(|header| (address, header))
    }

    /// Returns the address that the client claims, if a client seen at `seen` may claim any.
    ///
    /// # Errors
    /// Fails when the claim cannot be read: there is no falling back.
    pub fn claimed_address(
        &self,
        seen: IpAddr,
        parameters: &Parameters<'_>,
    ) -> Result<Option<IpAddr>, BadRequest> {
        // Most clients claim nothing, which is found faster than whether they may.
        let claims = [parameters.ip, parameters.ipv4, parameters.ipv6];
        match claims.into_iter().flatten().find(|claim| !claim.0.is_empty()) {
            Some(claim) if self.may_claim(seen) => read_claim(claim).map(Some),
            _ => Ok(None),
        }
    }

    /// Reads one address and nothing else; a blank header names nobody.
    fn read_single<'h>(
        &self,
        mut lines: impl Iterator<Item = &'h [u8]>,
    ) -> Result<Option<IpAddr>, BadRequest> {
        let line = lines.next().map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
        let Some(line) = line else { return Ok(None) };
        let address = (self.read_entry)(line).ok_or(BadRequest::UnreadableAddress)?;
        if lines.next().is_some() { Err(BadRequest::UnreadableAddress) } else { Ok(Some(address)) }
    }

    /// Returns the first address from the right that is not a trusted proxy; the leftmost if all are.
    fn read_list<'h>(
        &self,
        lines: impl DoubleEndedIterator<Item = &'h [u8]>,
    ) -> Result<Option<IpAddr>, BadRequest> {
        let mut leftmost = None;
        for entry in lines.rev().flat_map(|line| line.rsplit(|&octet| octet == b',')) {
            let entry = entry.trim_ascii();
            if entry.is_empty() {
                continue;
            }
            let address = (self.read_entry)(entry).ok_or(BadRequest::UnreadableAddress)?;
            leftmost = Some(address);
            if !contains(self.trusted_proxies, address) {
                break;
            }
        }
        Ok(leftmost)
    }
}

/// Returns the first of the usual headers that the request has.
fn usual_header<H: Headers + ?Sized>(headers: &H) -> Option<&'static str> {
    let index = |name: &str| USUAL_HEADERS.iter().position(|usual| usual.eq_ignore_ascii_case(name));
    headers.names().filter_map(index).min().and_then(|index| USUAL_HEADERS.get(index).copied())
}

fn is_list(header: &str) -> bool {
    header.eq_ignore_ascii_case("x-forwarded-for")
}

fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

fn read_claim(claim: Escaped<'_>) -> Result<IpAddr, BadRequest> {
    let mut buffer = [0; CLAIM_MAX];
    let text = claim.decode(&mut buffer).map_err(|BadEscape| BadRequest::InvalidEscape)?;
    text.and_then(read_address).ok_or(BadRequest::UnreadableAddress)
}

/// Reads an address, bare, in brackets, or with a port, which is dropped. Names and zone ids are not
/// addresses.
fn read_address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let bare = || text.parse().ok();
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let with_port = || match text.parse().ok()? {
        SocketAddr::V6(v6) if v6.scope_id() != 0 || text.contains('%') => None,
        endpoint => Some(endpoint.ip()),
    };
    bare().or_else(in_brackets).or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn seen(source: Source, lines: &[&str]) -> Result<IpAddr, BadRequest> {
        let trusted = networks(&["10.0.0.0/8"]);
        let trust = AddressTrust {
            proxy_header: Some("x-forwarded-for"),
            trusted_proxies: &trusted,
            spoofing_sources: &[],
            read_entry: read_address,
            read_any_list: true,
        };
        let headers: Vec<_> = lines.iter().map(|line| ("X-Forwarded-For", line.as_bytes())).collect();
        trust.client_address(source, headers.as_slice())
    }

    fn from(source: &str) -> Source {
        Source::Address(ip(source))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn proxy_chains_are_read_as_the_spec_lists_them() {
        for (lines, client) in [
            (&["203.0.113.9"][..], "203.0.113.9"),
            (&["192.0.2.66, 203.0.113.9"], "203.0.113.9"),
            (&["192.0.2.66, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
            (&["192.0.2.66", "203.0.113.9"], "203.0.113.9"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (&["junk, 203.0.113.9"], "203.0.113.9"),
            (&["[2001:db8::9]:443"], "2001:db8::9"),
            (&["[2001:db8::9]"], "2001:db8::9"),
            (&["2001:db8::9"], "2001:db8::9"),
            (&["::ffff:203.0.113.9"], "203.0.113.9"),
            (&["203.0.113.9:51234"], "203.0.113.9"),
            (&["203.0.113.9,"], "203.0.113.9"),
            (&["203.0.113.9", ""], "203.0.113.9"),
            (&[], "10.0.0.1"),
            (&[""], "10.0.0.1"),
            (&[" , "], "10.0.0.1"),
        ] {
            assert_eq!(seen(from("10.0.0.1"), lines), Ok(ip(client)), "{lines:?}");
        }
    }

    #[test]
    fn strangers_are_not_believed() {
        assert_eq!(seen(from("198.51.100.5"), &["203.0.113.9"]), Ok(ip("198.51.100.5")));
        assert_eq!(seen(from("198.51.100.5"), &["junk"]), Ok(ip("198.51.100.5")));
        assert_eq!(seen(from("::ffff:10.0.0.1"), &["203.0.113.9"]), Ok(ip("203.0.113.9")));
    }

    #[test]
    fn an_unreadable_entry_met_on_the_way_is_a_failure() {
        for line in
            ["203.0.113.9, junk", "junk, 10.0.0.2", "unknown", "fe80::1%eth0", "[fe80::1%2]:443", "1.2.3"]
        {
            assert_eq!(seen(from("10.0.0.1"), &[line]), Err(BadRequest::UnreadableAddress), "{line}");
        }
        let headers: &[(&str, &[u8])] = &[("x-forwarded-for", b"\xff")];
        let trusted = networks(&["10.0.0.0/8"]);
        let trust = AddressTrust {
            proxy_header: Some("X-Forwarded-For"),
            trusted_proxies: &trusted,
            spoofing_sources: &[],
            read_entry: read_address,
            read_any_list: true,
        };
        assert_eq!(trust.client_address(from("10.0.0.1"), headers), Err(BadRequest::UnreadableAddress));
    }

    #[test]
    fn a_unix_socket_counts_as_a_trusted_proxy_and_has_no_address_of_its_own() {
        assert_eq!(seen(Source::Unix, &["203.0.113.9"]), Ok(ip("203.0.113.9")));
        assert_eq!(seen(Source::Unix, &[]), Err(BadRequest::UnreadableAddress));
    }

    #[test]
    fn without_a_configured_header_only_the_socket_counts() {
        let trusted = networks(&["10.0.0.0/8"]);
        let trust = AddressTrust {
            proxy_header: None,
            trusted_proxies: &trusted,
            spoofing_sources: &[],
            read_entry: read_address,
            read_any_list: true,
        };
        let headers: &[(&str, &[u8])] = &[("X-Forwarded-For", b"203.0.113.9")];
        assert_eq!(trust.client_address(from("10.0.0.1"), headers), Ok(ip("10.0.0.1")));
    }

    #[test]
    fn without_a_configured_header_a_proxy_is_told_by_its_address_and_what_it_sends() {
        let config = HttpConfig::default();
        let disbelieved = |source, names: &[&str]| {
            let headers: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, &b"7.7.7.7"[..])).collect();
            AddressTrust::from_config(&config).untrusted_header(source, headers.as_slice())
        };
        for source in ["127.0.0.1", "10.0.0.7", "172.17.0.1", "192.168.1.1", "100.64.0.7", "fd00::7", "::1"] {
            for name in USUAL_HEADERS {
                let found = disbelieved(from(source), &["Host", &name.to_lowercase()]);
                assert_eq!(found, Some((ip(source), name)));
            }
        }
        let mapped = disbelieved(from("::ffff:10.0.0.7"), &["Forwarded", "X-Real-IP", "X-Forwarded-For"]);
        assert_eq!(mapped, Some((ip("10.0.0.7"), "X-Forwarded-For")));
        assert_eq!(disbelieved(from("127.0.0.1"), &["Host", "Via", "X-Forwarded", "User-Agent"]), None);
        assert_eq!(disbelieved(from("45.128.19.54"), &USUAL_HEADERS), None, "anybody may write that");
        assert_eq!(disbelieved(from("2a00::7"), &USUAL_HEADERS), None);
        assert_eq!(disbelieved(Source::Unix, &USUAL_HEADERS), None, "its peer is believed, or refused");
    }

    #[test]
    fn claims_count_only_from_spoofing_sources() {
        let sources = networks(&["192.168.0.0/16"]);
        let trust = AddressTrust {
            proxy_header: None,
            trusted_proxies: &[],
            spoofing_sources: &sources,
            read_entry: read_address,
            read_any_list: true,
        };
        let claimed = |seen: &str, query: &str| {
            trust
                .claimed_address(ip(seen), &Parameters::parse(query.as_bytes()))
                .map(|claim| claim.map(|a| a.to_string()))
        };
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(claimed("198.51.100.5", "ip=203.0.113.9"), Ok(None));
        assert_eq!(claimed("198.51.100.5", "ip=%zz"), Ok(None));
        assert_eq!(claimed("192.168.0.1", "port=1"), Ok(None));
        assert_eq!(claimed("192.168.0.1", "ip=203.0.113.9"), some("203.0.113.9"));
        assert_eq!(claimed("192.168.0.1", "ipv6=2001:db8::1&ipv4=203.0.113.9&ip="), some("203.0.113.9"));
        assert_eq!(claimed("192.168.0.1", "ipv6=%5B2001%3adb8::1%5d%3A6881"), some("2001:db8::1"));
        assert_eq!(claimed("192.168.0.1", "ip=example.org"), Err(BadRequest::UnreadableAddress));
        assert_eq!(claimed("192.168.0.1", "ip=junk&ipv4=203.0.113.9"), Err(BadRequest::UnreadableAddress));
        assert_eq!(
            claimed("192.168.0.1", &format!("ip={}", "1".repeat(99))),
            Err(BadRequest::UnreadableAddress)
        );
        assert_eq!(claimed("192.168.0.1", "ip=1.2.3.4%2"), Err(BadRequest::InvalidEscape));
    }
}
