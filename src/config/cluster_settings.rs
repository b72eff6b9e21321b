//! From the keys of `cluster` to what the start of a cluster needs; what must hold between them, and warnings
//! about those that are legal but unwise.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use hayate_state::address::AddressClass;
use hayate_state::store::Dsn;
use hayate_state::text;

use super::bounded::duration_text;
use super::cluster::NodeId;
use super::document::{Document, Mode};
use super::redis_url::{RedisPlace, RedisUrl, Seed};
use super::show::is_mask;
use super::{Config, ConfigError};

/// Allowed lengths of the secret, in octets.
const SECRET_LEN: RangeInclusive<usize> = 16..=128;
/// What is said of a secret of another length.
const SECRET_EXPECTED: &str = "expected 16 to 128 octets, the same on every node";
/// Shortest time that entries may stay in Redis.
const RETENTION_MIN: Duration = Duration::from_secs(60);
/// What is left of the history after the last renewal of a living peer, at least.
const RETENTION_SPARE: Duration = Duration::from_secs(60);
/// Below this, nearly every announce is published.
const RENEW_AFTER_SECONDS_MIN: u32 = 60;
/// The hook that prolongs the intervals of clients, and its option that says by how much.
const INTERVAL_HOOK: (&str, &str) = ("interval variation", "max_increase_delta");
/// Each certificate in a PEM file begins so.
const PEM_CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Everything that the start of a cluster needs.
#[derive(Clone, Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "for the start of the cluster, which comes next"))]
pub(crate) struct ClusterSettings {
    /// The name of this node, 1 to 64 octets.
    pub(crate) node_id: String,
    /// The secret of the cluster, 16 to 128 octets.
    pub(crate) secret: SecretOctets,
    /// How long a start waits at most for the peers of the other nodes.
    pub(crate) warm_start: Duration,
    /// Changes that wait in memory for Redis at most.
    pub(crate) outbox_records: usize,
    /// How Redis is reached.
    pub(crate) redis: RedisServer,
    /// The beginning of the names of all streams.
    pub(crate) key_prefix: String,
    /// The number of streams, a power of two.
    pub(crate) streams: usize,
    /// Time between two exchanges with Redis.
    pub(crate) batch_delay: Duration,
    /// How long entries stay in Redis.
    pub(crate) retention: Duration,
    /// Entries that a stream keeps at most.
    pub(crate) entries_max: u64,
    /// Age from which on a known peer is renewed and published; see [`renew_after_seconds`].
    pub(crate) renew_after_seconds: u32,
}

/// How Redis is reached.
#[derive(Clone, Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "for the start of the cluster, which comes next"))]
pub(crate) struct RedisServer {
    /// The URL; with `sentinel_master` that of a Sentinel.
    pub(crate) url: RedisUrl,
    /// Further servers of a Redis Cluster, or Sentinels.
    pub(crate) seeds: Vec<Seed>,
    /// The name of the master, if Sentinels are to be asked for it.
    pub(crate) sentinel_master: Option<String>,
    /// The certificates that are trusted, PEM; `None` = those of the system.
    pub(crate) ca_pem: Option<Vec<u8>>,
    /// Longest time to connect.
    pub(crate) connect_timeout: Duration,
    /// Longest time to wait for an answer.
    pub(crate) read_timeout: Duration,
    /// Longest time to send.
    pub(crate) write_timeout: Duration,
}

/// The secret of a cluster; never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretOctets(pub(crate) Vec<u8>);

impl fmt::Debug for SecretOctets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretOctets")
    }
}

impl ClusterSettings {
    /// Reads what the keys of the cluster name and translates them; `None` if there is no cluster.
    ///
    /// # Errors
    /// Fails when a file is missing or not accepted, or no name of the node is known.
    pub(super) fn from_config(config: &Config) -> Result<Option<Self>, ConfigError> {
        let Document { cluster, intervals, .. } = &config.document;
        if !cluster.is_on() {
            return Ok(None);
        }
        let redis = &cluster.redis;
        let retention = redis.retention.duration();
        Ok(Some(Self {
            node_id: node_id(config, host_name)?,
            secret: secret(config)?,
            warm_start: cluster.warm_start.duration(),
            outbox_records: cluster.outbox.as_usize(),
            redis: RedisServer {
                url: url(config)?,
                seeds: redis.seeds.clone(),
                sentinel_master: Some(redis.sentinel_master.clone()).filter(|name| !name.is_empty()),
                ca_pem: ca_pem(config)?,
                connect_timeout: redis.connect_timeout.duration(),
                read_timeout: redis.read_timeout.duration(),
                write_timeout: redis.write_timeout.duration(),
            },
            key_prefix: redis.key_prefix.0.clone(),
            streams: redis.streams.as_usize(),
            batch_delay: redis.batch_delay.duration(),
            retention: if retention.is_zero() { intervals.peer_inactivity.duration() } else { retention },
            entries_max: u64::from(redis.max_entries.as_u32()),
            renew_after_seconds: renew_after_seconds(&config.document),
        }))
    }

