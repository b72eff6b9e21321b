//! `tracker.json`: every knob with its default, least, most and unit. The comments here are the descriptions
//! of the JSON Schema. Only knobs that do something exist.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::Listen;
use super::database::{Channels, Database};
use super::knob::{GIB, HOUR, KIB, MIB, MINUTE, Pause, SECOND, Size, TIB, Whole};
use super::word::{AllowPrivate, HeaderName, MetricPrefix, Network, Secret};

/// Longest lifetime of a silent peer, in milliseconds.
pub(super) const PEER_INACTIVITY_MAX: u64 = hayate_state::policy::PEER_INACTIVITY_SECONDS_MAX as u64 * SECOND;

/// A number of peers to hand out.
pub(crate) type NumWant = Whole<0, 65535>;

/// The configuration of hayate. Every key has a default; unknown keys are errors. Durations are whole seconds
/// or texts such as "300ms", "30m", "1h30m". Relative paths start at the folder of this file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Document {
    /// Who may announce what. Changed by a restart only.
    pub(crate) mode: Mode,
    /// What lasts beside the swarms.
    pub(crate) database: Database,
    /// Rows that wait in memory for the database. Changed by a restart only.
    pub(crate) channels: Channels,
    /// How often clients come back, and how long the tracker remembers them.
    pub(crate) intervals: Intervals,
    /// The UDP door (BEP 15, BEP 41).
    pub(crate) udp: Udp,
    /// The HTTP gateway (BEP 3, BEP 7, BEP 23, BEP 48).
    pub(crate) http: Http,
    /// What an announce may ask and what it is told, on both doors.
    pub(crate) announce: Announcing,
    /// A list of torrents, one info_hash of 40 hexadecimal digits a line; read again at every reload.
    pub(crate) access: AccessList,
    /// Bounds of memory.
    pub(crate) memory: Memory,
    /// The operator's pages: /metrics, /alive, /health.
    pub(crate) metrics: Metrics,
    /// What is logged, and how. Changed by a restart only.
    pub(crate) log: Log,
    /// Folder of what hayate keeps: the database, the swarms of the last run, udp.key. Changed by a restart
    /// only.
    pub(crate) state_dir: String,
    /// Answer scrapes.
    pub(crate) enable_scrape: bool,
    /// Serve /metrics: on metrics.addr, or on the gateway where that is empty.
    pub(crate) enable_metrics: bool,
    /// Log one line for each batch that the database has taken.
    pub(crate) log_flushes: bool,
    /// Write announces of members with traffic to state_dir/events, one CSV file an hour (mode private).
    /// Changed by a restart only.
    pub(crate) record_announces: bool,
    /// Changes of a site over HTTP, on metrics.addr (mode private). Changed by a restart only.
    pub(crate) admin: Admin,
    /// Who the process becomes after its sockets are open. Changed by a restart only.
    pub(crate) privileges: Privileges,
}

/// Who may announce what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// Anyone, any torrent; access may allow or deny.
    Open,
    /// Anyone, but only registered torrents: those in the database and those in the file access.path.
    Listed,
    /// Users by passkey, registered torrents, approved clients, full accounting. Some keys have other
    /// defaults then: announce.numwant 25, announce.max_numwant 50, announce.external_ip false,
    /// announce.keep_peer_ids true, http.addr ":34000", udp.addr "", log_flushes true, database.dsn
    /// "chihaya:@tcp(127.0.0.1:3306)/chihaya".
    Private,
}

