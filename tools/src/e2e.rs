//! `hayate e2e` tests whether a running tracker hands two peers to each other, over HTTP and over UDP. It
//! also passes with trackers that hand a lone peer to itself: an entry with the peer's own port does not
//! count.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, ensure};
use hayate_state::{Event, InfoHash, PeerId};

use crate::client::{self, AnnounceRequest, Family, Limits};

/// The `User-Agent` of HTTP requests.
const USER_AGENT: &str = "hayate-e2e";
/// Time for one request over HTTP, and for all tries of one over UDP.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Most datagrams that are sent for one request.
const TRIES: u32 = 3;
/// Peers wanted over UDP; HTTP requests do not name a number.
const NUM_WANT: u16 = 50;

/// Options of the test.
#[derive(Clone, Debug)]
pub struct Options {
    /// URL of HTTP announces; empty = skip HTTP.
    pub http: String,
    /// URL of the UDP tracker; empty = skip UDP.
    pub udp: String,
    /// Pause before each announce that expects to see the other peer.
    pub delay: Duration,
    /// The torrent; `None` = a new random one for each protocol.
    pub info_hash: Option<InfoHash>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TestedProtocol {
    Http,
    Udp,
}

/// Tests HTTP, then UDP; the first failure ends it.
///
/// # Errors
/// Fails with `announce failed: ...`, `expected 1 peers, got N` or `expected port P, got N`.
pub fn run(options: &Options) -> anyhow::Result<()> {
    for (protocol, name, url) in
        [(TestedProtocol::Http, "HTTP", &options.http), (TestedProtocol::Udp, "UDP", &options.udp)]
    {
        if url.is_empty() {
            continue;
        }
        log::info!("testing {name}...");
        let info_hash =
            options.info_hash.unwrap_or_else(|| InfoHash(std::array::from_fn(|_| fastrand::u8(..))));
        two_peers_meet(url, protocol, info_hash, options.delay)?;
        log::info!("success");
    }
    Ok(())
}

fn two_peers_meet(
    url: &str,
    protocol: TestedProtocol,
    info_hash: InfoHash,
    delay: Duration,
) -> anyhow::Result<()> {
    let (first, second) = (peer(protocol, info_hash, 1), peer(protocol, info_hash, 2));
    announce(url, protocol, &first)?;
    std::thread::sleep(delay);
    check_is_handed(url, protocol, &second, &first)?;
    check_is_handed(url, protocol, &first, &second)?;
    for request in [first, second] {
        announce(url, protocol, &AnnounceRequest { event: Event::Stopped, ..request })?;
    }
    Ok(())
}

/// Makes the announce of peer 1 or 2: port 10001 or 10002, claimed address 50.10.12.1 or 50.10.12.2, last
/// octet of the id 20 or 21.
fn peer(protocol: TestedProtocol, info_hash: InfoHash, number: u8) -> AnnounceRequest {
    let mut id = [0; 20];
    for (octet, value) in id.iter_mut().zip(1..) {
        *octet = value;
    }
    if let Some(last) = id.last_mut() {
        *last = 19 + number;
    }
    AnnounceRequest {
        peer_id: PeerId(id),
        port: 10_000 + u16::from(number),
        uploaded: 50,
        downloaded: 50,
        left: 100,
        event: Event::Started,
        num_want: (protocol == TestedProtocol::Udp).then_some(NUM_WANT),
        address: Some(IpAddr::V4(Ipv4Addr::new(50, 10, 12, number))),
        supports_crypto: true,
        ..AnnounceRequest::new(info_hash)
    }
}

/// Returns the ports of all peers that the client is handed, except its own.
fn announce(url: &str, protocol: TestedProtocol, request: &AnnounceRequest) -> anyhow::Result<Vec<u16>> {
    let tries = if protocol == TestedProtocol::Udp { TRIES } else { 1 };
    let limits = Limits {
        family: Family::Any,
        timeout: REQUEST_TIMEOUT / tries,
        retries: tries - 1,
        user_agent: USER_AGENT,
    };
    let reply = client::announce(url, request, &limits).context("announce failed")?;
    Ok(reply.peers.iter().map(|peer| peer.port).filter(|&port| port != request.port).collect())
}

fn check_is_handed(
    url: &str,
    protocol: TestedProtocol,
    own: &AnnounceRequest,
    other: &AnnounceRequest,
) -> anyhow::Result<()> {
    let ports = announce(url, protocol, own)?;
    ensure!(ports.len() == 1, "expected 1 peers, got {}", ports.len());
    for port in ports {
        ensure!(port == other.port, "expected port {}, got {port}", other.port);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