    /// Returns warnings about what is legal but unwise in a cluster; `dsn` is that of the database.
    pub(super) fn warnings(&self, document: &Document, dsn: Option<&Dsn>) -> Vec<String> {
        let Document { cluster, intervals, .. } = document;
        let renew_after = Duration::from_secs(u64::from(self.renew_after_seconds));
        let silence = intervals.announce.duration() + intervals.announce_drift.duration();
        let (retention, needed) =
            (cluster.redis.retention.duration(), renew_after + silence + RETENTION_SPARE);
        let mut warnings = self
            .redis
            .exposed()
            .map(|host| {
                format!(
                    "cluster.redis: {host} is a public address, and nothing on the way to it is encrypted: \
                 who listens there learns the password and can delete entries; use rediss://"
                )
            })
            .into_iter()
            .collect::<Vec<_>>();
        let mut warn = |unwise: bool, text: String| {
            if unwise {
                warnings.push(text);
            }
        };
        // Where peer_inactivity takes the place of the retention, it is long enough unless the next warning
        // is given.
        warn(
            !retention.is_zero() && retention < needed,
            format!(
                "cluster.redis.retention is {}: below {} a node that starts or was cut off may miss living \
                 peers",
                duration_text(retention),
                duration_text(needed)
            ),
        );
        warn(
            self.renew_after_seconds < RENEW_AFTER_SECONDS_MIN,
            format!(
                "intervals.peer_inactivity leaves {} s between the longest interval and the end of a peer's \
                 time: nearly every announce is published to the cluster; it should be longer",
                2 * self.renew_after_seconds
            ),
        );
        warn(
            document.mode == Mode::Listed && !matches!(dsn, Some(Dsn::Mariadb(_))),
            "mode listed without MariaDB: each node has a list of torrents of its own".into(),
        );
        warn(
            document.memory.max.octets(u64::MAX) == 0,
            "memory.max is 0: every node keeps the peers of all nodes, without a limit; set the same limit \
             on all of them"
                .into(),
        );
        warn(
            !cluster.redis.ca_path.is_empty() && !self.redis.uses_tls(),
            "cluster.redis.ca_path has an effect with rediss:// only".into(),
        );
        warnings
    }
}

impl RedisServer {
    fn uses_tls(&self) -> bool {
        matches!(self.url.place(), Some(RedisPlace::Tcp { tls: true, .. }))
    }

    /// Returns the first host that is a public address and is reached without TLS. Names are not looked up.
    fn exposed(&self) -> Option<String> {
        let named = match self.url.place() {
            Some(RedisPlace::Tcp { tls: true, .. }) => return None,
            Some(RedisPlace::Tcp { host, .. }) => Some(host),
            Some(RedisPlace::Unix(_)) | None => None,
        };
        let is_public =
            |host: &String| host.parse::<IpAddr>().is_ok_and(|address| AddressClass::of(address).is_public());
        named.into_iter().chain(self.seeds.iter().map(|seed| seed.host.clone())).find(is_public)
    }
}

/// Returns the age, in seconds, from which on a known peer is renewed and published to the other nodes
/// (`docs/decisions/0037-a-refresh-is-published-by-age.md`): half of what `peer_inactivity` leaves beyond the
/// longest interval that a client may be told; 1050 by default, and 0 if nothing is left.
pub(crate) fn renew_after_seconds(document: &Document) -> u32 {
    let Document { intervals, prehooks, .. } = document;
    let (hook, option) = INTERVAL_HOOK;
    // Each hook adds to what those before it have added. After posthooks nothing changes any more.
    let increases = prehooks
        .iter()
        .filter(|entry| entry.name == hook)
        .filter_map(|entry| entry.options.get(option).and_then(serde_json::Value::as_u64));
    let increase = increases.fold(0, u64::saturating_add);
    let longest = u64::from(intervals.announce.as_seconds())
        .saturating_add(u64::from(intervals.announce_drift.as_seconds()))
        .saturating_add(increase);
    let left = u64::from(intervals.peer_inactivity.as_seconds()).saturating_sub(longest);
    u32::try_from(left / 2).unwrap_or(u32::MAX)
}

