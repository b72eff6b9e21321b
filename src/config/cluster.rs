//! What follows from the keys of `cluster`: checks, warnings, and the settings of a node.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use hayate_state::cluster::bus::redis::{RedisSettings, RedisTimeouts};
use hayate_state::cluster::hello::NODE_ID_MAX;
use hayate_state::cluster::running::ClusterSettings;
use hayate_state::cluster::sealed::ClusterSecret;
use hayate_state::store::Dsn;
use hayate_state::{Policy, text};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::document::{Document, Mode};
use super::remembered_files::read_files;
use super::values::Secret;
use super::{Config, ConfigError, show};

/// Where the kernel says the name of this machine.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";
const SECRET_LEN: std::ops::RangeInclusive<usize> = 16..=128;
const SECRET_EXPECTED: &str = "expected 16 to 128 octets, the same on every node";
/// Shards of the swarms, each of which has an outbox.
const OUTBOXES: u32 = 1024;
/// Less time than this between two refreshes of a peer saves little.
const RENEW_AFTER_WISE: u32 = 60;

/// What a node of a cluster needs.
#[derive(Clone)]
pub(crate) struct ClusterConfig {
    /// The links.
    pub(crate) links: ClusterSettings,
    /// The server.
    pub(crate) redis: RedisSettings,
    /// How long a start waits for what the other nodes know.
    pub(crate) warm_start: Duration,
    /// Changes that wait in one shard at most.
    pub(crate) outbox_max: usize,
    /// What spreads torrents over shards, equal on all nodes.
    pub(crate) shard_key: [u8; 32],
    /// The key of the connection ids that all nodes have, unless another one is configured.
    pub(crate) udp_key: [u8; 32],
}

impl fmt::Debug for ClusterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterConfig").field("links", &self.links).finish_non_exhaustive()
    }
}

/// Checks the keys without reading a file.
pub(super) fn check_cluster(config: &Config) -> Result<(), ConfigError> {
    let cluster = &config.document.cluster;
    let redis = &cluster.redis;
    let fail = |key: &str, text: &str| Err(config.value_error(key, text));
    for (key, secret) in [("cluster.secret", &cluster.secret), ("cluster.redis.url", &redis.url)] {
        if show::is_mask(secret.reveal()) {
            return fail(key, "is the mask that print-config shows instead of it; write the value itself");
        }
    }
    if !cluster.secret.reveal().is_empty() && !cluster.secret_file.is_empty() {
        return fail("cluster.secret_file", "cluster.secret is set too; one of them is allowed");
    }
    if !redis.url.reveal().is_empty() && !redis.url_file.is_empty() {
        return fail("cluster.redis.url_file", "cluster.redis.url is set too; one of them is allowed");
    }
    if !cluster.node_id.is_empty() && !is_node_id(&cluster.node_id) {
        let text =
            format!("invalid value: {:?}, expected 1 to {NODE_ID_MAX} of A-Z a-z 0-9 . _ -", cluster.node_id);
        return fail("cluster.node_id", &text);
    }
    let is_good = |c: char| c.is_ascii_graphic() && !"{}".contains(c);
    if !(1..=64).contains(&redis.key_prefix.len()) || !redis.key_prefix.chars().all(is_good) {
        let text = format!(
            "invalid value: {:?}, expected 1 to 64 printable characters without {{ }} and space",
            redis.key_prefix
        );
        return fail("cluster.redis.key_prefix", &text);
    }
    if !redis.streams.as_usize().is_power_of_two() {
        let text =
            format!("invalid value: {}, expected a power of two from 1 to 64", redis.streams.as_usize());
        return fail("cluster.redis.streams", &text);
    }
    let retention = redis.retention.duration();
    if !retention.is_zero() && retention < Duration::from_secs(60) {
        return fail("cluster.redis.retention", "expected 0, or a duration from 1m to 24h");
    }
    if let Some(seed) = redis.seeds.iter().find(|seed| parse_seed(seed).is_none()) {
        let text = format!("invalid value: {seed:?}, expected host:port");
        return fail("cluster.redis.seeds", &text);
    }
    if !redis.sentinel_master.is_empty() && redis.seeds.is_empty() {
        return fail(
            "cluster.redis.sentinel_master",
            "needs cluster.redis.seeds: the other Sentinels, host:port",
        );
    }
    if cluster.is_on() && config.document.mode == Mode::Private {
        let text = "trackers of a private site cannot be joined by this version; \"\" in mode private";
        return fail("cluster.redis.url", text);
    }
    Ok(())
}

