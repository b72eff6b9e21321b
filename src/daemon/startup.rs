//! How a process starts: with new sockets and what the last run left, with those of a predecessor, or again
//! with its own after an upgrade in mode private has failed.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use hayate_state::{Board, Clock, Policy, Published, Swarms, Tracker};
use ring::rand::{SecureRandom, SystemRandom};

use crate::config::document::Mode;
use crate::config::{Document, Settings};
use crate::daemon::listeners::Servers;
use crate::daemon::signals::MainEvents;
use crate::daemon::storage::Storage;
use crate::daemon::upgrade::{DeltaStream, Inherited, Predecessor, Sockets};
use crate::process::lock::StateLock;
use crate::process::ownership;

/// Where the sockets and the lock come from.
pub(super) enum StartFrom {
    /// The sockets are opened, and the lock is taken.
    Scratch,
    /// A predecessor hands both over.
    Predecessor(Inherited),
    /// This process had both when it served before, from this program file.
    OwnSockets(Sockets, Arc<StateLock>, PathBuf),
}

/// Where the lock on `state_dir` comes from. It is taken after the process has become its user.
pub(super) enum LockFrom {
    Free,
    Inherited(File),
    Kept(Arc<StateLock>),
}

/// Restores what the last run knew, or receives it from a predecessor. Returns the stream of the changes that
/// the predecessor still has to send.
pub(super) fn load_state(
    storage: &mut Storage,
    policy: &mut Policy,
    predecessor: Option<Predecessor>,
    clock: Clock,
    main_events: &MainEvents,
) -> anyhow::Result<Option<DeltaStream>> {
    let Some(predecessor) = predecessor else {
        storage.load(policy)?;
        policy.registered = storage.registered()?;
        return Ok(None);
    };
    let private = storage.site.is_some();
    if private {
        storage.load_early()?;
    }
    policy.registered = storage.registered()?;
    let (delta_stream, saved_cluster) = predecessor
        .receive_swarms(&storage.swarms, policy, clock, main_events, private)
        .context("taking over")?;
    storage.set_saved_cluster(saved_cluster);
    if private {
        storage.load(policy)?;
    }
    Ok(Some(delta_stream))
}

/// Opens the sockets, or takes them over from a predecessor, and meanwhile becomes the user of the tracker:
/// before anything is touched in a folder that belongs to a user other than root.
pub(super) fn open_servers(
    settings: &Settings,
    mode: Mode,
    origin: StartFrom,
) -> anyhow::Result<(Servers, LockFrom, Option<Predecessor>)> {
    match origin {
        StartFrom::Scratch => {
            let mut servers = Servers::open(settings)?;
            drop_privileges(settings)?;
            servers.open_unix(settings)?;
            Ok((servers, LockFrom::Free, None))
        }
        StartFrom::Predecessor(Inherited { udp, http, lock, private, predecessor }) => {
            if private != (mode == Mode::Private) {
                bail!("the running tracker is in another mode; a restart changes that");
            }
            let servers = Servers::adopt(settings, udp, http)?;
            drop_privileges(settings)?;
            Ok((servers, LockFrom::Inherited(lock), Some(predecessor)))
        }
        StartFrom::OwnSockets(Sockets { udp, http }, lock, _) => {
            Ok((Servers::adopt(settings, udp, http)?, LockFrom::Kept(lock), None))
        }
    }
}

fn drop_privileges(settings: &Settings) -> anyhow::Result<()> {
    let Some(identity) = settings.identity.as_ref().filter(|identity| !identity.is_current()) else {
        return Ok(());
    };
    identity.become_user()?;
    log::info!("running as {identity}");
    Ok(())
}

/// Opens the storage, without its store.
pub(super) fn new_storage(
    settings: &Settings,
    document: &Document,
    lock: LockFrom,
    clock: Clock,
    board: &Board,
) -> anyhow::Result<Storage> {
    let (intervals, octets) = (&document.intervals, settings.policy.memory_max);
    let memory = if octets == 0 { "unlimited".into() } else { format!("at most {} MiB", octets >> 20) };
    log::info!(
        "starting storage: swarms in memory ({memory}), peer_inactivity {}, purge_inactive_peers {}",
        intervals.peer_inactivity,
        intervals.purge_inactive_peers,
    );
    let peers_per_address = document.announce.peers_per_address.as_u16();
    let swarms = match &settings.cluster {
        Some(cluster) => Swarms::in_cluster(peers_per_address, &cluster.shard_key, cluster.outbox_max),
        None => Swarms::new(peers_per_address),
    };
    let node_id = settings.cluster.as_ref().map_or_else(String::new, |cluster| cluster.links.node_id.clone());
    ownership::check_ownership(&settings.storage.state_dir)?;
    let lock = match lock {
        LockFrom::Free => Arc::new(StateLock::acquire(&settings.storage.state_dir)?),
        LockFrom::Inherited(lock) => Arc::new(StateLock::inherit(lock)),
        LockFrom::Kept(lock) => lock,
    };
    let storage = Storage::new(settings.storage.clone(), document.mode, lock, swarms, clock, node_id);
    storage.reporter.source().register_metrics(board);
    Ok(storage)
}

/// Returns a function that makes trackers on the same swarms, each with a seed of its own to choose peers.
///
/// # Errors
/// Fails when the system provides no random numbers.
pub(super) fn tracker_factory(
    storage: &Storage,
    policy: &Arc<Published<Policy>>,
) -> anyhow::Result<impl Fn(usize) -> Tracker + use<>> {
    let mut seed = [0; 8];
    if SystemRandom::new().fill(&mut seed).is_err() {
        bail!("the system provides no random numbers");
    }
    let (swarms, policy, seed) = (Arc::clone(&storage.swarms), Arc::clone(policy), u64::from_ne_bytes(seed));
    let (queues, site) = (storage.queues.clone(), storage.site.clone());
    Ok(move |number: usize| {
        let tracker = Tracker::new(Arc::clone(&swarms), &policy, seed.wrapping_add(number as u64));
        let tracker = match &site {
            Some(site) => tracker.with_site(Arc::clone(site)),
            None => tracker,
        };
        match &queues {
            Some(queues) => tracker.with_queues(Arc::clone(queues)),
            None => tracker,
        }
    })
}
