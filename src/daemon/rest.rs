//! Upgrades in mode private: one process credits at a time, so this one rests before the successor serves.
//! What it knows is on the disk by then, as at a stop, and it starts from there itself if the successor
//! fails.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use anyhow::Context;

use super::origin::Origin;
use super::{Daemon, drop_inbox};
use crate::config::Settings;
use crate::daemon::upgrade::{Estate, Successor};
use crate::process::file_limit;

/// A successor that is ready, and what this process would start from once more.
pub(super) struct Rest {
    pub(super) successor: Successor,
    pub(super) again: Settings,
}

impl Daemon {
    /// Stops as an orderly stop does, but for the sockets, and lets the successor serve. If that fails, this
    /// process is back, as it was but for its metrics.
    ///
    /// # Errors
    /// When neither of them serves, or something is lost.
    pub(super) fn rest(self, rest: Rest) -> anyhow::Result<Option<Self>> {
        let Rest { successor, mut again } = rest;
        let start = self.clock.uptime();
        self.storage.survey.stop();
        self.vitals.serving.store(false, Ordering::Relaxed);
        // First: a client that is slow with its request must not hold up datagrams too.
        self.http.stop_for_waiting_successor();
        if let Some(udp) = self.udp {
            udp.stop();
        }
        drop_inbox(&self.inbox);
        self.actor.join();
        let lock = Arc::clone(&self.storage.lock);
        let kept = self.storage.stop_for_successor();
        log::info!("everything is on the disk after {} ms", (self.clock.uptime() - start).as_millis());
        let gone = lock.let_go().context("the lock on state_dir").and_then(|()| successor.restore());
        let error = match gone {
            Ok(heir) => {
                super::succession::tell(&self.wishes, &self.due, &heir);
                heir.finish().context("the successor was not told that this process ends")?;
                log::info!("stopped");
                return kept.map(|()| None);
            }
            Err(error) => error,
        };
        self.wishes.share_with(None);
        if let Err(error) = lock.hold() {
            log::warn!("the lock on state_dir does not show this process: {error}");
        }
        super::succession::refuse(&lock, &format!("{error:#}"));
        if self.wishes.stop_is_asked() {
            log::info!("stopped");
            return kept.map(|()| None);
        }
        log::info!("serving again");
        let estate = Arc::into_inner(self.estate).and_then(|estate: Mutex<Estate>| estate.into_inner().ok());
        let estate = estate.context("a thread has panicked")?;
        file_limit::fit(&mut again, self.files_max);
        let due = self.due;
        let mut daemon = Self::start(
            self.source,
            self.config,
            again,
            self.files_max,
            (self.wishes, self.boat),
            self.keyrings,
            Origin::Itself(estate, lock, self.program),
        )
        .context("serving on after the upgrade has failed")?;
        if due.reload {
            daemon.reload();
        }
        Ok(Some(daemon))
    }
}
