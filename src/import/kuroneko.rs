//! The `config.json` of kuroneko, the tracker of private sites. Its keys are those of mode private: few
//! change.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::report::Draft;
use crate::config::bounded::duration_text;
use crate::config::{Config, ConfigError};

/// The keys of a configuration of kuroneko.
const KEYS: [&str; 28] = [
    "database.dsn",
    "database.deadlock_pause",
    "database.deadlock_retries",
    "channels.torrents",
    "channels.users",
    "channels.transfer_history",
    "channels.transfer_ips",
    "channels.snatches",
    "intervals.announce",
    "intervals.min_announce",
    "intervals.announce_drift",
    "intervals.peer_inactivity",
    "intervals.scrape",
    "intervals.database_reload",
    "intervals.database_serialize",
    "intervals.purge_inactive_peers",
    "intervals.flush",
    "http.addr",
    "http.timeout.read",
    "http.timeout.write",
    "http.timeout.idle",
    "announce.strict_port",
    "announce.numwant",
    "announce.max_numwant",
    "record_announces",
    "enable_scrape",
    "enable_metrics",
    "log_flushes",
];
/// Keys that hold texts.
const TEXTS: [&str; 2] = ["database.dsn", "http.addr"];
/// A timeout: its key, milliseconds in one unit of the number, milliseconds where it is absent.
const TIMEOUTS: [(&str, u64, u64); 3] =
    [("http.timeout.read", 1, 300), ("http.timeout.write", 1, 300), ("http.timeout.idle", 1000, 300_000)];
/// The least and the most of a timeout, in milliseconds.
const TIMEOUT: (u64, u64) = (100, 3_600_000);
const ABSENT: &str = "the reference tracker's default";

/// Whether this can be a configuration of kuroneko. An empty one is.
pub(super) fn is_kuroneko(tree: &Map<String, Value>) -> bool {
    let top = |name: &String| KEYS.iter().any(|key| key.split('.').next() == Some(name));
    tree.is_empty() || tree.keys().any(top)
}

/// Makes a configuration of the document.
pub(super) fn convert(tree: &Map<String, Value>) -> Draft {
    let mut draft = Draft::default();
    draft.put("mode", "private");
    let mut leaves = Vec::new();
    flatten(tree, "", &mut leaves);
    for (key, value) in &leaves {
        if TIMEOUTS.iter().all(|(timeout, ..)| timeout != key) {
            put_if_accepted(&mut draft, key, value);
        }
    }
    for rule in TIMEOUTS {
        let found = leaves.iter().find(|(key, _)| key == rule.0);
        timeout(&mut draft, rule, found.map(|(_, value)| *value));
    }
    metrics(&mut draft);
    proxy(&mut draft);
    draft
}

/// Collects the full names of all keys that are not blocks.
fn flatten<'a>(tree: &'a Map<String, Value>, above: &str, leaves: &mut Vec<(String, &'a Value)>) {
    for (name, value) in tree {
        let key = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        match value {
            Value::Object(block) if is_block(&key) => flatten(block, &key, leaves),
            _ => leaves.push((key, value)),
        }
    }
}

fn is_block(key: &str) -> bool {
    KEYS.iter().any(|known| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

/// Puts a value if hayate accepts it.
fn put_if_accepted(draft: &mut Draft, key: &str, value: &Value) {
    if value.is_null() {
        return draft.mapped(key, "null, which means the default");
    }
    let mut alone = Draft::default();
    alone.put("mode", "private");
    alone.put(key, value.clone());
    let known = KEYS.contains(&key) || is_block(key);
    match Config::from_tree(Path::new(""), alone.tree()) {
        Ok(_) => {
            let text = if known { "the same" } else { "a key of hayate's own" };
            draft.mapped(key, text);
            draft.put(key, value.clone());
        }
        // The reference tracker used it, or did not start. So the check of the whole configuration refuses
        // it.
        Err(_) if TEXTS.contains(&key) && value.is_string() => draft.put(key, value.clone()),
        Err(ConfigError::Value { text, .. }) if known => {
            draft.changed(key, format!("{text}; the default is taken"));
        }
        Err(_) => draft.dropped(key, "unknown key, which the reference tracker ignores"),
    }
}

fn timeout(draft: &mut Draft, (key, unit, absent): (&str, u64, u64), value: Option<&Value>) {
    let milliseconds = value.and_then(Value::as_u64).and_then(|number| number.checked_mul(unit));
    let text = |milliseconds| duration_text(Duration::from_millis(milliseconds));
    let (value, reason) = match (value.filter(|value| !value.is_null()), milliseconds) {
        (None, _) => (absent, Ok(ABSENT.to_owned())),
        (Some(_), Some(0)) | (Some(_), None) => (absent, Err("it was no number above 0")),
        (Some(_), Some(given)) if given < TIMEOUT.0 || given > TIMEOUT.1 => {
            (given.clamp(TIMEOUT.0, TIMEOUT.1), Err("it was out of range, the nearest is taken"))
        }
        (Some(given), Some(number)) => {
            let unit = if unit == 1 { "milliseconds" } else { "seconds" };
            (number, Ok(format!("{given} {unit}")))
        }
    };
    draft.put(key, text(value));
    match reason {
        Ok(reason) => draft.mapped(key, format!("{}: {reason}", text(value))),
        Err(reason) => draft.changed(key, format!("{}: {reason}", text(value))),
    }
}

/// Keeps metrics at their address, under their names.
fn metrics(draft: &mut Draft) {
    let tree = draft.tree();
    let on = tree.get("enable_metrics").and_then(Value::as_bool);
    if on.is_none() {
        draft.put("enable_metrics", false);
        draft.mapped("enable_metrics", format!("false: {ABSENT}"));
    }
    if on == Some(true) && tree.pointer("/metrics/addr").is_none() {
        draft.put("metrics.addr", "");
        let text = "\"\", so that /metrics stays on http.addr; set it for /health and the admin API";
        draft.mapped("metrics.addr", text);
    }
    if tree.pointer("/metrics/prefix").is_none() {
        draft.put("metrics.prefix", "chihaya");
        draft.mapped("metrics.prefix", "\"chihaya\", so that dashboards keep working");
    }
}

/// Converts the header of the proxy: it was trusted from any address, and is now trusted from loopback only.
/// If nobody else can connect, that is the same.
fn proxy(draft: &mut Draft) {
    let tree = draft.tree();
    if tree.pointer("/http/proxy_header").is_some() {
        return;
    }
    draft.put("http.proxy_header", "X-Real-Ip");
    draft.put("http.trusted_proxies", json!(["127.0.0.0/8", "::1/128"]));
    let addr = tree.pointer("/http/addr").and_then(Value::as_str).unwrap_or_default();
    let local = ["127.", "[::1]:", "localhost:"].iter().any(|host| addr.starts_with(host));
    let key = "http.proxy_header";
    if local {
        draft.mapped(key, "X-Real-Ip, trusted from loopback, where http.addr is");
    } else {
        let text = "X-Real-Ip was trusted from any address, now from loopback only: list your proxies in \
            http.trusted_proxies";
        draft.changed(key, text);
    }
}
