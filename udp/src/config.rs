//! Settings of the UDP server.

use std::net::SocketAddr;

use ipnet::IpNet;

/// Fewest and most seconds for which a connection id may be accepted (`rules/udp.md#connection-id-lifetime`).
pub const LIFETIME_SECONDS: std::ops::RangeInclusive<u64> = 60..=7200;
/// Most octets of payload of any reply: 1280 - 48, so that no path fragments it (`rules/udp.md#reply-size`).
pub const REPLY_MAX: usize = 1232;

/// The settings that are fixed when the sockets are opened.
#[derive(Clone, Debug)]
pub struct SocketConfig {
    /// Addresses to listen on, one socket per worker for each; port 0 lets the system choose. An IPv6 address
    /// makes a v6-only socket; `[::]` beside `0.0.0.0` is skipped with a warning on a host without IPv6, and
    /// with port 0 both get the same port.
    pub addresses: Vec<SocketAddr>,
    /// Worker threads; at least 1.
    pub workers: usize,
    /// Octets requested as `SO_RCVBUF`.
    pub receive_buffer: usize,
    /// Octets requested as `SO_SNDBUF`.
    pub send_buffer: usize,
}

/// The settings that a reload may change.
#[derive(Clone, Debug)]
pub struct UdpConfig {
    /// The key of the connection ids, shared by all workers, and by all nodes of a cluster. When it changes,
    /// ids of the previous key stay valid until they expire.
    pub private_key: Vec<u8>,
    /// Seconds for which an id is accepted; within [`LIFETIME_SECONDS`].
    pub connection_id_lifetime_seconds: u64,
    /// Seconds by which the clock of another node may be ahead.
    pub max_clock_skew_seconds: u64,
    /// Most info_hashes of one scrape that are answered; 1 to 102.
    pub max_scrape_infohashes: usize,
    /// Peers handed out where the client leaves the number to the tracker.
    pub num_want: u16,
    /// Most peers handed out to a client that names a number.
    pub num_want_max: u16,
    /// Sources whose IP field is honoured over IPv4 (BEP 15); empty = none.
    pub spoofing_sources: Vec<IpNet>,
}

impl UdpConfig {
    /// Makes a configuration with this key, and all other settings at their defaults in `tracker.json`.
    #[must_use]
    pub fn with_key(private_key: impl Into<Vec<u8>>) -> Self {
        Self {
            private_key: private_key.into(),
            connection_id_lifetime_seconds: 120,
            max_clock_skew_seconds: 10,
            max_scrape_infohashes: 74,
            num_want: 50,
            num_want_max: 200,
            spoofing_sources: Vec::new(),
        }
    }
}
