//! Whether the process serves, and its own numbers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hayate_gateway::{Admin, Asker, Pages};
use hayate_state::actor::Inbox;
use hayate_state::counters::{Kind, Series};
use hayate_state::{Board, Clock, Counter};

/// The state actor is thought dead when it stands still for so long.
const ACTOR_STILL_MAX: Duration = Duration::from_secs(10);

/// Whether the whole process serves, for `/health`.
pub(crate) struct Vitals {
    pub(crate) serving: AtomicBool,
    clock: Clock,
    /// The workers of the UDP door, if it is on.
    udp: Mutex<Option<hayate_udp::Pulse>>,
    actor: Arc<AtomicU64>,
    /// Beats of the actor when they were last seen to grow, and when that was.
    seen: Mutex<(u64, Duration)>,
}

impl Vitals {
    pub(crate) fn new(clock: Clock, actor: Arc<AtomicU64>) -> Self {
        Self {
            serving: AtomicBool::new(false),
            clock,
            udp: Mutex::new(None),
            actor,
            seen: Mutex::new((0, Duration::ZERO)),
        }
    }

    /// These are the workers of the UDP door now.
    pub(crate) fn watch_udp(&self, udp: Option<&hayate_udp::Running>) {
        if let Ok(mut pulse) = self.udp.lock() {
            *pulse = udp.map(hayate_udp::Running::pulse);
        }
    }

    pub(crate) fn are_good(&self) -> bool {
        let udp = self.udp.lock().is_ok_and(|udp| udp.as_ref().is_none_or(hayate_udp::Pulse::alive));
        self.serving.load(Ordering::Relaxed) && udp && self.actor_beats()
    }

    /// The operator's pages, with these numbers and this health.
    pub(crate) fn pages(self: &Arc<Self>, admin: Option<Arc<dyn Admin>>, board: &Arc<Board>) -> Pages {
        let (vitals, clock) = (Arc::clone(self), self.clock);
        Pages { admin, board: Arc::clone(board), health: Arc::new(move || vitals.are_good()), clock }
    }

    fn actor_beats(&self) -> bool {
        let (beats, now) = (self.actor.load(Ordering::Relaxed), self.clock.uptime());
        let Ok(mut seen) = self.seen.lock() else { return false };
        if beats != seen.0 {
            *seen = (beats, now);
        }
        now.saturating_sub(seen.1) < ACTOR_STILL_MAX
    }
}

/// Counters of reloads.
pub(crate) struct Reloads {
    pub(crate) ok: Arc<Counter>,
    pub(crate) refused: Arc<Counter>,
}

impl Reloads {
    pub(crate) fn list_on(board: &Board) -> Self {
        let counter = |result| {
            let counter = Arc::new(Counter::default());
            let read = Arc::clone(&counter);
            board.list(Series {
                name: "reloads_total",
                help: "Reloads of the configuration, by result.",
                kind: Kind::Counter,
                labels: vec![("result", result)],
                read: Box::new(move || read.value()),
            });
            counter
        };
        Self { ok: counter("ok"), refused: counter("refused") }
    }
}

/// Lists the daemon's own gauges.
pub(crate) fn list_own(board: &Board, clock: Clock, inbox: &Arc<Mutex<Option<Inbox<Asker>>>>) {
    let gauge =
        |name, help, read| board.list(Series { name, help, kind: Kind::Gauge, labels: Vec::new(), read });
    // The name that the reference tracker has for it.
    gauge("uptime", "Seconds since the start.", Box::new(move || clock.uptime().as_secs()));
    gauge("uptime_seconds", "Seconds since the start.", Box::new(move || clock.uptime().as_secs()));
    let inbox = Arc::clone(inbox);
    let depth = move || {
        let inbox = inbox.lock().ok();
        inbox.and_then(|inbox| inbox.as_ref().map(Inbox::depth)).unwrap_or(0) as u64
    };
    gauge("inbox_depth", "Questions of the HTTP gateway that wait for the state actor.", Box::new(depth));
}
