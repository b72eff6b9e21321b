//! The settings of both servers, `udp` and `http`. The comments here are the descriptions of the JSON Schema.

use hayate_gateway::config::SocketAccess;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::Listen;
use super::bounded::{DurationIn, GIB, HOUR, IntIn, KIB, MIB, MINUTE, SizeIn};
use super::values::{FileMode, HeaderName, Network, NumWant, Secret, networks};

/// The UDP server (BEP 15, BEP 41).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Udp {
    /// Where to listen; ":port" is IPv4 and IPv6; "" = no UDP.
    pub(crate) addr: Listen,
    /// Threads; 0 = one for up to two cores, then one per core. Changed by a restart only.
    pub(crate) workers: IntIn<0, 1024>,
    /// Key of the connection ids, the same on all nodes; "" = in a cluster derived from cluster.secret,
    /// otherwise generated once and kept in state_dir/udp.key.
    pub(crate) private_key: Secret,
    /// A file that holds the key instead; a line break at its end does not count.
    pub(crate) private_key_file: String,
    /// How long a connection id is accepted, 60s to 2h (BEP 15: two minutes).
    pub(crate) connection_id_lifetime: DurationIn<MINUTE, { 2 * HOUR }>,
    /// How far the clock of another node may be ahead, to 10m.
    pub(crate) max_clock_skew: DurationIn<0, { 10 * MINUTE }>,
    /// Octets each socket asks for as receive buffer. Changed by a restart only.
    pub(crate) receive_buffer: SizeIn<{ 4 * KIB }, GIB>,
    /// Octets each socket asks for as send buffer. Changed by a restart only.
    pub(crate) send_buffer: SizeIn<{ 4 * KIB }, GIB>,
    /// How long a busy worker waits so that one wake-up serves more datagrams, to 10ms; 0 = not at all.
    /// Changed by a restart only.
    pub(crate) coalesce: DurationIn<0, 10>,
    /// Most torrents of one scrape that are answered.
    pub(crate) max_scrape_infohashes: IntIn<1, 102>,
    /// Instead of announce.numwant; null = the same.
    pub(crate) numwant: Option<NumWant>,
    /// Instead of announce.max_numwant; null = the same.
    pub(crate) max_numwant: Option<NumWant>,
    /// Instead of announce.allow_ip_spoofing; null = the same.
    pub(crate) allow_ip_spoofing: Option<bool>,
}

/// The HTTP gateway (BEP 3, BEP 7, BEP 23, BEP 48).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Http {
    /// Where to listen; ":port" is IPv4 and IPv6; "" = no HTTP.
    pub(crate) addr: Listen,
    /// Where to listen with TLS; ":port" is IPv4 and IPv6; "" = no HTTPS.
    pub(crate) https_addr: Listen,
    /// File of the certificate chain for https_addr, PEM; read again at every reload.
    pub(crate) tls_cert_path: String,
    /// File of its private key, PEM (PKCS #8, PKCS #1 or SEC 1); read again at every reload.
    pub(crate) tls_key_path: String,
    /// Path of a unix socket to listen on as well; its peer counts as a trusted proxy.
    pub(crate) unix_socket: String,
    /// Mode of that socket in octal digits: a process that may write to it may connect, and is trusted about
    /// the client's address. Changed by a restart only.
    pub(crate) unix_socket_mode: FileMode,
    /// Name or number of the socket's group; "" = that of the tracker. Changed by a restart only.
    pub(crate) unix_socket_group: String,
    /// Paths of announces. ":name" captures one segment, a last "*name" the rest.
    pub(crate) announce_routes: Vec<String>,
    /// Paths of scrapes, in the same form.
    pub(crate) scrape_routes: Vec<String>,
    /// Keep connections open after a reply.
    pub(crate) enable_keepalive: bool,
    /// Header in which a trusted proxy names the client; "" = no header is trusted.
    pub(crate) proxy_header: HeaderName,
    /// Networks of the proxies that may name the client.
    pub(crate) trusted_proxies: Vec<Network>,
    /// How long a client may take.
    pub(crate) timeout: Timeout,
    /// Most torrents of one scrape that are answered.
    pub(crate) max_scrape_infohashes: IntIn<1, 1024>,
    /// Most open connections; further ones are closed at once. Lower if fewer files may be open.
    pub(crate) max_connections: IntIn<1, 1_000_000>,
    /// Instead of announce.numwant; null = the same.
    pub(crate) numwant: Option<NumWant>,
    /// Instead of announce.max_numwant; null = the same.
    pub(crate) max_numwant: Option<NumWant>,
    /// Instead of announce.allow_ip_spoofing; null = the same.
    pub(crate) allow_ip_spoofing: Option<bool>,
}

/// How long a client may take, 100ms to 1h each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Timeout {
    /// For a whole request head.
    pub(crate) read: DurationIn<100, HOUR>,
    /// For taking one reply.
    pub(crate) write: DurationIn<100, HOUR>,
    /// Between two requests.
    pub(crate) idle: DurationIn<100, HOUR>,
}

impl Default for Udp {
    fn default() -> Self {
        Self {
            addr: Listen::everywhere(6969),
            workers: IntIn::new(0),
            private_key: Secret::default(),
            private_key_file: String::new(),
            connection_id_lifetime: DurationIn::seconds(120),
            max_clock_skew: DurationIn::seconds(10),
            receive_buffer: SizeIn::new(8 * MIB),
            send_buffer: SizeIn::new(8 * MIB),
            coalesce: DurationIn::milliseconds(2),
            max_scrape_infohashes: IntIn::new(74),
            numwant: None,
            max_numwant: None,
            allow_ip_spoofing: None,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            addr: Listen::everywhere(6969),
            https_addr: Listen::off(),
            tls_cert_path: String::new(),
            tls_key_path: String::new(),
            unix_socket: String::new(),
            unix_socket_mode: FileMode(SocketAccess::MODE),
            unix_socket_group: String::new(),
            announce_routes: vec!["/announce".into()],
            scrape_routes: vec!["/scrape".into()],
            enable_keepalive: true,
            proxy_header: HeaderName::default(),
            trusted_proxies: networks(&["127.0.0.0/8", "::1/128"]),
            timeout: Timeout::default(),
            max_scrape_infohashes: IntIn::new(74),
            max_connections: IntIn::new(20_000),
            numwant: None,
            max_numwant: None,
            allow_ip_spoofing: None,
        }
    }
}

impl Default for Timeout {
    fn default() -> Self {
        Self { read: DurationIn::seconds(10), write: DurationIn::seconds(10), idle: DurationIn::seconds(60) }
    }
}
