//! Whether the process serves, and the metrics of the process itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hayate_gateway::{AdminHandler, HealthStatus, OperatorPages, ReplyTo};
use hayate_state::actor::Inbox;
use hayate_state::metrics::{Series, SeriesKind};
use hayate_state::store::EmergencyFlush;
use hayate_state::{Board, Clock, Counter, Policy, Published};

use crate::daemon::signals::FlushSlot;
use crate::process::log_thread::LogThread;
use crate::process::logging;

/// A thread that has not moved for this time is considered dead.
const STALL_MAX: Duration = Duration::from_secs(10);

/// Whether the whole process serves, for `/health`.
pub(crate) struct ProcessHealth {
    pub(crate) serving: AtomicBool,
    clock: Clock,
    /// The workers of the UDP server, if it is on, and their progress.
    udp: Mutex<Option<(hayate_udp::WorkerLiveness, ThreadProgress)>>,
    actor: Arc<AtomicU64>,
    actor_progress: Mutex<ThreadProgress>,
    log: Option<Arc<LogThread>>,
    /// Knows the state of the store, once there is one.
    flush_slot: FlushSlot,
}

/// The number of turns of each thread when it was last seen to grow, and the uptime then.
#[derive(Default)]
struct ThreadProgress(Vec<(u64, Duration)>);

impl ThreadProgress {
    /// Whether each thread has moved within [`STALL_MAX`].
    fn have_moved(&mut self, turns: impl Iterator<Item = u64>, now: Duration) -> bool {
        let mut all = true;
        for (number, turns) in turns.enumerate() {
            match self.0.get_mut(number) {
                Some((seen, _)) if *seen == turns => {}
                Some(known) => *known = (turns, now),
                None => self.0.push((turns, now)),
            }
            all &= self.0.get(number).is_some_and(|(_, moved)| now.saturating_sub(*moved) < STALL_MAX);
        }
        all
    }
}

impl ProcessHealth {
    pub(crate) fn new(clock: Clock, actor: Arc<AtomicU64>, store: &FlushSlot) -> Self {
        Self {
            serving: AtomicBool::new(false),
            clock,
            udp: Mutex::new(None),
            actor,
            actor_progress: Mutex::default(),
            log: logging::log_thread(),
            flush_slot: Arc::clone(store),
        }
    }

    /// Sets the workers of the UDP server.
    pub(crate) fn set_udp(&self, udp: Option<&hayate_udp::RunningServer>) {
        if let Ok(mut workers) = self.udp.lock() {
            *workers = udp.map(|udp| (udp.liveness(), ThreadProgress::default()));
        }
    }

    /// Returns what `/health` reports: `Bad` if clients notice it; `Degraded` is for the operator to repair.
    pub(crate) fn condition(&self) -> HealthStatus {
        let moving = self.all_threads_move();
        if !(self.serving.load(Ordering::Relaxed) && moving) {
            return HealthStatus::Bad;
        }
        let mut faults = Vec::new();
        if self.log.as_ref().is_some_and(|log| log.is_stalled()) {
            faults.push("logging is stalled: nothing reads stderr");
        }
        let store = self.flush_slot.lock();
        if store.is_ok_and(|store| store.as_ref().is_some_and(EmergencyFlush::has_lost_its_file)) {
            faults.push("the file of the database was deleted or replaced");
        }
        if faults.is_empty() { HealthStatus::Good } else { HealthStatus::Degraded(faults) }
    }

    /// Checks whether every worker and the actor are alive and make turns. To be called once a second: then
    /// it is known to the second how long one has been stalled.
    pub(crate) fn all_threads_move(&self) -> bool {
        let now = self.clock.uptime();
        let udp = self.udp.lock().is_ok_and(|mut udp| {
            udp.as_mut().is_none_or(|(workers, progress)| {
                progress.have_moved(workers.turns(), now) && workers.is_serving()
            })
        });
        let turns = std::iter::once(self.actor.load(Ordering::Relaxed));
        let actor = self.actor_progress.lock().is_ok_and(|mut moves| moves.have_moved(turns, now));
        udp && actor
    }

