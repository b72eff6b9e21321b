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
    /// Octets still missing.
    pub left: u64,
    /// What happened.
    pub event: Event,
    /// Peers wanted; `None` = the tracker chooses.
    pub num_want: Option<u16>,
    /// The address the peer claims; over UDP an IPv4 address only (BEP 15, offset 84).
    pub address: Option<IpAddr>,
    /// Proves the session to the tracker (BEP 3 `key`).
    pub key: u32,
    /// Ask for the compact form over HTTP (BEP 23).
    pub compact: bool,
    /// Say over HTTP that encrypted connections are understood.
    pub supports_crypto: bool,
}

impl AnnounceRequest {
    /// A regular announce of a leecher at port 1, with a random peer id and key.
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

/// Which addresses of a tracker are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Family {
    /// All it has.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl Family {
    /// Is the address of this family?
    #[must_use]
    pub fn has(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// How a tracker is asked.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Which addresses.
    pub family: Family,
    /// Time for one try: over UDP for each datagram and its reply, over HTTP for the whole request.
    pub timeout: Duration,
    /// Further tries over UDP when no reply comes; HTTP is tried once.
    pub retries: u32,
    /// What HTTP servers are told about the client.
    pub user_agent: &'static str,
}

/// The reply to an announce. What a protocol or tracker does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Seconds until the next announce.
    pub interval: i64,
    /// Seconds until the next announce at least.
    pub min_interval: Option<i64>,
    /// Peers that have all.
    pub seeders: Option<i64>,
    /// Peers that do not.
    pub leechers: Option<i64>,
    /// Finished downloads.
    pub completed: Option<i64>,
    /// The address the tracker sees (BEP 24).
    pub external_ip: Option<IpAddr>,
    /// What the tracker wants people to know.
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
    /// Its id, if the tracker told it.
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

/// How one swarm stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scraped {
    /// Peers that have all.
    pub seeders: i64,
    /// Finished downloads.
    pub completed: i64,
    /// Peers that do not.
    pub leechers: i64,
}

/// Why there is no good reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not a URL of a tracker.
    #[error("{0:?}: not a tracker's URL, expected udp://HOST:PORT, http://... or https://...")]
    Url(String),
    /// An HTTP URL whose scrapes nobody knows.
    #[error(
        "{0:?}: no scrapes there: the last segment of the path does not begin with \"announce\" (BEP 48)"
    )]
    NoScrape(String),
    /// The host is unknown.
    #[error("{host}: {source}")]
    Lookup {
        /// The host.
        host: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The host has no address of the family that was asked for.
    #[error("{0}: no address of that family")]
    NoAddress(String),
    /// The system could not send or receive.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// No reply in time.
    #[error("no reply to the {request} within {} ms, tried {tries} times", timeout.as_millis())]
    Silence {
        /// What was asked.
        request: &'static str,
        /// How long each try waited.
        timeout: Duration,
        /// How often it was asked.
        tries: u32,
    },
    /// The tracker said no.
    #[error("{0}")]
    Refused(String),
    /// A reply that is not what was asked for.
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
    #[error("{asked} torrents in one scrape, at most {most} are allowed")]
    TooMany {
        /// Torrents asked.
        asked: usize,
        /// Torrents allowed.
        most: usize,
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
/// When there is no good reply.
pub fn announce(url: &str, ask: &AnnounceRequest, limits: &Limits) -> Result<Announced, ClientError> {
    match url.parse()? {
        TrackerUrl::Udp { host, port, path } => udp::announce(&host, port, &path, ask, limits),
        TrackerUrl::Http(url) => http::announce(&url, ask, limits),
    }
}

/// Sends one scrape; one answer for each torrent, `None` where the tracker does not know it.
///
/// # Errors
/// When there is no good reply.
pub fn scrape(url: &str, hashes: &[InfoHash], limits: &Limits) -> Result<Vec<Option<Scraped>>, ClientError> {
    match url.parse()? {
        TrackerUrl::Udp { host, port, .. } => udp::scrape(&host, port, hashes, limits),
        TrackerUrl::Http(url) => http::scrape(&url, hashes, limits),
    }
}