/// How often clients come back, and how long the tracker remembers them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Intervals {
    /// Time between two announces of a client, 1s to 24h (BEP 3: interval).
    pub(crate) announce: Pause<SECOND, { 24 * HOUR }>,
    /// Time a client should let pass at least, 1s to announce; 0 = not said (BEP 3: min interval).
    pub(crate) min_announce: Pause<0, { 24 * HOUR }>,
    /// A random time below this is added to each interval, so that clients spread out; 0 = none.
    pub(crate) announce_drift: Pause<0, HOUR>,
    /// How long a silent peer stays in its swarm, 60s to 6h, in mode private 1s to 24h; longer than announce
    /// and announce_drift together.
    pub(crate) peer_inactivity: Pause<SECOND, { 24 * HOUR }>,
    /// What a scrape tells as min_request_interval, to 24h (BEP 48); 0 = not said.
    pub(crate) scrape: Pause<0, { 24 * HOUR }>,
    /// Time of one sweep over all swarms: a silent peer is gone at most this much after peer_inactivity.
    pub(crate) purge_inactive_peers: Pause<SECOND, HOUR>,
    /// How often the registered torrents are read from the database.
    pub(crate) database_reload: Pause<SECOND, { 24 * HOUR }>,
    /// How often the swarms are written to state_dir/hayate-cache.bin, from which a restart goes on.
    pub(crate) database_serialize: Pause<SECOND, { 24 * HOUR }>,
    /// Pause between two batches for the database where there is little to write.
    pub(crate) flush: Pause<SECOND, HOUR>,
}

/// The UDP door (BEP 15, BEP 41).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Udp {
    /// Where to listen; ":port" is IPv4 and IPv6; "" = no UDP. Changed by a restart only.
    pub(crate) addr: Listen,
    /// Threads; 0 = one for up to two cores, then one per core. Changed by a restart only.
    pub(crate) workers: Whole<0, 1024>,
    /// Key of the connection ids, the same on all nodes; "" = generated once and kept in state_dir/udp.key.
    pub(crate) private_key: Secret,
    /// A file that holds the key instead; a line break at its end does not count.
    pub(crate) private_key_file: String,
    /// How long a connection id is accepted, 60s to 2h (BEP 15: two minutes).
    pub(crate) connection_id_lifetime: Pause<MINUTE, { 2 * HOUR }>,
    /// How far the clock of another node may be ahead, to 10m.
    pub(crate) max_clock_skew: Pause<0, { 10 * MINUTE }>,
    /// Octets each socket asks for as receive buffer. Changed by a restart only.
    pub(crate) receive_buffer: Size<{ 4 * KIB }, GIB>,
    /// Octets each socket asks for as send buffer. Changed by a restart only.
    pub(crate) send_buffer: Size<{ 4 * KIB }, GIB>,
    /// How long a busy worker waits so that one wake-up serves more datagrams, to 10ms; 0 = it never waits.
    /// Changed by a restart only.
    pub(crate) coalesce: Pause<0, 10>,
    /// Torrents of one scrape that are answered.
    pub(crate) max_scrape_infohashes: Whole<1, 102>,
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
    /// Where to listen; ":port" is IPv4 and IPv6; "" = no HTTP. Changed by a restart only.
    pub(crate) addr: Listen,
    /// Path of a unix socket to listen on as well; its peer counts as a trusted proxy. Changed by a restart
    /// only.
    pub(crate) unix_socket: String,
    /// Paths of announces. ":name" captures one segment, a last "*name" the rest.
    pub(crate) announce_routes: Vec<String>,
    /// Paths of scrapes, likewise.
    pub(crate) scrape_routes: Vec<String>,
    /// Keep connections open after a reply.
    pub(crate) enable_keepalive: bool,
    /// Header in which a trusted proxy names the client; "" = no header is believed.
    pub(crate) proxy_header: HeaderName,
    /// Networks of the proxies that may name the client.
    pub(crate) trusted_proxies: Vec<Network>,
    /// How long a client may take.
    pub(crate) timeout: Timeout,
    /// Torrents of one scrape that are answered.
    pub(crate) max_scrape_infohashes: Whole<1, 1024>,
    /// Open connections at most, further ones are closed at once; less where fewer files may be open.
    pub(crate) max_connections: Whole<1, 1_000_000>,
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
    pub(crate) read: Pause<100, HOUR>,
    /// For taking one reply.
    pub(crate) write: Pause<100, HOUR>,
    /// Between two requests.
    pub(crate) idle: Pause<100, HOUR>,
}

