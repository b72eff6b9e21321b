//! Upgrades in mode private: only one process credits at a time, so this one stops serving before the
//! successor starts to. By then everything that it knows is on the disk, as after a stop, and it starts again
//! from there if the successor fails.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use anyhow::Context;

use super::startup::StartFrom;
use super::{Daemon, drop_inbox};
use crate::config::Settings;
use crate::daemon::upgrade::{Sockets, Successor};
use crate::process::file_limit;

/// A successor that is ready, and the settings for a restart of this process if the successor fails.
pub(super) struct PrivateHandover {
    pub(super) successor: Successor,
    pub(super) restart_settings: Settings,
}

impl Daemon {
    /// Stops in order, but keeps the sockets, and lets the successor serve. If that fails, this process
    /// serves again, as before except for its metrics.
    ///
    /// # Errors
    /// Fails when neither process serves, or something is lost.
    pub(super) fn hand_over_private(self, handover: PrivateHandover) -> anyhow::Result<Option<Self>> {
        let PrivateHandover { successor, mut restart_settings } = handover;
        let start = self.clock.uptime();
        self.storage.reporter.stop();
        self.health.serving.store(false, Ordering::Relaxed);
        // HTTP first: a client that is slow with its request must not hold up datagrams too.
        self.http.stop_for_waiting_successor();
        if let Some(udp) = self.udp {
            udp.stop();
        }
        drop_inbox(&self.inbox);
        self.actor.join();
        let lock = Arc::clone(&self.storage.lock);
        let stopped = self.storage.stop_for_successor();
        log::info!("everything is on the disk after {} ms", (self.clock.uptime() - start).as_millis());
        let handed_over =
            lock.unmark_serving().context("the lock on state_dir").and_then(|()| successor.serve_from_disk());
        let error = match handed_over {
            Ok(successor) => {
                super::handover::announce_handover(&self.main_events, &self.deferred, &successor);
                successor
                    .send_last_changes()
                    .context("the successor did not learn that this process ends")?;
                log::info!("stopped");
                return stopped.map(|()| None);
            }
            Err(error) => error,
        };
        self.main_events.forward_to(None);
        if let Err(error) = lock.mark_serving() {
            log::warn!("the lock on state_dir does not show this process: {error}");
        }
        super::handover::log_refusal(&lock, &format!("{error:#}"));
        if self.main_events.stop_requested() {
            log::info!("stopped");
            return stopped.map(|()| None);
        }
        log::info!("serving again");
        let sockets =
            Arc::into_inner(self.sockets).and_then(|sockets: Mutex<Sockets>| sockets.into_inner().ok());
        let sockets = sockets.context("a thread has panicked")?;
        file_limit::lower_connections(&mut restart_settings, self.files_max);
        let deferred = self.deferred;
        let mut daemon = Self::start(
            self.source,
            self.config,
            restart_settings,
            self.files_max,
            (self.main_events, self.flush_slot),
            self.jwk_sets,
            StartFrom::OwnSockets(sockets, lock, self.program),
        )
        .context("resuming service after the failed upgrade")?;
        if deferred.reload {
            daemon.begin_reload();
        }
        Ok(Some(daemon))
    }
}
