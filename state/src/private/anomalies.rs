//! Announces that were answered, but not believed: their numbers, and what was claimed.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::peer::UnixSeconds;
use crate::metrics::{Board, Series, SeriesKind};

/// Users whose claim is kept until the site sync logs it; those of further users are only counted.
const CLAIMS_MAX: usize = 64;

/// Why an announce was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anomaly {
    /// Its totals are older than those already known.
    Late,
    /// More octets than anybody transfers in the time. 0 = this amount was believed.
    Implausible { up: u64, down: u64, seconds: UnixSeconds },
}

/// The first implausible claim of a user, and how many they made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) user: u32,
    pub(super) torrent: u32,
    pub(super) up: u64,
    pub(super) down: u64,
    pub(super) seconds: UnixSeconds,
    pub(super) times: u64,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, torrent, up, down, seconds, times } = self;
        write!(f, "user {user} torrent {torrent}: up {up} down {down} in {seconds} s")?;
        if *times > 1 { write!(f, ", {times} such claims") } else { Ok(()) }
    }
}

/// The numbers of announces that were not believed, and recent claims.
#[derive(Debug, Default)]
pub(super) struct Anomalies {
    late: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    claims: Mutex<HashMap<u32, Claim>>,
}

impl Anomalies {
    pub(super) fn record_anomaly(&self, user: u32, torrent: u32, anomaly: Anomaly) {
        let Anomaly::Implausible { up, down, seconds } = anomaly else {
            self.late.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.up.fetch_add(u64::from(up > 0), Ordering::Relaxed);
        self.down.fetch_add(u64::from(down > 0), Ordering::Relaxed);
        let mut claims = self.claims.lock();
        if let Some(claim) = claims.get_mut(&user) {
            claim.times += 1;
        } else if claims.len() < CLAIMS_MAX {
            claims.insert(user, Claim { user, torrent, up, down, seconds, times: 1 });
        }
    }

    /// Takes the claims since the last call, one for each user.
    pub(super) fn take_claims(&self) -> Vec<Claim> {
        self.claims.lock().drain().map(|(_, claim)| claim).collect()
    }

    /// Registers the counters of announces that were not believed.
    pub(super) fn register_metrics(self: &Arc<Self>, board: &Board) {
        let list = |name, help, labels, number: fn(&Anomalies) -> &AtomicU64| {
            let anomalies = Arc::clone(self);
            let read = Box::new(move || number(&anomalies).load(Ordering::Relaxed));
            board.register(Series { name, help, kind: SeriesKind::Counter, labels, read });
        };
        let help = "Announces with totals lower than those of a moment ago; nothing was credited.";
        list("late_announces_total", help, Vec::new(), |anomalies| &anomalies.late);
        let (name, help) =
            ("implausible_announces_total", "Announces of more octets than can be; credited as 0.");
        list(name, help, vec![("direction", "up")], |anomalies| &anomalies.up);
        list(name, help, vec![("direction", "down")], |anomalies| &anomalies.down);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_kept_by_user_and_their_number_is_bounded() {
        let anomalies = Anomalies::default();
        let claim = |up| Anomaly::Implausible { up, down: 0, seconds: 7 };
        for user in 0..100 {
            anomalies.record_anomaly(user, 3, claim(11));
            anomalies.record_anomaly(user, 5, claim(13));
            anomalies.record_anomaly(user, 5, Anomaly::Late);
        }
        let claims = anomalies.take_claims();
        assert_eq!((claims.len(), anomalies.take_claims().len()), (CLAIMS_MAX, 0));
        assert!(claims.iter().all(|claim| (claim.torrent, claim.up, claim.times) == (3, 11, 2)));
        let numbers =
            [&anomalies.late, &anomalies.up, &anomalies.down].map(|number| number.load(Ordering::Relaxed));
        assert_eq!(numbers, [100, 200, 0]);
    }
}
