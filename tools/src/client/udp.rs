//! Trackers over UDP (BEP 15), with the path of their URL as an option (BEP 41).

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use hayate_state::{Clock, Event, InfoHash};

use super::{AnnounceRequest, Announced, ClientError, Limits, Peer, Scraped};

/// The constant that a connect has in place of a connection id.
const PROTOCOL: u64 = 0x0417_2710_1980;
const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;
/// Type of the BEP 41 option that holds path and query.
const URL_DATA: u8 = 2;
/// Torrents that fit into one scrape (BEP 15).
const SCRAPE_MAX: usize = 74;
/// Longest reply that is read.
const REPLY_MAX: usize = 65_536;

/// Sends one announce. Every address of the host is tried until one answers.
///
/// # Errors
/// Fails when no address gives a valid reply; the error is that of the last one.
pub fn announce(
    host: &str,
    port: u16,
    path: &str,
    request: &AnnounceRequest,
    limits: &Limits,
) -> Result<Announced, ClientError> {
    on_each_address(host, port, limits, |session| {
        let reply = session.send_request("announce", ANNOUNCE, &announce_body(request, path))?;
        read_announced(&reply, session.remote)
    })
}

/// Sends one scrape of at most 74 torrents.
///
/// # Errors
/// Fails when no address of the host gives a valid reply; the error is that of the last one.
pub fn scrape(
    host: &str,
    port: u16,
    hashes: &[InfoHash],
    limits: &Limits,
) -> Result<Vec<Option<Scraped>>, ClientError> {
    if hashes.len() > SCRAPE_MAX {
        return Err(ClientError::TooMany { requested: hashes.len(), max: SCRAPE_MAX });
    }
    on_each_address(host, port, limits, |session| {
        let body: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
        let reply = session.send_request("scrape", SCRAPE, &body)?;
        let numbers: Vec<i64> = reply.chunks_exact(4).map(|octets| i64::from(u32_of(octets))).collect();
        let mut swarms = numbers.chunks_exact(3).map(|swarm| match swarm {
            &[seeders, completed, leechers] => Some(Scraped { seeders, completed, leechers }),
            _ => None,
        });
        Ok(hashes.iter().map(|_| swarms.next().flatten()).collect())
    })
}

fn on_each_address<T>(
    host: &str,
    port: u16,
    limits: &Limits,
    exchange: impl Fn(&UdpSession) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let unknown = |source| ClientError::Lookup { host: host.to_owned(), source };
    let addresses = (host, port).to_socket_addrs().map_err(unknown)?;
    let mut last = ClientError::NoAddress(host.to_owned());
    for address in addresses.filter(|address| limits.family.has(address.ip())) {
        match UdpSession::open(address, limits).and_then(|session| exchange(&session)) {
            Err(ClientError::Refused(text)) => return Err(ClientError::Refused(text)),
            Err(error) => last = error,
            Ok(answer) => return Ok(answer),
        }
    }
    Err(last)
}

/// A socket with a connection id.
struct UdpSession<'l> {
    socket: UdpSocket,
    remote: SocketAddr,
    limits: &'l Limits,
    connection_id: u64,
}

