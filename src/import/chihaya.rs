//! The YAML of chihaya, the open tracker. Every value that it would have used is written, including its
//! defaults.

use std::time::Duration;

use super::block::Block;
use super::hooks;
use super::report::{Draft, ImportError};
use super::rule::{DurationRule, WhenUnset, take_duration};
use super::servers::{self, BothServers};
use super::yaml::Node;

/// The top key of a configuration of chihaya.
pub(super) const TOP: &str = "chihaya";
/// The note about clusters.
const CLUSTER: &str =
    "set cluster.redis.url and cluster.secret if several trackers are to share their swarms";
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Makes a configuration of the document.
pub(super) fn convert(root: Node) -> Result<Draft, ImportError> {
    let mut draft = Draft::default();
    let mut outside = Block::new("", Some(root))?;
    let mut block = Block::new("", outside.take(TOP))?;
    draft.put("mode", "open");
    intervals(&mut block, &mut draft)?;
    metrics(&mut block, &mut draft)?;
    let both = BothServers {
        http: servers::take_http(&mut block, &mut draft)?,
        udp: servers::take_udp(&mut block, &mut draft)?,
    };
    both.put_settings(&mut draft);
    storage(&mut block, &mut draft)?;
    for list in ["prehooks", "posthooks"] {
        hooks::convert(&mut block, list, &mut draft)?;
    }
    draft.put("announce.keep_peer_ids", true);
    draft.mapped("announce.keep_peer_ids", "true, because replies in list form need it");
    block.finish(&mut draft);
    outside.finish(&mut draft);
    Ok(draft)
}

fn intervals(block: &mut Block, draft: &mut Draft) -> Result<(), ImportError> {
    let announce = take_duration(
        block,
        draft,
        &DurationRule {
            name: "announce_interval",
            to: "intervals.announce",
            default: Duration::from_secs(1800),
            when_unset: WhenUnset::DefaultDiffers,
            min: Duration::from_secs(1),
            max: Duration::from_secs(DAY),
        },
    )?;
    take_duration(
        block,
        draft,
        &DurationRule {
            name: "min_announce_interval",
            to: "intervals.min_announce",
            default: Duration::from_secs(900).min(announce),
            when_unset: WhenUnset::DefaultDiffers,
            min: Duration::from_secs(1),
            max: announce,
        },
    )?;
    draft.put("intervals.announce_drift", 0);
    draft.mapped("intervals.announce_drift", "0, as every client was told the same interval");
    Ok(())
}

fn metrics(block: &mut Block, draft: &mut Draft) -> Result<(), ImportError> {
    let addr = block.text("metrics_addr")?;
    draft.put("metrics.addr", addr.clone());
    draft.put("enable_metrics", !addr.is_empty());
    draft.put("metrics.prefix", TOP);
    if addr.is_empty() {
        let text = "it was empty, which meant port 80; now there are no metrics: set metrics.addr and \
            enable_metrics if you want them";
        draft.changed("metrics_addr", text);
    } else {
        let text = format!("metrics.addr = {addr:?}; /debug/pprof/ is there with metrics.pprof only");
        draft.mapped("metrics_addr", text);
    }
    draft.mapped("metrics.prefix", "\"chihaya\", so that dashboards keep working");
    Ok(())
}

fn storage(block: &mut Block, draft: &mut Draft) -> Result<(), ImportError> {
    let mut storage = block.block("storage")?;
    let name = storage.text("name")?;
    let key = storage.key("name");
    match name.as_str() {
        "memory" => draft.mapped(key, "swarms are always in memory, and survive a restart"),
        "redis" => draft.changed(key, format!("swarms are always in memory; {CLUSTER}")),
        "" => draft.changed(key, "it is missing, which the reference tracker refuses; swarms are in memory"),
        other => draft.dropped(key, format!("there is no storage {other:?}; swarms are always in memory")),
    }
    let mut config = storage.block("config")?;
    take_duration(
        &mut config,
        draft,
        &DurationRule {
            name: "gc_interval",
            to: "intervals.purge_inactive_peers",
            default: Duration::from_secs(3 * MINUTE),
            when_unset: WhenUnset::Default,
            min: Duration::from_secs(1),
            max: Duration::from_secs(HOUR),
        },
    )?;
    take_duration(
        &mut config,
        draft,
        &DurationRule {
            name: "peer_lifetime",
            to: "intervals.peer_inactivity",
            default: Duration::from_secs(30 * MINUTE),
            when_unset: WhenUnset::Default,
            min: Duration::from_secs(MINUTE),
            max: Duration::from_secs(6 * HOUR),
        },
    )?;
    config.drop_keys(draft, &["shard_count"], "not needed");
    config.drop_keys(draft, &["prometheus_reporting_interval"], "not needed, gauges are exact when read");
    let redis = ["redis_broker", "redis_connect_timeout", "redis_read_timeout", "redis_write_timeout"];
    let unused = "the storage in memory never used it";
    config.drop_keys(draft, &redis, if name == "redis" { CLUSTER } else { unused });
    config.finish(draft);
    storage.finish(draft);
    Ok(())
}
