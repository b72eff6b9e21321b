//! `tracker.json`: every setting with its default, its range and its unit. The comments here are the
//! descriptions of the JSON Schema.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::Listen;
use super::bounded::{DurationIn, HOUR, IntIn, SECOND, SizeIn, TIB};
use super::budget::MemoryBudget;
use super::cluster::Cluster;
use super::database::{Channels, Database};
use super::servers::{Http, Udp};
use super::values::{AllowPrivate, MetricPrefix, Network, NumWant, networks};

/// Longest lifetime of a silent peer, in milliseconds.
pub(super) const PEER_INACTIVITY_MAX: u64 =
    hayate_state::admission::PEER_INACTIVITY_SECONDS_MAX as u64 * SECOND;

/// The configuration of hayate. Every key has a default; unknown keys are errors. Durations are whole seconds
/// or texts such as "300ms", "30m", "1h30m". Relative paths start at the folder of this file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Document {
    /// Who may announce what. Changed by a restart only.
    pub(crate) mode: Mode,
    /// The database: completed counts, registered torrents.
    pub(crate) database: Database,
    /// Rows that wait in memory for the database. Changed by a restart only.
    pub(crate) channels: Channels,
    /// Several trackers that share their swarms through Redis. Changed by a restart only.
    pub(crate) cluster: Cluster,
    /// How often clients come back, and how long the tracker remembers them.
    pub(crate) intervals: Intervals,
    /// The UDP server (BEP 15, BEP 41).
    pub(crate) udp: Udp,
    /// The HTTP gateway (BEP 3, BEP 7, BEP 23, BEP 48).
    pub(crate) http: Http,
    /// What an announce may ask for and what it is answered, by UDP and HTTP.
    pub(crate) announce: Announcing,
    /// A list of torrents, one info_hash of 40 hexadecimal digits a line; read again at every reload.
    pub(crate) access: AccessList,
    /// Hooks that may refuse an announce, in this order, after the mode's own rules.
    pub(crate) prehooks: Vec<HookEntry>,
    /// Hooks that decide whether an announce changes its swarm; the client is answered either way.
    pub(crate) posthooks: Vec<HookEntry>,
    /// How often one address may ask.
    pub(crate) limits: Limits,
    /// Bounds of memory.
    pub(crate) memory: Memory,
    /// The operator's pages: /metrics, /alive, /health.
    pub(crate) metrics: Metrics,
    /// A file with the counts of all torrents.
    pub(crate) export: Export,
    /// What is logged, and how. Changed by a restart only.
    pub(crate) log: Log,
    /// Folder for the files of hayate: the database, the swarms of the last run, udp.key. Changed by a
    /// restart only.
    pub(crate) state_dir: String,
    /// Answer scrapes.
    pub(crate) enable_scrape: bool,
    /// Serve /metrics: on metrics.addr, or on the gateway where that is empty.
    pub(crate) enable_metrics: bool,
    /// Log one line for each batch that the database has taken.
    pub(crate) log_flushes: bool,
    /// Write announces of users with traffic to state_dir/events, one CSV file an hour (mode private).
    /// Changed by a restart only.
    pub(crate) record_announces: bool,
    /// The admin API: queries and changes over HTTP, on metrics.addr. Changed by a restart only.
    pub(crate) admin: Admin,
    /// The user that the process becomes after its sockets are open. Changed by a restart only.
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
    pub(crate) announce: DurationIn<SECOND, { 24 * HOUR }>,
    /// Shortest time between two announces of a client, 1s to announce; 0 = not sent (BEP 3: min interval).
    pub(crate) min_announce: DurationIn<0, { 24 * HOUR }>,
    /// A random time below this is added to each interval, so that clients spread out; 0 = none.
    pub(crate) announce_drift: DurationIn<0, HOUR>,
    /// How long a silent peer stays in its swarm, 60s to 6h, in mode private 1s to 24h; longer than announce
    /// and announce_drift together.
    pub(crate) peer_inactivity: DurationIn<SECOND, { 24 * HOUR }>,
    /// The min_request_interval that scrapes are answered, to 24h (BEP 48); 0 = not sent.
    pub(crate) scrape: DurationIn<0, { 24 * HOUR }>,
    /// Time of one sweep over all swarms: a silent peer is gone at most this much after peer_inactivity.
    pub(crate) purge_inactive_peers: DurationIn<SECOND, HOUR>,
    /// How often the registered torrents are read from the database.
    pub(crate) database_reload: DurationIn<SECOND, { 24 * HOUR }>,
    /// How often the swarms are written to state_dir/hayate-cache.bin, from which a restart continues.
    pub(crate) database_serialize: DurationIn<SECOND, { 24 * HOUR }>,
    /// Pause between two batches for the database if there is little to write.
    pub(crate) flush: DurationIn<SECOND, HOUR>,
}

/// What an announce may ask for and what it is answered, by UDP and HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Announcing {
    /// Refuse ports below 1024.
    pub(crate) strict_port: bool,
    /// Peers handed out to a client that does not say how many it wants.
    pub(crate) numwant: NumWant,
    /// Most peers handed out to a client that does.
    pub(crate) max_numwant: NumWant,
    /// Honour the address a client claims, from spoofing_sources.
    pub(crate) allow_ip_spoofing: bool,
    /// Networks whose claims are honoured.
    pub(crate) spoofing_sources: Vec<Network>,
    /// Keep peer ids, for clients that ask for the list form (compact=0); costs 20 octets a peer.
    pub(crate) keep_peer_ids: bool,
    /// Tell HTTP clients their own address (BEP 24).
    pub(crate) external_ip: bool,
    /// Which clients are handed peers with private addresses: "auto" = clients in the same range, true = all,
    /// false = none.
    pub(crate) allow_private_peers: AllowPrivate,
    /// Ports that are counted but never handed out.
    pub(crate) denied_ports: Vec<IntIn<1, 65535>>,
    /// Most octets a second, in each direction, that a session can have transferred since its last announce;
    /// more is credited as 0 (mode private). Number or text ("2GiB"); 0 = no limit.
    pub(crate) max_octets_per_second: SizeIn<0, TIB>,
    /// Peers of one public IPv4 address, or one public IPv6 /64, in one swarm; 0 = no limit. Changed by a
    /// restart only.
    pub(crate) peers_per_address: IntIn<0, 65535>,
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

