//! The keys of `cluster`: several trackers as one. The comments here are the descriptions of the JSON Schema.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bounded::{DurationIn, HOUR, IntIn, MINUTE, SECOND};
use super::values::Secret;

/// Several trackers that share their swarms through Redis (mode open and listed). Changed by a restart only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ClusterKeys {
    /// The name of this node, 1 to 64 of A-Z a-z 0-9 . _ -, another one on each node; "" = the name of the
    /// machine.
    pub(crate) node_id: String,
    /// What all nodes know and nobody else, 16 to 128 octets: it seals what they write to Redis.
    pub(crate) secret: Secret,
    /// A file that holds the secret instead; a line break at its end does not count.
    pub(crate) secret_file: String,
    /// How long a start waits for what the other nodes know, to 10m.
    pub(crate) warm_start: DurationIn<0, { 10 * MINUTE }>,
    /// Changes that wait for Redis in memory at most; each takes some 32 octets. Further ones are found in
    /// the swarms later.
    pub(crate) outbox: IntIn<65_536, 67_108_864>,
    /// The Redis or Valkey server.
    pub(crate) redis: RedisKeys,
}

/// The Redis or Valkey server of a cluster. Changed by a restart only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RedisKeys {
    /// redis://user:password@host:port/db, rediss:// for TLS, or unix:///path; user and password %-encoded;
    /// "" = no cluster.
    pub(crate) url: Secret,
    /// A file that holds the url instead; a line break at its end does not count.
    pub(crate) url_file: String,
    /// More servers to ask, host:port each: nodes of a Redis Cluster, or Sentinels.
    pub(crate) seeds: Vec<String>,
    /// The name of the master that Sentinels watch; then url and seeds are those Sentinels.
    pub(crate) sentinel_master: String,
    /// File of the certificates, PEM, that are trusted to sign the server's; "" = those of the system.
    pub(crate) ca_path: String,
    /// Longest wait for a connection, 100ms to 60s.
    pub(crate) connect_timeout: DurationIn<100, MINUTE>,
    /// Longest wait for a reply, 100ms to 60s.
    pub(crate) read_timeout: DurationIn<100, MINUTE>,
    /// Longest wait until a request is taken, 100ms to 60s.
    pub(crate) write_timeout: DurationIn<100, MINUTE>,
    /// What the keys of the streams begin with, 1 to 64 printable characters without { } and space.
    pub(crate) key_prefix: String,
    /// Number of streams, a power of two; each has a thread. 16 spread well over a Redis Cluster.
    pub(crate) streams: IntIn<1, 64>,
    /// Time between two exchanges with the server, 10ms to 1s.
    pub(crate) batch_delay: DurationIn<10, SECOND>,
    /// How long history is kept for new nodes, 60s to 24h; 0 = intervals.peer_inactivity.
    pub(crate) retention: DurationIn<0, { 24 * HOUR }>,
    /// Entries that each stream keeps at most, of up to 14 kB.
    pub(crate) max_entries: IntIn<1000, 100_000_000>,
}

impl Default for ClusterKeys {
    fn default() -> Self {
        Self {
            node_id: String::new(),
            secret: Secret::default(),
            secret_file: String::new(),
            warm_start: DurationIn::seconds(30),
            outbox: IntIn::new(1_048_576),
            redis: RedisKeys::default(),
        }
    }
}

impl Default for RedisKeys {
    fn default() -> Self {
        Self {
            url: Secret::default(),
            url_file: String::new(),
            seeds: Vec::new(),
            sentinel_master: String::new(),
            ca_path: String::new(),
            connect_timeout: DurationIn::seconds(15),
            read_timeout: DurationIn::seconds(15),
            write_timeout: DurationIn::seconds(15),
            key_prefix: "hayate".into(),
            streams: IntIn::new(4),
            batch_delay: DurationIn::milliseconds(100),
            retention: DurationIn::seconds(0),
            max_entries: IntIn::new(1_000_000),
        }
    }
}

impl ClusterKeys {
    /// Whether there is to be a cluster.
    pub(crate) fn is_on(&self) -> bool {
        !self.redis.url.reveal().is_empty() || !self.redis.url_file.is_empty()
    }
}
