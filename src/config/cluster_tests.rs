//! The keys of `cluster`: defaults, ranges, mistakes, warnings, and that no secret is shown.

use std::time::Duration;

use super::cluster_settings::SecretOctets;
use super::test_folder::TestFolder;
use super::tests::{read, read_as};
use super::*;
use crate::daemon::jwk_fetch::NoFetch;

const SECRET: &str = "hunter2hunter2hunter2";

/// A cluster with some more keys, and some more keys of `cluster.redis`, each with a comma at its end.
fn cluster(keys: &str, redis: &str, url: &str) -> String {
    format!(
        r#""cluster": {{{keys} "node_id": "a", "secret": "{SECRET}", "redis": {{{redis} "url": "{url}"}}}}"#
    )
}

fn read_settings(folder: &TestFolder, text: &str) -> Result<Settings, String> {
    let path = folder.write("tracker.json", text);
    let source = Source::new(path.to_str(), Environment::default()).unwrap();
    let folder = format!("{}/", folder.as_ref().display());
    match source.read_settings(&NoFetch) {
        Ok((_, settings)) => Ok(settings),
        Err(error) => Err(error.to_string().replace(&folder, "")),
    }
}

#[test]
fn there_is_no_cluster_by_default() {
    let settings = read_settings(&TestFolder::new(), "{}").unwrap();
    assert!(settings.cluster.is_none() && settings.notes.is_empty() && settings.warnings.is_empty());
}

#[test]
fn a_url_and_a_secret_make_a_cluster() {
    let settings =
        read_settings(&TestFolder::new(), &format!("{{{}}}", cluster("", "", "redis://127.0.0.1"))).unwrap();
    assert_eq!(settings.warnings, Vec::<String>::new());
    let cluster = settings.cluster.unwrap();
    assert_eq!((cluster.node_id.as_str(), cluster.key_prefix.as_str()), ("a", "hayate"));
    assert!(cluster.secret == SecretOctets(SECRET.into()));
    assert_eq!((cluster.outbox_records, cluster.streams, cluster.entries_max), (1_048_576, 4, 1_000_000));
    assert_eq!(
        [cluster.warm_start, cluster.batch_delay, cluster.retention].map(|time| time.as_millis()),
        [30_000, 100, 4_200_000]
    );
    assert_eq!(cluster.renew_after_seconds, 1050);
    let redis = cluster.redis;
    assert_eq!(redis.url.reveal(), "redis://127.0.0.1");
    assert!(redis.seeds.is_empty() && redis.sentinel_master.is_none() && redis.ca_pem.is_none());
    for timeout in [redis.connect_timeout, redis.read_timeout, redis.write_timeout] {
        assert_eq!(timeout, Duration::from_secs(15));
    }
}

#[test]
fn every_key_of_the_cluster_is_read() {
    let folder = TestFolder::new();
    folder.write("secret", &format!("{SECRET}\r\n"));
    folder.write("url", "\u{feff}rediss://u:s3cret@h:7/11\n");
    folder.write("ca.pem", "-----BEGIN CERTIFICATE-----\n");
    let text = r#"{"cluster": {"secret_file": "secret", "warm_start": "7s", "outbox": 65537, "redis": {
        "url_file": "url", "seeds": ["h2:11", "[::1]:13"], "sentinel_master": "m", "ca_path": "ca.pem",
        "connect_timeout": 17, "read_timeout": 19, "write_timeout": "300ms", "key_prefix": "site:7",
        "streams": 16, "batch_delay": "23ms", "retention": "3h", "max_entries": 1009}}}"#;
    let settings = read_settings(&folder, text).unwrap();
    let cluster = settings.cluster.unwrap();
    assert!(!cluster.node_id.is_empty(), "the host name");
    assert!(cluster.secret == SecretOctets(SECRET.into()));
    assert_eq!((cluster.outbox_records, cluster.streams, cluster.entries_max), (65_537, 16, 1009));
    assert_eq!(
        [cluster.warm_start, cluster.batch_delay, cluster.retention].map(|time| time.as_millis()),
        [7000, 23, 3 * 3_600_000]
    );
    let redis = &cluster.redis;
    assert_eq!(redis.url.reveal(), "rediss://u:s3cret@h:7/11");
    assert_eq!(cluster.key_prefix, "site:7");
    let seeds: Vec<_> = redis.seeds.iter().map(|seed| (seed.host.as_str(), seed.port)).collect();
    assert_eq!(seeds, [("h2", 11), ("::1", 13)]);
    assert_eq!(redis.sentinel_master.as_deref(), Some("m"));
    assert_eq!(redis.ca_pem.as_deref(), Some(&b"-----BEGIN CERTIFICATE-----\n"[..]));
    assert_eq!(
        [redis.connect_timeout, redis.read_timeout, redis.write_timeout].map(|time| time.as_millis()),
        [17_000, 19_000, 300]
    );
    let debug = format!("{cluster:?}");
    assert!(!debug.contains("hunter2") && !debug.contains("s3cret") && debug.contains("u:********@h:7/11"));
}