    /// Returns the operator's pages, with these metrics and this health.
    pub(crate) fn pages(
        self: &Arc<Self>,
        admin: Option<Arc<dyn AdminHandler>>,
        board: &Arc<Board>,
    ) -> OperatorPages {
        let (health, clock) = (Arc::clone(self), self.clock);
        OperatorPages { admin, board: Arc::clone(board), health: Arc::new(move || health.condition()), clock }
    }
}

/// Counters of reloads.
pub(crate) struct ReloadMetrics {
    pub(crate) ok: Arc<Counter>,
    pub(crate) refused: Arc<Counter>,
}

impl ReloadMetrics {
    pub(crate) fn register_metrics(board: &Board) -> Self {
        let counter = |result| {
            let counter = Arc::new(Counter::default());
            let read = Arc::clone(&counter);
            board.register(Series {
                name: "reloads_total",
                help: "Reloads of the configuration, by result.",
                kind: SeriesKind::Counter,
                labels: vec![("result", result)],
                read: Box::new(move || read.value()),
            });
            counter
        };
        Self { ok: counter("ok"), refused: counter("refused") }
    }
}

/// Registers the counters of the policy in force.
pub(crate) fn register_policy_metrics(board: &Board, policy: &Arc<Published<Policy>>) {
    let counter = |name, help, read: fn(&Policy) -> u64| {
        let policy = Arc::clone(policy);
        let read = Box::new(move || read(&policy.current()));
        board.register(Series { name, help, kind: SeriesKind::Counter, labels: Vec::new(), read });
    };
    let help = "Announces that a posthook has kept out of their swarm, since the last reload.";
    counter("hooks_unstored_total", help, |policy| policy.hooks.unstored());
    let help = "Requests beyond the limit of their address.";
    counter("limited_total", help, |policy| {
        policy.rate_limit.as_ref().map_or(0, |l| l.limiter.over_limit_total())
    });
}

/// Registers the daemon's own gauges.
pub(crate) fn register_daemon_metrics(
    board: &Board,
    clock: Clock,
    inbox: &Arc<Mutex<Option<Inbox<ReplyTo>>>>,
) {
    let gauge = |name, help, read| {
        board.register(Series { name, help, kind: SeriesKind::Gauge, labels: Vec::new(), read })
    };
    if let Some(log) = logging::log_thread() {
        log.register_metrics(board);
    }
    // The name that the reference tracker uses.
    gauge("uptime", "Seconds since the start.", Box::new(move || clock.uptime().as_secs()));
    gauge("uptime_seconds", "Seconds since the start.", Box::new(move || clock.uptime().as_secs()));
    for (name, help, file) in [
        (
            "conntrack_entries",
            "Connections that the kernel tracks; 0 where it tracks none.",
            "nf_conntrack_count",
        ),
        ("conntrack_entries_max", "The most it can track; beyond, it drops datagrams.", "nf_conntrack_max"),
    ] {
        let path = format!("/proc/sys/net/netfilter/{file}");
        let read = move || {
            let text = std::fs::read_to_string(&path).ok();
            text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
        };
        gauge(name, help, Box::new(read));
    }
    let inbox = Arc::clone(inbox);
    let depth = move || {
        let inbox = inbox.lock().ok();
        inbox.and_then(|inbox| inbox.as_ref().map(Inbox::depth)).unwrap_or(0) as u64
    };
    gauge("inbox_depth", "Questions of the HTTP gateway that wait for the state actor.", Box::new(depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_that_stands_still_for_ten_seconds_is_noticed() {
        let mut progress = ThreadProgress::default();
        let mut have_moved =
            |second, turns: [u64; 3]| progress.have_moved(turns.into_iter(), Duration::from_secs(second));
        assert!(have_moved(100, [0, 0, 0]), "seen for the first time");
        assert!(have_moved(109, [7, 0, 11]));
        assert!(!have_moved(110, [13, 0, 17]));
        assert!(have_moved(111, [13, 1, 17]));
        assert!(have_moved(118, [13, 1, 17]));
        assert!(!have_moved(120, [13, 2, 17]));
        assert!(
            ThreadProgress::default().have_moved(std::iter::empty(), Duration::from_secs(7)),
            "there are none"
        );
    }
}