impl<'l> UdpSession<'l> {
    fn open(remote: SocketAddr, limits: &'l Limits) -> Result<Self, ClientError> {
        let any: IpAddr = match remote {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(remote)?;
        let mut session = Self { socket, remote, limits, connection_id: PROTOCOL };
        let reply = session.send_request("connect", CONNECT, &[])?;
        let id = reply.first_chunk().ok_or(ClientError::BadReply("a connect reply without connection id"))?;
        session.connection_id = u64::from_be_bytes(*id);
        Ok(session)
    }

    /// Sends a request and returns its reply from offset 8 on.
    fn send_request(&self, name: &'static str, action: u32, body: &[u8]) -> Result<Vec<u8>, ClientError> {
        let transaction = fastrand::u32(..);
        let mut request = self.connection_id.to_be_bytes().to_vec();
        request.extend_from_slice(&action.to_be_bytes());
        request.extend_from_slice(&transaction.to_be_bytes());
        request.extend_from_slice(body);
        let tries = self.limits.retries + 1;
        for _ in 0..tries {
            self.socket.send(&request)?;
            if let Some(reply) = self.wait_for_reply(transaction)? {
                return accept(action, &reply);
            }
        }
        Err(ClientError::Silence { request: name, timeout: self.limits.timeout, tries })
    }

    /// Receives the datagram with this transaction id; others are skipped. Returns `None` if it does not come
    /// in time.
    fn wait_for_reply(&self, transaction: u32) -> Result<Option<Vec<u8>>, ClientError> {
        let clock = Clock::start();
        let mut buffer = vec![0; REPLY_MAX];
        loop {
            let left = self.limits.timeout.saturating_sub(clock.uptime());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    let datagram = buffer.get(..length).unwrap_or_default();
                    if datagram.get(4..8).is_some_and(|octets| u32_of(octets) == transaction) {
                        return Ok(Some(datagram.to_vec()));
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Returns what follows action and transaction id in a reply, if it answers the action.
fn accept(action: u32, reply: &[u8]) -> Result<Vec<u8>, ClientError> {
    let (head, body) = reply.split_at_checked(8).ok_or(ClientError::BadReply("less than 8 octets"))?;
    match head.get(..4).map(u32_of) {
        Some(ERROR) => {
            let text = body.split(|&octet| octet == 0).next().unwrap_or_default();
            Err(ClientError::Refused(text.escape_ascii().to_string()))
        }
        Some(answered) if answered == action => Ok(body.to_vec()),
        _ => Err(ClientError::BadReply("the reply to another action")),
    }
}

/// Returns the octets of an announce from offset 16 on.
fn announce_body(request: &AnnounceRequest, path: &str) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&request.info_hash.0);
    body.extend_from_slice(&request.peer_id.0);
    for number in [request.downloaded, request.left, request.uploaded] {
        body.extend_from_slice(&number.to_be_bytes());
    }
    body.extend_from_slice(&event_number(request.event).to_be_bytes());
    let claimed = match request.address {
        Some(IpAddr::V4(address)) => address,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    body.extend_from_slice(&claimed.octets());
    body.extend_from_slice(&request.key.to_be_bytes());
    body.extend_from_slice(&request.num_want.map_or(-1, i32::from).to_be_bytes());
    body.extend_from_slice(&request.port.to_be_bytes());
    for chunk in path.as_bytes().chunks(usize::from(u8::MAX)) {
        body.extend_from_slice(&[URL_DATA, u8::try_from(chunk.len()).unwrap_or(u8::MAX)]);
        body.extend_from_slice(chunk);
    }
    body
}

fn event_number(event: Event) -> u32 {
    match event {
        Event::None => 0,
        Event::Completed => 1,
        Event::Started => 2,
        Event::Stopped => 3,
        Event::Paused => 4,
    }
}

fn read_announced(reply: &[u8], remote: SocketAddr) -> Result<Announced, ClientError> {
    let (numbers, peers) = reply.split_at_checked(12).ok_or(ClientError::BadReply("less than 20 octets"))?;
    let number = |at: usize| numbers.get(at..at + 4).map_or(0, |octets| i64::from(u32_of(octets)));
    let peers = if remote.is_ipv4() { peers_v4(peers) } else { peers_v6(peers) };
    Ok(Announced {
        interval: number(0),
        leechers: Some(number(4)),
        seeders: Some(number(8)),
        peers: peers.ok_or(ClientError::BadReply("peers of an odd length"))?,
        ..Announced::default()
    })
}

/// Reads peers of 6 octets each. Returns `None` if the last one is incomplete.
pub(super) fn peers_v4(octets: &[u8]) -> Option<Vec<Peer>> {
    let (peers, rest) = octets.as_chunks::<6>();
    let peer = |&[a, b, c, d, high, low]: &[u8; 6]| Peer {
        host: Ipv4Addr::new(a, b, c, d).to_string(),
        port: u16::from_be_bytes([high, low]),
        id: None,
    };
    rest.is_empty().then(|| peers.iter().map(peer).collect())
}

/// Reads peers of 18 octets each. Returns `None` if the last one is incomplete.
pub(super) fn peers_v6(octets: &[u8]) -> Option<Vec<Peer>> {
    let (peers, rest) = octets.as_chunks::<18>();
    let peer = |peer: &[u8; 18]| {
        let (address, port) = (peer.first_chunk::<16>()?, peer.last_chunk::<2>()?);
        Some(Peer { host: Ipv6Addr::from(*address).to_string(), port: u16::from_be_bytes(*port), id: None })
    };
    if rest.is_empty() { peers.iter().map(peer).collect() } else { None }
}

fn u32_of(octets: &[u8]) -> u32 {
    octets.first_chunk().map_or(0, |octets| u32::from_be_bytes(*octets))
}
