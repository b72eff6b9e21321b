//! Settings of the UDP server.

use std::net::SocketAddr;

use ipnet::IpNet;

/// Fewest and most seconds a connection id is accepted (`rules/udp.md#connection-id-lifetime`).
pub const LIFETIME_SECONDS: std::ops::RangeInclusive<u64> = 60..=7200;
/// Most octets of payload of any reply: 1280 - 48, so that no path fragments it (`rules/udp.md#reply-size`).
pub const REPLY_MAX: usize = 1232;

/// What is fixed when the sockets open.
#[derive(Clone, Debug)]
pub struct SocketConfig {
    /// Addresses to listen on, one socket per worker for each; port 0 lets the system choose. An IPv6 address
    /// makes a v6-only socket; `[::]` beside `0.0.0.0` is skipped with a warning on a host without IPv6, and
    /// with port 0 both get the same port.
    pub addresses: Vec<SocketAddr>,
    /// Threads; at least 1.
    pub workers: usize,
    /// Octets asked for as `SO_RCVBUF`.
    pub receive_buffer: usize,
    /// Octets asked for as `SO_SNDBUF`.
    pub send_buffer: usize,
}

/// What a reload may change.
#[derive(Clone, Debug)]
pub struct UdpConfig {
    /// Key of the connection ids; shared by all workers, and by all nodes of a cluster. When it changes, ids
    /// of the one before stay good until they expire.
    pub private_key: Vec<u8>,
    /// Seconds an id is accepted; within [`LIFETIME_SECONDS`].
    pub connection_id_lifetime_seconds: u64,
    /// Seconds by which the clock of another node may be ahead.
    pub max_clock_skew_seconds: u64,
    /// Info_hashes of one scrape that are answered; 1 to 102.
    pub max_scrape_infohashes: usize,
    /// Peers handed out where the client does not say.
    pub num_want: u16,
    /// Peers handed out at most to a client that says.
    pub num_want_max: u16,
    /// Sources whose IP field is honoured over IPv4 (BEP 15); empty = nobody's.
    pub spoofing_sources: Vec<IpNet>,
}

impl UdpConfig {
    /// Everything but the key as `tracker.json` has it where it says nothing.
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