/// Returns where the key of the connection ids comes from, if that key is derived from the secret unless one
/// is configured.
pub(super) fn key_note(document: &Document) -> Option<String> {
    if !document.cluster.is_on() || document.udp.addr.is_off() {
        return None;
    }
    let udp = &document.udp;
    let configured = match (udp.private_key.reveal().is_empty(), udp.private_key_file.is_empty()) {
        (false, _) => "udp.private_key",
        (true, false) => "udp.private_key_file",
        (true, true) => {
            return Some(
                "udp.private_key is not set: the key of the connection ids is derived from cluster.secret, \
                 so that each node accepts the ids of all"
                    .into(),
            );
        }
    };
    Some(format!(
        "{configured} is set: the key of the connection ids is that one, and is not derived from \
         cluster.secret; set the same one on every node"
    ))
}

/// Checks what the types of the keys cannot check.
pub(super) fn check_cluster(config: &Config) -> Result<(), ConfigError> {
    let cluster = &config.document.cluster;
    let (redis, secret) = (&cluster.redis, cluster.secret.reveal());
    if !secret.is_empty() && !cluster.secret_file.is_empty() {
        let text = "cluster.secret is set too; one of them is allowed";
        return Err(config.value_error("cluster.secret_file", text));
    }
    if !redis.url.is_off() && !redis.url_file.is_empty() {
        let text = "cluster.redis.url is set too; one of them is allowed";
        return Err(config.value_error("cluster.redis.url_file", text));
    }
    if is_mask(secret) {
        let text = "is the mask that print-config shows instead of a secret; write the secret itself";
        return Err(config.value_error("cluster.secret", text));
    }
    if !secret.is_empty() && !SECRET_LEN.contains(&secret.len()) {
        let text = format!("{} octets, {SECRET_EXPECTED}", secret.len());
        return Err(config.value_error("cluster.secret", text));
    }
    if !redis.sentinel_master.is_empty() && redis.seeds.is_empty() {
        let text = format!(
            "{:?} without cluster.redis.seeds; list the Sentinels there, as host:port",
            redis.sentinel_master
        );
        return Err(config.value_error("cluster.redis.sentinel_master", text));
    }
    let streams = redis.streams.as_usize();
    if !streams.is_power_of_two() {
        let text = format!("invalid value: {streams}, expected 1, 2, 4, 8, 16, 32 or 64");
        return Err(config.value_error("cluster.redis.streams", text));
    }
    let retention = redis.retention.duration();
    if !retention.is_zero() && retention < RETENTION_MIN {
        let text =
            format!("invalid value: {}, expected 0, or a duration from 1m to 24h", duration_text(retention));
        return Err(config.value_error("cluster.redis.retention", text));
    }
    if !cluster.is_on() {
        return Ok(());
    }
    if config.document.mode == Mode::Private {
        let key = if redis.url.is_off() { "cluster.redis.url_file" } else { "cluster.redis.url" };
        let text = "is set in mode private: a cluster of private sites is not available in this version";
        return Err(config.value_error(key, text));
    }
    if secret.is_empty() && cluster.secret_file.is_empty() {
        return Err(config.value_error("cluster.secret", SECRET_EXPECTED));
    }
    Ok(())
}

fn host_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}

fn node_id(config: &Config, host_name: impl Fn() -> Option<String>) -> Result<String, ConfigError> {
    let configured = config.document.cluster.node_id.as_str();
    if !configured.is_empty() {
        return Ok(configured.to_owned());
    }
    let host_name = host_name().unwrap_or_default();
    match NodeId::new(&host_name) {
        Some(name) => Ok(name.as_str().to_owned()),
        None => {
            let text = format!("is not set, and the host name {host_name:?} is not {}", NodeId::ALLOWED);
            Err(config.value_error("cluster.node_id", text))
        }
    }
}