/// What an announce may ask and what it is told, on both doors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Announcing {
    /// Refuse ports below 1024.
    pub(crate) strict_port: bool,
    /// Peers handed out to a client that does not say how many.
    pub(crate) numwant: NumWant,
    /// Peers handed out at most to a client that says.
    pub(crate) max_numwant: NumWant,
    /// Honour the address a client claims, from spoofing_sources.
    pub(crate) allow_ip_spoofing: bool,
    /// Networks whose claims are honoured.
    pub(crate) spoofing_sources: Vec<Network>,
    /// Keep peer ids, for clients that ask for the list form (compact=0); costs 20 octets a peer.
    pub(crate) keep_peer_ids: bool,
    /// Tell HTTP clients their own address (BEP 24).
    pub(crate) external_ip: bool,
    /// Who is handed peers with private addresses: "auto" = askers in the same range, true = everybody, false
    /// = nobody.
    pub(crate) allow_private_peers: AllowPrivate,
    /// Ports that are counted but never handed out.
    pub(crate) denied_ports: Vec<Whole<1, 65535>>,
    /// Peers of one public IPv4 address, or one public IPv6 /64, in one swarm; 0 = no limit. Changed by a
    /// restart only.
    pub(crate) peers_per_address: Whole<0, 65535>,
}

/// A list of torrents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AccessList {
    /// What the list means. In mode listed it is the list of registered torrents: off or allow.
    pub(crate) mode: AccessMode,
    /// The file.
    pub(crate) path: String,
}

/// What a list of torrents means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AccessMode {
    /// Nothing: there is no list.
    Off,
    /// Only listed torrents are served.
    Allow,
    /// Listed torrents are not served.
    Deny,
}

/// Bounds of memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Memory {
    /// Octets the swarms may take by hayate's own count, as number or text ("512MiB"); 0 = no limit.
    pub(crate) max: Size<0, { 16 * TIB }>,
}

/// The operator's pages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    /// Where to listen; "" = nowhere, then the gateway serves /metrics. Changed by a restart only.
    pub(crate) addr: Listen,
    /// First word of every metric name.
    pub(crate) prefix: MetricPrefix,
}

/// Changes of a site over HTTP, on metrics.addr (mode private).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Admin {
    /// A file that holds the token which such changes need, 16 to 128 printable characters without / ? # %;
    /// "" =
    /// there are no such changes.
    pub(crate) token_file: String,
    /// How long a passkey still works after it was changed, to 30 days.
    pub(crate) passkey_grace: Pause<0, { 30 * 24 * HOUR }>,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    /// The least important level that is logged; the environment variable RUST_LOG wins.
    pub(crate) level: LogLevel,
    /// Text for people or one JSON object a line.
    pub(crate) format: LogFormat,
}

/// How important a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    /// For people: time, level, message.
    Text,
    /// One JSON object a line: time, level, msg.
    Json,
}

/// Who the process becomes after its sockets are open.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Privileges {
    /// Name or number of the user; "" = stay. Only root can change.
    pub(crate) user: String,
    /// Name or number of the group; "" = the user's own.
    pub(crate) group: String,
}

impl Default for Document {
    fn default() -> Self {
        Self {
            mode: Mode::Open,
            database: Database::default(),
            channels: Channels::default(),
            intervals: Intervals::default(),
            udp: Udp::default(),
            http: Http::default(),
            announce: Announcing::default(),
            access: AccessList::default(),
            memory: Memory::default(),
            metrics: Metrics::default(),
            log: Log::default(),
            state_dir: ".".into(),
            enable_scrape: true,
            enable_metrics: true,
            log_flushes: false,
            record_announces: false,
            admin: Admin::default(),
            privileges: Privileges::default(),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { token_file: String::new(), passkey_grace: Pause::seconds(3600) }
    }
}

/// What mode private has where nothing else is said, as far as it is not what other modes have.
pub(super) fn private_defaults() -> serde_json::Value {
    serde_json::json!({
        "announce": { "numwant": 25, "max_numwant": 50, "external_ip": false, "keep_peer_ids": true },
        "http": { "addr": ":34000" },
        "udp": { "addr": "" },
        "database": { "dsn": "chihaya:@tcp(127.0.0.1:3306)/chihaya" },
        "log_flushes": true,
    })
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            announce: Pause::seconds(1800),
            min_announce: Pause::seconds(900),
            announce_drift: Pause::seconds(300),
            peer_inactivity: Pause::seconds(4200),
            scrape: Pause::seconds(900),
            purge_inactive_peers: Pause::seconds(120),
            database_reload: Pause::seconds(45),
            database_serialize: Pause::seconds(68),
            flush: Pause::seconds(3),
        }
    }
}

