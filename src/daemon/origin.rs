//! Where a process begins: with sockets of its own and what the last run left, with those of a predecessor,
//! or where it rested itself.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use hayate_state::{Board, Clock, Policy, Swarms};

use crate::config::document::Mode;
use crate::config::{Document, Settings};
use crate::daemon::listeners::Sockets;
use crate::daemon::signals::Wishes;
use crate::daemon::storage::Storage;
use crate::daemon::upgrade::{Estate, Inheritance, Reception, Voice};
use crate::process::lock::StateLock;
use crate::process::ownership;

/// Where the sockets and the lock come from.
pub(super) enum Origin {
    /// They are opened.
    Nothing,
    /// A predecessor hands them over.
    Predecessor(Inheritance),
    /// This process had them when it served before, from this program file.
    Itself(Estate, Arc<StateLock>, PathBuf),
}

/// The lock on `state_dir`, which is taken when the process is who it is to be.
pub(super) enum Lock {
    Free,
    Inherited(File),
    Had(Arc<StateLock>),
}

/// Brings back what the last run knew, or takes it in from a predecessor, who has more to tell then.
pub(super) fn know(
    storage: &mut Storage,
    policy: &mut Policy,
    predecessor: Option<Voice>,
    clock: Clock,
    wishes: &Wishes,
) -> anyhow::Result<Option<Reception>> {
    let Some(voice) = predecessor else {
        storage.load(policy)?;
        policy.registered = storage.registered()?;
        return Ok(None);
    };
    let private = storage.site.is_some();
    if private {
        storage.load_early()?;
    }
    policy.registered = storage.registered()?;
    let reception = voice.take_in(&storage.swarms, policy, clock, wishes, private).context("taking over")?;
    if private {
        storage.load(policy)?;
    }
    Ok(Some(reception))
}

/// Opens the sockets, or takes them over from a predecessor, and becomes the user of the tracker in between:
/// before anything is touched in a folder that belongs to another user than root.
pub(super) fn open(
    settings: &Settings,
    mode: Mode,
    origin: Origin,
) -> anyhow::Result<(Sockets, Lock, Option<Voice>)> {
    match origin {
        Origin::Nothing => {
            let mut sockets = Sockets::open(settings)?;
            drop_privileges(settings)?;
            sockets.open_unix(settings)?;
            Ok((sockets, Lock::Free, None))
        }
        Origin::Predecessor(Inheritance { udp, http, lock, private, voice }) => {
            if private != (mode == Mode::Private) {
                bail!("the running tracker is in another mode; a restart changes that");
            }
            let sockets = Sockets::adopt(settings, udp, http)?;
            drop_privileges(settings)?;
            Ok((sockets, Lock::Inherited(lock), Some(voice)))
        }
        Origin::Itself(Estate { udp, http }, lock, _) => {
            Ok((Sockets::adopt(settings, udp, http)?, Lock::Had(lock), None))
        }
    }
}

fn drop_privileges(settings: &Settings) -> anyhow::Result<()> {
    let Some(identity) = settings.identity.as_ref().filter(|identity| !identity.is_current()) else {
        return Ok(());
    };
    identity.assume()?;
    log::info!("running as {identity}");
    Ok(())
}

/// What lasts.
pub(super) fn storage(
    settings: &Settings,
    document: &Document,
    lock: Lock,
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
    let swarms = Swarms::new(document.announce.peers_per_address.as_u16());
    ownership::check(&settings.keep.state_dir)?;
    let lock = match lock {
        Lock::Free => Arc::new(StateLock::take(&settings.keep.state_dir)?),
        Lock::Inherited(lock) => Arc::new(StateLock::inherit(lock)),
        Lock::Had(lock) => lock,
    };
    let storage = Storage::new(settings.keep.clone(), document.mode, lock, swarms, clock);
    storage.survey.place().list_on(board);
    Ok(storage)
}
