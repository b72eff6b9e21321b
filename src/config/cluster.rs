//! The keys of `cluster`: several trackers that share their swarms through Redis. The comments here are the
//! descriptions of the JSON Schema.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::bounded::{DurationIn, HOUR, IntIn, MINUTE, SECOND};
use super::redis_url::{RedisUrl, Seed};
use super::values::Secret;

/// Longest name of a node or prefix of keys, in octets.
const NAME_MAX: usize = 64;

/// Several trackers that share their swarms through Redis. Changed by a restart only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cluster {
    /// The name of this node, 1 to 64 of A-Z a-z 0-9 . _ -, on each node another one; "" = the host name.
    pub(crate) node_id: NodeId,
    /// What proves that an entry comes from a node, 16 to 128 octets, the same on every node.
    pub(crate) secret: Secret,
    /// A file that holds the secret instead; a line break at its end does not count.
    pub(crate) secret_file: String,
    /// How long a start waits at most until it knows the peers of the other nodes, to 10m.
    pub(crate) warm_start: DurationIn<0, { 10 * MINUTE }>,
    /// Changes that wait in memory for Redis at most, about 32 octets each.
    pub(crate) outbox: IntIn<65_536, 67_108_864>,
    /// Where Redis is, and how it is used.
    pub(crate) redis: Redis,
}

/// Where Redis is, and how it is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Redis {
    /// redis://user:password@host:port/db, rediss:// for TLS, or unix:///path?user=name&pass=password&db=0;
    /// user and password %-encoded; "" = no cluster.
    pub(crate) url: RedisUrl,
    /// A file that holds the url instead; a line break at its end does not count.
    pub(crate) url_file: String,
    /// host:port of further servers of a Redis Cluster or, with sentinel_master, of Sentinels.
    pub(crate) seeds: Vec<Seed>,
    /// The name under which Sentinels know the master; "" = no Sentinel.
    pub(crate) sentinel_master: String,
    /// File of the certificates that are trusted about the server, PEM; "" = those of the system.
    pub(crate) ca_path: String,
    /// Longest time to connect, 100ms to 1m.
    pub(crate) connect_timeout: DurationIn<100, MINUTE>,
    /// Longest time to wait for an answer, 100ms to 1m.
    pub(crate) read_timeout: DurationIn<100, MINUTE>,
    /// Longest time to send, 100ms to 1m.
    pub(crate) write_timeout: DurationIn<100, MINUTE>,
    /// The beginning of the names of all streams, the same on every node: 1 to 64 printable characters
    /// without { } and space.
    pub(crate) key_prefix: KeyPrefix,
    /// Number of streams, a power of two; for a Redis Cluster more, for example 16.
    pub(crate) streams: IntIn<1, 64>,
    /// Time between two exchanges with Redis, 10ms to 1s.
    pub(crate) batch_delay: DurationIn<10, SECOND>,
    /// How long entries stay in Redis, 1m to 24h; 0 = intervals.peer_inactivity.
    pub(crate) retention: DurationIn<0, { 24 * HOUR }>,
    /// Entries that a stream keeps at most.
    pub(crate) max_entries: IntIn<1000, 100_000_000>,
}

impl Cluster {
    /// Whether there is a cluster.
    pub(crate) fn is_on(&self) -> bool {
        !self.redis.url.is_off() || !self.redis.url_file.is_empty()
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            node_id: NodeId::default(),
            secret: Secret::default(),
            secret_file: String::new(),
            warm_start: DurationIn::seconds(30),
            outbox: IntIn::new(1_048_576),
            redis: Redis::default(),
        }
    }
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            url: RedisUrl::default(),
            url_file: String::new(),
            seeds: Vec::new(),
            sentinel_master: String::new(),
            ca_path: String::new(),
            connect_timeout: DurationIn::seconds(15),
            read_timeout: DurationIn::seconds(15),
            write_timeout: DurationIn::seconds(15),
            key_prefix: KeyPrefix("hayate".into()),
            streams: IntIn::new(4),
            batch_delay: DurationIn::milliseconds(100),
            retention: DurationIn::seconds(0),
            max_entries: IntIn::new(1_000_000),
        }
    }
}

/// The name of a node; empty = the host name.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct NodeId(String);

impl NodeId {
    /// What a name may be.
    pub(crate) const ALLOWED: &str = "1 to 64 of A-Z a-z 0-9 . _ -";

    /// Returns the name `text`, if it may be one; never an empty one.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let good = |octet: u8| octet.is_ascii_alphanumeric() || b"._-".contains(&octet);
        ((1..=NAME_MAX).contains(&text.len()) && text.bytes().all(good)).then(|| Self(text.to_owned()))
    }

    /// Returns the name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self::default());
        }
        let allowed = "1 to 64 of A-Z a-z 0-9 . _ -, or \"\" for the host name";
        Self::new(&text).ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &allowed))
    }
}

impl JsonSchema for NodeId {
    fn schema_name() -> Cow<'static, str> {
        "NodeId".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": NAME_MAX, "pattern": "^[A-Za-z0-9._-]*$" })
    }
}

/// The beginning of the names of all streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyPrefix(pub(crate) String);

impl Serialize for KeyPrefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyPrefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Braces say which slot of a Redis Cluster a key is in; hayate sets them itself.
        let good = |octet: u8| octet.is_ascii_graphic() && !b"{}".contains(&octet);
        if (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(good) {
            return Ok(Self(text));
        }
        let allowed = "1 to 64 printable characters without { } and space";
        Err(D::Error::invalid_value(Unexpected::Str(&text), &allowed))
    }
}

impl JsonSchema for KeyPrefix {
    fn schema_name() -> Cow<'static, str> {
        "KeyPrefix".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": NAME_MAX, "pattern": "^[!-z|~]+$" })
    }
}