impl Default for Udp {
    fn default() -> Self {
        Self {
            addr: Listen::everywhere(6969),
            workers: Whole::new(0),
            private_key: Secret::default(),
            private_key_file: String::new(),
            connection_id_lifetime: Pause::seconds(120),
            max_clock_skew: Pause::seconds(10),
            receive_buffer: Size::new(8 * MIB),
            send_buffer: Size::new(8 * MIB),
            coalesce: Pause::milliseconds(2),
            max_scrape_infohashes: Whole::new(74),
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
            unix_socket: String::new(),
            announce_routes: vec!["/announce".into()],
            scrape_routes: vec!["/scrape".into()],
            enable_keepalive: true,
            proxy_header: HeaderName::default(),
            trusted_proxies: networks(&["127.0.0.0/8", "::1/128"]),
            timeout: Timeout::default(),
            max_scrape_infohashes: Whole::new(74),
            max_connections: Whole::new(20_000),
            numwant: None,
            max_numwant: None,
            allow_ip_spoofing: None,
        }
    }
}

impl Default for Timeout {
    fn default() -> Self {
        Self { read: Pause::seconds(10), write: Pause::seconds(10), idle: Pause::seconds(60) }
    }
}

impl Default for Announcing {
    fn default() -> Self {
        Self {
            strict_port: false,
            numwant: Whole::new(50),
            max_numwant: Whole::new(200),
            allow_ip_spoofing: false,
            spoofing_sources: networks(&[
                "10.0.0.0/8",
                "172.16.0.0/12",
                "192.168.0.0/16",
                "100.64.0.0/10",
                "127.0.0.0/8",
                "fc00::/7",
                "::1/128",
            ]),
            keep_peer_ids: false,
            external_ip: true,
            allow_private_peers: AllowPrivate(hayate_state::reach::PrivatePeers::SameRange),
            denied_ports: Vec::new(),
            peers_per_address: Whole::new(0),
        }
    }
}

impl Default for AccessList {
    fn default() -> Self {
        Self { mode: AccessMode::Off, path: String::new() }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { max: Size::new(0) }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { addr: Listen::loopback(6880), prefix: MetricPrefix("hayate".into()) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Text }
    }
}

/// Networks known when hayate is built; a test holds that none is lost.
fn networks(texts: &[&str]) -> Vec<Network> {
    texts.iter().filter_map(|text| text.parse().ok().map(Network)).collect()
}

#[cfg(test)]
mod tests {
    use hayate_state::Policy;

    use super::*;

    #[test]
    fn every_default_network_is_there() {
        let document = Document::default();
        assert_eq!(document.announce.spoofing_sources.len(), 7);
        assert_eq!(document.http.trusted_proxies.len(), 2);
    }

    #[test]
    fn defaults_are_those_of_the_policy() {
        let (document, policy) = (Document::default(), Policy::default());
        assert_eq!(document.intervals.announce.as_seconds(), policy.announce_seconds);
        assert_eq!(document.intervals.min_announce.as_seconds(), policy.min_announce_seconds);
        assert_eq!(document.intervals.announce_drift.as_seconds(), policy.announce_drift_seconds);
        assert_eq!(document.intervals.peer_inactivity.as_seconds(), policy.peer_inactivity_seconds);
        assert_eq!(document.intervals.purge_inactive_peers.as_seconds(), policy.purge_seconds);
        assert_eq!(document.intervals.scrape.as_seconds(), policy.scrape_seconds);
    }

    #[test]
    fn a_default_document_reads_back_as_itself() {
        let value = serde_json::to_value(Document::default()).unwrap();
        assert_eq!(serde_json::from_value::<Document>(value).unwrap(), Document::default());
    }
}
