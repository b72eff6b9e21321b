//! Whether the process serves, and its own numbers.

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

/// A thread is thought dead when it stands still for so long.
const STALL_MAX: Duration = Duration::from_secs(10);

/// Whether the whole process serves, for `/health`.
pub(crate) struct ProcessHealth {
    pub(crate) serving: AtomicBool,
    clock: Clock,
    /// The workers of the UDP door, if it is on, and how they move.
    udp: Mutex<Option<(hayate_udp::WorkerLiveness, ThreadProgress)>>,
    actor: Arc<AtomicU64>,
    actor_progress: Mutex<ThreadProgress>,
    log: Option<Arc<LogThread>>,
    /// Knows how the store is, once there is one.
    flush_slot: FlushSlot,
}

/// Beats of some threads when they were last seen to grow, and when that was.
#[derive(Default)]
struct ThreadProgress(Vec<(u64, Duration)>);

impl ThreadProgress {
    /// Has each of them moved lately?
    fn have_moved(&mut self, beats: impl Iterator<Item = u64>, now: Duration) -> bool {
        let mut all = true;
        for (number, beats) in beats.enumerate() {
            match self.0.get_mut(number) {
                Some((seen, _)) if *seen == beats => {}
                Some(known) => *known = (beats, now),
                None => self.0.push((beats, now)),
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

    /// These are the workers of the UDP door now.
    pub(crate) fn set_udp(&self, udp: Option<&hayate_udp::RunningServer>) {
        if let Ok(mut pulse) = self.udp.lock() {
            *pulse = udp.map(|udp| (udp.liveness(), ThreadProgress::default()));
        }
    }

    /// What `/health` says: bad is what clients notice; the rest is for the operator to mend.
    pub(crate) fn condition(&self) -> HealthStatus {
        let moving = self.all_threads_move();
        if !(self.serving.load(Ordering::Relaxed) && moving) {
            return HealthStatus::Bad;
        }
        let mut faults = Vec::new();
        if self.log.as_ref().is_some_and(|log| log.is_stalled()) {
            faults.push("the log stands still: nobody reads stderr");
        }
        let store = self.flush_slot.lock();
        if store.is_ok_and(|store| store.as_ref().is_some_and(EmergencyFlush::has_lost_its_file)) {
            faults.push("the file of the database was deleted or replaced");
        }
        if faults.is_empty() { HealthStatus::Good } else { HealthStatus::Degraded(faults) }
    }

    /// Looks whether every worker lives and moves, and the actor too. Asked once a second it knows to a
    /// second how long one has stood still.
    pub(crate) fn all_threads_move(&self) -> bool {
        let now = self.clock.uptime();
        let udp = self.udp.lock().is_ok_and(|mut udp| {
            udp.as_mut()
                .is_none_or(|(pulse, motion)| motion.have_moved(pulse.turns(), now) && pulse.is_serving())
        });
        let beats = std::iter::once(self.actor.load(Ordering::Relaxed));
        let actor = self.actor_progress.lock().is_ok_and(|mut moves| moves.have_moved(beats, now));
        udp && actor
    }

    /// The operator's pages, with these numbers and this health.
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

/// Lists what the policy in force has counted.
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

/// Lists the daemon's own gauges.
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
    // The name that the reference tracker has for it.
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
        let mut motion = ThreadProgress::default();
        let mut look =
            |second, beats: [u64; 3]| motion.have_moved(beats.into_iter(), Duration::from_secs(second));
        assert!(look(100, [0, 0, 0]), "seen for the first time");
        assert!(look(109, [7, 0, 11]));
        assert!(!look(110, [13, 0, 17]));
        assert!(look(111, [13, 1, 17]));
        assert!(look(118, [13, 1, 17]));
        assert!(!look(120, [13, 2, 17]));
        assert!(
            ThreadProgress::default().have_moved(std::iter::empty(), Duration::from_secs(7)),
            "there are none"
        );
    }
}
