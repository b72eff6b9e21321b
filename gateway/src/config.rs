//! Settings of the HTTP gateway.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::tls::Tls;

/// Longest request line that is read, in octets; above it 414 (`rules/http.md#sizes-of-a-request`).
pub const REQUEST_LINE_MAX: usize = 8 * 1024;
/// Longest header block that is read, in octets; above it 431 (`rules/http.md#sizes-of-a-request`).
pub const HEADER_BLOCK_MAX: usize = 16 * 1024;

/// Settings that are fixed when the sockets open.
#[derive(Clone, Debug, Default)]
pub struct ListenConfig {
    /// Addresses of the gateway: announces and scrapes; port 0 lets the system choose. An IPv6 address makes
    /// a v6-only socket; `[::]` beside `0.0.0.0` is skipped with a warning on a host without IPv6, and with
    /// port 0 both get the same port.
    pub addresses: Vec<SocketAddr>,
    /// Addresses of the gateway with TLS, by the same rules.
    pub https_addresses: Vec<SocketAddr>,
    /// Path of the gateway's unix socket; its peer counts as a trusted proxy.
    pub unix_socket: Option<PathBuf>,
    /// Who may connect to the unix socket.
    pub unix_access: SocketAccess,
    /// Addresses of the operator's pages: `/metrics`, `/alive`, `/health`.
    pub metrics_addresses: Vec<SocketAddr>,
}

/// Mode and group of a unix socket. Every process that may connect is believed about the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketAccess {
    /// The mode, up to 0777: connecting takes the right to write.
    pub mode: u32,
    /// The group; `None` = that of the process.
    pub group: Option<u32>,
}

impl SocketAccess {
    /// The default mode: owner and group may connect.
    pub const MODE: u32 = 0o660;
}

impl Default for SocketAccess {
    fn default() -> Self {
        Self { mode: Self::MODE, group: None }
    }
}

/// Settings that a reload may change.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Paths of announces: segments, `:name` for one captured segment, a last `*name` for the rest.
    pub announce_routes: Vec<String>,
    /// Paths of scrapes, in the same form; empty when scrapes are off.
    pub scrape_routes: Vec<String>,
    /// Keep connections open after a reply.
    pub enable_keepalive: bool,
    /// Certificate and key for new connections to the addresses with TLS.
    pub tls: Option<Tls>,
    /// Header that names the client, from trusted proxies only; `None` = believe no header.
    pub proxy_header: Option<String>,
    /// Networks of the proxies that may name the client.
    pub trusted_proxies: Vec<IpNet>,
    /// Sources whose parameters `ip`, `ipv4`, `ipv6` are honoured (BEP 7); empty = nobody's.
    pub spoofing_sources: Vec<IpNet>,
    /// The longest time for a whole request head.
    pub read_timeout: Duration,
    /// The longest time for one reply.
    pub write_timeout: Duration,
    /// The longest time between two requests of a connection.
    pub idle_timeout: Duration,
    /// The largest number of info_hashes of one scrape that are answered; at least 1.
    pub max_scrape_infohashes: usize,
    /// The largest number of open connections; beyond it, idle ones make room, or new ones are closed.
    pub max_connections: usize,
    /// Peers handed out to a client that does not ask for a number.
    pub num_want: u16,
    /// The largest number of peers handed out to a client that asks for a number.
    pub num_want_max: u16,
    /// Tell the client its own address (BEP 24).
    pub external_ip: bool,
    /// Serve `/metrics` (on the metrics addresses, or on the gateway where there are none).
    pub enable_metrics: bool,
    /// Serve `/debug/pprof/` on the metrics addresses.
    pub pprof: bool,
    /// First word of every metric name.
    pub metrics_prefix: String,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            announce_routes: vec!["/announce".into()],
            scrape_routes: vec!["/scrape".into()],
            enable_keepalive: true,
            tls: None,
            proxy_header: None,
            trusted_proxies: Vec::new(),
            spoofing_sources: Vec::new(),
            read_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            max_scrape_infohashes: 74,
            max_connections: 20_000,
            num_want: 50,
            num_want_max: 200,
            external_ip: true,
            enable_metrics: true,
            pprof: false,
            metrics_prefix: "hayate".into(),
        }
    }
}
