//! In tests: how many peers were looked at, or drawn, while one lock was held.

#[cfg(test)]
use std::cell::Cell;

#[cfg(test)]
thread_local! {
    /// Under this lock, and under any lock so far at most.
    static PEERS: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// A lock was taken.
#[inline]
pub(crate) fn lock_taken() {
    #[cfg(test)]
    PEERS.with(|peers| peers.set((0, peers.get().1)));
}

/// So many peers more were looked at.
#[inline]
pub(crate) fn peers_visited(peers: usize) {
    #[cfg(not(test))]
    let _ = peers;
    #[cfg(test)]
    PEERS.with(|so_far| {
        let (now, most) = so_far.get();
        so_far.set((now + peers, most.max(now + peers)));
    });
}

/// The most under one lock since it was asked before.
#[cfg(test)]
pub(crate) fn take_max() -> usize {
    PEERS.with(|peers| peers.replace((0, 0)).1)
}
