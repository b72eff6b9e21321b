//! The links of a node of a cluster: started, served and stopped with the tracker.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hayate_state::cluster::bus::Bus;
use hayate_state::cluster::bus::redis::RedisBus;
use hayate_state::cluster::running::{Cluster, ClusterParts};
use hayate_state::{Board, Clock, Policy, Published};

use crate::config::cluster::ClusterConfig;
use crate::daemon::storage::Storage;

/// The time that the links have at a stop to publish what waits, if the gateway has taken all of its time;
/// they have what it leaves besides.
pub(crate) const CLUSTER_MIN: Duration = Duration::from_millis(250);

/// Starts the links, if there is a cluster, and waits until this node knows what the others do; but not for a
/// server that cannot be reached. In an upgrade the links only read until the predecessor has ended.
///
/// # Errors
/// Fails when a thread cannot be started.
pub(super) fn start_links(
    config: Option<ClusterConfig>,
    storage: &mut Storage,
    policy: &Arc<Published<Policy>>,
    (clock, board): (Clock, &Board),
    is_upgrade: bool,
) -> anyhow::Result<Option<Arc<Cluster>>> {
    let Some(config) = config else { return Ok(None) };
    let redis = config.redis;
    let parts = ClusterParts {
        swarms: Arc::clone(&storage.swarms),
        policy: Arc::clone(policy),
        queues: storage.own_queues(),
        clock,
        saved: storage.take_saved_cluster(),
        make_bus: Box::new(move || Box::new(RedisBus::new(redis.clone(), clock)) as Box<dyn Bus>),
    };
    let cluster = Cluster::start(config.links, parts).context("starting the links of the cluster")?;
    let cluster = Arc::new(cluster);
    cluster.register_metrics(board);
    storage.set_cluster(&cluster);
    if !is_upgrade {
        cluster.warm_up(config.warm_start);
        cluster.serve();
    }
    Ok(Some(cluster))
}