/// Returns the secret, from the document or from its file.
fn secret(config: &Config) -> Result<SecretOctets, ConfigError> {
    let cluster = &config.document.cluster;
    if cluster.secret_file.is_empty() {
        return Ok(SecretOctets(cluster.secret.reveal().to_vec()));
    }
    let [octets] = config.read_files([("cluster.secret_file", &cluster.secret_file)])?;
    let end = octets.iter().rposition(|octet| !b"\r\n".contains(octet)).map_or(0, |last| last + 1);
    let secret = octets.get(..end).unwrap_or_default();
    if !SECRET_LEN.contains(&secret.len()) {
        let path = config.resolve_path(&cluster.secret_file);
        let text = format!("{}: {} octets, {SECRET_EXPECTED}", path.display(), secret.len());
        return Err(config.value_error("cluster.secret_file", text));
    }
    Ok(SecretOctets(secret.to_vec()))
}

/// Returns the URL, from the document or from its file.
fn url(config: &Config) -> Result<RedisUrl, ConfigError> {
    let redis = &config.document.cluster.redis;
    if redis.url_file.is_empty() {
        return Ok(redis.url.clone());
    }
    let path = config.resolve_path(&redis.url_file);
    let refuse =
        |text: &str| config.value_error("cluster.redis.url_file", format!("{}: {text}", path.display()));
    let [octets] = config.read_files([("cluster.redis.url_file", &redis.url_file)])?;
    let text = str::from_utf8(text::without_bom(&octets)).map_err(|error| refuse(&error.to_string()))?;
    let url = RedisUrl::parse(text).map_err(refuse)?;
    if url.is_off() {
        return Err(refuse("is empty, expected redis://, rediss:// or unix://"));
    }
    Ok(url)
}

/// Returns the certificates that are trusted, if a file of them is named.
fn ca_pem(config: &Config) -> Result<Option<Vec<u8>>, ConfigError> {
    let name = &config.document.cluster.redis.ca_path;
    if name.is_empty() {
        return Ok(None);
    }
    let [pem] = config.read_files([("cluster.redis.ca_path", name)])?;
    if !pem.windows(PEM_CERTIFICATE.len()).any(|part| part == PEM_CERTIFICATE) {
        let text = format!("{}: holds no certificate in PEM", config.resolve_path(name).display());
        return Err(config.value_error("cluster.redis.ca_path", text));
    }
    Ok(Some(pem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::read;

    #[test]
    fn a_node_is_called_as_its_host_if_that_may_be_a_name() {
        let config = read("{}").unwrap();
        let name = |host: &str| node_id(&config, || Some(host.to_owned())).map_err(|error| error.to_string());
        assert_eq!(name("tracker-7.example_x").unwrap(), "tracker-7.example_x");
        for host in ["", "two words", "h\u{e9}", &"x".repeat(65)] {
            let error = name(host).unwrap_err();
            let expected =
                format!("cluster.node_id: is not set, and the host name {host:?} is not 1 to 64 of");
            assert!(error.contains(&expected), "{error}");
        }
        assert!(node_id(&config, || None).is_err());
        let named = read(r#"{"cluster": {"node_id": "a.b_c-7"}}"#).unwrap();
        assert_eq!(node_id(&named, || None).unwrap(), "a.b_c-7");
    }

    #[test]
    fn peers_are_renewed_in_the_second_half_of_the_time_that_is_left() {
        let seconds = |text: &str| renew_after_seconds(&read(text).unwrap().document);
        assert_eq!(seconds("{}"), 1050);
        assert_eq!(seconds(r#"{"intervals": {"peer_inactivity": "2h"}}"#), 2550);
        assert_eq!(seconds(r#"{"intervals": {"announce_drift": 0, "announce": 1791}}"#), 1204);
        assert_eq!(seconds(r#"{"intervals": {"peer_inactivity": 2101}}"#), 0);
        assert_eq!(seconds(r#"{"intervals": {"peer_inactivity": 1800}}"#), 0);
        let hook = |list: &str, delta: &str| {
            format!(
                r#""{list}": [{{"name": "client approval", "options": {{"max_increase_delta": 7}}}},
                    {{"name": "interval variation", "options": {{"max_increase_delta": {delta}}}}}]"#
            )
        };
        assert_eq!(seconds(&format!("{{{}}}", hook("prehooks", "100"))), 1000);
        assert_eq!(seconds(&format!("{{{}}}", hook("posthooks", "100"))), 1050);
        assert_eq!(seconds(&format!("{{{}}}", hook("prehooks", "86400"))), 0);
        assert_eq!(seconds(&format!("{{{}}}", hook("prehooks", "-7"))), 1050);
    }
}
