//! A blocking client for any tracker, over UDP ([`udp`]) or HTTP ([`http`]): one request, its reply decoded.
//! `url` reads the URL of a tracker.

pub mod http;
pub mod udp;
mod url;

use std::net::IpAddr;
use std::time::Duration;

use hayate_state::{Event, InfoHash, PeerId};

use crate::bencode::DecodeError;
pub use url::TrackerUrl;

/// One announce.
#[derive(Clone, Debug)]
pub struct AnnounceRequest {
    /// The torrent.
    pub info_hash: InfoHash,
    /// The session.
    pub peer_id: PeerId,
    /// The port the peer says it listens on.
    pub port: u16,
    /// Octets uploaded.
    pub uploaded: u64,
    /// Octets downloaded.
    pub downloaded: u64,
    /// Octets still to download.
    pub left: u64,
    /// The event.
    pub event: Event,
    /// Peers wanted; `None` = the tracker chooses.
    pub num_want: Option<u16>,
    /// The address the peer claims; over UDP an IPv4 address only (BEP 15, offset 84).
    pub address: Option<IpAddr>,
    /// Proves the session to the tracker (BEP 3 `key`).
    pub key: u32,
    /// Whether to request the compact form over HTTP (BEP 23).
    pub compact: bool,
    /// Whether to announce over HTTP that encrypted connections are supported.
    pub supports_crypto: bool,
}

impl AnnounceRequest {
    /// Makes a regular announce of a leecher at port 1, with a random peer id and key.
    #[must_use]
    pub fn new(info_hash: InfoHash) -> Self {
        let mut peer_id = PeerId(*b"-HY0100-............");
        for octet in peer_id.0.iter_mut().skip(8) {
            *octet = fastrand::alphanumeric() as u8;
        }
        Self {
            info_hash,
            peer_id,
            port: 1,
            uploaded: 0,
            downloaded: 0,
            left: 1,
            event: Event::None,
            num_want: None,
            address: None,
            key: fastrand::u32(..),
            compact: true,
            supports_crypto: false,
        }
    }
}

/// The addresses of a tracker that are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Family {
    /// All addresses.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl Family {
    /// Whether the address is of this family.
    #[must_use]
    pub fn has(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// Limits of a request.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The family of addresses.
    pub family: Family,
    /// Time for one try: over UDP for each datagram and its reply, over HTTP for the whole request.
    pub timeout: Duration,
    /// Further tries over UDP when no reply comes; HTTP is tried once.
    pub retries: u32,
    /// The `User-Agent` of HTTP requests.
    pub user_agent: &'static str,
}

/// The reply to an announce. A field that the protocol or tracker does not send is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Seconds until the next announce.
    pub interval: i64,
    /// Shortest time until the next announce, in seconds.
    pub min_interval: Option<i64>,
    /// Seeders.
    pub seeders: Option<i64>,
    /// Leechers.
    pub leechers: Option<i64>,
    /// Finished downloads.
    pub completed: Option<i64>,
    /// The address from which the tracker received the announce (BEP 24).
    pub external_ip: Option<IpAddr>,
    /// A warning of the tracker for people.
    pub warning: Option<String>,
    /// The peers handed out.
    pub peers: Vec<Peer>,
    /// Further keys of the reply and their values, for people.
    pub other_keys: Vec<(String, String)>,
}

/// A peer that was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address, or a host name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its id, if the tracker sent it.
    pub id: Option<PeerId>,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The counts of one swarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scraped {
    /// Seeders.
    pub seeders: i64,
    /// Finished downloads.
    pub completed: i64,
    /// Leechers.
    pub leechers: i64,
}

/// Why there is no valid reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not a URL of a tracker.
    #[error("{0:?}: not a tracker's URL, expected udp://HOST:PORT, http://... or https://...")]
    Url(String),
    /// An HTTP URL from which no URL of scrapes follows.
    #[error(
        "{0:?}: no scrapes there: the last segment of the path does not begin with \"announce\" (BEP 48)"
    )]
    NoScrape(String),
    /// The host is unknown.
    #[error("{host}: {source}")]
    Lookup {
        /// The host.
        host: String,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The host has no address of the requested family.
    #[error("{0}: no address of that family")]
    NoAddress(String),
    /// The system could not send or receive.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// No reply in time.
    #[error("no reply to the {request} within {} ms, tried {tries} times", timeout.as_millis())]
    Silence {
        /// The kind of request.
        request: &'static str,
        /// Time that each try waited.
        timeout: Duration,
        /// Number of tries.
        tries: u32,
    },
    /// The tracker refused.
    #[error("{0}")]
    Refused(String),
    /// A reply that does not answer the request.
    #[error("bad reply: {0}")]
    BadReply(&'static str),
    /// A reply over HTTP that is not bencode.
    #[error("bad reply: {0}")]
    NotBencode(#[from] DecodeError),
    /// A reply over HTTP with another status than 200.
    #[error("HTTP status {0}")]
    Status(u16),
    /// HTTP failed.
    #[error("{0}")]
    Http(Box<ureq::Error>),
    /// More torrents than fit into one request.
    #[error("{requested} torrents in one scrape, at most {max} are allowed")]
    TooMany {
        /// Torrents requested.
        requested: usize,
        /// Torrents allowed.
        max: usize,
    },
}

impl From<ureq::Error> for ClientError {
    fn from(error: ureq::Error) -> Self {
        Self::Http(Box::new(error))
    }
}

/// Sends one announce.
///
/// # Errors
/// Fails when there is no valid reply.
pub fn announce(url: &str, request: &AnnounceRequest, limits: &Limits) -> Result<Announced, ClientError> {
    match url.parse()? {
        TrackerUrl::Udp { host, port, path } => udp::announce(&host, port, &path, request, limits),
        TrackerUrl::Http(url) => http::announce(&url, request, limits),
    }
}

/// Sends one scrape. Returns one answer for each torrent, `None` if the tracker does not know it.
///
/// # Errors
/// Fails when there is no valid reply.
pub fn scrape(url: &str, hashes: &[InfoHash], limits: &Limits) -> Result<Vec<Option<Scraped>>, ClientError> {
    match url.parse()? {
        TrackerUrl::Udp { host, port, .. } => udp::scrape(&host, port, hashes, limits),
        TrackerUrl::Http(url) => http::scrape(&url, hashes, limits),
    }
}