/// Returns what a node needs, if there is to be a cluster.
///
/// # Errors
/// Fails when a file cannot be read, or a value is not accepted.
pub(super) fn cluster_config(config: &Config) -> Result<Option<ClusterConfig>, ConfigError> {
    let cluster = &config.document.cluster;
    if !cluster.is_on() {
        return Ok(None);
    }
    let secret = secret_or_file(config, &cluster.secret, ("cluster.secret_file", &cluster.secret_file))?;
    if !SECRET_LEN.contains(&secret.len()) {
        let key = if cluster.secret_file.is_empty() { "cluster.secret" } else { "cluster.secret_file" };
        return Err(
            config.value_error(key, format!("invalid value of {} octets, {SECRET_EXPECTED}", secret.len()))
        );
    }
    let secret = ClusterSecret::new(&secret);
    let derive = |purpose: &str| {
        let failed = || config.value_error("cluster.secret", "no key can be derived from it");
        secret.derive(purpose).ok_or_else(failed)
    };
    let node_id = node_id(config)?;
    let redis = redis_settings(config, &node_id)?;
    let intervals = &config.document.intervals;
    let keys = &cluster.redis;
    let retention = keys.retention.duration();
    Ok(Some(ClusterConfig {
        shard_key: derive("shards")?,
        udp_key: derive("udp")?,
        links: ClusterSettings {
            node_id,
            secret,
            key_prefix: keys.key_prefix.clone(),
            streams: keys.streams.as_usize(),
            batch_delay: keys.batch_delay.duration(),
            retention: if retention.is_zero() { intervals.peer_inactivity.duration() } else { retention },
            entries_max: u64::from(keys.max_entries.as_u32()),
            server: redis.to_string(),
            mode: if config.document.mode == Mode::Listed { "listed" } else { "open" },
            store: match &config.document.database.dsn.dsn() {
                _ if !config.document.database.dsn_file.is_empty() => "mariadb",
                Some(Dsn::Mariadb(_)) => "mariadb",
                Some(Dsn::Sqlite(_)) => "sqlite",
                None => "none",
            },
            // Known when the key is.
            udp_key_tag: None,
        },
        redis,
        warm_start: cluster.warm_start.duration(),
        outbox_max: (cluster.outbox.as_u32() / OUTBOXES) as usize,
    }))
}

/// Returns the time within which an announce that changes nothing is not told to the other nodes, in
/// seconds: half of what is left of `peer_inactivity` after the longest interval. So a peer that keeps its
/// interval never expires anywhere.
pub(super) fn renew_after_seconds(policy: &Policy) -> u32 {
    let longest =
        policy.announce_seconds + policy.announce_drift_seconds + policy.hooks.interval_increase_max();
    policy.peer_inactivity_seconds.saturating_sub(longest) / 2
}

/// Returns what is legal and unwise.
pub(super) fn warnings(document: &Document, cluster: &ClusterConfig, policy: &Policy) -> Vec<String> {
    let renew_after = policy.renew_after_seconds;
    let retention = cluster.links.retention.as_secs();
    let told = renew_after + policy.announce_seconds + policy.announce_drift_seconds + 60;
    let is_public = |host: &str| match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => !address.is_private() && !address.is_loopback(),
        Ok(IpAddr::V6(address)) => !address.is_unique_local() && !address.is_loopback(),
        Err(_) => false,
    };
    let all = [
        (
            retention < u64::from(told),
            format!(
                "cluster.redis.retention is {retention} s, and a peer may be told only every {told} s: new \
                 nodes miss peers at first"
            ),
        ),
        (
            renew_after < RENEW_AFTER_WISE,
            format!(
                "intervals.peer_inactivity leaves {renew_after} s between two refreshes of a peer: nearly \
                 every announce is told to all nodes"
            ),
        ),
        (
            policy.memory_max == 0,
            "memory.max is 0: a node of a cluster holds the peers of all nodes".to_owned(),
        ),
        (
            document.mode == Mode::Listed && matches!(document.database.dsn.dsn(), Some(Dsn::Sqlite(_))),
            "mode listed with SQLite: each node of the cluster has a list of torrents of its own".to_owned(),
        ),
        (
            cluster.redis.plain_host().is_some_and(is_public),
            "cluster.redis.url goes to a public address without TLS: the password can be read on the way"
                .to_owned(),
        ),
    ];
    all.into_iter().filter(|(unwise, _)| *unwise).map(|(_, text)| text).collect()
}