/// A hook and its options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HookEntry {
    /// "client approval", "torrent approval", "jwt" or "interval variation".
    pub(crate) name: String,
    /// The options of the hook; see docs/HOOKS.md.
    #[serde(default)]
    pub(crate) options: serde_json::Map<String, serde_json::Value>,
}

/// How often one address, or one IPv6 /64, may ask. Only requests whose source is verified count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    /// Announces and scrapes of one address that are allowed per minute; 0 = no limit.
    pub(crate) per_minute: IntIn<0, 1_000_000>,
    /// Number of requests that may come at once.
    pub(crate) burst: IntIn<1, 1_000_000>,
    /// What happens to further requests.
    pub(crate) answer: LimitAnswer,
    /// Number of addresses that are remembered, the busiest ones; 24 octets of memory each.
    pub(crate) addresses: IntIn<1024, 16_777_216>,
}

/// What happens to requests beyond a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LimitAnswer {
    /// They are counted and served.
    Count,
    /// They are served, but the client gets twice the interval.
    Slow,
    /// They change nothing and get no peers, and the client gets twice the interval.
    Empty,
}

/// Bounds of memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Memory {
    /// Octets that the swarms may take by hayate's own count, as number or text ("512MiB"); "auto" = half of
    /// the machine's memory, or of what its cgroup may have if that is less; 0 = no limit.
    pub(crate) max: MemoryBudget,
}

/// The operator's pages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    /// Where to listen; "" = nowhere: then the gateway serves /metrics.
    pub(crate) addr: Listen,
    /// First word of every metric name.
    pub(crate) prefix: MetricPrefix,
    /// Serve /debug/pprof/ on addr: a profile of where the process spends its time, on demand.
    pub(crate) pprof: bool,
    /// Count announces by client, as the first octets of peer_id name it.
    pub(crate) clients: bool,
}

/// A file with one line for each torrent: info_hash, seeders and leechers of IPv4, the same of IPv6, finished
/// downloads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Export {
    /// The file, replaced as a whole each time; "" = state_dir/export.csv.
    pub(crate) path: String,
    /// How often it is written, 1s to 24h; 0 = on demand only.
    pub(crate) interval: DurationIn<0, { 24 * HOUR }>,
}

/// The admin API: queries and changes over HTTP, on metrics.addr.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Admin {
    /// A file that holds the token of the requests, 16 to 128 printable characters without / ? # %; "" = the
    /// admin API is off.
    pub(crate) token_file: String,
    /// How long a passkey still works after it was changed, to 30 days.
    pub(crate) passkey_grace: DurationIn<0, { 30 * 24 * HOUR }>,
    /// How long the audit, reasons for deletions, and passkeys whose grace is over stay in the database, to
    /// ten years; 0 = forever.
    pub(crate) keep_history: DurationIn<0, { 3650 * 24 * HOUR }>,
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

/// The user that the process becomes after its sockets are open.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Privileges {
    /// Name or number of the user; "" = no change. Only root can change the user.
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
            cluster: Cluster::default(),
            intervals: Intervals::default(),
            udp: Udp::default(),
            http: Http::default(),
            announce: Announcing::default(),
            access: AccessList::default(),
            prehooks: Vec::new(),
            posthooks: Vec::new(),
            limits: Limits::default(),
            memory: Memory::default(),
            metrics: Metrics::default(),
            export: Export::default(),
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
        Self {
            token_file: String::new(),
            passkey_grace: DurationIn::seconds(3600),
            keep_history: DurationIn::seconds(365 * 24 * 3600),
        }
    }
}

/// Returns the defaults of mode private that differ from those of other modes.
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
            announce: DurationIn::seconds(1800),
            min_announce: DurationIn::seconds(900),
            announce_drift: DurationIn::seconds(300),
            peer_inactivity: DurationIn::seconds(4200),
            scrape: DurationIn::seconds(900),
            purge_inactive_peers: DurationIn::seconds(120),
            database_reload: DurationIn::seconds(45),
            database_serialize: DurationIn::seconds(68),
            flush: DurationIn::seconds(3),
        }
    }
}

impl Default for Announcing {
    fn default() -> Self {
        Self {
            strict_port: false,
            numwant: IntIn::new(50),
            max_numwant: IntIn::new(200),
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
            allow_private_peers: AllowPrivate(hayate_state::address::PrivatePeers::SameRange),
            denied_ports: Vec::new(),
            max_octets_per_second: SizeIn::new(hayate_state::admission::OCTETS_PER_SECOND_MAX),
            peers_per_address: IntIn::new(0),
        }
    }
}

impl Default for AccessList {
    fn default() -> Self {
        Self { mode: AccessMode::Off, path: String::new() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_minute: IntIn::new(0),
            burst: IntIn::new(60),
            answer: LimitAnswer::Empty,
            addresses: IntIn::new(65536),
        }
    }
}

impl Default for Export {
    fn default() -> Self {
        Self { path: String::new(), interval: DurationIn::seconds(0) }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { max: MemoryBudget::Auto }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            addr: Listen::loopback(6880),
            prefix: MetricPrefix("hayate".into()),
            pprof: false,
            clients: false,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Text }
    }
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
