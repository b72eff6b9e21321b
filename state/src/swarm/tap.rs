//! [`Tap`]: announces noted for a successor, in the order in which they changed each torrent.

#[cfg(test)]
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::address::AddressScope;
use crate::admission::Policy;
use crate::announce::{Announce, Handout};
use crate::clock::Tick;
use crate::swarm::Swarms;
use crate::swarm::torrent::AnnounceContext;

/// Most changes that are noted; a successor that is further behind is given up.
pub(crate) const NOTED_MAX: usize = 1 << 20;

/// One announce that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The announce; amounts and the number of wanted peers are left out of the stream.
    pub announce: Announce,
    /// The torrent's count of finished downloads after it.
    pub completed: u32,
}

/// A log of announces, which fills while an upgrade needs it. Owned by [`Swarms`].
#[derive(Debug, Default)]
pub(crate) struct Tap {
    open: AtomicBool,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    deltas: Vec<Delta>,
    overflowed: bool,
}

/// The error for a successor that takes changes more slowly than they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {NOTED_MAX} announces came while they were being handed over")]
pub struct TooSlow;

impl Tap {
    /// Notes every announce from now on.
    pub(crate) fn start(&self) {
        *self.noted.lock() = Noted::default();
        self.open.store(true, Ordering::SeqCst);
    }

    /// Stops noting announces, and drops those that were noted.
    pub(crate) fn stop(&self) {
        self.open.store(false, Ordering::SeqCst);
        *self.noted.lock() = Noted::default();
    }

    /// Whether announces are noted. Called after a swarm was changed: then a change that is not noted was
    /// made before the tap was opened, and a walk that begins later meets it.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn note_delta(&self, delta: Delta) {
        #[cfg(test)]
        observe(&delta);
        let mut noted = self.noted.lock();
        if noted.deltas.len() < NOTED_MAX {
            noted.deltas.push(delta);
        } else {
            noted.overflowed = true;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.noted.lock().deltas.len()
    }

    /// Returns the announces noted since the last call.
    pub(crate) fn take_deltas(&self) -> Result<Vec<Delta>, TooSlow> {
        let mut noted = self.noted.lock();
        if noted.overflowed { Err(TooSlow) } else { Ok(std::mem::take(&mut noted.deltas)) }
    }
}

impl Swarms {
    /// Notes every announce for a successor from now on, until [`stop_deltas`](Self::stop_deltas).
    pub fn start_deltas(&self) {
        self.tap().start();
    }

    /// Returns the announces noted since the last call.
    ///
    /// # Errors
    /// Fails when more changes came than can be noted; some are missing then.
    pub fn take_deltas(&self) -> Result<Vec<Delta>, TooSlow> {
        self.tap().take_deltas()
    }

    /// Stops noting announces, and drops those that were noted.
    pub fn stop_deltas(&self) {
        self.tap().stop();
    }

    /// Applies an announce that a predecessor has carried out and answered.
    pub fn apply_delta(&self, now: Tick, policy: &Policy, delta: &Delta) {
        let announce = &delta.announce;
        let Some(scope) = AddressScope::of(announce.address) else { return };
        let (mut v4, mut v6) = ([0; 0], [0; 0]);
        let (mut random, mut handout) = (fastrand::Rng::with_seed(0), Handout::new(&mut v4, &mut v6));
        let (hasher, may_grow) = (self.hasher(), self.may_grow(policy));
        // The predecessor has published it.
        let outbox_max = 0;
        let context = AnnounceContext { now, policy, hasher, scope, announce, may_grow, outbox_max };
        self.carry_out(&context, &mut random, &mut handout);
        self.raise_completed(&announce.info_hash, delta.completed);
    }
}

#[cfg(test)]
type DeltaObserver = Box<dyn FnMut(&Delta)>;

#[cfg(test)]
thread_local! {
    /// Sees each change of this thread at the moment when it is noted.
    pub(crate) static WITNESS: RefCell<Option<DeltaObserver>> = const { RefCell::new(None) };
}

#[cfg(test)]
fn observe(delta: &Delta) {
    WITNESS.with_borrow_mut(|observer| observer.iter_mut().for_each(|observer| observer(delta)));
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::announce::Event;
    use crate::ids::{ID_LEN, InfoHash, PeerId};

    #[test]
    fn a_tap_notes_only_while_it_is_open_and_says_when_it_is_too_much() {
        let tap = Tap::default();
        assert!(!tap.is_open());
        tap.start();
        assert!(tap.is_open());
        let announce = Announce {
            info_hash: InfoHash([7; ID_LEN]),
            peer_id: PeerId([11; ID_LEN]),
            address: IpAddr::from([10, 0, 0, 1]),
            port: 6881,
            uploaded: 0,
            downloaded: 0,
            left: 0,
            event: Event::None,
            num_want: 0,
        };
        let delta = Delta { announce, completed: 13 };
        (0..7).for_each(|_| tap.note_delta(delta));
        assert_eq!(tap.take_deltas().unwrap().len(), 7);
        (0..=NOTED_MAX).for_each(|_| tap.note_delta(delta));
        assert_eq!(tap.take_deltas(), Err(TooSlow));
        tap.stop();
        assert_eq!((tap.is_open(), tap.take_deltas().unwrap().len()), (false, 0));
    }
}