fn secret_or_file(
    config: &Config,
    secret: &Secret,
    file: (&'static str, &String),
) -> Result<Vec<u8>, ConfigError> {
    if file.1.is_empty() {
        return Ok(secret.reveal().to_vec());
    }
    let [octets] = read_files(config, [file])?;
    let octets = text::without_bom(&octets);
    let end = octets.iter().rposition(|octet| !b"\r\n".contains(octet)).map_or(0, |last| last + 1);
    Ok(octets.get(..end).unwrap_or_default().to_vec())
}

fn node_id(config: &Config) -> Result<String, ConfigError> {
    let configured = &config.document.cluster.node_id;
    if !configured.is_empty() {
        return Ok(configured.clone());
    }
    let name = std::fs::read_to_string(HOST_NAME).unwrap_or_default();
    let name = name.trim_end();
    if is_node_id(name) {
        return Ok(name.to_owned());
    }
    let text = format!("\"\", and the name of this machine, {name:?}, is none: 1 to 64 of A-Z a-z 0-9 . _ -");
    Err(config.value_error("cluster.node_id", text))
}

fn is_node_id(name: &str) -> bool {
    let is_good = |octet: u8| octet.is_ascii_alphanumeric() || b"._-".contains(&octet);
    (1..=NODE_ID_MAX).contains(&name.len()) && name.bytes().all(is_good)
}

fn parse_seed(seed: &str) -> Option<(String, u16)> {
    let (host, port) = seed.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = port.parse().ok().filter(|port| *port > 0)?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

fn redis_settings(config: &Config, node_id: &str) -> Result<RedisSettings, ConfigError> {
    let keys = &config.document.cluster.redis;
    let key = if keys.url_file.is_empty() { "cluster.redis.url" } else { "cluster.redis.url_file" };
    let url = secret_or_file(config, &keys.url, ("cluster.redis.url_file", &keys.url_file))?;
    let url = String::from_utf8_lossy(&url);
    let timeouts = RedisTimeouts {
        connect: keys.connect_timeout.duration(),
        read: keys.read_timeout.duration(),
        write: keys.write_timeout.duration(),
    };
    let settings = RedisSettings::from_url(url.trim(), timeouts, format!("hayate-{node_id}"))
        .map_err(|error| config.value_error(key, format!("invalid value (not shown), {error}")))?;
    let settings = settings.with_seeds(keys.seeds.iter().filter_map(|seed| parse_seed(seed)).collect());
    let settings = match keys.sentinel_master.as_str() {
        "" => settings,
        master => settings.with_sentinel(master.to_owned()),
    };
    if keys.ca_path.is_empty() {
        return Ok(settings);
    }
    if !settings.is_tls() {
        return Err(
            config.value_error("cluster.redis.ca_path", "is set, and cluster.redis.url is not rediss://")
        );
    }
    let [pem] = read_files(config, [("cluster.redis.ca_path", &keys.ca_path)])?;
    if !CertificateDer::pem_slice_iter(&pem).any(|certificate| certificate.is_ok()) {
        let text = format!("{}: no certificate in it, in PEM", keys.ca_path);
        return Err(config.value_error("cluster.redis.ca_path", text));
    }
    Ok(settings.with_ca(pem))
}

#[cfg(test)]
mod tests {
    use crate::config::Settings;
    use crate::config::tests::read;
    use crate::daemon::jwk_fetch::NoFetch;

    const SECRET: &str = "0123456789abcdef";

    fn settings(cluster: &str, more: &str) -> Result<Settings, String> {
        let config = read(&format!(r#"{{"cluster": {{{cluster}}}{more}}}"#))?;
        config.read_settings(&NoFetch).map_err(|error| error.to_string())
    }

    fn with_url(url: &str) -> String {
        format!(r#""node_id": "a", "secret": "{SECRET}", "redis": {{"url": "{url}"}}"#)
    }

    #[test]
    fn without_a_url_there_is_no_cluster_and_every_announce_renews() {
        let settings = settings(&format!(r#""secret": "{SECRET}""#), "").unwrap();
        assert!(settings.cluster.is_none() && settings.key.is_none());
        assert_eq!(settings.policy.renew_after_seconds, 0);
    }

    #[test]
    fn nodes_with_one_secret_have_the_same_keys_and_refreshes_have_half_of_the_spare_time() {
        let node = |secret: &str, more: &str| {
            let cluster = with_url("redis://127.0.0.1").replace(SECRET, secret);
            settings(&cluster, more).unwrap()
        };
        let (one, two, other) = (node(SECRET, ""), node(SECRET, ""), node("another secret of a cluster", ""));
        assert_eq!(one.key, two.key);
        assert!(one.key.is_some() && one.key != other.key);
        let keys = [&one, &two, &other].map(|settings| settings.cluster.as_ref().unwrap().shard_key);
        assert!(keys[0] == keys[1] && keys[0] != keys[2]);
        assert!(one.notes.iter().any(|note| note.contains("comes from cluster.secret")), "{:?}", one.notes);
        assert_eq!(one.policy.renew_after_seconds, 1050);
        let own_key = node(SECRET, r#", "udp": {"private_key": "a key of the operator"}"#);
        assert_eq!(own_key.key.as_deref(), Some(&b"a key of the operator"[..]));
        let hook = r#", "prehooks": [{"name": "interval variation", "options":
            {"modify_response_probability": 0.5, "max_increase_delta": 100}}]"#;
        assert_eq!(node(SECRET, hook).policy.renew_after_seconds, 1000);
    }

    #[test]
    fn what_is_not_accepted_is_named() {
        let url = with_url("redis://127.0.0.1");
        let with = |more: &str| url.replace("}", &format!(", {more}}}"));
        for (cluster, expected) in [
            (
                url.replace(SECRET, ""),
                "cluster.secret: invalid value of 0 octets, expected 16 to 128 octets, the same",
            ),
            (url.replace(SECRET, "fifteen octets."), "cluster.secret: invalid value of 15 octets"),
            (with_url("http://127.0.0.1"), "cluster.redis.url: invalid value (not shown), expected redis://"),
            (url.replace("\"a\"", "\"a b\""), "cluster.node_id: invalid value: \"a b\", expected 1 to 64 of"),
            (
                with(r#""seeds": ["host"]"#),
                "cluster.redis.seeds: invalid value: \"host\", expected host:port",
            ),
            (
                with(r#""sentinel_master": "main""#),
                "cluster.redis.sentinel_master: needs cluster.redis.seeds",
            ),
            (with(r#""streams": 3"#), "cluster.redis.streams: invalid value: 3, expected a power of two"),
            (with(r#""retention": 30"#), "cluster.redis.retention: expected 0, or a duration from 1m to 24h"),
            (
                with(r#""key_prefix": "a{b""#),
                "cluster.redis.key_prefix: invalid value: \"a{b\", expected 1 to 64",
            ),
            (
                with(r#""ca_path": "ca.pem""#),
                "cluster.redis.ca_path: is set, and cluster.redis.url is not rediss://",
            ),
            (with(r#""url_file": "url""#), "cluster.redis.url_file: cluster.redis.url is set too"),
            (url.replace(SECRET, "********"), "cluster.secret: is the mask that print-config shows"),
            (with(r#""port": 1"#), "cluster.redis.port: unknown field `port`"),
        ] {
            let error = settings(&cluster, "").unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let private = settings(&url, r#", "mode": "private""#).unwrap_err();
        assert!(
            private.contains("cluster.redis.url: trackers of a private site cannot be joined"),
            "{private}"
        );
    }

    #[test]
    fn nothing_shows_the_secret_or_the_password() {
        let config =
            read(&format!(r#"{{"cluster": {{{}}}}}"#, with_url("redis://u:pa55w0rd@127.0.0.1"))).unwrap();
        let settings = config.read_settings(&NoFetch).unwrap();
        for text in [config.json(), format!("{:?} {settings:?}", config.document)] {
            assert!(!text.contains("pa55w0rd") && !text.contains(SECRET), "{text}");
        }
    }

    #[test]
    fn what_is_unwise_is_warned_of() {
        let warnings = |cluster: &str, more: &str| settings(cluster, more).unwrap().warnings.join("\n");
        let url = with_url("redis://127.0.0.1");
        assert_eq!(warnings(&url, ""), "");
        assert!(warnings(&with_url("redis://8.8.8.8"), "").contains("without TLS"));
        assert_eq!(warnings(&with_url("rediss://8.8.8.8"), ""), "");
        assert!(warnings(&url, r#", "mode": "listed""#).contains("a list of torrents of its own"));
        assert!(warnings(&url, r#", "memory": {"max": 0}"#).contains("holds the peers of all nodes"));
        let retention = url.replace("}", r#", "retention": "10m"}"#);
        assert!(warnings(&retention, "").contains("new nodes miss peers at first"));
        assert!(
            warnings(&url, r#", "intervals": {"peer_inactivity": "36m"}"#).contains("nearly every announce")
        );
    }
}