#[test]
fn variables_set_the_keys_of_the_cluster() {
    let variables = [
        ("HAYATE__CLUSTER__NODE_ID", "7"),
        ("HAYATE__CLUSTER__SECRET", "12345678901234567890"),
        ("HAYATE__CLUSTER__REDIS__URL", "redis://u:s3cret@h"),
        ("HAYATE__CLUSTER__REDIS__SEEDS", r#"["h:7"]"#),
        ("HAYATE__CLUSTER__REDIS__KEY_PREFIX", "11"),
        ("HAYATE__CLUSTER__REDIS__BATCH_DELAY", "13ms"),
        ("HAYATE__CLUSTER__REDIS__RETENTION", "4000"),
    ];
    let config = read_as("t.json", "{}", &variables).unwrap();
    let cluster = &config.document.cluster;
    assert_eq!((cluster.node_id.as_str(), cluster.redis.key_prefix.0.as_str()), ("7", "11"));
    assert_eq!(cluster.secret.reveal(), b"12345678901234567890");
    assert_eq!(cluster.redis.seeds.len(), 1);
    assert_eq!(cluster.redis.batch_delay.duration().as_millis(), 13);
    assert_eq!(cluster.redis.retention.as_seconds(), 4000);
    let origins = config.origins().join("\n");
    let line = "cluster.redis.url = \"redis://u:********@h\" (HAYATE__CLUSTER__REDIS__URL)";
    assert!(origins.contains(line) && !origins.contains("s3cret"), "{origins}");
}

#[test]
fn no_secret_of_a_cluster_is_shown_and_a_mask_is_none() {
    let config = read(&format!("{{{}}}", cluster("", "", "rediss://u:s3cret@h:7/1"))).unwrap();
    for text in [config.json(), config.origins().join("\n"), format!("{config:?}")] {
        assert!(!text.contains("hunter2") && !text.contains("s3cret"), "{text}");
        assert!(text.contains("rediss://u:********@h:7/1"), "{text}");
    }
    assert!(config.json().contains("\"secret\": \"********\""));
    let error = read(r#"{"cluster": {"redis": {"url": "redis://u:********@h"}}}"#).unwrap_err();
    assert_eq!(
        error,
        "tracker.json: cluster.redis.url: holds the mask that print-config shows instead of a password"
    );
    let error = read(r#"{"cluster": {"secret": "********"}}"#).unwrap_err();
    assert!(
        error.starts_with("tracker.json: cluster.secret: is the mask that print-config shows"),
        "{error}"
    );
}

#[test]
fn values_of_the_cluster_have_ranges() {
    let duration = |range: &str| format!("expected a duration from {range}, in seconds or as text");
    let timeout = duration("100ms to 1m");
    for (key, value, expected) in [
        ("node_id", "\"a b\"", "expected 1 to 64 of A-Z a-z 0-9 . _ -, or \"\" for the host name"),
        ("node_id", &format!("\"{}\"", "x".repeat(65)), "expected 1 to 64 of A-Z a-z 0-9 . _ -"),
        ("secret", "1234567890123456", "invalid type: number"),
        ("warm_start", "601", &duration("0s to 10m")),
        ("outbox", "65535", "expected an integer from 65536 to 67108864"),
        ("outbox", "67108865", "expected an integer from 65536 to 67108864"),
        ("redis.url", "\"http://h\"", "expected redis://, rediss:// or unix:// (the value is not shown)"),
        ("redis.url", "\"rediss:///run/r.sock\"", "there is no TLS over a unix socket"),
        ("redis.seeds", "[\"h:7\", \"h\"]", "expected host:port such as \"192.0.2.7:6379\""),
        ("redis.connect_timeout", "0", &timeout),
        ("redis.read_timeout", "61", &timeout),
        ("redis.write_timeout", "\"99ms\"", &timeout),
        ("redis.key_prefix", "\"\"", "expected 1 to 64 printable characters without { } and space"),
        ("redis.key_prefix", "\"a{b\"", "expected 1 to 64 printable characters without { } and space"),
        ("redis.key_prefix", "\"a b\"", "expected 1 to 64 printable characters without { } and space"),
        ("redis.streams", "0", "expected an integer from 1 to 64"),
        ("redis.streams", "128", "expected an integer from 1 to 64"),
        ("redis.streams", "12", "invalid value: 12, expected 1, 2, 4, 8, 16, 32 or 64"),
        ("redis.batch_delay", "\"9ms\"", &duration("10ms to 1s")),
        ("redis.batch_delay", "2", &duration("10ms to 1s")),
        ("redis.retention", "59", "invalid value: 59s, expected 0, or a duration from 1m to 24h"),
        ("redis.retention", "\"25h\"", &duration("0s to 24h")),
        ("redis.max_entries", "999", "expected an integer from 1000 to 100000000"),
        ("redis.bogus", "1", "unknown field `bogus`"),
    ] {
        let text = match key.split_once('.') {
            Some((_, name)) => format!(r#"{{"cluster": {{"redis": {{"{name}": {value}}}}}}}"#),
            None => format!(r#"{{"cluster": {{"{key}": {value}}}}}"#),
        };
        let error = read(&text).map(|_| ()).unwrap_err();
        assert!(error.starts_with(&format!("tracker.json: cluster.{key}")), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn mistakes_between_keys_of_the_cluster_name_them() {
    for (text, expected) in [
        (
            r#""cluster": {"redis": {"url": "redis://h"}}"#,
            "cluster.secret: expected 16 to 128 octets, the same on every node",
        ),
        (
            r#""cluster": {"redis": {"url_file": "x"}}"#,
            "cluster.secret: expected 16 to 128 octets, the same on every node",
        ),
        (
            r#""cluster": {"secret": "0123456789abcde"}"#,
            "cluster.secret: 15 octets, expected 16 to 128 octets, the same on every node",
        ),
        (
            r#""cluster": {"secret": "0123456789abcdef", "secret_file": "x"}"#,
            "cluster.secret_file: cluster.secret is set too; one of them is allowed",
        ),
        (
            r#""cluster": {"redis": {"url": "redis://h", "url_file": "x"}}"#,
            "cluster.redis.url_file: cluster.redis.url is set too; one of them is allowed",
        ),
        (
            r#""cluster": {"redis": {"sentinel_master": "m"}}"#,
            "cluster.redis.sentinel_master: \"m\" without cluster.redis.seeds; list the Sentinels there, as \
             host:port",
        ),
        (
            r#""mode": "private", "cluster": {"redis": {"url": "redis://h"}}"#,
            "cluster.redis.url: is set in mode private: a cluster of private sites is not available in this \
             version",
        ),
        (
            r#""mode": "private", "cluster": {"redis": {"url_file": "x"}}"#,
            "cluster.redis.url_file: is set in mode private: a cluster of private sites is not available in \
             this version",
        ),
    ] {
        let error = read(&format!("{{{text}}}")).map(|_| ()).unwrap_err();
        assert_eq!(error, format!("tracker.json: {expected}"));
    }
}

#[test]
fn bad_files_of_the_cluster_are_refused_without_being_quoted() {
    let folder = TestFolder::new();
    folder.write("short", "0123456789abcde\n");
    folder.write("long", &"x".repeat(129));
    folder.write("secret", SECRET);
    folder.write("empty", "\n");
    folder.write("url", "redis://hunter2@h");
    let keys = |secret: &str, redis: &str| {
        format!(r#"{{"cluster": {{"node_id": "a", "secret_file": "{secret}", "redis": {{{redis}}}}}}}"#)
    };
    let url = r#""url": "redis://h""#;
    for (text, expected) in [
        (keys("short", url), "cluster.secret_file: short: 15 octets, expected 16 to 128 octets, the same on"),
        (keys("long", url), "cluster.secret_file: long: 129 octets, expected 16 to 128 octets"),
        (keys("nowhere", url), "cluster.secret_file: nowhere: No such file"),
        (keys("secret", r#""url_file": "empty""#), "cluster.redis.url_file: empty: is empty, expected"),
        (keys("secret", r#""url_file": "url""#), "cluster.redis.url_file: url: expected user:password@"),
        (
            keys("secret", r#""url": "rediss://h", "ca_path": "secret""#),
            "cluster.redis.ca_path: secret: holds no certificate in PEM",
        ),
    ] {
        let error = read_settings(&folder, &text).map(|_| ()).unwrap_err();
        assert!(error.starts_with(&format!("tracker.json: {expected}")), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let named = |text: &str| {
        let path = folder.write("tracker.json", text);
        let config = Config::read_file(Some(&path), &Environment::default()).unwrap();
        config.named_files().into_iter().map(|(key, _)| key).collect::<Vec<_>>().join(" ")
    };
    let all = keys("secret", r#""url_file": "url", "ca_path": "ca.pem""#);
    assert_eq!(named(&all), " cluster.secret_file cluster.redis.url_file cluster.redis.ca_path");
    assert_eq!(named(r#"{"cluster": {"secret_file": "x", "redis": {"ca_path": "y"}}}"#), "");
}

#[test]
fn the_unwise_in_a_cluster_is_warned_of() {
    let on = |before: &str, redis: &str| format!("{{{before} {}}}", cluster("", redis, "redis://127.0.0.1"));
    let at = |url: &str| format!("{{{}}}", cluster("", "", url));
    let dsn = r#""mode": "listed", "database": {"dsn": "u@tcp(h)/x"},"#;
    let folder = TestFolder::new();
    folder.write("list", "");
    folder.write("ca.pem", "-----BEGIN CERTIFICATE-----\n");
    for (text, warning) in [
        (on("", r#""retention": 3209,"#), "cluster.redis.retention is 3209s: below 3210s a node that starts"),
        (on("", r#""retention": 3210,"#), ""),
        (on(r#""intervals": {"peer_inactivity": 2219},"#, ""), "nearly every announce is published"),
        (on(r#""intervals": {"peer_inactivity": 2220},"#, ""), ""),
        (on(r#""mode": "listed","#, ""), "mode listed without MariaDB: each node has a list of torrents"),
        (on(dsn, ""), ""),
        (on(r#""memory": {"max": 0},"#, ""), "memory.max is 0: every node keeps the peers of all nodes"),
        (on(r#""memory": {"max": "1GiB"},"#, ""), ""),
        (on("", r#""ca_path": "ca.pem","#), "cluster.redis.ca_path has an effect with rediss:// only"),
        (on("", r#""seeds": ["h:7", "203.0.113.7:7"],"#), "cluster.redis: 203.0.113.7 is a public address"),
        (at("redis://u:s3cret@203.0.113.11"), "cluster.redis: 203.0.113.11 is a public address"),
        (at("redis://[2001:db8::7]"), "cluster.redis: 2001:db8::7 is a public address"),
        (at("rediss://203.0.113.11"), ""),
        (at("redis://[fd00::7]"), ""),
        (at("redis://10.0.0.7"), ""),
        (at("redis://[::1]"), ""),
        (at("redis://redis.example"), ""),
        (at("unix:///run/redis.sock"), ""),
        (
            r#"{"cluster": {"secret": "hunter2hunter2hunter2"}}"#.into(),
            "cluster.redis.url is empty: there is no cluster, and no key of cluster has an effect",
        ),
    ] {
        let warnings = read_settings(&folder, &text).unwrap().warnings;
        match warning {
            "" => assert!(warnings.is_empty(), "{text}: {warnings:?}"),
            _ => assert!(warnings.len() == 1 && warnings[0].contains(warning), "{text}: {warnings:?}"),
        }
        assert!(!format!("{warnings:?}").contains("s3cret"));
    }
}

#[test]
fn it_is_said_where_the_key_of_connection_ids_comes_from() {
    let folder = TestFolder::new();
    folder.write("key", "0123456789abcdef");
    for (udp, expected) in [
        ("", "udp.private_key is not set: the key of the connection ids is derived from cluster.secret"),
        (r#""private_key": "0123456789abcdef""#, "udp.private_key is set: the key of the connection ids is"),
        (r#""private_key_file": "key""#, "udp.private_key_file is set: the key of the connection ids is"),
        (r#""addr": """#, ""),
    ] {
        let text = format!(r#"{{"udp": {{{udp}}}, {}}}"#, cluster("", "", "redis://h"));
        let notes = read_settings(&folder, &text).unwrap().notes;
        match expected {
            "" => assert!(notes.is_empty(), "{notes:?}"),
            _ => assert!(notes.len() == 1 && notes[0].starts_with(expected), "{notes:?}"),
        }
    }
}
